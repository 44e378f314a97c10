"""tcp-client: we dial an old server, and it becomes a 0MQ peer.

Here is the pool of connections; what a message means is a mode's, which the type of the 0MQ socket decides: `Serving`
(serving.py) where it asks the server, here what only speaks, or only listens, or both.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from bridges.connection import Connection
from bridges.core import Core
from bridges.framing import FramingError, Message
from bridges.line import Line
from bridges.serving import Serving
from bridges.tls import client_context
from tunnel.config.bridge_plan import BridgePlan, TcpPlan
from tunnel.control import Command
from tunnel.log import Log
from tunnel.reactor import Reactor
from tunnel.spool import Spool


class Mode(Protocol):
    """What messages and frames mean."""

    def heard(self, messages: list[list[bytes]]) -> None:
        """Messages from the 0MQ socket."""

    def came(self, line: Line, messages: list[Message]) -> None:
        """Frames from the server."""

    def ready(self, line: Line) -> None:
        """A connection is there."""

    def lost(self, line: Line) -> None: ...

    def writable(self, line: Line) -> None: ...

    def waits(self) -> bool:
        """Is there something to say, and nobody to say it to?"""

    def close(self) -> None: ...

    def status(self) -> dict[str, Any]: ...


class Speaking:
    """PULL, SUB, DEALER: each message is a frame on one connection after the other. PUSH, PUB: there are none.

    PUSH, PUB, DEALER: each frame of the server is a message. PULL, SUB: it is counted `unasked`.
    """

    def __init__(self, client: TcpClient) -> None:
        self._client = client
        self._core = client.core
        self._topic = client.socket == "SUB"
        self._speaks = client.socket not in ("PUSH", "PUB")
        self._listens = client.socket in ("PUSH", "PUB", "DEALER")
        self._waiting: deque[bytes] = deque()
        """Frames of messages that were read, and no connection had room for."""
        self._look()

    def heard(self, messages: list[list[bytes]]) -> None:
        frames = (self._core.frame_of(message, topic=self._topic) for message in messages)
        self._waiting.extend(frame for frame in frames if frame is not None)
        self._say()

    def _say(self) -> None:
        """What waits goes to those with room; while there is none, nothing more is read."""
        while self._waiting:
            ready = [one for one in (line.room for line in self._client.lines) if one is not None]
            if not ready:
                break
            for one in ready:
                if self._waiting:
                    self._core.write(one, self._waiting.popleft(), 1)
        self._look()

    def _look(self) -> None:
        if self._speaks:
            self._core.zmq.read(not self._waiting)
        if self._waiting:
            self._client.dial()

    def came(self, line: Line, messages: list[Message]) -> None:
        assert line.connection is not None
        if self._listens:
            self._core.put(self._core.run_of(line.connection, messages))
        else:
            self._core.dropped["unasked"] += len(messages)

    def ready(self, line: Line) -> None:
        self._say()

    def lost(self, line: Line) -> None: ...

    def writable(self, line: Line) -> None:
        self._say()

    def waits(self) -> bool:
        return bool(self._waiting)

    def close(self) -> None: ...

    def status(self) -> dict[str, Any]:
        return {"waiting": len(self._waiting)}


MODES: Final[dict[str, tuple[str, Callable[[TcpClient], Mode]]]] = {
    "REP": ("ROUTER", Serving),  # a REP could have one question under way, however many connections there are
    "PULL": ("PULL", Speaking),
    "SUB": ("SUB", Speaking),
    "DEALER": ("DEALER", Speaking),
    "PUSH": ("PUSH", Speaking),
    "PUB": ("PUB", Speaking),
}
"""The table's socket → the one that is made, and what it means."""


