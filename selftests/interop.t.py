#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""
The C library and peer.py, which shares no code with it, in both roles.
"""
import os
import re
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from peer import Peer, listening  # noqa: E402
from tap import (BUILD, DIED, Python, equal, fds, messages, name,  # noqa: E402
                 options, run, start, tally, tally_of)

TOOL = os.path.join(BUILD, "selftests", "interop-tool")
ECHO = os.path.join(BUILD, "examples", "echo")
PIPE = subprocess.PIPE
BIG = (0, 1 << 20)


class C:
    """interop-tool as a process; its input and output are files of records."""

    def __init__(self, role, at, *flags, outgoing=()):
        self.input = tempfile.TemporaryFile()
        self.output = tempfile.TemporaryFile()
        for data, tag in outgoing:
            self.input.write(struct.pack("<QI", tag, len(data)) + data)
        self.input.seek(0)
        self.process = start([TOOL, role, at, *flags], stdin=self.input,
                             stdout=self.output, stderr=PIPE)
        if role == "serve":
            equal(self.process.stderr.readline(), "listening\n")

    def finish(self):
        _, errors = self.process.communicate()
        if self.process.returncode > 0:
            print("# interop-tool:", errors.replace("\n", "; "))
        self.output.seek(0)
        received = tally(records(self.output))
        self.input.close()
        self.output.close()
        return self.process.returncode, {"received": received}


def records(file):
    while head := file.read(12):
        tag, length = struct.unpack("<QI", head)
        yield file.read(length), tag


def other(role):
    return "connect" if role == "serve" else "serve"


def both(role, python, c):
    """Starts the two, which are functions, the server first; (Python, C)."""
    if role == "serve":
        return python(), c()
    server = c()
    return python(), server


def python_c(role, *flags, **limits):
    """Both directions at once; role is that of Python."""
    at = name()
    one, two = (400, 5, BIG), (500, 6, BIG)
    python, c = both(
        role,
        lambda: Python(role, at, "exchange", **options(*one), **limits),
        lambda: C(other(role), at, *flags, outgoing=messages(*two)))
    equal(python.finish(),
          (0, {"sent": tally_of(*one), "received": tally_of(*two)}))
    equal(c.finish(), (0, {"received": tally_of(*one)}))


def python_client_c_echo():
    at = name()
    server = start([ECHO, "-l", at], stderr=PIPE)
    wait_for(at)
    client = Python("connect", at, "exchange", **options(1000, 7, BIG))
    all_of_them = tally_of(1000, 7, BIG)
    equal(client.finish(), (0, {"sent": all_of_them, "received": all_of_them}))
    server.kill()
    equal(server.communicate()[1], "")


def wait_for(at):
    """Returns when somebody listens at an abstract name."""
    while True:
        with open("/proc/net/unix", encoding="ascii") as table:
            if any(re.search(f" 00010000 .* {at}$", line) for line in table):
                return
        time.sleep(0.01)


def c_client_python_echo():
    """This client does not wait for HELLO: its first line may go plain."""
    at = name()
    server = Python("serve", at, "echo")
    lines = "".join(f"{'x' * size}\n" for size in (0, 1, 30, 31, 32, 5000))
    client = start([ECHO, at], stdin=PIPE, stdout=PIPE)
    equal(client.communicate(lines)[0], lines)
    equal(client.returncode, 0)
    equal(server.finish()[0], 0)


def c_dies(role):
    """kill -9 of C once all is sent and nothing received: nothing is lost."""
    at = name()
    what = (60, 8, (0, 200_000))  # fits into the socket and HOLD_LIMIT
    before = fds()
    if role == "serve":
        with listening(at) as listener:
            c = C("connect", at, "hold", outgoing=messages(*what))
            peer = Peer.accept(listener)
        while not peer.aware:
            peer.wait()
    else:
        c = C("serve", at, "hold", outgoing=messages(*what))
        peer = Peer.connect(at)
    equal(c.process.stderr.readline(), "sent\n")
    c.process.kill()
    equal(c.finish()[0], -9)
    received = []
    try:
        while message := peer.recv():
            received.append(message)
        raise AssertionError("a BYE of a dead peer")
    except ConnectionResetError:
        pass
    equal(tally(received), tally_of(*what))
    peer.close()
    equal(fds(), before)


def python_dies(role):
    """kill -9 of Python while C sends, too: C has all that Python sent."""
    at = name()
    what = (300, 9, BIG)
    python, c = both(
        role,
        lambda: Python(role, at, "exchange", die=True, **options(*what)),
        lambda: C(other(role), at, outgoing=messages(300, 10, BIG)))
    equal(python.finish()[0], -9)
    equal(c.finish(), (DIED, {"received": tally_of(*what)}))


if __name__ == "__main__":
    run({
        "python server, C client": lambda: python_c("serve"),
        "python client, C server": lambda: python_c("connect"),
        "python client, C server, in parts":
            lambda: python_c("connect", "parts"),
        "python server that holds little, C client":
            lambda: python_c("serve", hold_limit=16),
        "python client, echo of C": python_client_c_echo,
        "C client, echo of python": c_client_python_echo,
        "python server, C is killed": lambda: c_dies("serve"),
        "python client, C is killed": lambda: c_dies("connect"),
        "C client, python is killed": lambda: python_dies("serve"),
        "C server, python is killed": lambda: python_dies("connect"),
    })
