"""A stream route's connections with one peer: which there are, what they say, how much each may have under way.

Between the connections (stream_connection.py) and the port, whose channel carries the records. Records that come up in
one callback of the loop leave together at its end.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tunnel import pump
from tunnel.errors import RemoteProtocolError
from tunnel.limits import INLINE_BYTES, STREAM_ANSWERS_BYTES, STREAM_CREDIT_BYTES, STREAM_QUEUE_BYTES
from tunnel.patterns.base import Hub, Port, Tally
from tunnel.patterns.stream_connection import Connection
from tunnel.patterns.stream_records import (
    CREDIT_MOST,
    Code,
    Kind,
    decode_credit,
    decode_open,
    decode_reset,
    encode_reset,
    pieces_of,
)
from tunnel.pump import Segment

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from tunnel.link.inbound import Run
    from tunnel.patterns.stream import Stream

REFUSING = (Code.target_down, Code.limit)
"""With these the connection was never served."""


class Half:
    """The connections of one port. Everything happens in the loop's thread."""

    def __init__(self, pattern: Stream, port: Port, hub: Hub, loop: AbstractEventLoop, tally: Tally) -> None:
        self.loop = loop
        self.port = port
        self.connections: dict[int, Connection] = {}
        self.ended: Counter[str] = Counter()
        """Connections that we or the peer's half broke off, by reason."""
        self._pattern = pattern
        self._hub = hub
        self._tally = tally
        self._epoch = port.channel.epoch
        self._pending: list[Segment] = []
        self._pending_bytes = 0
        self._soon = self._closed = False
        self._arriving = False
        self._starved: deque[Connection] = deque()
        self._resuming = False
        self._enlarged_bytes = 0
        self._chatting: Connection | None = None
        """The one that had little to say last, either way: what comes for it next may go ahead (tunnel/ahead.py)."""

    def __repr__(self) -> str:
        return f"<Half {self.port.peer.side} connections={len(self.connections)} starved={len(self._starved)}>"

    # --- called by the connections -----------------------------------------------------------------------------------

    def may_read(self) -> bool:
        outbound = self.port.channel.outbound
        if outbound is None or self._pattern.stopping:
            return False
        return outbound.queue_bytes + self._pending_bytes < STREAM_QUEUE_BYTES and outbound.has_room

    def starve(self, connection: Connection) -> None:
        self._starved.append(connection)

    @property
    def idle(self) -> bool:
        """Nothing waits here: neither for its turn on the channel (`say`), nor for a connection."""
        return not self._pending and not any(one.buffered for one in self.connections.values())

    def say(self, record: Segment) -> None:
        if self._closed:
            return
        self._pending.append(record)
        self._pending_bytes += len(record)
        if not (self._soon or self._arriving):
            self._soon = True
            self.loop.call_soon(self._flush)

    def enlarge(self, connection: Connection) -> int:
        """Twice the window while the route's window has room for it; else towards an equal share."""
        most = self.port.channel.inbound.window_bytes if self.port.channel.inbound else 0
        step = min(connection.window, most - connection.window, most - self._enlarged_bytes)
        if step <= 0:
            share = max(STREAM_CREDIT_BYTES, most // max(1, len(self.connections)))
            step = -min(connection.owed, max(0, connection.window - share))
        self._enlarged_bytes += step
        return step

    def send(self, connection: Connection, record: Segment, size: int) -> None:
        """Bytes of a connection: the first of a turn of the loop need not wait for others that may come in it."""
        self._tally.messages_in += 1
        self._tally.bytes_in += size
        if self._soon or self._arriving or self._pending or not self.in_step or not self._at_once(connection, record):
            self.say(record)
        else:
            self._soon = True
            self.loop.call_soon(self._flush)

    def _at_once(self, connection: Connection, record: Segment) -> bool:
        port = self.port
        if len(record) <= INLINE_BYTES:
            self._chatting = connection
            if port.shortcut is not None and port.shortcut.depart(bytes(record)):
                return True
        piece = pump.Piece((record,), len(record), 1)
        return self._hub.express(port.peer, port.channel, piece, self._hub.now())

    def forget(self, connection: Connection) -> None:
        if self.connections.pop(connection.stream, None) is not None:
            self._enlarged_bytes -= connection.window - STREAM_CREDIT_BYTES
        if self._chatting is connection:
            self._chatting = None
        if self.port.shortcut is not None:
            self.port.shortcut.disarm()  # it may know the descriptor, which may soon be somebody else's

    # --- called by the pattern ---------------------------------------------------------------------------------------

    def open(self, stream: int) -> Connection:
        connection = self.connections[stream] = Connection(self, stream)
        return connection

    @property
    def in_step(self) -> bool:
        """The peer's process, and its route, are those that know our connections."""
        return self._epoch == self.port.channel.epoch

    def sync(self) -> None:
        """If the peer's process, or its route, is a new one, it knows none of our connections."""
        if not self.in_step:
            self._epoch = self.port.channel.epoch
            self._pending.clear()
            self._pending_bytes = 0
            self.drop("peer_restart")

    def drop(self, reason: str) -> None:
        """Close every connection here, without a word to the peer."""
        for connection in tuple(self.connections.values()):
            self.ended[reason] += 1
            connection.close(abort=True)

    def close(self) -> None:
        """The route goes: nothing is said any more."""
        self._closed = True
        self._pending.clear()
        self._pending_bytes = 0
        self.drop(Code.closing.name)

    def reset(self, connections: Iterable[Connection], code: Code, text: str) -> None:
        for connection in tuple(connections):
            self.ended[code.name] += 1
            connection.reset(code, text)

    def let_go(self) -> None:
        """An orderly end: the peer is told of every connection; what came is still handed on until `drop`."""
        for connection in self.connections.values():
            connection.pause()
            if not connection.end_sent or not connection.end_came:
                self.say(encode_reset(connection.stream, Code.closing, "the other half is stopping"))
                self.ended[Code.closing.name] += 1
            connection.end_sent = True

    def arrived(self) -> None:
        """Take every run that has come."""
        self.sync()
        inbound = self.port.channel.inbound
        if inbound is None:
            return
        self._arriving = True
        try:
            while inbound.runs:
                run = inbound.runs[0]
                self._take(run)
                inbound.done(run)
                self.port.peer.delivered(self.port.channel, run.size, self._hub.now())
        finally:
            self._arriving = False
        self._hub.touch(self.port.peer)
        self._put()

    def go_on(self) -> None:
        """There may be room again: those who starved are next, in order, after the present sending."""
        if self._starved and not self._resuming:
            self._resuming = True
            self.loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._resuming = False
        for _ in range(len(self._starved)):
            if not self.may_read():
                return
            self._starved.popleft().turn()

    # --- what took the shortcut ---------------------------------------------------------------------------------------

    def may_enter(self) -> bool:
        """May bytes of the connection that chats be written as soon as they come?"""
        return self._chatting is not None and self._chatting.takes_at_once and self.in_step

    def doorway(self) -> tuple[int, int, int]:
        """See `pump.Shortcut.arm`; of nobody, where nobody chats."""
        one = self._chatting
        return (-1, 0, 0) if one is None else (one.fd, one.stream, one.granted)

    def entered(self, run: Run, sent: int) -> None:
        """The one record of this run went ahead, and its connection took so many bytes of it."""
        ((_, stream, body),) = pump.records(run.segments)
        self._tally.messages_out += 1
        self._tally.bytes_out += len(body)
        connection = self.connections.get(stream)
        if connection is not None:
            connection.on_sent(body, sent)

    # --- records -----------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._soon = False
        self.sync()
        if not self._pending:
            return
        if len(self._pending) == 1 and self._pending_bytes <= self.port.peer.credit.batch_bytes:
            (record,) = self._pending
            piece = pump.Piece((record,), self._pending_bytes, 1)
            if self._hub.express(self.port.peer, self.port.channel, piece, self._hub.now()):
                self._pending.clear()
                self._pending_bytes = 0
                return
        self._put()
        self._hub.settle()

    def _put(self) -> None:
        """What is pending takes its turn on the lane."""
        if self._pending:
            pending, self._pending, self._pending_bytes = self._pending, [], 0
            self.port.put(pieces_of(pending), self._hub.now())
            self._hub.touch(self.port.peer)

    def _take(self, run: Run) -> None:
        try:
            for kind, stream, body in pump.records(run.segments):
                if kind == Kind.DATA:
                    self._on_data(stream, body)
                else:
                    self._on_record(kind, stream, body)
        except pump.RunError:
            self._breach(RemoteProtocolError("batch", f"{self._pattern.plan.name}: a batch is malformed"))
        except RemoteProtocolError as error:
            self._breach(error)

    def _breach(self, error: RemoteProtocolError) -> None:
        self._hub.breach(self.port.peer, error)
        self.reset(self.connections.values(), Code.reset, str(error))

    def _on_data(self, stream: int, body: Segment) -> None:
        connection = self.connections.get(stream)
        if connection is None:
            return  # it was reset here, and the peer does not know yet
        self._tally.messages_out += 1
        self._tally.bytes_out += len(body)
        if len(body) < INLINE_BYTES:
            self._chatting = connection
        if not connection.on_data(body):
            self.ended["credit"] += 1
            connection.reset(Code.credit, "more bytes came than were granted")

    def _on_record(self, kind: int, stream: int, body: Segment) -> None:
        if kind == Kind.OPEN:
            self._hold_to_reading()
            self._pattern.on_open(self, stream, decode_open(body))
            return
        connection = self.connections.get(stream)
        if connection is None:
            return
        if kind == Kind.CREDIT:
            size = decode_credit(body)
            if connection.credit + size > CREDIT_MOST:
                raise RemoteProtocolError("window", f"{self._pattern.plan.name}: a connection is granted too much")
            connection.on_credit(size)
        elif kind == Kind.END:
            connection.on_end()
        elif kind == Kind.RESET:
            self._on_reset(connection, body)
        else:
            raise RemoteProtocolError("batch", f"{self._pattern.plan.name}: there is no record of kind {kind}")

    def _hold_to_reading(self) -> None:
        """A peer that opens streams and never reads our answers would fill us with them."""
        outbound = self.port.channel.outbound
        if outbound is not None and outbound.unacked_bytes > 2 * outbound.window_bytes + STREAM_ANSWERS_BYTES:
            raise RemoteProtocolError("window", f"{self._pattern.plan.name}: the peer does not read our answers")

    def _on_reset(self, connection: Connection, body: Segment) -> None:
        code, text = decode_reset(body)
        if code in REFUSING:
            self._pattern.on_refused(code, text)
        else:
            self.ended[code.name] += 1
        connection.on_reset(code)
