"""One connection of a stream route at this half: a local socket, and the credit of each direction.

What comes from the link is taken at once, into this connection's own buffer, which its window bounds; so a service or
client that does not read holds up nobody else. What the local socket has is read while the peer gave credit. It knows
its half (tunnel.patterns.stream) by what Half says, and nothing of links.
"""

from __future__ import annotations

import contextlib
import socket as sockets
import struct
from asyncio import AbstractEventLoop
from collections import deque
from typing import Final, Protocol

from tunnel import pump
from tunnel.limits import STREAM_CREDIT_BYTES, STREAM_READ_BYTES, STREAM_SMALL_BYTES
from tunnel.local.stream import Attempt
from tunnel.patterns.stream_records import HEAD_BYTES, Code, Kind, encode, encode_credit, encode_reset
from tunnel.pump import Segment

_ABORT: Final = struct.pack("ii", 1, 0)
_DATA: Final = int(Kind.DATA)
_SEGMENTS_A_WRITE: Final = 64


class Half(Protocol):
    """What a connection asks of those who keep it."""

    loop: AbstractEventLoop

    def may_read(self) -> bool:
        """Is the route's queue short enough to read more?"""
        ...

    def starve(self, connection: Connection) -> None:
        """It would read; call `go_on` when there is room again."""
        ...

    def say(self, record: Segment) -> None:
        """This goes to the peer."""
        ...

    def enlarge(self, connection: Connection) -> int:
        """The consumer keeps up: bytes by which the window may grow; below 0, by which it must shrink."""
        ...

    def send(self, connection: Connection, record: Segment, size: int) -> None:
        """So many bytes came from its local socket; they are in this record."""
        ...

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        ...


