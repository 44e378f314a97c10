"""tcp-server: old devices dial us, and what they say goes to a 0MQ socket, and back.

Here is who may come in, and the life of the connections; what a frame means is a mode's (server_modes.py, asking.py),
which the type of the 0MQ socket decides.
"""

from __future__ import annotations

import asyncio
import random
import socket as sockets
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from bridges.asking import Asking
from bridges.connection import STOP, Connection
from bridges.core import Core
from bridges.framing import Message
from bridges.server_modes import Pushing, Routing, Telling
from bridges.spooling import Spooling
from bridges.tls import server_context
from tunnel.config.bridge_plan import BridgePlan, TcpPlan
from tunnel.config.plan import EndPlan, Endpoint
from tunnel.control import Command
from tunnel.limits import (
    BRIDGE_GATHERED_BYTES,
    BRIDGE_STOP_CLOSE_S,
    BRIDGE_STOP_S,
    HANDSHAKE_S,
)
from tunnel.local.stream_listener import StreamListener
from tunnel.log import Log
from tunnel.reactor import Reactor
from tunnel.spool import Spool


class Mode(Protocol):
    """What frames and messages mean."""

    def came(self, connection: Connection, messages: list[Message]) -> None:
        """Frames from a device."""

    def heard(self, messages: list[list[bytes]]) -> None:
        """Messages from the 0MQ socket."""

    def opened(self, connection: Connection) -> None: ...

    def ended(self, connection: Connection) -> None:
        """It sends no more; close it when nothing is owed to it."""

    def writable(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...

    def owes(self) -> bool:
        """Is something under way that an orderly stop should wait for, besides what the outlet has?"""

    def close(self) -> None:
        """The bridge ends; nothing is called any more."""

    def status(self) -> dict[str, Any]: ...


def _asking(server: TcpServer) -> Mode:
    return Asking(server) if server.plan.spool is None else Spooling(server, server.plan.spool)


MODES: Final[dict[str, tuple[str, Callable[[TcpServer], Mode]]]] = {
    "PUSH": ("PUSH", Pushing),
    "PUB": ("PUB", Pushing),
    "SUB": ("SUB", Telling),
    "PULL": ("PULL", Telling),
    "REQ": ("DEALER", _asking),  # a REQ could have one question under way, whoever asks
    "DEALER": ("DEALER", _asking),
    "ROUTER": ("ROUTER", Routing),
}
"""The table's socket → the one that is made, and what it means."""


class TcpServer(Core):
    """See `tunnel.served.Process`; and the Owner of its connections."""

    def __init__(self, plan: BridgePlan[TcpPlan], reactor: Reactor, log: Log) -> None:
        kind, mode = MODES[plan.zmq.socket]
        super().__init__(plan, reactor, log, kind, self._on_messages)
        self.connections: dict[int, Connection] = {}
        self.refused: Counter[str] = Counter()
        """Connections that were not served."""
        self.closing = False
        self._by_address: dict[str, dict[Connection, None]] = {}
        """Oldest first."""
        self._accepted = 0
        self._gathered = 0
        """Bytes of frames that are not complete, of all connections."""
        self._number = random.getrandbits(24)
        """Not from 1 again after a restart: an application may still speak of connections from before."""
        self._asks = plan.zmq.socket in ("REQ", "DEALER")
        self._opening: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._tls = server_context(self.plan.tls) if self.plan.tls is not None else None
        self._mode = mode(self)
        end = EndPlan("TCP", (), allow=self.plan.allow)
        self._listeners = [
            StreamListener(reactor, Endpoint("bind", address), end, self._on_accept, private=False)
            for address in self.plan.listen
        ]

    # --- its life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        for listener in self._listeners:
            listener.start()
        if self.plan.idle_s is not None or self.plan.lifetime_s is not None:
            self._sweep()

    async def close(self) -> None:
        """Take nothing more; hand over, answer and write what was taken, within the limits; then end."""
        self.closing = True
        for listener in self._listeners:
            listener.stop()
        if self._sweeping is not None:
            self._sweeping.cancel()
        for task in tuple(self._opening):
            task.cancel()
        for connection in tuple(self.connections.values()):
            connection.hold(STOP)
        await self._soon(lambda: not (self.zmq.blocked or self._mode.owes()), BRIDGE_STOP_S)
        for connection in tuple(self.connections.values()):
            connection.close("closing")
        await self._soon(lambda: not (self.connections or self._opening), BRIDGE_STOP_CLOSE_S)
        for connection in tuple(self.connections.values()):
            connection.abort("closing")
        if self.zmq.blocked:
            self.log.warning("left-behind", reason="the 0MQ socket did not take all that devices had sent")
        self._mode.close()
        self.zmq.close()

    async def _soon(self, done: Callable[[], bool], within_s: float) -> None:
        deadline = self.loop.time() + within_s
        while not done() and self.loop.time() < deadline:
            await asyncio.sleep(0.01)

    def commands(self) -> Mapping[str, Command]:
        return {}

    def spools(self) -> Mapping[str, Spool]:
        return {"": self._mode.spool} if isinstance(self._mode, Spooling) else {}

    def status(self) -> dict[str, Any]:
        listeners = [listener.status(len(self.connections)) for listener in self._listeners]
        shut = [listener for listener in listeners if listener["state"] != "bound"]
        trouble = self.zmq.reason or next((one["reason"] for one in (*shut, *listeners) if one["reason"]), "")
        refused = Counter(self.refused)
        short = sum(listener.waited for listener in self._listeners)
        refused["address"] += sum(listener["turned_away"] for listener in listeners)
        turned = next((listener.last_refused for listener in self._listeners if listener.last_refused), "")
        refusal = f"{turned}: it is in no network of allow" if turned else ""
        return {
            "state": "retrying" if shut or self.zmq.reason else "listening",
            "reason": trouble or self.reason or refusal,
            "connections": len(self.connections),
            "refused": dict(sorted((+refused).items())),
            **self.counts(),
            "detail": {
                "accepted": self._accepted,
                "held": len(self.held),
                "no_descriptors": short,
                **self._mode.status(),
            },
        }

    # --- who comes in ------------------------------------------------------------------------------------------------

    def _on_accept(self, socket: sockets.socket, address: str) -> None:
        refusal = self._refusal(address)
        if refusal:
            self.refused[refusal] += 1
            socket.close()
            return
        self._accepted += 1
        connection = Connection(self, self._next_number(), address)
        self.connections[connection.number] = connection
        self._by_address.setdefault(address, {})[connection] = None
        task = self.loop.create_task(self._open(connection, socket))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _next_number(self) -> int:
        """4 bytes, none that is in use."""
        while True:
            self._number = self._number % 0xFFFF_FFFF + 1
            if self._number not in self.connections:
                return self._number

    def _refusal(self, address: str) -> str:
        """Why this one is not let in; "": it is."""
        plan, peers = self.plan, self._by_address.get(address, {})
        if self.closing:
            return "closing"
        if plan.per_address is not None and len(peers) >= plan.per_address:
            if not plan.takeover:
                self.reason = f"{address}: it has {len(peers)} connections already (per_address)"
                return "per_address"
            oldest = next(iter(peers))
            self._forget(oldest)  # at once: another may come before its end is told
            oldest.abort("takeover")
        if len(self.connections) >= plan.connections:
            self.reason = f"{address or 'somebody'}: there are {len(self.connections)} connections already"
            return "limit"
        return ""

    async def _open(self, connection: Connection, socket: sockets.socket) -> None:
        secure: dict[str, Any] = {}
        if self._tls is not None:
            secure = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE_S}
        try:
            await self.loop.connect_accepted_socket(lambda: connection, socket, **secure)
        except (ssl.SSLError, OSError) as error:
            socket.close()
            self._forget(connection)
            if not connection.reason:
                self.refused["tls" if self._tls is not None else "gone"] += 1
                what = "the TLS handshake failed" if self._tls is not None else "it was gone again"
                self.reason = f"{connection.address}: {what}: {_words(error)}"
        except asyncio.CancelledError:
            socket.close()
            self._forget(connection)
            raise

    def _forget(self, connection: Connection) -> None:
        self.connections.pop(connection.number, None)
        peers = self._by_address.get(connection.address)
        if peers is not None:
            peers.pop(connection, None)
            if not peers:
                del self._by_address[connection.address]

    # --- Owner, for the connections ----------------------------------------------------------------------------------

    def block(self) -> memoryview:
        return self.block_for(len(self.connections), little=self._asks)

    def opened(self, connection: Connection) -> None:
        self._mode.opened(connection)

    def came(self, connection: Connection, messages: list[Message], size: int) -> None:
        self.bytes_in += size
        if messages:
            self.frames_in += len(messages)
            self._mode.came(connection, messages)
        self.hold_if_blocked(connection)
        pending = connection.pending
        if pending != connection.gathered:
            self._gathered += pending - connection.gathered
            connection.gathered = pending
            if self._gathered > BRIDGE_GATHERED_BYTES:
                self.reason = f"{connection.address}: all connections together sent too much of frames that do not end"
                connection.abort("memory")

    def ended(self, connection: Connection) -> None:
        self._mode.ended(connection)

    def writable(self, connection: Connection) -> None:
        self._mode.writable(connection)

    def closed(self, connection: Connection, reason: str) -> None:
        self.forget(connection, reason)
        self._gathered -= connection.gathered
        self._forget(connection)
        self._mode.closed(connection)

    def _on_messages(self, messages: list[list[bytes]]) -> None:
        self._mode.heard(messages)

    # --- time --------------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        now = self.loop.time()
        idle_s, lifetime_s = self.plan.idle_s or float("inf"), self.plan.lifetime_s or float("inf")
        for connection in tuple(self.connections.values()):
            if now - connection.moved_at > idle_s:
                connection.close("idle")
            elif now - connection.opened_at > lifetime_s:
                connection.close("lifetime")
        self._sweeping = self.loop.call_later(max(0.05, min(1.0, idle_s / 4, lifetime_s / 4)), self._sweep)


def _words(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
