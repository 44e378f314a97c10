"""What `ztunnel probe` asks of the device: could a message of this route cross now?

It gathers facts, and says nothing about them (the command line does, tunnel/cli/steps.py). It pings both lanes of each
link, which no application sees, and looks twice, for a window that is full is no fault while it moves; what is full and
stands is looked at for longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from tunnel.errors import UsageError
from tunnel.limits import PROBE_KNOCK_S, PROBE_LOOK_S, PROBE_S, PROBE_STILL_S
from tunnel.link.channel import Channel
from tunnel.link.outbound import Outbound
from tunnel.link.wire import Lane
from tunnel.local.words import expectation
from tunnel.patterns import Hub, Port
from tunnel.route import RunningRoute

_TURN_S: Final = 0.02


async def look(route: RunningRoute, hub: Hub, links_status: Callable[[], list[dict[str, Any]]]) -> dict[str, Any]:
    """The route's status and, beside it:

    partners        whom the local socket can talk to, in words
    dropping        {reason: messages dropped between the two looks}
    outlet          {messages: arrived and not handed on yet, moved: were any handed on between the looks}; None
    links           [{peer, state, reason, role, address, rtt_ms, silent: lanes without an answer, met, refused, remote,
                    outbound: {unacked_bytes, window_bytes, overflow, full, moved} or None, topics: int or None}]
    settled         the far halves know what is wanted here
    """
    if route.plan.pattern == "stream":
        raise UsageError(f"{route.plan.name} is a stream: connect to it to try it; `ztunnel status` tells how it is.")
    before = _positions(route)
    dropped_before = route.pattern.drops()
    began = hub.now()
    await _knock(route, hub, began)
    while _stands(route, before) and hub.now() - began < PROBE_STILL_S:
        await asyncio.sleep(_TURN_S)
    links = {link["peer"]: link for link in links_status()}
    after = _positions(route)
    moved = {what for what, position in after.items() if position != before[what]}
    dropped = route.pattern.drops()
    return route.status() | {
        "route": route.plan.name,
        "overflow": route.plan.overflow,
        "partners": expectation(route.plan.end.socket, "NULL").partners,
        "dropping": {
            reason: n for reason, total in dropped.items() if (n := total - dropped_before.get(reason, 0)) > 0
        },
        "outlet": _outlet(route, "" in moved),
        "settled": route.pattern.settled(),
        "links": [_link(port, links.get(port.peer.side, {}), began, moved) for port in route.ports],
    }


async def _knock(route: RunningRoute, hub: Hub, began: float) -> None:
    """Returns when every open link has answered on both lanes, or PROBE_S is over; not before PROBE_LOOK_S is."""
    knock_at = began
    while True:
        now = hub.now()
        silent = [p.peer for p in route.ports if p.peer.is_open and len(p.peer.answered_since(began)) < len(Lane)]
        if now - began >= (PROBE_S if silent else PROBE_LOOK_S):
            return
        if silent and now >= knock_at:
            knock_at = now + PROBE_KNOCK_S
            for peer in silent:
                peer.knock(now)
                hub.touch(peer)
            hub.settle()
        await asyncio.sleep(_TURN_S)


def _positions(route: RunningRoute) -> dict[str, tuple[int, ...]]:
    """How far each channel and its lane have sent, by side, and the outlet under "": if they change, it moves."""
    found: dict[str, tuple[int, ...]] = {"": (route.pattern.tally.messages_out, route.pattern.tally.bytes_out)}
    for port in route.ports:
        outbound = port.channel.outbound
        found[port.peer.side] = (outbound.delivered, outbound.cursor, outbound.next_seq) if outbound else ()
        found["lane " + port.peer.side] = (port.peer.credit.received,)
    return found


def _stands(route: RunningRoute, before: dict[str, tuple[int, ...]]) -> bool:
    """Something is full, or waits, and has not moved since."""
    now = _positions(route)
    if now[""] == before[""] and _waiting(route):
        return True
    return any(
        now[port.peer.side] == before[port.peer.side]
        and port.channel.outbound is not None
        and _full(port.channel.outbound)
        for port in route.ports
    )


def _waiting(route: RunningRoute) -> int:
    """Messages that arrived and are not handed on yet."""
    inbound = [port.channel.inbound for port in route.ports if port.channel.inbound is not None]
    return sum(run.messages - run.fed for part in inbound for run in part.runs)


def _full(outbound: Outbound) -> bool:
    if outbound.terms.overflow == "block":
        return not outbound.has_room
    # such a route always reads; what waits beyond half a window in flight is dropped sooner or later
    return outbound.flight_bytes >= outbound.window_bytes // 2


def _outlet(route: RunningRoute, moved: bool) -> dict[str, Any] | None:
    if all(port.channel.inbound is None for port in route.ports):
        return None
    return {"messages": _waiting(route), "moved": moved}


def _link(port: Port, link: dict[str, Any], began: float, moved: set[str]) -> dict[str, Any]:
    peer, channel = port.peer, port.channel
    answered = peer.answered_since(began)
    if "lane " + peer.side in moved:  # it lives, though its answer may wait behind payload
        answered.append(Lane.DATA)
    return {
        "peer": peer.side,
        "state": "up" if peer.is_open else "down",
        "reason": link.get("reason", ""),
        "role": link.get("role", ""),
        "address": link.get("address", ""),
        "rtt_ms": link.get("rtt_ms"),
        "silent": [lane.name.lower() for lane in Lane if lane not in answered],
        "met": bool(peer.peer_session),
        "refused": channel.refused,
        "remote": channel.remote_peers,
        "outbound": _outbound(channel, peer.side in moved),
        "topics": _topics(channel),
    }


def _outbound(channel: Channel, moved: bool) -> dict[str, Any] | None:
    outbound = channel.outbound
    if outbound is None:
        return None
    return {
        "unacked_bytes": outbound.unacked_bytes,
        "window_bytes": outbound.window_bytes,
        "overflow": outbound.terms.overflow,
        "full": _full(outbound),
        "moved": moved,
    }


def _topics(channel: Channel) -> int | None:
    """How many topics cross; None: this is no pubsub route."""
    topics = channel.granted or channel.wanted
    return None if topics is None else len(topics.topics)