class Connection:
    """From its OPEN to its end at both sides."""

    __slots__ = (
        "_buffer",
        "_doomed",
        "_half",
        "_reading",
        "_writing",
        "active",
        "attempt",
        "buffered",
        "credit",
        "end_came",
        "end_sent",
        "fd",
        "granted",
        "moved_at",
        "owed",
        "socket",
        "starved",
        "stream",
        "window",
    )

    def __init__(self, half: Half, stream: int) -> None:
        self.stream = stream
        self.socket: sockets.socket | None = None
        self.attempt: Attempt | None = None
        """Of a connection to the target that is under way."""
        self.credit = STREAM_CREDIT_BYTES
        """What we may still send."""
        self.window = STREAM_CREDIT_BYTES
        """What the peer may have under way to us."""
        self.granted = STREAM_CREDIT_BYTES
        """What is left of it."""
        self.owed = 0
        """Consumed, and not granted anew yet."""
        self.buffered = 0
        self.end_sent = self.end_came = False
        self.starved = False
        self.active = False
        """Something has moved since somebody last looked, and cleared this."""
        self.moved_at = 0.0
        """When somebody last saw that something had."""
        self._half = half
        self._buffer: deque[Segment] = deque()
        self.fd = -1
        self._reading = self._writing = self._doomed = False

    def __repr__(self) -> str:
        return (
            f"<Connection {self.stream} credit={self.credit} window={self.window} buffered={self.buffered}"
            f"{' end-sent' if self.end_sent else ''}{' end-came' if self.end_came else ''}>"
        )

    # --- from the local socket ---------------------------------------------------------------------------------------

    def attach(self, socket: sockets.socket, first: bytes = b"") -> None:
        """The local socket is there. `first` goes to it before anything else."""
        self.socket, self.attempt = socket, None
        self.fd = socket.fileno()
        if first:
            self._buffer.appendleft(first)
            self.buffered += len(first)
            self.owed -= len(first)
        if self._buffer:
            self._write()
        elif self.end_came:
            self._end_writing()
        if self.socket is not None:
            self.go_on()

    def go_on(self) -> None:
        """Read, if there is anything to wait for."""
        if self.socket is None or self._reading or self.end_sent or not self.credit:
            return
        self._reading = True
        self._half.loop.add_reader(self.fd, self._on_readable)

    def pause(self) -> None:
        """Do not read until go_on."""
        if self._reading:
            self._reading = False
            self._half.loop.remove_reader(self.fd)

    def turn(self) -> None:
        """It starved, and there is room: read at once, then wait for more."""
        self.starved = False
        self.go_on()
        if self._reading:
            self._on_readable()

    def _on_readable(self) -> None:
        if not self._half.may_read():
            self.pause()
            if not self.starved:
                self.starved = True
                self._half.starve(self)
            return
        most = self.credit if self.credit < STREAM_READ_BYTES else STREAM_READ_BYTES
        try:
            record = pump.read_record(self.fd, _DATA, self.stream, most)
        except OSError as error:
            self.reset(Code.reset, str(error.strerror))
            return
        if record is None:
            return
        self.active = True
        size = len(record)
        if not size:
            self.pause()
            self.end_sent = True
            self._half.say(encode(Kind.END, self.stream))
            self._finish()
            return
        self.credit -= size - HEAD_BYTES
        if not self.credit:
            self.pause()
        self._half.send(self, record, size - HEAD_BYTES)

    def on_credit(self, size: int) -> None:
        """The peer takes so much more."""
        self.credit += size
        if not (self._reading or self.starved):
            self.go_on()

    # --- to the local socket -----------------------------------------------------------------------------------------

    def on_data(self, body: Segment) -> bool:
        """Bytes for the local socket. False: more than was granted, or after the end."""
        size = len(body)
        if size > self.granted or self.end_came:
            return False
        self.granted -= size
        self.active = True
        if self.buffered or self.socket is None:
            self._keep(body)
            return True
        try:
            sent = self.socket.send(body)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.reset(Code.reset, str(error.strerror))
            return True
        self._on_taken(body, sent)
        return True

    @property
    def takes_at_once(self) -> bool:
        """Nothing that came waits, and more may come: bytes may be written past `on_data`, which `on_sent` is told."""
        return self.socket is not None and not (self.buffered or self.end_came)

    def on_sent(self, body: Segment, sent: int) -> None:
        """These came and went ahead; the local socket took so many of them."""
        self.granted -= len(body)
        self.active = True
        self._on_taken(body, sent)

    def _on_taken(self, body: Segment, sent: int) -> None:
        if sent < len(body):
            self._keep(body[sent:])  # type: ignore[index]
            self._want_to_write(True)
        if sent:
            self._consumed(sent)

    def _keep(self, body: Segment) -> None:
        size = len(body)
        self.buffered += size
        last = self._buffer[-1] if self._buffer else None
        if size >= STREAM_SMALL_BYTES:
            self._buffer.append(body)
        elif isinstance(last, bytearray) and len(last) < STREAM_SMALL_BYTES:
            last += memoryview(body)
        elif size:
            self._buffer.append(bytearray(body))

    def on_end(self) -> None:
        """The other application sends no more."""
        self.end_came = True
        self.active = True
        if not self.buffered and self.socket is not None:
            self._end_writing()

    def _write(self) -> None:
        """As much of the buffer as the socket takes."""
        if self.socket is None:
            return
        total = 0
        while self._buffer:
            few = [self._buffer[at] for at in range(min(len(self._buffer), _SEGMENTS_A_WRITE))]
            try:
                sent = self.socket.sendmsg(few)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self.reset(Code.reset, str(error.strerror))
                return
            total += sent
            self.buffered -= sent
            while self._buffer and sent >= len(self._buffer[0]):
                sent -= len(self._buffer.popleft())
            if sent:
                self._buffer[0] = self._buffer[0][sent:]  # type: ignore[index]
        self._want_to_write(bool(self._buffer))
        if total:
            self.active = True
            self._consumed(total)
        if not self._buffer and self._doomed:
            self.close(abort=True)
        elif not self._buffer and self.end_came:
            self._end_writing()

    def _want_to_write(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._half.loop.add_writer(self.fd, self._write)
            else:
                self._half.loop.remove_writer(self.fd)

    def _consumed(self, size: int) -> None:
        """The local socket took so much: grant it anew, in portions."""
        self.owed += size
        if self.owed * 2 < self.window or self.end_came:
            return
        change = self._half.enlarge(self) if not self.buffered else 0
        grant = max(0, self.owed + change)
        self.window += grant - self.owed
        self.owed = 0
        if not grant:
            return
        self.granted += grant
        self._half.say(encode_credit(self.stream, grant))

    def _end_writing(self) -> None:
        if self.socket is None:
            return
        try:
            self.socket.shutdown(sockets.SHUT_WR)
        except OSError as error:
            self.reset(Code.reset, str(error.strerror))
            return
        self._finish()

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Both directions have ended, and all is written."""
        if self.end_sent and self.end_came and not self.buffered:
            self.close(abort=False)

    def on_reset(self, code: Code) -> None:
        """The other half has given it up. When that is stopping in order, what came is still handed on."""
        if code is Code.closing and self.buffered and self.socket is not None:
            self.pause()
            self.end_sent = self._doomed = True
        else:
            self.close(abort=True)

    def reset(self, code: Code, text: str = "") -> None:
        """End it here, and tell the peer."""
        self._half.say(encode_reset(self.stream, code, text))
        self.close(abort=True)

    def close(self, *, abort: bool) -> None:
        """End it here. `abort`: the application is told by RST that bytes may be missing."""
        if self.attempt is not None:
            self.attempt.cancel()
            self.attempt = None
        self.pause()
        self._want_to_write(False)
        self._buffer.clear()
        self.buffered = 0
        socket, self.socket = self.socket, None
        self.end_sent = self.end_came = True
        if socket is not None and abort:
            abort_socket(socket)
        elif socket is not None:
            socket.close()
        self._half.forget(self)


def abort_socket(socket: sockets.socket) -> None:
    """Close with RST: whoever is at the other end must not take this for an orderly end."""
    with contextlib.suppress(OSError):
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, _ABORT)
    socket.close()
