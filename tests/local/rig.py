"""A reactor, its ZAP handler, local ends and pyzmq applications in one test; everything is closed at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import zmq

from tests.waiting import free_port, until
from tunnel.config.plan import EndPlan, Endpoint, Pattern, RoutePlan, Where
from tunnel.local import LocalEnd
from tunnel.reactor import Reactor
from tunnel.zap import Zap

PATTERN: dict[str, tuple[Pattern, Where]] = {
    "ROUTER": ("reqrep", "from"),
    "DEALER": ("reqrep", "to"),
    "XSUB": ("pubsub", "from"),
    "XPUB": ("pubsub", "to"),
    "PULL": ("pipeline", "from"),
    "PUSH": ("pipeline", "to"),
    "PAIR": ("pair", "from"),
}


def route(
    socket: str, *endpoints: tuple[str, str], name: str = "r", max_message: int = 1_000_000, **end: Any
) -> RoutePlan:
    """A route whose end at this side is `socket` with ("bind" | "connect", address) endpoints."""
    pattern, where = PATTERN[socket]
    plan = EndPlan(socket=socket, endpoints=tuple(Endpoint(m, a) for m, a in endpoints), **end)  # type: ignore[arg-type]
    return RoutePlan(name, pattern, where, plan, ("a",), ("b",), ("a",), max_message_bytes=max_message)


def tcp() -> str:
    """A loopback address that nobody holds."""
    return f"tcp://127.0.0.1:{free_port()}"


class Rig:
    """`end(...)` makes and opens a local end, `app(...)` an application's socket in a context of its own."""

    def __init__(self) -> None:
        self.reactor = Reactor(asyncio.get_running_loop())
        self.zap = Zap(self.reactor)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.ends: list[LocalEnd] = []
        self.reopenings: list[LocalEnd] = []
        self.received: list[list[bytes]] = []
        """What `receiving` ends got."""
        self.ready: list[int] = []
        self._apps: list[zmq.Socket[bytes]] = []  # pyzmq closes what nobody holds

    async def end(self, plan: RoutePlan, *, receiving: bool = False, private_dir: Path | None = None) -> LocalEnd:
        """An open local end; `receiving`: it reads everything into `received`, else it leaves it unread."""

        def on_ready(events: int) -> None:
            self.ready.append(events)
            while events & zmq.POLLIN:
                try:
                    self.received.append(end.socket.recv_multipart(zmq.DONTWAIT))
                except zmq.Again:
                    return

        end = LocalEnd(self.reactor, self.zap, plan, on_ready, lambda: self.reopenings.append(end), private_dir)
        end.watch.want(zmq.POLLIN if receiving else 0)
        await end.open()
        self.ends.append(end)
        return end

    def app(
        self, kind: int, *, bind: str | None = None, connect: str | None = None, options: dict[int, Any] | None = None
    ) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        self._apps.append(socket)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDTIMEO, 5000)
        for option, value in (options or {}).items():
            socket.setsockopt(option, value)
        if bind:
            bind_soon(socket, bind)
        if connect:
            socket.connect(connect)
        return socket

    async def until(self, condition: Callable[[], Any], what: Callable[[], object] | str, within_s: float = 8.0) -> Any:
        """Lets the loop run until `condition` holds."""
        deadline = self.reactor.now() + within_s
        while not (value := condition()):
            assert self.reactor.now() < deadline, f"not within {within_s} s: {what() if callable(what) else what}"
            await asyncio.sleep(0.01)
        return value

    async def peers(self, end: LocalEnd, count: int) -> None:
        await self.until(lambda: end.peers == count, lambda: f"{count} peers; {end.status()}")

    async def receive(self, app: zmq.Socket[bytes], within_s: float = 8.0) -> list[bytes]:
        """One message at an application, while the loop runs."""
        await self.until(lambda: app.poll(0), "a message at the application", within_s)
        return app.recv_multipart()

    async def close(self) -> None:
        for end in self.ends:
            await end.close()
        self.zap.close()
        self.context.destroy(linger=0)
        self.reactor.close()


def bind_soon(socket: zmq.Socket[bytes], address: str) -> None:
    """Bind; a listener that was just closed may hold the address a moment longer."""

    def bound() -> bool:
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            return False
        return True

    until(bound, 5, f"{address} can be bound")


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    try:
        yield made
    finally:
        await made.close()
