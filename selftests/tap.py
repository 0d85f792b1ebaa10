# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""What tests in Python share: TAP, names, processes, messages."""
import importlib
import os
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("SLUICE_BUILD") or os.path.join(HERE, "..", "build")
PEER_RUN = [sys.executable, os.path.join(HERE, "peer-run.py")]
SLOW = int(os.environ.get("SLUICE_SLOW", 1))  # tap.h
TIMEOUT = SLOW * (300 if os.environ.get("SLUICE_SANITIZER") else 60)  # s, of a test
DIED = 3  # status of peer-run.py and interop-tool

peer_run = importlib.import_module("peer-run")
names = 0
processes = []  # of the test that runs


def name():
    """A name that nothing else on this host uses."""
    global names
    names += 1
    return f"@sluice-test-{os.getpid()}-{names}"


def equal(got, expected):
    assert got == expected, f"{got} instead of {expected}"


def fds():
    return len(os.listdir("/proc/self/fd"))


def start(command, **options):
    process = subprocess.Popen(command, text=True, **options)
    processes.append(process)
    return process


def clean_up():
    """There is nothing to do here but after a failure."""
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()
    processes.clear()


def too_long(*_):
    raise TimeoutError(f"not done after {TIMEOUT} s")


def run(tests):
    """Runs {title: function}, prints TAP and exits."""
    failed = 0
    signal.signal(signal.SIGALRM, too_long)
    print(f"1..{len(tests)}")
    for number, (title, test) in enumerate(tests.items(), 1):
        signal.alarm(TIMEOUT)
        try:
            test()
            print(f"ok {number} - {title}", flush=True)
        except Exception as error:  # whatever it is, it is the test's result
            failed = 1
            print(f"not ok {number} - {title}")
            print(f"# {type(error).__name__}: {error}", flush=True)
        finally:
            signal.alarm(0)
            clean_up()
    sys.exit(failed)


class Python:
    """peer-run.py as a process."""

    def __init__(self, role, at, mode, **options):
        command = [*PEER_RUN, role, at, mode]
        for key, value in options.items():
            command.append(f"--{key.replace('_', '-')}")
            if value is not True:
                command.append(str(value))
        self.process = start(command, stdout=subprocess.PIPE)
        if role == "serve":
            equal(self.process.stdout.readline(), "listening\n")

    def finish(self):
        """(status, {"sent" | "received": "count bytes checksum"})"""
        output, _ = self.process.communicate()
        words = dict(line.split(" ", 1) for line in output.splitlines()
                     if " " in line)
        return self.process.returncode, words


def messages(count, seed, sizes):
    """What peer-run.py sends when it is given options(count, seed, sizes)."""
    return peer_run.messages(count, seed, sizes)


def options(count, seed, sizes):
    return {"count": count, "seed": seed, "sizes": "%d-%d" % sizes}


def tally(outgoing):
    """What peer-run.py says it has sent, or received."""
    total = peer_run.Tally()
    for message in outgoing:
        total.add(*message)
    return str(total)


def tally_of(count, seed, sizes):
    return tally(messages(count, seed, sizes))
