"""The local end of a stream route: TCP and unix sockets, where clients come in or services are reached.

In the place of LocalEnd, which has the 0MQ socket of the other patterns. It owns listeners and attempts to connect;
connections, once there, belong to the pattern.
"""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tunnel.config.plan import RoutePlan, StreamPlan
from tunnel.local.stream_listener import OnAccept, StreamListener
from tunnel.local.stream_target import Attempt, OnEnd, StreamTarget
from tunnel.local.words import ipc_path
from tunnel.reactor import Reactor

_KEEPALIVE: Final = (
    (sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1),
    (sockets.IPPROTO_TCP, sockets.TCP_KEEPIDLE, 60),
    (sockets.IPPROTO_TCP, sockets.TCP_KEEPINTVL, 15),
    (sockets.IPPROTO_TCP, sockets.TCP_KEEPCNT, 4),
)

__all__ = ["Attempt", "StreamEnd"]


class StreamEnd:
    """What RunningRoute and `status` ask of a local end. `count`: connections that are open now."""

    def __init__(
        self, reactor: Reactor, route: RoutePlan, on_accept: OnAccept, count: Callable[[], int], private_dir: Path
    ) -> None:
        self.reactor = reactor
        self.route = route
        self.plan = route.stream or StreamPlan()
        self.on_doubt: Callable[[], None] = lambda: None
        """As LocalEnd has it; nothing here is in doubt."""
        self.on_close: Callable[[], None] = lambda: None
        """The route goes: its connections go with it."""
        self._count = count
        self._on_accept = on_accept
        self._open = False
        self._listeners = [
            StreamListener(reactor, plan, route.end, self._accepted, private=_is_below(plan.address, private_dir))
            for plan in route.end.endpoints
            if plan.method == "bind"
        ]
        self._targets = [StreamTarget(reactor, plan) for plan in route.end.endpoints if plan.method == "connect"]
        self._all: list[StreamListener | StreamTarget] = [*self._listeners, *self._targets]

    def __repr__(self) -> str:
        return f"<StreamEnd {self.route.name} connections={self.peers}>"

    @property
    def has_socket(self) -> bool:
        return self._open

    @property
    def opened(self) -> bool:
        """Every address that is to be bound is."""
        return self._open and all(listener.port is not None for listener in self._listeners)

    @property
    def peers(self) -> int:
        return self._count()

    @property
    def refused(self) -> int:
        """Clients that `allow` turned away."""
        return sum(listener.refused for listener in self._listeners)

    def status(self) -> list[dict[str, Any]]:
        return [each.status(self.peers) for each in self._all]

    async def open(self) -> None:
        self._open = True
        for listener in self._listeners:
            listener.start()

    async def close(self, linger_s: float = 0.0) -> None:
        self._open = False
        self.on_close()
        for each in self._all:
            each.stop()

    def pause(self) -> None:
        """Let nobody in any more."""
        for listener in self._listeners:
            listener.pause(paused=True)

    def connect(self, on_end: OnEnd) -> Attempt:
        """Begin a connection to a target; the last that answered is asked first. Call start() on it."""
        targets = sorted(self._targets, key=lambda target: bool(target.reason))
        return Attempt(self.reactor, targets, self.plan.connect_s, on_end)

    def set_up(self, connection: sockets.socket) -> None:
        """The options of a connection that has come or was made."""
        if connection.family == sockets.AF_UNIX:
            return
        connection.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        if self.route.end.keepalive:
            for option in _KEEPALIVE:
                connection.setsockopt(*option)

    def _accepted(self, connection: sockets.socket, address: str) -> None:
        try:
            self.set_up(connection)
        except OSError:  # it is gone already
            connection.close()
            return
        self._on_accept(connection, address)


def _is_below(address: str, folder: Path) -> bool:
    path = ipc_path(address)
    return path is not None and Path(path).is_relative_to(folder)
