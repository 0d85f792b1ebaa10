#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""
peer.py, which knows the protocol from PROTOCOL.md alone, against itself, the
worked example of that text, and breaches of it.
"""
import errno
import fcntl
import mmap
import os
import re
import secrets
import socket
import struct
import sys
import tempfile

sys.dont_write_bytecode = True
import peer as sluice  # noqa: E402
from peer import Peer, ProtocolError  # noqa: E402
from tap import (DIED, HERE, Python, equal, fds, messages,  # noqa: E402
                 name, options, run, tally_of)

BIG, SMALL = (0, 1 << 20), (0, 100)


# Two processes


def python_python():
    at = name()
    server = Python("serve", at, "exchange", **options(300, 1, BIG))
    client = Python("connect", at, "exchange", **options(400, 2, BIG))
    one, two = tally_of(300, 1, BIG), tally_of(400, 2, BIG)
    equal(client.finish(), (0, {"sent": two, "received": one}))
    equal(server.finish(), (0, {"sent": one, "received": two}))


def python_python_path():
    with tempfile.TemporaryDirectory() as directory:
        at = os.path.join(directory, "socket")
        server = Python("serve", at, "sink")
        client = Python("connect", at, "source", **options(1000, 3, SMALL))
        equal(client.finish()[0], 0)
        equal(server.finish()[1]["received"], tally_of(1000, 3, SMALL))
        equal(os.listdir(directory), [])


def python_python_death():
    at = name()
    server = Python("serve", at, "sink")
    client = Python("connect", at, "source", die=True, **options(500, 4, BIG))
    equal(client.finish()[0], -9)
    status, output = server.finish()
    equal(status, DIED)
    equal(output["received"], tally_of(500, 4, BIG))


# PROTOCOL.md section 13, and breaches of it


def sealed(size, seals=sluice.SEALS, holes=False):
    fd = os.memfd_create("sluice-test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if size and not holes:
        os.posix_fallocate(fd, 0, size)
    if size:
        os.pwrite(fd, b"bytes", 8192)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def example():
    """Frames of section 13 as [(direction, name, bytes)]."""
    frames = []
    with open(os.path.join(HERE, "../include/PROTOCOL.md"), encoding="utf-8") \
            as text:
        section = text.read().split("\n## 13.")[1].split("\n## ")[0]
    for line in section.splitlines():
        if match := re.match(r" +(.→.) (\w+)", line):
            frames.append((*match.groups(), b""))
        elif match := re.match(r" {8}((?:[0-9a-f]{2,} {0,2})+)", line):
            direction, kind, body = frames.pop()
            body += bytes.fromhex(match[1])
            frames.append((direction, kind, body))
    return frames


class Raw:
    """A bare socket as client of a Peer in this process, through the HELLOs."""

    def __init__(self, ack=None, number=None):
        at = name()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = number or secrets.randbelow(2**64 - 1) + 1
        self.sock.bind(b"\0sluice1-%016x" % number)
        with sluice.listening(at) as listener:
            self.sock.connect(sluice.address(at))
            self.peer = Peer.accept(listener)
        self.hello = self.sock.recv(4200)
        self.sock.send(self.answer() if ack is None else ack)
        if ack is None:
            self.peer.try_recv()
            assert self.peer.aware

    def answer(self, **changes):
        """A HELLO_ACK of nothing special."""
        fields = {"magic": sluice.HELLO_MAGIC, "major": 1, "minor": 0,
                  "features": 0, "cookie": 1, "echo": self.peer.cookie,
                  "map_limit": 1 << 20, "link_size": 0, "hold_limit": 16,
                  "segment_limit": 4, "resv": bytes(12)} | changes
        return (sluice.FRAME.pack(sluice.T_HELLO_ACK, 0, 0, 64)
                + sluice.HELLO.pack(*fields.values()))

    def send(self, frame, *files):
        socket.send_fds(self.sock, [frame], list(files))
        for fd in files:
            os.close(fd)

    def close(self):
        self.sock.close()
        self.peer.discard()


def section_13():
    """Its client, word for word, against a Peer that answers word for word."""
    raw = Raw(number=0x1122334455667788)
    frames = example()
    equal([(way, kind) for way, kind, _ in frames],
          [("S→C", "HELLO"), ("C→S", "HELLO_ACK"), ("C→S", "DATA"),
           ("C→S", "SEGMENT_ADD"), ("C→S", "DATA"), ("S→C", "RELEASE"),
           ("C→S", "BYE")][:len(frames)])
    hello = raw.hello
    equal(hello[:12], frames[0][2][:12])  # header, magic and version
    equal(hello[32:40], frames[0][2][32:40])  # echo
    ack = frames[1][2]
    fields = dict(zip(("magic", "major", "minor", "features", "cookie"),
                      sluice.HELLO.unpack_from(ack, 8)))
    fields |= dict(zip(("map_limit", "link_size", "hold_limit",
                        "segment_limit"), sluice.HELLO.unpack_from(ack, 8)[6:]))
    equal(raw.answer(**fields)[:32], ack[:32])
    equal(raw.answer(**fields)[40:], ack[40:])  # all but the echo
    raw.send(frames[2][2])
    equal(raw.peer.recv(), (b"hi", 7))
    raw.send(frames[3][2], sealed(65536))
    raw.send(frames[4][2])
    equal(raw.peer.recv(), (b"bytes" + bytes(4995), 8))
    equal(raw.sock.recv(100), frames[5][2])
    raw.send(sluice.FRAME.pack(sluice.T_BYE, 0, 0, 0))
    equal(raw.peer.recv(), None)
    raw.peer.shutdown()
    equal(raw.sock.recv(100), frames[6][2])
    raw.close()


def frame(kind, flags=0, count=0, value=0, body=b""):
    return sluice.FRAME.pack(kind, flags, count, value) + body


def slot(seq=0, length=1, kind=1, flags=0, segment=0, conn=0, offset=0, tag=0,
         tail=bytes(32)):
    return sluice.SLOT.pack(seq, length, kind, flags, segment, conn, offset,
                            tag, tail)


def data(*slots, **fields):
    return frame(sluice.T_DATA, count=fields.pop("count", len(slots)),
                 body=b"".join(slots), **fields)


def add(size=65536, number=0, flags=0, zero=0, **fields):
    return frame(sluice.T_SEGMENT_ADD, value=number,
                 body=sluice.SEGMENT.pack(size, flags, zero), **fields)


def identity(number):
    return number.to_bytes(32, "little")


def in_buffer(number, **fields):
    return slot(**{"kind": 2, "tail": identity(number)} | fields)


SEGMENT = (add(), sealed)
BREACHES = {
    "an empty frame": b"",
    "a short frame": b"\5\0\0",
    "a frame that is too long": data(*[slot()] * 64) + b"x",
    "an unknown type": frame(11),
    "a second HELLO": frame(sluice.T_HELLO, value=64, body=bytes(64)),
    "a flag": frame(sluice.T_DOORBELL, flags=2),
    "IGNORABLE on a known type": frame(sluice.T_DOORBELL, flags=0x80),
    "a DOORBELL with a value": frame(sluice.T_DOORBELL, value=1),
    "a DOORBELL with a body": frame(sluice.T_DOORBELL, body=b"x"),
    "an fd too many": (frame(sluice.T_DOORBELL), sealed),
    "SWITCH without links": frame(sluice.T_SWITCH),
    "DATA without slots": data(),
    "DATA with a value": data(slot(), value=1),
    "DATA with a wrong count": data(slot(), count=2),
    "a slot with seq": data(slot(seq=1)),
    "a slot with conn": data(slot(conn=1)),
    "a slot with flags": data(slot(flags=2)),
    "a slot of kind LANDING": data(slot(kind=3)),
    "a slot of kind SWITCH": data(slot(kind=4, length=0)),
    "33 bytes inline": data(slot(length=33)),
    "an inline slot with a segment": data(slot(segment=1)),
    "an inline slot with an offset": data(slot(offset=1)),
    "MORE on the last slot": data(slot(), slot(flags=1)),
    "a segment that is unknown": data(in_buffer(1)),
    "a buffer beyond its segment": [SEGMENT, data(in_buffer(1, offset=65536))],
    "an offset near 2^64": [SEGMENT, data(in_buffer(1, offset=2**64 - 1))],
    "an id at the limit": [SEGMENT, data(in_buffer(sluice.HOLD_LIMIT))],
    "an id that is out": [SEGMENT, data(in_buffer(1), in_buffer(1))],
    "bytes behind the id": [SEGMENT, data(in_buffer(1 | 1 << 32))],
    "RELEASE of nothing": frame(sluice.T_RELEASE, count=1, body=bytes(4)),
    "RELEASE without ids": frame(sluice.T_RELEASE),
    "SEGMENT_DEL of nothing": frame(sluice.T_SEGMENT_DEL),
    "SEGMENT_DEL in use": [SEGMENT, data(in_buffer(1)),
                           frame(sluice.T_SEGMENT_DEL)],
    "SEGMENT_DEL answers nothing": frame(sluice.T_SEGMENT_DEL, flags=1),
    "DATA after BYE": [frame(sluice.T_BYE), data(slot())],
    "a second BYE": [frame(sluice.T_BYE), frame(sluice.T_BYE)],
    "an fd too few": add(),
    "two fds": (add(), sealed, sealed),
    "three fds": (add(), sealed, sealed, sealed),
    "a number in use": [SEGMENT, SEGMENT],
    "a number at the limit": (add(number=sluice.SEGMENT_LIMIT), sealed),
    "a segment without bytes": (add(0), lambda _: sealed(0)),
    "an odd size": (add(65535), lambda size: sealed(size - 1)),
    "a wrong size": (add(131072), sealed),
    "more than the map limit": [(add(number=n), sealed) for n in range(3)],
    "huge pages": (add(flags=1), sealed),
    "__resv of a segment": (add(zero=1), sealed),
    **{f"the seals {seals:#x}":
       (add(), lambda size, seals=seals: sealed(size, seals))
       for seals in (0x16, 0x15, 0x13, 0x07)},  # all but one
    "holes": (add(), lambda size: sealed(size, holes=True)),
    "a file": (add(), lambda size: os.open("/dev/null", os.O_RDWR)),
}


def refuses(what):
    sluice.MAP_LIMIT = 2 * 65536
    before = fds()
    raw = Raw()
    steps = BREACHES[what]
    *good, last = steps if isinstance(steps, list) else [steps]
    for step in [*good, last]:
        message, *files = step if isinstance(step, tuple) else (step,)
        if step is last:
            raw.peer.read()  # what came before is no breach
        raw.send(message, *(make(65536) for make in files))
    try:
        raw.peer.read()
        raise AssertionError("was not refused")
    except ProtocolError:
        pass
    while (answer := raw.sock.recv(4200))[0] != sluice.T_ERROR:
        pass
    kind, flags, count, value = sluice.FRAME.unpack_from(answer)
    equal((kind, flags, count), (sluice.T_ERROR, 0, len(answer) - 8))
    equal(value, errno.EPROTO)
    raw.close()
    equal(fds(), before)


def negotiates():
    for changes in ({"hold_limit": 15}, {"hold_limit": 65537},
                    {"segment_limit": 1025}, {"resv": identity(1)[:12]},
                    {"link_size": 4096}, {"major": 2}):
        raw = Raw(ack=b"early")
        equal(raw.peer.recv(), (b"early", 0))
        raw.send(raw.answer(**changes))
        try:
            raw.peer.read()
            raise AssertionError(f"{changes} was not refused")
        except ProtocolError:
            raw.close()
    raw = Raw(ack=b"")
    equal(raw.peer.recv(), (b"", 0))
    raw.send(raw.answer(echo=1))  # not our cookie: a plain message
    equal(raw.peer.recv(), (raw.answer(echo=1), 0))
    raw.send(raw.answer())
    raw.send(frame(0x70, flags=0x80), sealed(65536))  # may be ignored
    raw.send(data(slot(length=0)))
    equal(raw.peer.recv(), (b"", 0))
    raw.close()


def keeps_to_limits():
    """What the answer of Raw allows: 1 MiB in 4 segments, 16 buffers."""
    raw = Raw()
    maps, ids, payload, deleted = {}, [], [], 0
    outgoing = list(messages(200, 11, (0, 400_000)))
    raw.sock.setblocking(False)
    for message in outgoing:
        while not raw.peer.try_send(*message):
            # Full of what is not released: now release, and let it retire.
            while answer := receive(raw, maps, ids, payload):
                if answer[0] == sluice.T_SEGMENT_DEL:
                    deleted += 1
                    raw.send(answer)
            if ids:
                raw.send(frame(sluice.T_RELEASE, count=len(ids),
                               body=struct.pack(f"<{len(ids)}I", *ids)))
                ids.clear()
            raw.peer.read()
    while receive(raw, maps, ids, payload):
        pass
    equal(len(payload), len(outgoing))
    assert payload == outgoing
    assert deleted > 4
    try:
        raw.peer.send(bytes((1 << 20) + 1))
        raise AssertionError("more than the map limit was sent")
    except ValueError:
        raw.close()


def receive(raw, maps, ids, payload):
    """Reads one frame as a peer that checks limits; b"" if there is none."""
    try:
        message, files, _, _ = socket.recv_fds(raw.sock, 4200, 4)
    except BlockingIOError:
        return b""
    kind, flags, _, number = sluice.FRAME.unpack_from(message)
    if kind == sluice.T_SEGMENT_ADD:
        size = sluice.SEGMENT.unpack_from(message, 8)[0]
        assert number < 4 and number not in maps
        maps[number] = mmap.mmap(files[0], size, mmap.MAP_SHARED,
                                  mmap.PROT_READ)
        os.close(files[0])
        assert sum(map(len, maps.values())) <= 1 << 20
    elif kind == sluice.T_SEGMENT_DEL:
        maps.pop(number).close()
        return frame(kind, flags=sluice.F_ACK, value=number)
    else:
        equal(kind, sluice.T_DATA)
        _, length, kind, _, segment, _, offset, tag, tail = \
            sluice.SLOT.unpack_from(message, 8)
        if kind == sluice.BUFFER:
            ids.append(int.from_bytes(tail[:4], "little"))
            assert max(ids) < 16 and len(set(ids)) == len(ids)
            tail = maps[segment][offset:offset + length]
        payload.append((tail[:length], tag))
    return message


if __name__ == "__main__":
    run({
        "both ways at once": python_python,
        "at a path": python_python_path,
        "the sender dies": python_python_death,
        "the example of section 13": section_13,
        "before and at HELLO_ACK": negotiates,
        "keeps to the limits of the other side": keeps_to_limits,
        **{f"refuses {what}": lambda what=what: refuses(what)
           for what in BREACHES},
    })
