#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""
The manual pages: mandoc has nothing to say about them, and they name what the code
has: symbols, options, commands, keys of the configuration, defaults, metrics, variables of the
environment. What there is to name is read from the code; each check is shown to fail
when a page lacks one.
"""
import glob
import os
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
import tap  # noqa: E402

TREE = os.path.join(tap.HERE, "..")
MAN = os.path.join(tap.BUILD, "man")
BIN = os.path.join(tap.BUILD, "bin")

# Where the options of each program are parsed.
PROGRAMS = {
    "sluiced.8": ("sluiced", "user/daemon/options.c"),
    "sluicectl.8": ("sluicectl", "user/ctl/main.c"),
    "sluice-bench.1": ("sluice-bench", "user/bench/options.c"),
    "sluicecat.1": ("sluicecat", "user/examples/sluicecat.c"),
}
PAGES = ["libsluice.3", *(f"sluice_{family}.3" for family in (
    "conn", "endpoint", "pool", "recv", "send", "set", "uring", "wait")),
         "sluice.7", *(f"sluice_{topic}.7" for topic in (
             "metrics", "protocol", "security", "trace")),
         "sluiced.conf.5", *PROGRAMS]


def text_of(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def code(*patterns):
    """Everything in these files of the tree."""
    files = [path for pattern in patterns
             for path in sorted(glob.glob(os.path.join(TREE, pattern)))]
    assert files, f"no {patterns}"
    return "\n".join(map(text_of, files))


def pages():
    """Text by name."""
    return {os.path.basename(path): text_of(path)
            for path in glob.glob(f"{MAN}/*.[1-8]")}


def nothing(missing):
    assert not missing, "not documented: " + ", ".join(sorted(missing))


def found(names, what):
    """Reading code can fail silently; there are at least a few of anything."""
    assert len(names) > 2, f"only {sorted(names)} of {what} were found in the code"
    return set(names)


# What the code has, and what pages have ----------------------------------------


def symbols():
    return found(re.findall(r"^\s+(sluice_\w+);", code("user/lib/libsluice.map"),
                            re.M), "symbols")


def symbols_missing(man):
    """In no synopsis, nor in the list of those that only inlines call."""
    calls = "\n".join(text for name, text in man.items() if name.endswith(".3"))
    inner = man["libsluice.3"].split(".Ss Called by inline functions only")[1]
    return symbols() - set(re.findall(r"^\.Fo (\w+)", calls, re.M)) - \
        set(re.findall(r"^\.Fn (\w+)", inner, re.M))


def short_options(source):
    letters = re.findall(r'getopt_long\(\w+, \w+, "([a-zA-Z:]*)"', code(source))
    assert letters, f"{source} calls no getopt_long()"
    return {each for each in "".join(letters) if each != ":"}


def short_options_of(page):
    return {letter for line in re.findall(r"^\.It (Fl .*)", page, re.M)
            for letter in re.findall(r"Fl (\w)\b", line)}


def options(source):
    """Long ones."""
    return found(re.findall(r'\{ "([a-z-]+)", (?:no|required|optional)_argument',
                            code(source)), "options")


def options_of(page):
    """Those with an entry of their own, as mdoc writes them: Fl -name."""
    return {name for line in re.findall(r"^\.It (Fl .*)", page, re.M)
            for name in re.findall(r"-([a-z][a-z-]+)", line)}


def helps(program):
    """What --help says, of all commands."""
    texts = [subprocess.run([program, *command, "--help"], text=True, check=True,
                            stdout=subprocess.PIPE).stdout
             for command in [[], *([each] for each in commands())]
             if not command or program.endswith("sluicectl")]
    return "\n".join(texts)


def commands():
    return found(re.findall(r'ctl_command ctl_\w+ = \{\s+\.name = "(\w+)"',
                            code("user/ctl/*.c")), "commands")


def keys():
    return found(re.findall(r'\bKEY\("([a-z_.]+)"|\bSERVICE_KEY\("([a-z_.]+)"',
                            code("user/daemon/config.c")), "keys")


def key_names():
    return {first or second for first, second in keys()}


def keys_of(page):
    """{section.key: what is behind the "="}"""
    entries = {}
    section = None
    for line in page.split("\n"):
        match = re.match(r"\.Ss \[(\w+)", line)
        section = match[1] if match else section
        match = re.match(r"\.It Cm (\w+) = (.*)", line)
        if match:
            entries[f"{section}.{match[1]}"] = match[2]
    return entries


def keys_of_sample(text):
    """The same of sluiced.conf, where defaults are commented out."""
    entries = {}
    section = None
    for line in text.split("\n"):
        match = re.match(r"#?\[(\w+)", line)
        section = match[1] if match else section
        match = re.match(r"#?(\w+) = (.*)", line)
        if match:
            entries[f"{section}.{match[1]}"] = match[2]
    return entries


def metrics():
    """{name: type}, of what metrics.c and counts.c put together."""
    source = code("user/daemon/metrics.c")
    names = dict(re.findall(
        r'(?:head|single)\(\s*out, "(\w+)", "(gauge|counter)"', source))
    names.update({name: "counter" for name in re.findall(
        r'COUNT_(?:STEERED|SPILLED),\s*"(\w+)"', source)})
    names.update({name: "counter" for name in re.findall(
        r'OTHER\(\w+, "(\w+)"', code("user/daemon/counts.c"))})
    names.update({f"service_{name}": kind for name, kind in re.findall(
        r'(?:SERVICE|BOTH)\("(\w+)", "?(gauge|counter|BYTES|MESSAGES)"?', source)})
    found(names, "metrics")
    return {f"sluice_{name}": kind if kind == "gauge" else "counter"
            for name, kind in names.items()}


def metrics_of(page):
    return dict(re.findall(r"^\.It Cm (sluice_\w+) No \((\w+)\)", page, re.M))


def variables():
    return set(re.findall(r'getenv\("(SLUICE_\w+)"\)', code("user/*/*.c")))


# The checks ----------------------------------------------------------------------


def all_there():
    nothing(set(PAGES) - set(pages()))


def no_complaint():
    """All but other systems' pages, which may not be installed."""
    said = subprocess.run(["mandoc", "-Tlint", *sorted(glob.glob(f"{MAN}/*.[1-8]"))],
                          text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=False).stdout
    said = [line for line in said.splitlines()
            if "referenced manual not found" not in line]
    assert not said, "; ".join(said)


