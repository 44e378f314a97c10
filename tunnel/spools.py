"""The spools of one route at the side where its messages enter: opened, joined to the route's channels, told of.

One file for each side that takes its messages. The files outlive the process; who opens them again goes on with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from tunnel.backlog import Backlog, stored
from tunnel.config.plan import RoutePlan, SpoolPlan
from tunnel.link.peer import Peer
from tunnel.link.spooled import SpooledOutbound, Stored
from tunnel.log import Log
from tunnel.patterns import Hub, Pattern, Port
from tunnel.reactor import Reactor
from tunnel.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunnel.link.channel import Channel

AddChannel = Callable[[Peer, Stored], "Channel"]


class RouteSpools:
    """All of one route. SpoolError from the constructor: one of them cannot be used, and none is open."""

    def __init__(
        self, reactor: Reactor, hub: Hub, pattern: Pattern, plan: RoutePlan, peers: Sequence[Peer], add: AddChannel
    ) -> None:
        self._plan = plan
        self._pattern = pattern
        self._hub = hub
        self._log = Log("spool")
        self.ports: list[Port] = []
        self.spools: list[Spool] = []
        if plan.spool is None:
            raise RuntimeError(f"{plan.name} has no spool")
        try:
            for at, peer in enumerate(peers):
                self.spools.append(self._open(reactor, plan.spool, peer, at))
        except BaseException:
            self.close()
            raise
        for peer, spool in zip(peers, self.spools, strict=True):
            channel = add(peer, stored(spool))
            port = Port(peer, channel)
            if isinstance(channel.outbound, SpooledOutbound):
                port.backlog = Backlog(spool, channel.outbound, partial(self._stir, port), hub.now, time.time)
            self.ports.append(port)

    def _open(self, reactor: Reactor, plan: SpoolPlan, peer: Peer, at: int) -> Spool:
        expire_s = min((s for s in (plan.expire_s, self._plan.max_age_s) if s is not None), default=None)
        spool = Spool(
            plan.file(peer.side),
            reactor.loop.call_soon_threadsafe,
            max_bytes=plan.max_bytes,
            expire_s=expire_s,
            on_durable=lambda _: self._on_durable(at),
            on_room=self._look_again,
        )
        if spool.set_aside:
            self._log.error("corrupt", route=self._plan.name, peer=peer.side, set_aside=str(spool.set_aside))
        return spool

    def _on_durable(self, at: int) -> None:
        backlog = self.ports[at].backlog if at < len(self.ports) else None
        if backlog is not None:
            backlog.on_durable()
            self._look_again()

    def _look_again(self) -> None:
        """There is room, or what a receipt waited for."""
        if self._pattern.ports:
            self._pattern.want()

    def _stir(self, port: Port) -> None:
        """What is on disk, or was read from it, may enter the lane."""
        port.peer.wake(port.channel)
        self._hub.touch(port.peer)
        self._hub.settle()

    def close(self) -> None:
        """What was read goes to disk; waits for it."""
        for spool in self.spools:
            spool.close()

    @property
    def by_peer(self) -> dict[str, Spool]:
        """By the side that takes the messages."""
        return {port.peer.side: spool for port, spool in zip(self.ports, self.spools, strict=True)}

    def problems(self) -> list[str]:
        """Which of them are full or cannot be written, in words."""
        told = {port.peer.side: spool.status() for port, spool in zip(self.ports, self.spools, strict=True)}
        return [
            f"spool for {side} is {status['state']}: {status['reason']}"
            for side, status in told.items()
            if status["state"] != "ok"
        ]

    def told(self) -> dict[str, dict[str, Any]]:
        """What `status` shows, by the side that takes the messages. `units` are what the link counts."""
        return {
            port.peer.side: {**spool.status(), "units": port.channel.outbound.backlog}
            for port, spool in zip(self.ports, self.spools, strict=True)
            if isinstance(port.channel.outbound, SpooledOutbound)
        }

    def dropped(self) -> Mapping[str, int]:
        """What was dropped on disk, in the life of the files."""
        told = [spool.status() for spool in self.spools]
        return {"expired": sum(one["expired"] for one in told), "by_operator": sum(one["dropped"] for one in told)}
