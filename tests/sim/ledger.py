"""What was sent, what arrived, and what the promises allow (docs/guarantees.md).

A stream is everything that one channel of one process sends: it ends with that process. Messages are numbered from 0
in the order in which the local socket gave them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunnel.link.outbound import Outbound

if TYPE_CHECKING:
    from tests.sim.disk import Disk


class Broken(AssertionError):
    """A promise or an invariant does not hold."""


class Segment:
    """A message, or fragment `k` of `n` of one; or a stretch of that, when a batch was cut on a slow line.

    It has a length, as link frames need, and no bytes.
    """

    __slots__ = ("at", "id", "k", "n", "size", "stream", "whole")

    def __init__(self, stream: Stream, id: int, size: int, k: int = 0, n: int = 1, at: int = 0, whole: int = 0) -> None:
        self.stream = stream
        self.id = id
        self.size = size
        self.k = k
        self.n = n
        self.at = at
        self.whole = whole or size

    def stretch(self, start: int, stop: int) -> Segment:
        return Segment(self.stream, self.id, stop - start, self.k, self.n, self.at + start, self.whole)

    @property
    def ends(self) -> bool:
        """The message ends with this segment."""
        return self.at + self.size == self.whole and self.k + 1 == self.n

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"{self.stream.name}#{self.id} {self.k}/{self.n} {self.at}+{self.size}/{self.whole}"


@dataclass
class View:
    """What one receiving process saw of a stream."""

    highest: int = -1
    seen: set[int] = field(default_factory=set)


@dataclass
class Stream:
    """One channel's messages."""

    name: str
    outbound: Outbound
    max_age_s: float | None
    born: list[float] = field(default_factory=list)
    got: list[int] = field(default_factory=list)
    views: dict[int, View] = field(default_factory=dict)
    expired_there: int = 0
    dead: bool = False

    def new_id(self, now: float) -> int:
        self.born.append(now)
        self.got.append(0)
        return len(self.got) - 1

    def deliver(self, id: int, receiver: int) -> None:
        view = self.views.get(receiver)
        if view is None:
            view = self.views[receiver] = View()
        if id not in view.seen:
            if id < view.highest:
                raise Broken(f"{self.name}: message {id} came after {view.highest} (reordered)")
            view.highest = id
            view.seen.add(id)
        self.got[id] += 1

    @property
    def lost(self) -> int:
        return self.got.count(0)

    @property
    def repeated(self) -> int:
        return sum(self.got) - len(self.got) + self.lost

    @property
    def counted(self) -> int:
        return sum(self.outbound.dropped.values()) + self.expired_there


@dataclass
class SpooledStream(Stream):
    """The messages of a channel whose disk outlives processes, and so does the stream: it never dies."""

    far: str = ""
    """The side that takes it."""
    earlier: list[Outbound] = field(default_factory=list)
    """Of processes that have ended."""
    durable: set[int] = field(default_factory=set)
    """Was on disk at some time."""
    forfeited: set[int] = field(default_factory=set)
    """Was not on disk when the process ended that had read it."""
    uncounted: int = 0
    """May be repeated, and who would have counted it has ended."""
    disturbed: bool = False
    """The far half was restarted, or its route taken away."""

    def next_process(self, outbound: Outbound) -> None:
        self.earlier.append(self.outbound)
        self.outbound = outbound

    def deliver(self, id: int, receiver: int) -> None:
        if id not in self.durable:
            raise Broken(f"{self.name}: message {id} arrived before it was on disk")
        super().deliver(id, receiver)

    @property
    def may_repeat(self) -> int:
        return self.uncounted + sum(outbound.may_repeat for outbound in (*self.earlier, self.outbound))

    @property
    def lost(self) -> int:
        return super().lost - len(self.forfeited)

    @property
    def repeated(self) -> int:
        return sum(self.got) - len(self.got) + self.got.count(0)

    @property
    def counted(self) -> int:
        return sum(sum(outbound.dropped.values()) for outbound in self.earlier) + super().counted

    def audit(self) -> None:
        say = (
            f"{self.name}: sent {len(self.got)}, forfeited {len(self.forfeited)}, lost {self.lost}, counted "
            f"{self.counted}, repeated {self.repeated}, may_repeat {self.may_repeat} (uncounted {self.uncounted})"
        )
        if self.repeated > (self.may_repeat if self.disturbed else 0):
            raise Broken(f"repeated although the far half was not restarted, or without being counted: {say}")
        if self.lost > (self.counted if self.max_age_s is not None else 0):
            raise Broken(f"a spooled route lost messages: {say}")


