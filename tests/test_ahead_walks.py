"""Ahead: whatever happens in whatever order around a real shortcut, each batch is handed on and accounted for once.

A walk does one thing after another, drawn by its seed, around one half with real sockets and a pure peer as the far
one: applications write and read, frames come and go, time passes, somebody asks for numbers, the link is cut. At the
end everything must have arrived in order, and the accounts of both halves must agree.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import zmq

from tests.link.ends import route
from tests.link.test_peer import met
from tests.pump.conftest import connected, implementations
from tests.pump.runs import encode
from tests.test_ahead import End
from tunnel import ahead as aheads
from tunnel import pump as package
from tunnel.ahead import Aheads, Way
from tunnel.config.plan import EndPlan, RoutePlan
from tunnel.errors import RemoteProtocolError
from tunnel.limits import INLINE_BYTES
from tunnel.link.channel import Channel
from tunnel.link.hello import Hello
from tunnel.link.outbound import Terms
from tunnel.link.peer import Peer
from tunnel.link.wire import Lane
from tunnel.patterns import Port, pair
from tunnel.patterns import base as patterns
from tunnel.pump import SENT, Piece, Shortcut

Socket = zmq.Socket[bytes]
WALKS = 15
STEPS = 400
SIZES = (9, 10, 20, 100, 300, INLINE_BYTES - 8, INLINE_BYTES + 1, 40_000)


class Walk:
    """One half, as the device runs it, with one route `r`; `other` is a route that carries batches of its own."""

    def __init__(self, pump: ModuleType, seed: int) -> None:
        self.random = random.Random(seed)
        self.pump = pump
        self.context: zmq.Context[Socket] = zmq.Context()
        terms = Terms(self.random.choice((8, 64, 1024)) * 1024)
        self.far, self.near = met(route(terms=terms), route("other", terms=terms))
        self.hwm = self.random.choice((1, 3, 0))
        self.local, self.application = connected(self.context, "inproc", zmq.PAIR, zmq.PAIR, self.hwm)
        self.now_s = time.monotonic()
        self.later: list[tuple[float, Callable[[], object]]] = []
        self.control: dict[str, list[Any]] = {"near": [], "far": []}
        self.new_line()
        self.said: dict[str, int] = {"far": 0, "near": 0, "other": 0}
        self.heard: dict[str, list[bytes]] = {"far": [], "near": [], "other": []}
        self.taken: dict[str, int] = {"far": 0, "near": 0}
        self.touched: set[Peer] = set()
        plan = RoutePlan("r", "pair", "to", EndPlan("PAIR", (), hwm=10), ("a",), ("z",), ("a",))
        self.pattern = pair.Pair(plan, self)  # type: ignore[arg-type]
        self.port = Port(self.near, self.near.channels["r"])
        self.end = End(self.local)
        self.pattern.attach(self.end, [self.port])  # type: ignore[arg-type]
        self.aheads = Aheads(self)  # type: ignore[arg-type]
        self.aheads.add(self.pattern, [self.port])

    def new_line(self) -> None:
        self.link, self.line = connected(self.context, "inproc", zmq.DEALER, zmq.DEALER)

    # --- the device

    def now(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> None:
        self.later.append((self.now_s + delay_s, fn))

    def touch(self, peer: Peer) -> None:
        self.touched.add(peer)

    def way(self, peer: Peer, shortcut: Shortcut) -> Way | None:
        return self.link, b"", b""

    def look(self, peer: Peer) -> None:
        pass

    def breach(self, peer: Peer, error: RemoteProtocolError) -> None:
        raise AssertionError(f"an honest peer is accused: {error}")

    def express(self, peer: Peer, channel: Channel, piece: Piece, now: float) -> bool:
        parts = peer.express(channel, piece, now)
        if parts is not None:
            self.put_on_line(parts)
            self.aheads.saw(peer, channel, piece.size)
        return parts is not None

    def put_on_line(self, parts: Any) -> None:
        if not self.link.closed:
            assert self.pump.send(self.link, parts) is SENT

    def settle(self) -> None:
        for _ in range(50):
            arrived, self.near.arrived = self.near.arrived, []
            for channel in arrived:
                if channel is self.port.channel:
                    if channel.inbound is not None and channel.inbound.runs:
                        self.aheads.saw(self.near, channel, channel.inbound.runs[-1].size)
                    self.pattern.arrived(self.port)
                else:
                    self.hand_on_other()
            self.near.freed.clear()
            self.touched.clear()
            for lane, parts in self.near.transmit(self.now_s):
                if lane is Lane.DATA:
                    self.put_on_line(parts)
                else:
                    self.control["far"].append(parts)
            if not (self.near.arrived or self.near.freed or self.touched):
                self.aheads.arm(self.near)
                return
        raise AssertionError("it never comes to rest")

    def hand_on_other(self) -> None:
        """The other route at the near half hands on at once."""
        channel = self.near.channels["other"]
        assert channel.inbound is not None
        while channel.inbound.runs:
            run = channel.inbound.runs[0]
            self.heard["other"].append(b"".join(map(bytes, run.segments))[4:])
            channel.inbound.done(run)
            self.near.delivered(channel, run.size, self.now_s)
            self.touch(self.near)

    # --- what may happen

    def body(self, who: str) -> bytes:
        self.said[who] += 1
        return b"%d:" % self.said[who] + b"x" * (self.random.choices(SIZES, (8, 8, 8, 8, 4, 2, 1, 1))[0] - 8)

    def application_writes(self) -> None:
        for _ in range(self.random.choice((1, 1, 1, 4))):
            if self.application.poll(0, zmq.POLLOUT):
                self.application.send(self.body("near"), zmq.DONTWAIT)

    def application_reads(self) -> None:
        while self.application.poll(0):
            self.heard["near"].append(self.application.recv())
        self.end.may_send = True
        self.pattern.on_ready(zmq.POLLOUT)

    def half_reads(self) -> None:
        if self.port.has_room() and self.local.poll(0):
            self.pattern.on_ready(zmq.POLLIN)

    def far_writes(self, name: str = "r") -> None:
        outbound = self.far.channels[name].outbound
        assert outbound is not None
        for _ in range(self.random.choice((1, 1, 1, 4))):
            many = self.random.choice((1, 1, 3))
            run = encode([[self.body("far" if name == "r" else "other")] for _ in range(many if name == "r" else 1)])
            outbound.put([Piece((run,), len(run), many)], self.now_s)
        self.far.wake(self.far.channels[name])
        self.far_sends()

    def other_writes(self) -> None:
        self.far_writes("other")

    def far_sends(self) -> None:
        for lane, parts in self.far.transmit(self.now_s):
            if lane is Lane.CONTROL:
                self.control["near"].append(parts)
            elif not self.line.closed:
                self.line.send_multipart([bytes(part) for part in parts])

    def far_hears(self) -> None:
        """Frames, and what arrived is handed on."""
        while not self.line.closed and self.line.poll(0):
            self.far.receive(Lane.DATA, self.line.recv_multipart(), self.now_s)
        self.far_hears_control()
        inbound = self.far.channels["r"].inbound
        assert inbound is not None
        while inbound.runs:
            run = inbound.runs[0]
            fed = b"".join(map(bytes, run.segments))
            while fed:
                size = int.from_bytes(fed[:4], "little")
                self.heard["far"].append(fed[4 : 4 + size])
                fed = fed[4 + size :]
            inbound.done(run)
            self.far.delivered(self.far.channels["r"], run.size, self.now_s)
        self.far.arrived.clear()
        self.far.freed.clear()

    def far_hears_control(self) -> None:
        while self.control["far"]:
            self.far.receive(Lane.CONTROL, self.control["far"].pop(0), self.now_s)

    def half_hears(self) -> None:
        if self.link.closed:
            return
        while (message := self.pump.recv(self.link, False, self.port.shortcut)) is not None:
            self.near.receive(Lane.DATA, message.parts, self.now_s)
            self.settle()

    def half_hears_control(self) -> None:
        while self.control["near"]:
            self.near.receive(Lane.CONTROL, self.control["near"].pop(0), self.now_s)
            self.settle()

    def far_pings(self) -> None:
        self.far.knock(self.now_s)
        self.far_sends()

    def time_passes(self) -> None:
        self.now_s = max(self.now_s, time.monotonic()) + self.random.choice((0.0, 0.001, 0.003))
        for at, ring in sorted(self.later, key=lambda entry: entry[0]):
            if at <= self.now_s:
                self.later.remove((at, ring))
                ring()

    def somebody_asks(self) -> None:
        self.random.choice((self.near.announce, self.near.numbers, lambda: self.near.drained))()

    def sweep(self) -> None:
        self.near.sweep(self.now_s)
        self.settle()

    def doubt(self) -> None:
        self.pattern.disarm()

    def nobody_may_be_served(self) -> None:
        self.end.may_send = False
        self.pattern.disarm()

    def cut(self) -> None:
        """What is on the line is lost; for a while the halves do not know; then they meet again."""
        self.link.close(0)
        self.line.close(0)
        for _ in range(self.random.randrange(4)):
            self.random.choice((self.application_writes, self.half_reads, self.far_writes, self.time_passes))()
        self.control = {"near": [], "far": []}
        for peer in (self.far, self.near):
            peer.closed()
        for _ in range(self.random.randrange(4)):
            self.random.choice((self.application_writes, self.half_reads, self.application_reads, self.time_passes))()
        self.new_line()
        for peer, other in ((self.far, self.near), (self.near, self.far)):
            hello = Hello(other.own_side, other.session, 1, peer.session, 0, other.announce())
            peer.begin(hello, resume=True, now=self.now_s)
        numbers = self.far.numbers(), self.near.numbers()
        self.far.open(numbers[1], self.now_s)
        self.near.open(numbers[0], self.now_s)
        self.far_sends()
        self.settle()

    def steps(self) -> Iterator[Callable[[], None]]:
        often = [self.application_writes, self.half_reads, self.far_writes, self.half_hears, self.far_hears]
        often += [self.application_reads, self.time_passes, self.half_hears_control, self.far_hears_control]
        seldom = [self.far_pings, self.somebody_asks, self.sweep, self.doubt, self.other_writes, self.cut]
        seldom += [self.nobody_may_be_served]
        for _ in range(STEPS):
            yield self.random.choice(seldom if self.random.random() < 0.05 else often)

    def finish(self) -> None:
        for _ in range(3000):
            for step in (self.half_reads, self.far_sends, self.half_hears, self.half_hears_control, self.far_hears):
                step()
            self.application_reads()
            self.time_passes()
            self.settle()
            if self.is_quiet():
                return
        raise AssertionError(f"{self.said} { ({who: len(heard) for who, heard in self.heard.items()}) }")

    def is_quiet(self) -> bool:
        heard = all(len(self.heard[who]) == self.said[from_] for who, from_ in FLOWS.items())
        return heard and not any(
            channel.outbound is not None and channel.outbound.unacked_bytes
            for peer in (self.near, self.far)
            for channel in peer.channels.values()
        )


FLOWS = {"near": "far", "far": "near", "other": "other"}


@pytest.mark.parametrize("pump", implementations(), ids=lambda module: module.__name__.rpartition(".")[2])
@pytest.mark.parametrize("seed", range(WALKS))
def test_a_walk(monkeypatch: pytest.MonkeyPatch, pump: ModuleType, seed: int) -> None:
    for module in (aheads, patterns, pair):
        monkeypatch.setattr(module, "pump", pump_like(pump))
    walk = Walk(pump, seed)
    for step in walk.steps():
        step()
    walk.finish()
    for who, from_ in FLOWS.items():
        numbers = [int(body.split(b":")[0]) for body in walk.heard[who]]
        assert numbers == list(range(1, walk.said[from_] + 1))
    tally = walk.pattern.tally
    assert (tally.messages_in, tally.messages_out) == (walk.said["near"], walk.said["far"])
    assert tally.ahead > 0
    assert walk.near.credit.outstanding == walk.far.credit.outstanding == 0
    walk.context.destroy(linger=0)


def pump_like(module: ModuleType) -> Any:
    """What `tunnel.pump` would be with this implementation."""
    chosen = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return SimpleNamespace(**(vars(package) | chosen))
