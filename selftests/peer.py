# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""
A second implementation of the sluice protocol: the queued lane, in Python's
standard library. Written from PROTOCOL.md ("section" below); a model for other
languages, and what the C library is tested against.

A Peer owns its socket, its segments (Pool) and its mappings of the other side's.
It belongs to one thread. try_send() and try_recv() never block, wait() does;
send() and recv() are loops of them. Whatever breaks the protocol raises
ProtocolError and ends the connection.

    with Peer.connect("@name") as peer:
        peer.send(b"hello", tag=7)
        data, tag = peer.recv()
"""
import collections
import contextlib
import errno
import fcntl
import mmap
import os
import re
import secrets
import select
import socket
import struct

FRAME = struct.Struct("<BBHI")  # type, flags, count, value
HELLO = struct.Struct("<IHHQQQQIII12s")
SEGMENT = struct.Struct("<QII")  # size, flags, zero
SLOT = struct.Struct("<IIBBHIQQ32s")
(T_HELLO, T_HELLO_ACK, T_SEGMENT_ADD, T_SEGMENT_DEL, T_DATA, T_RELEASE,
 T_SWITCH, T_DOORBELL, T_BYE, T_ERROR) = range(1, 11)
F_ACK, F_IGNORABLE, F_MORE = 0x01, 0x80, 0x01
INLINE, BUFFER = 1, 2  # kinds of slot
INLINE_MAX, PARTS_MAX, IDS_MAX, TEXT_MAX, FRAME_MAX = 32, 64, 1024, 256, 4104
HELLO_MAGIC, MAJOR, MINOR, FEAT_LINK = 0x494C5331, 1, 0, 1
SEALS = 0x17  # SEAL | SHRINK | GROW | FUTURE_WRITE (which fcntl does not name)
SO_TIMESTAMP = 29  # tells an empty message from EOF (section 12)

# What this side is ready to map and hold, and what it reads ahead (section 9).
MAP_LIMIT, HOLD_LIMIT, SEGMENT_LIMIT = 256 << 20, 64, 256
READ_AHEAD = 4096  # messages
POOL_LIMIT, SEGMENT_MIN, BUFFER_MIN = 128 << 20, 256 << 10, 1024  # bytes


class ProtocolError(ConnectionError):
    """One side broke the protocol, or the other said so in an ERROR."""


def check(condition, text, code=errno.EPROTO):
    if not condition:
        raise ProtocolError(code, text)


def plain(side):
    return ConnectionError(errno.EPROTONOSUPPORT, f"the {side} is plain")


def address(name):
    """Names: "@x" is an abstract one, anything else a path."""
    return "\0" + name[1:] if name.startswith("@") else name


@contextlib.contextmanager
def listening(name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address(name))
        listener.listen()
        try:
            yield listener
        finally:
            if not name.startswith("@"):
                os.unlink(name)


class Segment:
    """A sealed memfd of ours, cut into buffers of one size."""

    def __init__(self, size, buffer_size):
        self.size, self.buffer_size = size, buffer_size
        self.fd = os.memfd_create("sluice-segment",
                                  os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(self.fd, 0, size)  # sets the size, too
            self.memory = mmap.mmap(self.fd, size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
        except OSError:
            os.close(self.fd)
            raise
        self.free = list(range(0, size, buffer_size))
        self.count = len(self.free)


class Pool:
    """Our segments, by number: grows as needed, retires idle ones to make room."""

    def __init__(self, limit, segment_limit, put):
        self.limit, self.segment_limit, self.put = limit, segment_limit, put
        self.segments = {}
        self.retired = {}  # sizes, until the peer has acknowledged

    def take(self, size):
        """(segment number, offset) of a buffer for size bytes; None: not now."""
        buffer_size = max(BUFFER_MIN, 1 << (size - 1).bit_length())
        segment_size = max(SEGMENT_MIN, buffer_size)
        if segment_size > self.limit or not self.segment_limit:
            raise ValueError(f"{size} bytes: more than fits into the pool")
        for number, segment in self.segments.items():
            if segment.buffer_size == buffer_size and segment.free:
                return number, segment.free.pop()
        used = {n: s.size for n, s in self.segments.items()} | self.retired
        if (sum(used.values()) + segment_size > self.limit
                or len(used) == self.segment_limit):
            self.retire_idle()
            return None
        number = next(n for n in range(self.segment_limit) if n not in used)
        segment = self.segments[number] = Segment(segment_size, buffer_size)
        self.put(T_SEGMENT_ADD, value=number,
                 body=SEGMENT.pack(segment_size, 0, 0), fd=segment.fd)
        return number, segment.free.pop()

    def retire_idle(self):
        for number, segment in list(self.segments.items()):
            if len(segment.free) == segment.count:
                self.retired[number] = self.segments.pop(number).size
                segment.memory.close()
                self.put(T_SEGMENT_DEL, value=number)


class Peer:
    """One endpoint. Made by connect() or accept()."""

    def __init__(self, sock, number, server):
        self.sock, self.number, self.server = sock, number, server
        self.cookie = secrets.randbelow(2**64 - 1) + 1
        self.aware = False  # HELLO and HELLO_ACK went to and fro
        self.pool = None
        self.out = collections.deque()  # (frame, fd or None) not yet sent
        self.inbox = collections.deque()  # (tag, parts) not yet received
        self.done = []  # ids not yet released
        self.held = {}  # id: segment number, received and not released
        self.sent = {}  # id: (segment number, offset), sent and not released
        self.free_ids = []
        self.maps = {}  # the peer's segments
        self.said_bye = self.got_bye = self.eof = self.broken = False
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
        self.poll = select.poll()

    # Opening (section 5)

    @classmethod
    def connect(cls, name, timeout=5):
        """Connects to an aware server."""
        number = secrets.randbelow(2**64 - 1) + 1
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        peer = cls(sock, number, server=False)
        try:
            sock.bind(b"\0sluice1-%016x" % number)
            sock.connect(address(name))
            sock.setblocking(False)
            while not peer.aware:
                if not peer.wait(timeout) or peer.eof:
                    raise plain("server")
            return peer
        except BaseException:
            peer.discard()
            raise

    @classmethod
    def accept(cls, listener):
        """Takes an aware client from a listening socket."""
        sock, client = listener.accept()
        match = re.fullmatch(rb"\0sluice1-([0-9a-f]{16})", os.fsencode(client))
        number = int(match[1], 16) if match else 0
        peer = cls(sock, number, server=True)
        if not number:
            peer.discard()
            raise plain("client")
        sock.setblocking(False)
        peer.hello(T_HELLO, number)
        return peer

    def hello(self, kind, echo):
        self.put(kind, value=HELLO.size, body=HELLO.pack(
            HELLO_MAGIC, MAJOR, MINOR, 0, self.cookie, echo, MAP_LIMIT, 0,
            HOLD_LIMIT, SEGMENT_LIMIT, bytes(12)))

    def negotiate(self, message, fds):
        """Looks for HELLO or HELLO_ACK; anything else is a plain message."""
        kind = T_HELLO_ACK if self.server else T_HELLO
        if len(message) >= FRAME.size + HELLO.size:
            head = FRAME.unpack_from(message)
            (magic, major, _, features, cookie, echo, map_limit, link_size,
             hold, segments, zero) = HELLO.unpack_from(message, FRAME.size)
            if (head == (kind, 0, 0, len(message) - FRAME.size)
                    and magic == HELLO_MAGIC and len(fds) == features & FEAT_LINK
                    and echo == (self.cookie if self.server else self.number)):
                check(major == MAJOR, "other major", errno.EPROTONOSUPPORT)
                check((cookie or self.server) and not any(zero)
                      and segments <= 1024 and 16 <= hold <= 65536
                      and bool(link_size) == bool(features & FEAT_LINK),
                      "bad HELLO")
                self.free_ids = list(range(hold))
                self.pool = Pool(min(map_limit, POOL_LIMIT), segments, self.put)
                self.aware = True
                if not self.server:
                    self.hello(T_HELLO_ACK, cookie)
                return
        if not self.server:
            raise plain("server")
        self.inbox.append((0, [message]))

    # Sending

    def try_send(self, data, tag=0):
        """Sends one message. False: there is no room now; wait() for some."""
        if self.broken or self.said_bye:
            raise BrokenPipeError(errno.EPIPE, "this direction has ended")
        self.flush()
        if self.out or not self.aware:
            return False
        if len(data) <= INLINE_MAX:
            slot = SLOT.pack(0, len(data), INLINE, 0, 0, 0, 0, tag, bytes(data))
        else:
            buffer = self.pool.take(len(data)) if self.free_ids else None
            if not buffer:
                return False
            number = self.free_ids.pop()
            self.sent[number] = segment, offset = buffer
            self.pool.segments[segment].memory[offset:offset + len(data)] = data
            slot = SLOT.pack(0, len(data), BUFFER, 0, segment, 0, offset, tag,
                             number.to_bytes(4, "little"))
        self.put(T_DATA, 1, body=slot)
        return True

    def send(self, data, tag=0):
        while not self.try_send(data, tag):
            self.wait()

    def put(self, kind, count=0, value=0, body=b"", flags=0, fd=None):
        self.out.append((FRAME.pack(kind, flags, count, value) + body, fd))
        self.flush()

    def flush(self):
        """Sends pending frames, in order, as far as the socket has room."""
        while self.out:
            frame, fd = self.out[0]
            try:
                if not self.broken:
                    fds = [] if fd is None else [fd]
                    socket.send_fds(self.sock, [frame], fds)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self.broken = True  # what the peer sent is still to be read
            self.out.popleft()
            if fd is not None:
                os.close(fd)

    # Receiving

    def try_recv(self):
        """The next message as (bytes, tag), copied; None: none now, or .ended."""
        if not self.inbox:
            self.read()
        if not self.inbox:
            if self.eof and not self.got_bye:
                raise ConnectionResetError(errno.ECONNRESET, "the peer died")
            return None
        tag, parts = self.inbox.popleft()
        data = []
        for part in parts:
            if isinstance(part, bytes):
                data.append(part)
                continue
            segment, offset, length, number = part
            data.append(self.maps[segment][offset:offset + length])
            del self.held[number]
            self.done.append(number)
        if not self.inbox or len(self.done) >= IDS_MAX // 2:
            self.release()
        return b"".join(data), tag

    def recv(self):
        """The next message, or None when the peer has said BYE."""
        message = self.try_recv()
        while message is None and not self.ended:
            self.wait()
            message = self.try_recv()
        return message

    @property
    def ended(self):
        """The peer has said BYE and all it sent was received."""
        return self.got_bye and not self.inbox

    def release(self):
        while self.done:
            ids, self.done = self.done[:IDS_MAX], self.done[IDS_MAX:]
            body = struct.pack(f"<{len(ids)}I", *ids)
            self.put(T_RELEASE, len(ids), body=body)

    def wait(self, timeout=None):
        """Sleeps until there is something to read, or room; reads ahead."""
        self.release()  # the peer may be waiting for these
        events = select.POLLOUT if self.out else 0
        if not self.eof and len(self.inbox) < READ_AHEAD:
            events |= select.POLLIN
        elif not self.out and not self.eof:
            raise BlockingIOError(errno.EAGAIN, "receive first")
        self.poll.register(self.sock, events)
        ready = self.poll.poll(None if timeout is None else timeout * 1000)
        if self.eof and ready and ready[0][1] & select.POLLHUP:
            self.broken = True  # no RELEASE can come any more
        self.flush()
        self.read()
        return bool(ready)

    def read(self):
        """Reads what the socket holds; only the second end in a row is one."""
        ended = False
        while not self.eof and len(self.inbox) < READ_AHEAD:
            try:
                message, fds, stamped, cut = self.receive()
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # comes once, before messages that are still queued
            try:
                if not message and not stamped:
                    if ended:
                        self.end()
                    ended = True
                elif self.aware:
                    check(not cut, "too long, or too many fds")
                    self.take_frame(message, fds)
                else:
                    self.negotiate(message, fds)
            except ProtocolError as error:
                self.fail(error)
            finally:
                for fd in fds:
                    os.close(fd)

    def receive(self):
        """One socket message; has room for one fd more than a frame carries."""
        size = FRAME_MAX if self.aware else self.sock.recv_into(
            bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
        message, controls, flags, _ = self.sock.recvmsg(
            size, socket.CMSG_SPACE(16) + socket.CMSG_SPACE(8),
            socket.MSG_CMSG_CLOEXEC)
        fds, stamped = [], False
        for level, kind, data in controls:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds += struct.unpack(f"{len(data) // 4}i", data)
            elif (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMP):
                stamped = True
        cut = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        return message, fds, stamped, cut

    def end(self):
        """EOF (section 10): BYE came before it, or the peer died."""
        self.eof = True
        if not self.got_bye:
            self.broken = True
            self.got_bye = self.server and not self.aware  # it stayed plain
            for number in list(self.sent):
                self.take_back(number)

    def take_frame(self, message, fds):
        """Checks one frame (sections 4 and 11) and acts on it."""
        check(len(message) >= FRAME.size, "frame is too short")
        kind, flags, count, value = FRAME.unpack_from(message)
        body = message[FRAME.size:]
        if not T_HELLO <= kind <= T_ERROR:
            check(flags & F_IGNORABLE, "unknown type of frame")
            return
        # type: bytes of body, fds, count, value
        sizes = {T_SEGMENT_ADD: SEGMENT.size, T_DATA: SLOT.size * count,
                 T_RELEASE: 4 * count, T_ERROR: count}
        counts = {T_DATA: range(1, PARTS_MAX + 1), T_ERROR: range(TEXT_MAX + 1),
                  T_RELEASE: range(1, IDS_MAX + 1)}
        check(len(body) == sizes.get(kind, 0), "wrong length of frame")
        check(count in counts.get(kind, (0,)), "wrong count in frame")
        check(len(fds) == (kind == T_SEGMENT_ADD), "wrong number of fds")
        check(flags == 0 or (kind, flags) == (T_SEGMENT_DEL, F_ACK), "flags")
        check(value == 0 or kind not in (T_DATA, T_RELEASE, T_DOORBELL), "value")
        if kind == T_DATA:
            check(not self.got_bye, "DATA after BYE")
            self.take_slots(body)
        elif kind == T_RELEASE:
            for number in struct.unpack(f"<{count}I", body):
                check(number in self.sent, "RELEASE of an id that is not out")
                self.take_back(number)
        elif kind == T_SEGMENT_ADD:
            self.map_segment(value, *SEGMENT.unpack(body), fds[0])
        elif kind == T_SEGMENT_DEL and flags & F_ACK:
            check(value in self.pool.retired, "SEGMENT_DEL answers nothing")
            del self.pool.retired[value]
        elif kind == T_SEGMENT_DEL:
            check(value in self.maps and value not in self.held.values(),
                  "SEGMENT_DEL of a segment that is unknown or in use")
            self.maps.pop(value).close()
            self.put(T_SEGMENT_DEL, value=value, flags=F_ACK)
        elif kind == T_BYE:  # its value is only for two peers with links
            check(not self.got_bye, "second BYE")
            self.got_bye = True
        elif kind == T_ERROR:
            text = body.decode(errors="replace")
            self.broken = True  # not to be answered
            raise ProtocolError(value, f"the peer says: {text}")
        else:
            check(kind == T_DOORBELL, "frame is not legal now")

    def take_slots(self, body):
        parts, first_tag = [], 0
        for seq, length, kind, flags, segment, conn, offset, tag, tail in \
                SLOT.iter_unpack(body):
            check(seq == 0 and conn == 0 and flags in (0, F_MORE), "bad slot")
            first_tag = first_tag if parts else tag
            if kind == INLINE:
                check(length <= INLINE_MAX and segment == offset == 0, "inline")
                parts.append(tail[:length])
            else:
                check(kind == BUFFER and not any(tail[4:]), "bad kind or tail")
                check(segment in self.maps, "unknown segment")
                check(offset + length <= len(self.maps[segment]), "bad offset")
                number = int.from_bytes(tail[:4], "little")
                check(number < HOLD_LIMIT and number not in self.held, "bad id")
                self.held[number] = segment
                parts.append((segment, offset, length, number))
            if not flags & F_MORE:
                self.inbox.append((first_tag, parts))
                parts = []
        check(not parts, "the last slot says MORE")

    def take_back(self, number):
        segment, offset = self.sent.pop(number)
        self.pool.segments[segment].free.append(offset)
        self.free_ids.append(number)

    def map_segment(self, number, size, flags, zero, fd):
        check(number < SEGMENT_LIMIT and number not in self.maps, "number")
        check(size and size % mmap.PAGESIZE == 0, "size of segment")
        check(flags == 0 and zero == 0, "flags of segment")
        check(size + sum(map(len, self.maps.values())) <= MAP_LIMIT, "map limit")
        try:  # in this order: section 2
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError:
            seals = 0
        check(seals & SEALS == SEALS, "segment is not sealed")
        status = os.fstat(fd)
        check(status.st_size == size and status.st_blocks * 512 >= size,
              "segment is sparse or of another size")
        # Python's mmap keeps a duplicate of fd; the protocol does not need it.
        self.maps[number] = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)

    # Closing (section 10)

    def shutdown(self):
        """Says BYE: no more messages from here. Receiving goes on."""
        if not self.said_bye:
            self.said_bye = True
            self.put(T_BYE)

    def close(self):
        """Says BYE, sends what is pending, and lets go of everything."""
        try:
            self.shutdown()
            while self.out and not self.broken:
                self.inbox.clear()
                self.wait()
        finally:
            self.discard()

    def fail(self, error):
        """Tells the peer why, if it has not told us, and ends it all."""
        text = error.strerror.encode()[:TEXT_MAX]
        if not self.broken and not self.eof:
            self.put(T_ERROR, len(text), error.errno or errno.EPROTO, text)
        self.discard()
        raise error

    def discard(self):
        self.broken = self.eof = self.said_bye = True
        self.flush()  # closes the fds of what was not sent
        self.sock.close()
        ours = self.pool.segments.values() if self.pool else ()
        for memory in [*self.maps.values(), *(s.memory for s in ours)]:
            memory.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close() if kind is None else self.discard()
