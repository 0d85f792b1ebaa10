#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""
user/examples/TUTORIAL.md, block by block, as a newcomer goes through it: with what `make
install` put below /usr/local and nothing else of the tree, at the places that sluiced has
by default, in one shell. For that /usr/local, /run, /etc/sluice, the BPF file system and
the linker's cache are this test's own, in a mount namespace.

Blocks are "```c FILE", a file; "```sh", run in the shell, must succeed; "```text", what
the last one prints: its lines are there, in that order, others may be between them. In
them blanks and numbers (with units) may differ, but where one is not 0 it must not be,
and what EXACT matches is the same. "```sh install" is not run: selftests/package.t.sh installs
the packages; here it says what else must be there. Beside others. Limit: 300 s
"""
import glob
import os
import re
import shutil
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
import tap  # noqa: E402

TREE = os.path.realpath(os.path.join(tap.HERE, ".."))
TUTORIAL = "share/doc/sluice/examples/TUTORIAL.md"  # below /usr/local
TMP = os.environ.get("TMPDIR", "/tmp")
ROOT = os.path.join(TMP, "root")
WORK = os.path.join(TMP, "work")
CACHE = os.path.join(TMP, "ld.so.cache")
PINS = "/sys/fs/bpf/sluice"
EXACT = re.compile(r"\d+ messages, \d+ bytes|\d+ endpoints, \d+ connections|"
                   r"\d+ of \d+ connections|direct 1048576 \d+ \d+")
NUMBER = re.compile(r"(\d+(?:\.\d+)?)( (?:[KMG]i)?B\b)?")


def blocks(text):
    """[(kind, argument, lines, number of its first line)]"""
    found = []
    inside = None
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("```"):
            if inside is None:
                kind, _, argument = line[3:].partition(" ")
                assert kind in ("c", "sh", "text"), f"line {number}: {line}"
                inside = (kind, argument, [], number + 1)
            else:
                found.append(inside)
                inside = None
        elif inside is not None:
            inside[2].append(line)
    assert inside is None, "a block has no end"
    return found


def pattern(line):
    """What matches a line of the text."""
    line = " ".join(line.split())
    parts = []
    at = 0
    exact = [match.span() for match in EXACT.finditer(line)]
    for number in NUMBER.finditer(line):
        if any(start <= number.start() < end for start, end in exact):
            continue
        parts.append(re.escape(line[at:number.start()]))
        parts.append("" if float(number[1]) == 0 else r"(?!0+(?:\.0+)?\b(?!\.))")
        parts.append(r"\d+(?:\.\d+)?" + (r" (?:[KMG]i)?B" if number[2] else ""))
        at = number.end()
    return re.compile("".join(parts) + re.escape(line[at:]))


def missing(expected, output):
    """The first of the expected lines that is not there, or None."""
    lines = iter(" ".join(line.split()) for line in output.split("\n"))
    for line in expected:
        if line.strip() and not any(map(pattern(line).fullmatch, lines)):
            return line
    return None


# The machine that the newcomer has -------------------------------------------------


def skip(why):
    print(f"1..0 # SKIP {why}")
    sys.exit(0)


def needs():
    """Skips all, or starts this script anew in a mount namespace."""
    if os.environ.get("SLUICE_SANITIZER"):
        skip("what is installed is the same in every build")
    with open(os.path.join(TREE, "user/examples/TUTORIAL.md"), encoding="utf-8") as file:
        for package in packages(file.read()):
            if subprocess.run(["dpkg-query", "-W", package], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, check=False).returncode:
                skip(f"{package} is not installed (make deps installs it)")
    if os.geteuid():
        skip("sluiced and bpftrace need root")
    if not os.access("/sys/kernel/btf/vmlinux", os.R_OK):
        skip("no /sys/kernel/btf/vmlinux")
    if "TUTORIAL_PRIVATE" in os.environ:
        return
    if subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL,
                      check=False).returncode:
        skip("no mount namespaces here")
    os.environ["TUTORIAL_PRIVATE"] = "1"
    os.execvp("unshare", ["unshare", "-m", sys.executable, os.path.realpath(__file__)])


def packages(text):
    """Those of Debian's that the tutorial installs."""
    install = [line for kind, argument, lines, _ in blocks(text)
               if (kind, argument) == ("sh", "install") for line in lines]
    words = " ".join(install).split("install -y ")[1].split()
    return [word for word in words if not word.startswith("./")]


