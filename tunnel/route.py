"""One route of this side, put together: its pattern, its local end, its channels, and what `status` says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunnel.config.plan import RoutePlan
from tunnel.link.channel import NOT_MET, Route
from tunnel.link.outbound import Terms
from tunnel.link.peer import Peer
from tunnel.link.spooled import Stored
from tunnel.local import LocalEnd
from tunnel.local.stream import StreamEnd
from tunnel.log import Log
from tunnel.patterns import DESKS, PATTERNS, Desk, Hub, Pattern, Port, Stream, has_private_socket
from tunnel.reactor import Reactor
from tunnel.spools import RouteSpools
from tunnel.zap import Zap


def link_route(plan: RoutePlan, stored: Stored | None = None) -> Route:
    """What the link needs to know of a route."""
    is_from = plan.where == "from"
    is_stream = plan.pattern == "stream"
    both_ways = is_stream or plan.pattern in ("reqrep", "pair")
    replies = plan.pattern == "reqrep" and not is_from
    return Route(
        name=plan.name,
        pattern=plan.pattern,
        from_sides=plan.from_sides,
        to_sides=plan.to_sides,
        delivery=plan.delivery,
        terms=Terms(
            window_bytes=plan.window_bytes,
            confirmed=plan.delivery != "live",
            overflow=plan.overflow,
            priority=plan.priority,
            max_age_s=plan.max_age_s,
            resend_on_restart=plan.on_restart == "resend" and not (replies or is_stream),
        ),
        max_message_bytes=plan.max_message_bytes,
        sends=is_from or both_ways,
        takes=not is_from or both_ways,
        wants=plan.pattern == "pubsub" and not is_from,
        grants=plan.pattern == "pubsub" and is_from,
        standing=plan.subscribe,
        keep_on_restart=not (replies or is_stream),
        stored=stored,
    )


class RunningRoute:
    """A route between its local socket and its peers. SpoolError: it is spooled, and the disk cannot be used."""

    def __init__(
        self, reactor: Reactor, zap: Zap, hub: Hub, plan: RoutePlan, peers: Mapping[str, Peer], private_dir: Path
    ) -> None:
        self.plan = plan
        self.pattern: Pattern = PATTERNS[plan.pattern, plan.where](plan, hub)
        self.spools = None if plan.spool is None else self._open_spools(reactor, hub, peers)
        if self.spools is not None:
            self.ports = self.spools.ports
        else:
            self.ports = [Port(peers[side], peers[side].add(link_route(plan))) for side in plan.peers]
        self.end: LocalEnd | StreamEnd
        if isinstance(self.pattern, Stream):
            self.end = self.pattern.make_end(reactor, private_dir)
            self.pattern.attach_ports(self.ports)
        else:
            self.end = LocalEnd(reactor, zap, plan, self.pattern.on_ready, self.pattern.on_reopened, private_dir)
            self.pattern.attach(self.end, self.ports)
        self.desk = self._make_desk(reactor, zap, private_dir)
        self.end.on_doubt = self.pattern.disarm
        for port in self.ports:
            port.channel.owner = (self.pattern, port)
        self.pattern.say_too_large = self._say_too_large  # type: ignore[method-assign]
        self._log = Log("route")

    def __repr__(self) -> str:
        return f"<RunningRoute {self.plan.name} {self.state()[0]}>"

    def _open_spools(self, reactor: Reactor, hub: Hub, peers: Mapping[str, Peer]) -> RouteSpools:
        sides = [peers[side] for side in self.plan.peers]
        return RouteSpools(
            reactor, hub, self.pattern, self.plan, sides, lambda peer, stored: peer.add(link_route(self.plan, stored))
        )

    def _make_desk(self, reactor: Reactor, zap: Zap, private_dir: Path) -> Desk | None:
        kind = DESKS.get((self.plan.pattern, self.plan.where))
        if kind is None or not has_private_socket(self.plan, private_dir):
            return None
        desk = kind(self.pattern)
        desk.attach(LocalEnd(reactor, zap, desk.plan(private_dir), desk.on_ready, lambda: None, private_dir))
        desk.end.on_doubt = desk.on_doubt
        self.pattern.desk = desk
        return desk

    async def open(self) -> None:
        await self.end.open()
        if self.desk is not None:
            await self.desk.end.open()
        self.pattern.on_opened()
        self.pattern.want()

    async def close(self, linger_s: float) -> None:
        """The route leaves the table (or the process ends)."""
        self.pattern.disarm()
        await self.close_ends(linger_s)
        for port in self.ports:
            port.channel.owner = None
            port.peer.remove(self.plan.name)

    async def close_ends(self, linger_s: float) -> None:
        """The sockets close. What was read goes to disk; waits for it. The desk tells of that before it closes."""
        await self.end.close(linger_s)
        if self.spools is not None:
            self.spools.close()
        if self.desk is not None:
            await self.desk.end.close(linger_s)

    @property
    def opened(self) -> bool:
        """Its local sockets are there."""
        return self.end.opened and (self.desk is None or self.desk.end.opened)

    def say_peers(self) -> None:
        """Tell the far halves how many applications are connected here."""
        applications = self.end.peers + (self.desk.end.peers if self.desk is not None else 0)
        for port in self.ports:
            port.peer.say_peers(port.channel, applications)

    def _say_too_large(self, count: int) -> None:
        limit = self.pattern.max_message_bytes()
        self._log.warn("message-too-large", route=self.plan.name, messages=count, max_message_bytes=limit)

    def state(self) -> tuple[str, str]:
        """(ready | waiting | refused | degraded | down, why)."""
        if not self.opened:
            broken = [f"{e['address']}: {e['reason']}" for e in self._endpoints() if e["reason"]]
            return "down", "; ".join(broken) or "its local sockets are not open yet"
        refused = [port for port in self.ports if port.channel.refused not in (None, NOT_MET)]
        if refused and not any(port.met for port in self.ports):
            return "refused", "; ".join(str(port.channel.refused) for port in refused)
        linked = [port for port in self.ports if port.linked]
        full = self.spools.problems() if self.spools is not None else []
        if full:
            return "degraded", "; ".join(full)
        if not linked:
            away = ", ".join(port.peer.side for port in self.ports)
            return "waiting", f"no link with {away}"
        if not self.pattern.settled():
            return "waiting", "the far half has not taken the subscriptions yet"
        problems = [f"{e['address']}: {e['reason']}" for e in self._endpoints() if e["reason"]]
        problems += [str(port.channel.refused) for port in refused]
        problems += [f"no link with {port.peer.side}" for port in self.ports if port.met and not port.linked]
        return "ready", "; ".join(problems)

    def status(self) -> dict[str, Any]:
        state, reason = self.state()
        tally = self.pattern.tally
        outbound = [port.channel.outbound for port in self.ports if port.channel.outbound]
        return {
            "pattern": self.plan.pattern,
            "end": self.plan.where,
            "delivery": self.plan.delivery,
            "peers": list(self.plan.peers),
            "state": state,
            "reason": reason,
            "endpoints": self._endpoints(),
            "remote_applications": sum(port.channel.remote_peers for port in self.ports if port.linked),
            "messages_in": tally.messages_in,
            "bytes_in": tally.bytes_in,
            "messages_out": tally.messages_out,
            "bytes_out": tally.bytes_out,
            "batches_ahead": tally.ahead,
            "dropped": self._dropped(),
            "may_repeat": self.pattern.may_repeat(),
            "unacked_bytes": sum(channel.unacked_bytes for channel in outbound),
            "window_bytes": sum(channel.window_bytes for channel in outbound) or self.plan.window_bytes,
            **({} if self.spools is None else {"spools": self.spools.told()}),
            **self.pattern.told(),
        }

    def _endpoints(self) -> list[dict[str, Any]]:
        return self.end.status() + (self.desk.end.status() if self.desk is not None else [])

    def _dropped(self) -> dict[str, int]:
        total = Counter(self.pattern.drops())
        if self.spools is not None:
            total.update(self.spools.dropped())
        return {reason: count for reason, count in sorted(total.items()) if count}


def unusable(plan: RoutePlan, reason: str) -> dict[str, Any]:
    """The status of a route that cannot be run yet."""
    return {
        "pattern": plan.pattern,
        "end": plan.where,
        "delivery": plan.delivery,
        "peers": list(plan.peers),
        "state": "down",
        "reason": reason,
        "endpoints": [],
        **dict.fromkeys(("remote_applications", "messages_in", "bytes_in", "messages_out", "bytes_out"), 0),
        **dict.fromkeys(("batches_ahead", "may_repeat", "unacked_bytes"), 0),
        "dropped": {},
        "window_bytes": plan.window_bytes,
    }
