"""The link without sockets: frames go from hand to hand on the loop. For tests and simulation; it fails on command.

A `MemoryCarrier` is a small world of its own: addresses are `memory://name`, and who listens on one is found in it.
Keys are compared as the real carriers compare them, by their public halves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from tunnel.carriers.base import DialEvents, Lane, ListenEvents, Who
from tunnel.config.plan import KeyPair, ListenPlan
from tunnel.pump import Segment, Shortcut
from tunnel.reactor import Reactor
from tunnel.zap import Zap

Ends = Literal["both", "dialler", "listener"]


class MemoryCarrier:
    """The carrier and, besides, the commands that break it."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        """How long each frame is under way, each direction."""
        self._listeners: dict[str, MemoryListener] = {}
        self._lanes: list[_MemoryLane] = []
        self._dialled = 0

    def dial(
        self, reactor: Reactor, address: str, own: KeyPair, server: str, source: str | None, events: DialEvents
    ) -> MemoryDialled:
        lanes = {lane: self._dial_lane(reactor, lane, address, own, server, events) for lane in Lane}
        return MemoryDialled(lanes)

    def listen(
        self, reactor: Reactor, zap: Zap, plan: ListenPlan, own: KeyPair, who: Who, events: ListenEvents
    ) -> MemoryListener:
        listener = MemoryListener(plan.address, own, who, events, self._stop_listening)
        if self._listeners.setdefault(plan.address, listener) is not listener:
            listener.reason = "another listener of this world has that address already"
        return listener

    def cut(self, ends: Ends = "both", lanes: Iterable[Lane] = tuple(Lane)) -> int:
        """Cut these lanes of every link. An end that is not named is told nothing: its frames go nowhere. How many."""
        found = self._of(lanes)
        for lane in found:
            lane.cut(ends)
        return len(found)

    def drop(self, lanes: Iterable[Lane] = tuple(Lane)) -> int:
        """From now on nothing that these lanes of every present link are given arrives; nobody is told. How many."""
        found = self._of(lanes)
        for lane in found:
            lane.dropping = True
        return len(found)

    def _of(self, lanes: Iterable[Lane]) -> list[_MemoryLane]:
        self._lanes = [lane for lane in self._lanes if lane.dialler_there]
        wanted = set(lanes)
        return [lane for lane in self._lanes if lane.lane in wanted]

    def _dial_lane(
        self, reactor: Reactor, lane: Lane, address: str, own: KeyPair, server: str, events: DialEvents
    ) -> _MemoryLane:
        self._dialled += 1
        conn = b"\x01" + self._dialled.to_bytes(15, "big")
        new = _MemoryLane(self, reactor.loop, lane, conn, events)
        self._lanes.append(new)
        new.later(lambda: new.shake_hands(self._listeners.get(address), own, server))
        return new

    def _stop_listening(self, listener: MemoryListener) -> None:
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]


class MemoryDialled:
    """One attempt: two lanes."""

    def __init__(self, lanes: dict[Lane, _MemoryLane]) -> None:
        self._lanes = lanes

    def __repr__(self) -> str:
        return f"<MemoryDialled {' '.join(map(repr, self._lanes.values()))}>"

    def send(self, lane: Lane, parts: Sequence[Segment]) -> bool:
        return self._lanes[lane].send_up(parts)

    def way(self, shortcut: Shortcut) -> None:
        return None

    def look(self) -> None:
        pass

    def close(self, linger_s: float = 0.0) -> None:
        for lane in self._lanes.values():
            lane.close(linger_s)


class MemoryListener:
    """An address of one world, and the lanes that were let in."""

    def __init__(
        self, address: str, own: KeyPair, who: Who, events: ListenEvents, forget: Callable[[MemoryListener], None]
    ) -> None:
        self.address = address
        self.public = own.public
        self.who = who
        self.events = events
        self.reason = ""
        self.lanes: dict[bytes, _MemoryLane] = {}
        self.admitted = 0
        self.refused = {"address": 0, "mechanism": 0, "key": 0, "password": 0}
        self.last_refusal = ""
        self.closed = False
        self._forget = forget

    def __repr__(self) -> str:
        return f"<MemoryListener {self.address} lanes={len(self.lanes)}>"

    def send(self, conn: bytes, parts: Sequence[Segment]) -> bool:
        lane = self.lanes.get(conn)
        return lane is not None and lane.send_down(parts)

    def way(self, shortcut: Shortcut) -> None:
        return None

    def look(self) -> None:
        pass

    def close(self, linger_s: float = 0.0) -> None:
        if self.closed:
            return
        self.closed = True
        self._forget(self)
        for lane in tuple(self.lanes.values()):
            if linger_s:
                lane.later(lane.on_listener_closed)
            else:
                lane.on_listener_closed()
        self.lanes.clear()

    def status(self) -> dict[str, Any]:
        return {
            "address": self.address,
            "state": "closed" if self.closed else "retrying" if self.reason else "listening",
            "reason": self.reason,
            "connections": len(self.lanes),
            "admitted": self.admitted,
            "refused": dict(self.refused),
            "last_refusal": self.last_refusal,
            "guard": {},
        }


class _MemoryLane:
    """One lane of one attempt, seen from both ends."""

    def __init__(
        self,
        carrier: MemoryCarrier,
        loop: asyncio.AbstractEventLoop,
        lane: Lane,
        conn: bytes,
        events: DialEvents,
    ) -> None:
        self.lane = lane
        self.dropping = False
        self.dialler_there = True
        self._carrier = carrier
        self._loop = loop
        self._conn = conn
        self._events = events
        self._listener: MemoryListener | None = None
        self._user_id = ""
        self._early: deque[list[Segment]] = deque()  # sent before the handshake was done

    def __repr__(self) -> str:
        state = "lost" if not self.dialler_there else "up" if self._listener else "connecting"
        return f"<{self.lane.name} {state}>"

    def later(self, fn: Callable[[], None]) -> None:
        """After the carrier's delay; what is given first comes first as long as the delay does not shrink."""
        if self._carrier.delay_s:
            self._loop.call_later(self._carrier.delay_s, fn)
        else:
            self._loop.call_soon(fn)

    def shake_hands(self, listener: MemoryListener | None, own: KeyPair, server: str) -> None:
        if not self.dialler_there:
            return
        if listener is None:
            self._lose("connection refused: nobody listens there")
        elif listener.public != server:
            self._lose("the listener hung up during the handshake: it does not hold the key that the table names")
        elif (user_id := listener.who(own.public)) is None:
            listener.refused["key"] += 1
            listener.last_refusal = f"A dialler came with the unknown public key {own.public}."
            self._lose("refused by the listener: it does not know this side's key")
        else:
            listener.admitted += 1
            listener.lanes[self._conn] = self
            self._listener = listener
            self._user_id = user_id
            self._events.up(self.lane)
            while self._early:
                self.send_up(self._early.popleft())

    def send_up(self, parts: Sequence[Segment]) -> bool:
        """From the dialler to the listener."""
        if not self.dialler_there:
            return False
        copy: list[Segment] = [bytes(part) for part in parts]
        if self._listener is None:
            self._early.append(copy)
        elif not self.dropping:
            self.later(lambda: self._arrive_up(copy))
        return True

    def send_down(self, parts: Sequence[Segment]) -> bool:
        """From the listener to the dialler."""
        copy: list[Segment] = [bytes(part) for part in parts]
        if not self.dropping:
            self.later(lambda: self._arrive_down(copy))
        return True

    def close(self, linger_s: float) -> None:
        """The dialler goes; the listener notices, as it does when a connection is closed."""
        self.dialler_there = False
        if linger_s:
            self.later(self._leave_listener)
        else:
            self._leave_listener()

    def on_listener_closed(self) -> None:
        self._listener = None
        self._lose("the connection was closed by the other end")

    def cut(self, ends: Ends) -> None:
        if ends in ("both", "listener"):
            self._leave_listener()
        if ends in ("both", "dialler"):
            self._lose("the connection was cut", told_listener=ends == "both")
        self.dropping = True

    def _arrive_up(self, parts: list[Segment]) -> None:
        listener = self._listener
        if listener is not None and self._conn in listener.lanes and not self.dropping:
            listener.events.frames(self._conn, self._user_id, parts)

    def _arrive_down(self, parts: list[Segment]) -> None:
        if self.dialler_there and not self.dropping:
            self._events.frames(self.lane, parts)

    def _leave_listener(self) -> None:
        if self._listener is not None:
            self._listener.lanes.pop(self._conn, None)

    def _lose(self, reason: str, told_listener: bool = True) -> None:
        if not self.dialler_there:
            return
        self.dialler_there = False
        if told_listener:
            self._leave_listener()
        self._events.lost(self.lane, reason)