def run(*command, **options):
    subprocess.run(command, check=True, **options)


def make_machine():
    """Mounts are gone with the namespace."""
    environment = {key: value for key, value in os.environ.items() if key not in (
        "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "V", "WERROR", "DESTDIR", "PREFIX")}
    with open(os.path.join(TMP, "log"), "w+", encoding="utf-8") as log:
        if subprocess.run(["make", "-C", TREE, "--no-print-directory",
                           "O=" + os.path.relpath(tap.BUILD, TREE), "install",
                           "DESTDIR=" + ROOT], stdout=log, stderr=log, env=environment,
                          check=False).returncode:
            log.seek(0)
            raise AssertionError("make install: " + log.read()[-1000:])
    run("mount", "--bind", f"{ROOT}/usr/local", "/usr/local")
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
    if os.path.isdir("/etc/sluice"):
        run("mount", "-t", "tmpfs", "tmpfs", "/etc/sluice")
    os.mkdir("/run/sluice")  # systemd-tmpfiles does, at the next boot
    run("/sbin/ldconfig", "-X", "-C", CACHE)
    run("mount", "--bind", CACHE, "/etc/ld.so.cache")
    os.mkdir(WORK)


class Shell:
    """One bash, which gets block after block as if they were typed."""

    MARK = "tutorial: status "

    def __init__(self):
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                       "HOME": WORK, "LC_ALL": "C.UTF-8",
                       "SLUICE_TEST_RUN": os.environ.get("SLUICE_TEST_RUN", "")}
        self.bash = subprocess.Popen(
            ["bash", "--norc"], cwd=WORK, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, lines):
        """(output, status): the worst of its lines that begin in the first column."""
        text = "\n".join(lines)
        self.bash.stdin.write("tutorial_status=0; trap 'tutorial_status=$?' ERR\n"
                              f"{text}\n"
                              f"trap - ERR; echo; echo '{self.MARK}'$tutorial_status\n")
        self.bash.stdin.flush()
        output = ""
        for line in self.bash.stdout:
            if line.startswith(self.MARK):
                return output, int(line[len(self.MARK):])
            output += line
        raise AssertionError(f"the shell has ended: {output}")

    def close(self):
        self.bash.stdin.close()
        self.bash.wait()
        self.bash.stdout.close()


# The tests -------------------------------------------------------------------------


def is_the_sources():
    """Those of the tree's file; and the C files beside it are its blocks."""
    with open(os.path.join(TREE, "user/examples/TUTORIAL.md"), encoding="utf-8") as file:
        text = file.read()
    with open(os.path.join("/usr/local", TUTORIAL), encoding="utf-8") as file:
        assert file.read() == text, "another text is installed"
    directory = os.path.join("/usr/local", os.path.dirname(TUTORIAL), "tutorial")
    files = {}
    for path in glob.glob(f"{directory}/*"):
        with open(path, encoding="utf-8") as file:
            files[os.path.basename(path)] = file.read()
    tap.equal(files, {argument: "\n".join(lines) + "\n"
                      for kind, argument, lines, _ in blocks(text) if kind == "c"})
    assert len(files) >= 5, files.keys()


def installs_our_packages():
    """The block that is not run here names all three."""
    with open(os.path.join(TREE, "user/debian/control"), encoding="utf-8") as file:
        ours = re.findall(r"^Package: (\S+)", file.read(), re.M)
    with open(os.path.join("/usr/local", TUTORIAL), encoding="utf-8") as file:
        named = re.findall(r" \./(\S+)_\*\.deb", file.read())
    tap.equal(sorted(named), sorted(ours))


def expectations_can_fail():
    tap.equal(missing(["7 messages, 9 bytes, 5 left", "a  1.5 b 0 3.1 MiB"],
                      "x\n7 messages, 9 bytes, 6 left\ny\na 0.25 b 7 21 B\n"), None)
    for expected, output in (("7 messages, 9 bytes", "8 messages, 9 bytes"),
                             ("7 messages, 9 bytes", "7 messages, 0 bytes"),
                             ("1 of 1 connections", "1 of 2 connections"),
                             ("5 left", "0 left"), ("0 left", "none left"),
                             ("3 KiB", "0 B"), ("3 KiB", "3 us"), ("1.5 us", "0.000 us"),
                             ("1.5 us", "- us"), ("all right", "all wrong"),
                             ("5 left", "5 left over"), ("5 left", "")):
        tap.equal(missing([expected], output + "\n"), expected)
    tap.equal(missing(["a", "b"], "b\na\n"), "b")
    shell = Shell()
    try:
        tap.equal(shell.run(["echo x", "false", "true"]), ("x\n\n", 1))
        tap.equal(shell.run(["true"]), ("\n", 0))
    finally:
        shell.close()


class Reader:
    """Goes through the text; what a block needs of those before is in the shell."""

    def __init__(self, text):
        self.text = text
        self.shell = Shell()
        self.stopped = False

    def step(self, block, expected):
        kind, argument, lines, number = block
        assert not self.stopped, "a block before this one failed"
        self.stopped = True
        if kind == "c":
            with open(os.path.join(WORK, "sluice-tutorial", argument), "w",
                      encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
        else:
            output, status = self.shell.run(lines)
            assert status == 0, f"line {number}: status {status}: {output}"
            lacks = missing(expected, output)
            assert lacks is None, f"line {number}: no \"{lacks}\" in: {output}"
            assert "warning:" not in output, f"line {number}: {output}"
        self.stopped = False

    def tests(self):
        """{title: function} of the blocks, each with the text that follows it."""
        found = {}
        todo = [block for block in blocks(self.text) if block[1] != "install"]
        for block, after in zip(todo, [*todo[1:], ("end", "", [], 0)]):
            kind, argument, lines, number = block
            if kind == "text":
                continue
            expected = after[2] if after[0] == "text" else []
            found[f"line {number}: {argument or lines[0]}".replace("#", "")] = \
                lambda block=block, expected=expected: self.step(block, expected)
        return found

    def nothing_is_left(self):
        if self.stopped:  # end what the blocks began while the shell can reap it
            for pid in processes():
                if pid != self.shell.bash.pid:
                    os.kill(pid, signal.SIGKILL)
            self.shell.run(["wait"])
        self.shell.close()
        tap.equal(os.listdir(WORK), [])
        tap.equal(os.path.exists(PINS), False)
        tap.equal([name for name in os.listdir("/run/sluice")], [])
        tap.equal(processes(), [])


def processes():
    """All others in this mount namespace."""
    mine = os.readlink("/proc/self/ns/mnt")
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if pid != os.getpid() and namespace(pid) == mine]


def namespace(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return None  # it has just ended


def main():
    needs()
    try:
        make_machine()
        with open(os.path.join("/usr/local", TUTORIAL), encoding="utf-8") as file:
            reader = Reader(file.read())
        tests = reader.tests()
        assert len(tests) > 15, tests.keys()
        tap.run({
            "what is installed is the text, and its files": is_the_sources,
            "all packages are installed in it": installs_our_packages,
            "what it expects can fail": expectations_can_fail,
            **tests,
            "nothing is left": reader.nothing_is_left,
        })
    finally:
        subprocess.run(["umount", "/usr/local", "/etc/ld.so.cache"], check=False)
        shutil.rmtree(ROOT)
        shutil.rmtree(WORK, ignore_errors=True)
        for path in (CACHE, os.path.join(TMP, "log")):
            os.unlink(path)


main()
