"""Shortcut in pure Python: the same rules as shortcut.pxi, which has the reasons, over pyzmq's own calls."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from tunnel.limits import BATCH_COST_BYTES, INLINE_BYTES, JOURNAL
from tunnel.pump.base import AGAIN, DONE, Fed, Piece, Segment, Status
from tunnel.pump.twin_runs import Reader

DATA_KIND, ACKED = 6, 2
BYTES_RECORD = 2
_FAR = 1 << 62
_HEADER = struct.Struct("<BBHIQQI")
_ACK = struct.Struct("<QH")
_ITEM = struct.Struct("<IQ")
_RECORD = struct.Struct("<III")
Socket = zmq.Socket[bytes]
Feed = Callable[[Socket, Sequence[Segment], int, bytes | None], Fed]
Send = Callable[[Socket, Sequence[Segment]], Status]
Entry = tuple[bool, int, int, Any, Any]


class Shortcut:
    """One channel each way between a local socket and a link socket. See the compiled one."""

    def __init__(self, stir: Callable[[bool, bool, bool], None]) -> None:
        self.leaves = self.enters = self.full = False
        self.owed_at_us = 0
        self._stir = stir
        self._journal: list[Entry] = []

    def __len__(self) -> int:
        return len(self._journal)

    def arm(
        self,
        local: Socket | tuple[int, int, int],
        link: Socket,
        routing_id: bytes,
        user_id: bytes,
        departs: tuple[int, int, int] | None,
        enters: tuple[int, int, bytes | None, int, int] | None,
        owed: tuple[int, int, bool],
    ) -> None:
        self.full = False
        self._local, self._link = local, link
        self._routing_id, self._user_id = routing_id, user_id
        self.leaves, self.enters = departs is not None, enters is not None
        if departs is not None:
            self._out_channel, self._next_seq, self._room = departs
        if enters is not None:
            self._in_channel, self._due_seq, self._prefix, self._max_age_us, self._offset_us = enters
        self._lane_bytes, self.owed_at_us, self._owed_item = owed

    def disarm(self) -> None:
        self.leaves = self.enters = False

    def take(self) -> list[Entry]:
        self.disarm()
        journal, self._journal = self._journal, []
        return journal

    def _note(self, entry: Entry, local: bool, link: bool) -> None:
        self._journal.append(entry)
        if local or link or self.full or len(self._journal) == 1:
            self._stir(len(self._journal) == 1, local, link)

    def go(self, pieces: Sequence[Piece], send: Send) -> bool:
        """Send what was drained. False: it must go the usual way, and nothing was done."""
        if not self.leaves or len(pieces) != 1 or pieces[0].size > INLINE_BYTES:
            return False
        if self._room <= 0 or len(self._journal) >= JOURNAL:
            return False
        piece, now_us = pieces[0], _microseconds()
        header = self._header(piece.messages, now_us)
        frame = b"".join((header, *map(bytes, piece.segments)))
        try:
            status = send(self._link, [self._routing_id, frame] if self._routing_id else [frame])
        except zmq.ZMQError:
            status = AGAIN
        if status is not Status.SENT:
            self.disarm()
            return False
        seq, self._next_seq = self._next_seq, self._next_seq + 1
        self._room -= max(piece.size, BATCH_COST_BYTES) + len(header)
        self.owed_at_us, self._owed_item = 0, False
        self.full = self._room <= 0
        self._note((False, seq, now_us, piece, len(header)), False, _is_readable(self._link))
        return True

    def depart(self, record: bytes) -> bool:
        """Send one record of a connection. False: it must go the usual way, and nothing was done."""
        return self.go([Piece((record,), len(record), 1)], _send)

    def _header(self, messages: int, now_us: int) -> bytes:
        flags = ACKED if self.owed_at_us else 0
        header = _HEADER.pack(DATA_KIND, flags, 0, self._out_channel, self._next_seq, now_us, messages)
        if self.owed_at_us:
            header += _ACK.pack(self._lane_bytes, int(self._owed_item))
            if self._owed_item:
                header += _ITEM.pack(self._in_channel, self._due_seq - 1)
        return header

    def is_from(self, routing_id: bytes, user_id: str) -> bool:
        return not self._routing_id or (routing_id == self._routing_id and user_id.encode() == self._user_id)

    def feed(self, frame: bytes, feed: Feed) -> bool:
        """Feed a frame of the link. False: it must go the usual way, and nothing was done."""
        now_us = _microseconds()
        begin = self._run_at(frame, now_us)
        run = memoryview(frame)[begin:]
        if not begin or len(self._journal) >= JOURNAL:
            fed = None
        elif isinstance(self._local, tuple):
            fed = self._feed_connection(run, *self._local)
        else:
            fed = self._feed_socket(run, self._local, feed)
        if fed is None:
            self.disarm()
            return False
        if fed.status is not DONE:
            self.disarm()
            self.full = True
        seq, self._due_seq = self._due_seq, self._due_seq + 1
        self._lane_bytes += len(frame)
        self.owed_at_us = self.owed_at_us or now_us
        self._owed_item = True
        readable = not isinstance(self._local, tuple) and _is_readable(self._local)
        self._note((True, seq, now_us, frame, fed), readable, False)
        return True

    def _feed_socket(self, run: memoryview, local: Socket, feed: Feed) -> Fed | None:
        """Messages to a 0MQ socket. None: nothing was done."""
        if not _is_well_formed(run):
            return None
        try:
            fed = feed(local, [run], 0, self._prefix)
        except zmq.ZMQError:
            return None
        return fed if fed.status is DONE or fed.messages or fed.unreachable else None

    def _feed_connection(self, run: memoryview, fd: int, stream: int, granted: int) -> Fed | None:
        """The bytes of one record to the connection: Fed, with the bytes that it took as its position; or None."""
        body = run[_RECORD.size :]
        if not 0 < len(body) <= granted or _RECORD.unpack_from(run) != (len(run) - 4, BYTES_RECORD, stream):
            return None
        try:
            sent = os.write(fd, body)
        except OSError:
            return None  # whatever it is, the usual way meets it too
        self._local = fd, stream, granted - len(body)
        return Fed(1, sent, DONE if sent == len(body) else AGAIN)

    def _run_at(self, frame: bytes, now_us: int) -> int:
        """Where the run begins in the frame that is due; 0: this is another one, or must not be fed now."""
        if not _HEADER.size < len(frame) <= _HEADER.size + INLINE_BYTES:
            return 0
        kind, flags, _, channel, seq, born_us, _ = _HEADER.unpack_from(frame)
        if kind != DATA_KIND or flags & ~ACKED or (channel, seq) != (self._in_channel, self._due_seq):
            return 0
        if self._max_age_us >= 0 and (born_us > _FAR or now_us - self._offset_us - born_us > self._max_age_us):
            return 0
        at = _HEADER.size
        if flags & ACKED:
            if len(frame) < at + _ACK.size:
                return 0
            at += _ACK.size + _ITEM.size * int(_ACK.unpack_from(frame, at)[1])
        return at if at < len(frame) else 0


def _send(link: Socket, parts: Sequence[Segment]) -> Status:
    link.send_multipart(parts, zmq.DONTWAIT)
    return Status.SENT


def _microseconds() -> int:
    return time.monotonic_ns() // 1000


def _is_readable(socket: Socket) -> bool:
    try:
        return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
    except zmq.ZMQError:
        return False


def _is_well_formed(run: memoryview) -> bool:
    reader, position = Reader([run]), 0
    while position < reader.size:
        frames = reader.message(position)
        if frames is None:
            return False
        position = sum(frames[-1])
    return True
