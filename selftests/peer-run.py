#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""
A Python peer on the command line: one connection, then it ends.

    peer-run.py serve|connect NAME echo|source|sink|exchange

echo sends every message back. exchange sends --count messages and receives all
the while; source and sink are the same, for one direction. All but echo print
count, bytes and checksum of both directions. When the peer died, the last line
is "died" and the status 3; any other error is 1.
"""
import argparse
import hashlib
import os
import random
import signal
import struct
import sys

sys.dont_write_bytecode = True
import peer as sluice  # noqa: E402
from peer import Peer, listening  # noqa: E402


def messages(count, seed, sizes):
    """The same pseudo-random (data, tag) for the same arguments."""
    low, high = sizes
    rng = random.Random(seed)
    for _ in range(count):
        # As many of a few bytes as of many.
        bits = rng.randint(0, (high - low).bit_length())
        size = min(high, low + rng.getrandbits(bits))
        yield rng.randbytes(size), rng.getrandbits(64)


class Tally:
    """Count, bytes and checksum of messages, boundaries and tags included."""

    def __init__(self):
        self.count = self.bytes = 0
        self.sha = hashlib.sha256()

    def add(self, data, tag):
        self.count += 1
        self.bytes += len(data)
        self.sha.update(struct.pack("<QI", tag, len(data)) + data)

    def __str__(self):
        return f"{self.count} {self.bytes} {self.sha.hexdigest()}"


def echo(peer):
    """Sends everything back until the peer says BYE."""
    while message := peer.recv():
        peer.send(*message)
    peer.shutdown()


def exchange(peer, outgoing, die):
    """Sends all, says BYE, and receives all the while until the peer does."""
    sent, received = Tally(), Tally()
    message = next(outgoing, None)
    try:
        while message or not peer.ended:
            arrived = peer.try_recv()
            if arrived:
                received.add(*arrived)
            try:
                moved = message and peer.try_send(*message)
            except BrokenPipeError:
                message = None  # it may have sent more before it closed
                continue
            if moved:
                sent.add(*message)
                message = next(outgoing, None)
            if not message and not peer.out and die:
                os.kill(os.getpid(), signal.SIGKILL)
            if not message and not die:
                peer.shutdown()
            if not (arrived or moved or peer.ended):
                peer.wait()
    finally:
        print("sent", sent)
        print("received", received, flush=True)


def main():
    parser = argparse.ArgumentParser(description="a sluice peer in Python")
    parser.add_argument("role", choices=["serve", "connect"])
    parser.add_argument("name", help="@abstract or a path")
    parser.add_argument("mode", choices=["echo", "source", "sink", "exchange"])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sizes", default="0-65536", help="bytes, from-to")
    parser.add_argument("--die", action="store_true",
                        help="instead of BYE: kill -9 itself")
    for limit in ("map_limit", "hold_limit", "segment_limit"):
        parser.add_argument(f"--{limit.replace('_', '-')}", type=int,
                            default=getattr(sluice, limit.upper()))
    args = parser.parse_args()
    for limit in ("map_limit", "hold_limit", "segment_limit"):
        setattr(sluice, limit.upper(), getattr(args, limit))
    count = 0 if args.mode == "sink" else args.count
    sizes = [int(size) for size in args.sizes.split("-")]
    try:
        if args.role == "connect":
            peer = Peer.connect(args.name)
        else:
            with listening(args.name) as listener:
                print("listening", flush=True)
                peer = Peer.accept(listener)
        with peer:
            if args.mode == "echo":
                echo(peer)
            else:
                exchange(peer, messages(count, args.seed, sizes),
                         args.die)
    except ConnectionResetError:
        print("died")
        sys.exit(3)
    except (OSError, ValueError) as error:
        sys.exit(f"peer-run.py: {error}")


if __name__ == "__main__":
    main()
