"""Virtual time, chance from a seed, and a network whose connections are cut, stalled and half made.

A connection is two ordered streams of link messages, each with its own delay. Its two ends learn of a cut separately,
late or never; what a client sent before it hung up may still arrive long after. The world knows no link.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Protocol

from tunnel.link.wire import Kind, Lane

NEVER = float("inf")


class World:
    """What happens when. All times are seconds of one true clock; each half sees it with an offset of its own."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.calm = False
        self.worst_delay_s = 0.0
        """The longest that a frame was under way."""
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay_s: float, fn: Callable[..., object], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._count, fn, args))

    def run(self, until: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, fn, args = heapq.heappop(heap)
            self.events += 1
            fn(*args)
        self.now = until

    def token(self, n: int) -> bytes:
        return self.random.randbytes(n)

    def chance(self, p: float) -> bool:
        return self.random.random() < p


class Client(Protocol):
    def lane_up(self, conn: Conn) -> None: ...
    def lane_lost(self, conn: Conn, reason: str) -> None: ...
    def from_server(self, conn: Conn, parts: Sequence[Any]) -> None: ...


class Server(Protocol):
    alive: bool

    def from_client(self, conn: Conn, parts: Sequence[Any]) -> None: ...


class Line(Protocol):
    rate: float
    lossy: float


class Conn:
    """One lane's connection. `client_open`, `server_open`: what each end believes."""

    __slots__ = (
        "client",
        "client_open",
        "copies_when_lossy",
        "delay_s",
        "down_at",
        "down_cut_at",
        "extra_s",
        "lane",
        "lingers",
        "made",
        "place",
        "server",
        "server_open",
        "side",
        "up_at",
        "up_cut_at",
        "world",
    )

    def __init__(self, world: World, lane: Lane, side: str, client: Client, server: Server, place: Line) -> None:
        self.world = world
        self.lane = lane
        self.side = side
        self.client = client
        self.server = server
        self.place = place
        self.delay_s = world.random.choice((0.0002, 0.002, 0.02, 0.1))
        # one or the other: the loss of a batch and the repetition of one of equal length would cancel out
        self.copies_when_lossy = world.random.choice((0, 2))
        self.made = self.client_open = self.server_open = False
        self.up_at = self.down_at = 0.0
        self.up_cut_at = self.down_cut_at = NEVER
        self.extra_s = 0.0
        self.lingers = False
        """What was sent before the client went arrives all the same."""

    def make(self, works: bool) -> None:
        """The client dials. Not `works`: refused, or simply never an answer."""
        world = self.world
        self.client_open = True
        pause = self.delay_s + 0.3 * world.random.random() ** 3
        if works and self.server.alive:
            world.after(pause, self._made)
        elif world.chance(0.5):
            world.after(pause, self._lost_at_client, "refused")

    def _made(self) -> None:
        if self.server.alive and self.client_open:
            self.made = self.server_open = True
            self.client.lane_up(self)

    def _lost_at_client(self, reason: str) -> None:
        if self.client_open:
            self.client_open = False
            self.client.lane_lost(self, reason)

    def _gone_at_server(self) -> None:
        self.server_open = False

    # --- frames ------------------------------------------------------------------------------------------------------

    def send_up(self, parts: Sequence[Any]) -> None:
        if self.client_open and self.made:
            self.up_at = self._arrival(parts, self.up_at)
            for _ in range(self._copies(parts)):
                self.world.after(self.up_at - self.world.now, self._arrive_up, parts)

    def send_down(self, parts: Sequence[Any]) -> bool:
        """False: the server knows that this connection is gone."""
        if not self.server_open:
            return False
        self.down_at = self._arrival(parts, self.down_at)
        for _ in range(self._copies(parts)):
            self.world.after(self.down_at - self.world.now, self._arrive_down, parts)
        return True

    def _copies(self, parts: Sequence[Any]) -> int:
        if self.place.lossy and parts[0][0] == Kind.DATA and self.world.chance(self.place.lossy):
            return self.copies_when_lossy
        return 1

    def _arrival(self, parts: Sequence[Any], last: float) -> float:
        now = self.world.now
        arrival = max(last, now + self.delay_s) + sum(map(len, parts)) / self.place.rate
        self.world.worst_delay_s = max(self.world.worst_delay_s, arrival - now)
        return arrival

    def _arrive_up(self, parts: Sequence[Any], shifted: bool = False) -> None:
        if self.extra_s and not shifted:
            self.world.after(self.extra_s, self._arrive_up, parts, True)
            return
        if self.world.now < self.up_cut_at and self.server_open and self.server.alive:
            self.server.from_client(self, parts)

    def _arrive_down(self, parts: Sequence[Any]) -> None:
        if self.world.now < self.down_cut_at and self.client_open:
            self.client.from_server(self, parts)

    # --- ends --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The client hangs up. What it sent may still arrive, in time or very late; or no more of it."""
        if not self.client_open:
            return
        world = self.world
        self.client_open = False
        fate = 0.7 if self.lingers else world.random.random()
        if fate < 0.3:
            self.up_cut_at = min(self.up_cut_at, world.now)
        elif fate < 0.7:
            self.extra_s = 4.0 * world.random.random() ** 2
        if fate < 0.8:
            world.after(self.extra_s + 30.0 * world.random.random() ** 4, self._gone_at_server)
        else:
            world.after(20.0, self._gone_at_server)  # ZMTP heartbeats of the listener reap it

    def cut(self, kind: str) -> None:
        """`both` ends learn soon, only the `client`, only the `server`, or nobody (`hole`); or only one way is dead."""
        world = self.world
        random = world.random.random
        if kind != "up":
            self.down_cut_at = min(self.down_cut_at, world.now + 0.05 * random() * (random() < 0.5))
        if kind != "down":
            self.up_cut_at = min(self.up_cut_at, world.now + 0.05 * random() * (random() < 0.5))
        if kind in ("both", "client"):
            world.after(0.2 * random(), self._lost_at_client, "cut")
        if kind in ("both", "server"):
            world.after(0.2 * random(), self._gone_at_server)

    def stall(self, seconds: float) -> None:
        """Nothing is lost, but nothing arrives for a while."""
        self.up_at = max(self.up_at, self.world.now) + seconds
        self.down_at = max(self.down_at, self.world.now) + seconds