def references_exist():
    for name, text in pages().items():
        for page, section in re.findall(r"^\.Xr (\S*sluice\S*) (\d)", text, re.M):
            assert f"{page}.{section}" in pages(), f"{name}: no {page}({section})"


def every_symbol():
    man = pages()
    nothing(symbols_missing(man))
    man["sluice_wait.3"] = man["sluice_wait.3"].replace(".Fo sluice_arm", "")
    tap.equal(symbols_missing(man), {"sluice_arm"})


def every_option():
    for page, (name, source) in PROGRAMS.items():
        text = pages()[page]
        there = options(source)
        tap.equal((page, sorted(options_of(text))), (page, sorted(there)))
        tap.equal((page, short_options_of(text)), (page, short_options(source)))
        help_text = helps(os.path.join(BIN, name))
        nothing({f"{name} --{each} in --help" for each in there
                 if not re.search(rf"--{each}\b", help_text)})
        nothing({f"{name} --{each} in the page, or no such option"
                 for each in re.findall(r"^  +(?:-\w, )?--([a-z-]+)", help_text, re.M)
                 if each not in options_of(text)})
    text = pages()["sluiced.8"]
    tap.equal(options("user/daemon/options.c") -
              options_of(text.replace(".It Fl -check-config", "")), {"check-config"})
    tap.equal(short_options("user/daemon/options.c") -
              short_options_of(text.replace(".It Fl u ,", ".It")), {"u"})


def every_command():
    text = pages()["sluicectl.8"]
    nothing(commands() - set(re.findall(r"^\.It Cm (\w+)", text, re.M)))
    text = text.replace(".It Cm drain", "")
    tap.equal(commands() - set(re.findall(r"^\.It Cm (\w+)", text, re.M)), {"drain"})


def every_key():
    page = keys_of(pages()["sluiced.conf.5"])
    tap.equal(sorted(page), sorted(key_names()))
    lacking = keys_of(pages()["sluiced.conf.5"].replace(
        ".It Cm grace_seconds", ".It Cm grave_seconds"))
    tap.equal(key_names() - set(lacking), {"daemon.grace_seconds"})


def defaults_agree():
    """Page and sample; and the sample's are what sluiced takes."""
    page = keys_of(pages()["sluiced.conf.5"])
    sample_text = code("user/daemon/sluiced.conf")
    sample = keys_of_sample(sample_text)
    tap.equal(sorted(sample), sorted(key_names()))
    for key, value in page.items():
        if not value.startswith("Ar "):
            tap.equal(f"{key} = {sample[key]}", f"{key} = {value}")
    path = os.path.join(os.environ["TMPDIR"], "sluiced.conf")
    # no group and user of the sample need exist: they are looked up at the start
    with open(path, "w", encoding="utf-8") as file:
        file.write(re.sub(r"^#(\[|\w+ = )", r"\1", sample_text, flags=re.M))
    try:
        subprocess.run([f"{BIN}/sluiced", "--check-config", "-c", path], check=True,
                       stdout=subprocess.DEVNULL)
    finally:
        os.unlink(path)


def every_metric():
    """With its type; selftests/metrics.t.sh compares with a running sluiced."""
    page = pages()["sluice_metrics.7"]
    tap.equal(metrics_of(page), metrics())
    lacking = metrics_of(page.replace(".It Cm sluice_orphans", ".It Cm orphans"))
    tap.equal(set(metrics()) - set(lacking), {"sluice_orphans"})


def every_variable():
    text = "\n".join(pages().values())
    assert variables(), "no getenv() was found in the code"
    nothing(variables() - set(re.findall(r"^\.It Ev (\w+)", text, re.M)))


if not shutil.which("mandoc"):
    print("1..0 # SKIP mandoc is not installed (make deps installs it)")
    sys.exit(0)
tap.run({
    "the pages are there": all_there,
    "mandoc -Tlint is silent": no_complaint,
    "references to pages of ours": references_exist,
    "every exported symbol": every_symbol,
    "every option, in the page and in --help": every_option,
    "every command": every_command,
    "every key of the configuration": every_key,
    "defaults of the configuration": defaults_agree,
    "every metric": every_metric,
    "every variable of the environment": every_variable,
})