@dataclass
class Ledger:
    """All streams of a run. `disturbed`: a process was restarted, evicted, or a route taken away."""

    streams: list[Stream] = field(default_factory=list)
    disks: dict[str, Disk] = field(default_factory=dict)
    dropped_there: Counter[str] = field(default_factory=Counter)
    """What receivers dropped with the ended session of a sender, per route."""
    disturbed: bool = False
    messages: int = 0
    fragments: int = 0
    cut: int = 0

    def deliver_run(self, segments: list[Any], receiver: int, now: float, slack_s: float) -> None:
        """A run reached a local socket: it must be whole messages, in order, and young enough."""
        due: tuple[Stream, int, int, int] | None = None
        for segment in segments:
            key = (segment.stream, segment.id, segment.k, segment.at)
            if (due is not None and key != due) or (due is None and (segment.k or segment.at)):
                raise Broken(f"{segment!r} in a run where {due and due[1:]} was due: a message is torn")
            if not segment.ends:
                end = segment.at + segment.size
                step = (segment.k + 1, 0) if end == segment.whole else (segment.k, end)
                due = (segment.stream, segment.id, *step)
                continue
            due = None
            stream = segment.stream
            age_s = now - stream.born[segment.id]
            if stream.max_age_s is not None and age_s > stream.max_age_s + slack_s:
                raise Broken(f"{segment!r} was {age_s:.2f} s old where {stream.max_age_s} s is the limit")
            stream.deliver(segment.id, receiver)
            self.messages += 1
            self.fragments += segment.n > 1
            self.cut += segment.at > 0
        if due is not None:
            raise Broken(f"a run ends in the middle of {due[0].name}#{due[1]}")

    def expire_run(self, segments: list[Any]) -> None:
        for segment in segments:
            segment.stream.expired_there += segment.ends

    def audit(self) -> None:
        """After calm: the promises."""
        for stream in self.streams:
            self._audit(stream)

    def disturb(self, side: str, routes: Collection[str]) -> None:
        """A process of this side has ended, or takes these routes away."""
        self.disturbed = True
        for stream in self.streams:
            if isinstance(stream, SpooledStream) and stream.far == side and stream.name.split("/")[0] in routes:
                stream.disturbed = True

    def _audit(self, stream: Stream) -> None:
        if isinstance(stream, SpooledStream):
            stream.audit()
            return
        terms = stream.outbound.terms
        lost, counted = stream.lost, stream.counted
        say = f"{stream.name}: sent {len(stream.got)}, lost {lost}, counted {counted}, repeated {stream.repeated}, " + (
            f"may_repeat {stream.outbound.may_repeat}, {dict(stream.outbound.dropped)}"
        )
        if stream.repeated > stream.outbound.may_repeat:
            raise Broken(f"repeated without being counted: {say}")
        if stream.dead:
            return
        if not self.disturbed:
            if stream.repeated:
                raise Broken(f"a cut repeats: {say}")
            if lost != counted:
                raise Broken(f"lost is not what was counted: {say}")
        if lost > counted + self.dropped_there[stream.name.split("/")[0]]:
            raise Broken(f"lost without being counted: {say}")
        safe = terms.confirmed and terms.resend_on_restart and terms.overflow == "block" and terms.max_age_s is None
        if safe and lost:
            raise Broken(f"a confirmed route lost messages: {say}")
