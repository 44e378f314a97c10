"""Two ends of the pure link joined by hand: what one says the other hears, as a transcript that tests can read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tunnel.link import wire
from tunnel.link.channel import Route
from tunnel.link.dialler import Dial, Dialler, HangUp
from tunnel.link.listener import Listener
from tunnel.link.outbound import Terms
from tunnel.link.peer import Peer
from tunnel.link.wire import Kind, Lane


@dataclass
class Piece:
    segments: tuple[bytes, ...]
    size: int
    messages: int
    more: bool


def piece(body: bytes = b"x" * 10, *, messages: int = 1, more: bool = False) -> Piece:
    return Piece((body,), len(body), messages, more)


def route(name: str = "r", *, sends: bool = True, takes: bool = True, **changes: Any) -> Route:
    settings: dict[str, Any] = {
        "pattern": "pair",
        "from_sides": ("a",),
        "to_sides": ("z",),
        "delivery": "confirmed",
        "terms": Terms(64 * 1024),
        "max_message_bytes": 1 << 20,
    }
    return Route(name=name, sends=sends, takes=takes, **(settings | changes))


_tokens = count(1)


def token(n: int) -> bytes:
    return next(_tokens).to_bytes(n, "big")


def kinds(frames: Iterable[tuple[Any, Any]]) -> list[str]:
    """The kinds of frames that `transmit` gave."""
    return [wire.kind_of(parts).name for _, parts in frames]


@dataclass
class Ends:
    """A dialling process `a`, a listening process `z`, and the connections between them (ids are (lane, attempt))."""

    a: Peer = field(default_factory=lambda: Peer("a", "z", token(16)))
    z: Peer = field(default_factory=lambda: Peer("z", "a", token(16)))
    now: float = 100.0
    attempt: int = 0
    base: int = 0
    """Added to attempts in the ids of connections, where several processes dial one listener."""
    said: list[str] = field(default_factory=list)
    """`a: HELLO`, `z: WELCOME` ... in the order in which they were said."""

    def __post_init__(self) -> None:
        self.dialler = Dialler(self.a, lambda: 0.0, token)
        self.listener = Listener({"a": self.z}, token)

    def both(self, ours: Route, theirs: Route | None = None) -> None:
        self.a.add(ours)
        self.z.add(theirs or ours)

    def connect(self) -> None:
        """Dial until open: everything that is said arrives at once."""
        self.now += 1.0
        self.dialler.tick(self.now)
        self.up(*Lane)
        self.talk()
        assert self.a.is_open, (self.said, self.dialler.reason)
        assert self.z.is_open, self.listener.reason("a")

    def up(self, *lanes: Lane) -> None:
        for action in self.dialler.actions:
            if isinstance(action, Dial):
                self.attempt = self.base + action.attempt
        self.dialler.actions.clear()
        for lane in lanes:
            self.dialler.lane_up(lane, self.now)

    def cut(self) -> None:
        self.dialler.lane_lost(Lane.DATA, "cut", self.now)
        self.dialler.actions.clear()
        self.now += 60.0

    def from_a(self) -> list[tuple[Lane, Any]]:
        frames = self.dialler.transmit(self.now)
        self.said += [f"a: {kind}" for kind in kinds(frames)]
        return frames

    def from_z(self) -> list[tuple[Any, Any]]:
        frames = self.listener.transmit(self.now)
        self.said += [f"z: {kind}" for kind in kinds(frames)]
        return frames

    def to_z(self, frames: Iterable[tuple[Lane, Any]], attempt: int | None = None) -> None:
        for lane, parts in frames:
            self.listener.receive((lane, attempt or self.attempt), "a", parts, self.now)

    def to_a(self, frames: Iterable[tuple[Any, Any]]) -> None:
        for (lane, attempt), parts in frames:
            if attempt == self.attempt and not any(isinstance(act, HangUp) for act in self.dialler.actions):
                self.dialler.receive(lane, parts, self.now)

    def talk(self, rounds: int = 10) -> None:
        """Until nobody has anything to say."""
        for _ in range(rounds):
            up, down = self.from_a(), self.from_z()
            if not up and not down:
                return
            self.to_z(up)
            self.to_a(down)

    def hand_on(self, peer: Peer, name: str = "r") -> list[bytes]:
        """Everything that arrived goes to the local socket."""
        channel = peer.channels[name]
        out = []
        assert channel.inbound is not None
        while channel.inbound.runs:
            run = channel.inbound.runs[0]
            out.append(b"".join(bytes(memoryview(segment)) for segment in run.segments))
            channel.inbound.done(run)
            peer.delivered(channel, run.size, self.now)
        return out

    def put(self, peer: Peer, *bodies: bytes, name: str = "r") -> None:
        channel = peer.channels[name]
        assert channel.outbound is not None
        channel.outbound.put([piece(body) for body in bodies], self.now)
        peer.wake(channel)


def refusal(frames: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """The one REFUSE among these frames."""
    (parts,) = [parts for _, parts in frames if wire.kind_of(parts) is Kind.REFUSE]
    return wire.decode_json(parts)
