"""REQ, DEALER of a tcp-server: a frame is a request, and its reply goes back on the same connection, in order.

On the wire each request is [number, empty, (meta), frame], as a REQ's is behind a ROUTER: so REP and DEALER services
answer it alike, and in whatever order. `number` is 8 bytes: the connection's, and the request's on it.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bridges.connection import FULL, MODE, Connection
from bridges.framing import Message
from bridges.messages import run_of
from tunnel.limits import BRIDGE_REQUESTS, BRIDGE_TICK_S

if TYPE_CHECKING:
    from bridges.tcp_server import TcpServer

_NUMBER: Final = struct.Struct("!II")


@dataclass(slots=True, eq=False)
class _Request:
    """One question of a device."""

    deadline: float
    reply: bytes | None = None


class _Talk:
    """What is under way on one connection."""

    __slots__ = ("asked", "connection", "first", "later", "open")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.first = 0
        """Number of the oldest request under way."""
        self.asked = 0
        self.open: deque[_Request] = deque()
        """Requests under way, in the order of the replies."""
        self.later: deque[Message] = deque()
        """Frames of the last read beyond what may be under way."""


class Asking:
    """See the module."""

    def __init__(self, server: TcpServer) -> None:
        self._server = server
        self._plan = server.plan
        self._talking: dict[_Talk, None] = {}
        """Those with requests under way."""
        self._count = 0
        self._late = self._timeouts = 0
        self._stalled: set[_Talk] = set()
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, connection: Connection) -> None:
        connection.mode = _Talk(connection)

    def came(self, connection: Connection, messages: list[Message]) -> None:
        talk: _Talk = connection.mode
        if talk.later or connection.full:
            talk.later.extend(messages)
            connection.hold(MODE)
        else:
            self._ask(talk, messages)

    def _ask(self, talk: _Talk, messages: list[Message]) -> None:
        """As many as may be under way; the rest waits, and the connection is not read."""
        room = max(0, min(self._plan.pipeline - len(talk.open), BRIDGE_REQUESTS - self._count))
        now, rest = messages[:room], messages[room:]
        if rest:
            talk.later.extend(rest)
            talk.connection.hold(MODE)
            if not talk.open:
                self._stalled.add(talk)
        if not now:
            return
        before = [b""]
        if self._plan.meta:
            before.append(self._server.meta(talk.connection))
        deadline = self._server.loop.time() + self._plan.timeout_s
        framed: list[Message] = []
        for message in now:
            number = _NUMBER.pack(talk.connection.number, talk.asked & 0xFFFF_FFFF)
            talk.asked += 1
            framed.append([number, *before, *([message] if isinstance(message, bytes) else message)])
            talk.open.append(_Request(deadline))
        self._talking[talk] = None
        self._count += len(now)
        self._server.put(run_of(framed))
        self._watch_the_time()

    def heard(self, messages: list[list[bytes]]) -> None:
        touched: dict[_Talk, None] = {}
        for message in messages:
            talk = self._take(message)
            if talk is not None:
                touched[talk] = None
        for talk in touched:
            self._answer(talk)

    def _take(self, message: list[bytes]) -> _Talk | None:
        """Puts a reply to its request; None: there is none that waits."""
        if len(message) < 3 or len(message[0]) != _NUMBER.size or message[1]:
            self._server.dropped["reply"] += 1
            self._server.reason = "a reply does not bear the frames of its request"
            return None
        number, asked = _NUMBER.unpack(message[0])
        connection = self._server.connections.get(number)
        talk: _Talk | None = None if connection is None else connection.mode
        place = -1 if talk is None else (asked - talk.first) & 0xFFFF_FFFF
        if talk is None or place >= len(talk.open) or talk.open[place].reply is not None:
            self._late += 1
            return None
        talk.open[place].reply = self._reply(message[2:])
        return talk

    def _reply(self, frames: list[bytes]) -> bytes:
        """What the device reads; a reply that cannot be said is no reply."""
        if self._plan.accept == "acked":
            return self._plan.ack or b""
        if self._plan.writes.kind == "multipart":
            data = self._server.encode(frames)
        elif len(frames) == 1:
            data = self._server.encode(frames[0])
        else:
            self._server.dropped["frames"] += 1
            self._server.reason = f"a reply of {len(frames)} frames: only the framing multipart can say so many"
            data = None
        return self._failure() if data is None else data

    def _failure(self) -> bytes:
        if self._plan.accept == "acked":
            return self._plan.nak or b""
        return b"" if self._plan.timeout_reply is None else self._server.encode(self._plan.timeout_reply) or b""

    def _answer(self, talk: _Talk) -> None:
        """Every reply whose turn it is; then there is room for more questions."""
        replies: list[bytes] = []
        while talk.open and talk.open[0].reply is not None:
            replies.append(talk.open.popleft().reply or b"")
            talk.first += 1
        if not replies:
            return
        self._count -= len(replies)
        if not talk.open:
            self._talking.pop(talk, None)
        self._server.write(talk.connection, b"".join(replies), len(replies))
        if talk.connection.full:  # who does not read its replies is not read
            talk.connection.hold(FULL)
        self._ask_on(talk)
        self._wake()
        if talk.connection.half_closed and not talk.open and not talk.later:
            talk.connection.close()

    def _wake(self) -> None:
        """Those that found no room among the requests of all."""
        if self._stalled and self._count < BRIDGE_REQUESTS:
            for other in tuple(self._stalled):
                self._stalled.discard(other)
                self._ask_on(other)

    def _ask_on(self, talk: _Talk) -> None:
        if talk.connection.full:  # it does not read its replies: no more of them
            return
        if talk.later and not talk.connection.ending:
            waiting, talk.later = list(talk.later), deque()
            self._ask(talk, waiting)
        if not talk.later:
            talk.connection.go_on(MODE)

    def writable(self, connection: Connection) -> None:
        connection.go_on(FULL)
        self._ask_on(connection.mode)

    def ended(self, connection: Connection) -> None:
        talk: _Talk = connection.mode
        if not talk.open and not talk.later:
            connection.close()

    def closed(self, connection: Connection) -> None:
        talk: _Talk | None = connection.mode
        if talk is not None:
            self._stalled.discard(talk)
            self._talking.pop(talk, None)
            self._count -= len(talk.open)
            talk.open.clear()
            talk.later.clear()
            connection.mode = None
            self._wake()

    def owes(self) -> bool:
        return self._count > 0

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def status(self) -> dict[str, Any]:
        return {"under_way": self._count, "timeouts": self._timeouts, "late": self._late}

    # --- time --------------------------------------------------------------------------------------------------------

    def _watch_the_time(self) -> None:
        if self._timer is None:
            self._timer = self._server.loop.call_later(BRIDGE_TICK_S, self._on_time)

    def _on_time(self) -> None:
        """The oldest of each connection is due first, and what came after it waits for it anyway."""
        self._timer = None
        now = self._server.loop.time()
        for talk in tuple(self._talking):
            while talk.open and talk.open[0].reply is None and talk.open[0].deadline <= now:
                if not self._expire(talk):
                    break
        if self._talking:
            self._watch_the_time()

    def _expire(self, talk: _Talk) -> bool:
        """Of its oldest request; False: it is over with the connection, too."""
        self._timeouts += 1
        told = self._plan.nak if self._plan.accept == "acked" else self._plan.timeout_reply
        if told is None:
            talk.open[0].deadline = math.inf
            talk.connection.close("timeout")
            return False
        talk.open[0].reply = self._failure()
        self._answer(talk)
        return True