class TcpClient:
    """See `tunnel.served.Process`; and the Keeper of its lines, the Owner of their connections."""

    def __init__(self, plan: BridgePlan[TcpPlan], reactor: Reactor, log: Log) -> None:
        self.plan = plan.own
        self.loop = reactor.loop
        self.socket = plan.zmq.socket
        kind, mode = MODES[self.socket]
        self.core = Core(plan, reactor, log, kind, self._on_messages)
        tls = self.plan.tls
        context, name = (client_context(tls), tls.server_name) if tls is not None else (None, None)
        self.lines = [Line(self, number, context, name) for number in range(1, self.plan.pool + 1)]
        self._mode = mode(self)
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None

    # --- its life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        if not self.plan.lazy:
            self.dial()
        if self.plan.keep_alive is not None or self.plan.idle_s is not None or self.plan.lifetime_s is not None:
            self._sweep()

    async def close(self) -> None:
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._mode.close()
        for line in self.lines:
            line.close()
        self.core.zmq.close()

    def status(self) -> dict[str, Any]:
        up = sum(line.state == "up" for line in self.lines)
        dialling = any(line.state in ("connecting", "pausing") for line in self.lines)
        state = "up" if up else "retrying" if self.core.reason and dialling else "connecting" if dialling else "idle"
        return {
            "state": state,
            "reason": "" if state in ("up", "idle") else self.core.reason,
            "connections": up,
            "refused": {},
            **self.core.counts(),
            "detail": {"pool": len(self.lines), "last_reason": self.core.reason, **self._mode.status()},
        }

    def commands(self) -> Mapping[str, Command]:
        return {}

    def spools(self) -> Mapping[str, Spool]:
        return {}

    def dial(self) -> None:
        """Every place of the pool that is idle."""
        for line in self.lines:
            line.dial()

    # --- Keeper ------------------------------------------------------------------------------------------------------

    def ready(self, line: Line) -> None:
        if line.connection is not None and self.plan.greeting is not None:
            line.connection.write(self.plan.greeting)
        self.core.log.info("connected", line=line.number)
        self._mode.ready(line)

    def lost(self, line: Line, reason: str) -> None:
        if not self._closing:
            self.core.reason = reason
            self.core.log.warning("lost", line=line.number, reason=reason)
        self._mode.lost(line)

    def wanted(self, line: Line) -> bool:
        return not self._closing and (not self.plan.lazy or self._mode.waits())

    # --- Owner -------------------------------------------------------------------------------------------------------

    def block(self) -> memoryview:
        return self.core.block_for(len(self.lines))

    def opened(self, connection: Connection) -> None:
        """The line says `ready`."""

    def came(self, connection: Connection, messages: list[Message], size: int) -> None:
        line: Line = connection.mode
        if messages and line.connection is connection:
            self._mode.came(line, messages)
        self.core.frames_in += len(messages)
        self.core.bytes_in += size
        self.core.hold_if_blocked(connection)

    def breach(self, connection: Connection, error: FramingError) -> None:
        self.core.breach(connection, error)

    def ended(self, connection: Connection) -> None:
        """A server that says no more answers no more."""
        connection.close("ended")

    def writable(self, connection: Connection) -> None:
        self._mode.writable(connection.mode)

    def closed(self, connection: Connection, reason: str) -> None:
        self.core.forget(connection, reason)
        line: Line = connection.mode
        if line.connection is connection:
            line.gone(f"{connection.address}: {_WHY.get(reason, reason) or 'the server hung up'}")

    def _on_messages(self, messages: list[list[bytes]]) -> None:
        self._mode.heard(messages)

    # --- time --------------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        now, plan = self.loop.time(), self.plan
        idle_s, lifetime_s = plan.idle_s or float("inf"), plan.lifetime_s or float("inf")
        every_s, word = plan.keep_alive or (float("inf"), b"")
        for line in self.lines:
            one = line.connection
            if one is None:
                continue
            if now - one.moved_at > idle_s:
                one.close("idle")
            elif now - one.opened_at > lifetime_s:
                one.close("lifetime")
            elif now - one.moved_at >= every_s and not one.full:
                one.write(word)
        self._timer = self.loop.call_later(max(0.05, min(1.0, idle_s / 4, lifetime_s / 4, every_s / 4)), self._sweep)


_WHY: Final = {
    "reset": "the connection broke",
    "ended": "the server hung up",
    "framing": "what it sent are no frames",
    "timeout": "it did not answer in time",
    "idle": "nothing moved",
    "lifetime": "it was old",
}
