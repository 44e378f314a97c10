"""Ahead: what the shortcut noted is accounted for, in time, and what goes wrong meanwhile is told."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from tests.link.ends import route
from tests.link.test_peer import cross, met
from tests.pump.conftest import SECONDS, connected, receive
from tests.pump.runs import encode
from tests.waiting import until
from tunnel import pump
from tunnel.ahead import Ahead, Way
from tunnel.config.plan import EndPlan, RoutePlan
from tunnel.errors import RemoteProtocolError
from tunnel.limits import ACK_DELAY_S, JOURNAL
from tunnel.link import wire
from tunnel.link.acks import FOREVER
from tunnel.link.peer import Peer
from tunnel.link.wire import Ack, Data, Lane
from tunnel.patterns import Pattern, Port

Socket = zmq.Socket[bytes]


class End:
    """A local end that is one socket."""

    has_socket = may_send = True

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.watch = self
        self.pokes = 0

    def poke(self) -> None:
        self.pokes += 1

    def want(self, events: int) -> None:
        pass


class Half:
    """The device around one port: peer `z` of a link whose other side, `a`, is played by the test."""

    def __init__(self, context: zmq.Context[Socket], max_age_s: float | None = None, hwm: int = 0) -> None:
        self.far, self.near = met(route())
        for peer, other in ((self.far, self.near), (self.near, self.far)):
            cross(peer, other, 1.0)
        self.local, self.application = connected(context, "inproc", zmq.PAIR, zmq.PAIR, hwm)
        self.link, self.line = connected(context, "inproc", zmq.DEALER, zmq.DEALER)
        self.time = time.monotonic()  # what the shortcut notes is by this clock
        self.later: deque[tuple[float, Callable[[], object]]] = deque()
        self.breaches: list[RemoteProtocolError] = []
        self.touched: list[Peer] = []
        self.looks = 0
        plan = RoutePlan("r", "pair", "to", EndPlan("PAIR", ()), ("a",), ("z",), ("a",), max_age_s=max_age_s)
        self.pattern = Pattern(plan, self)  # type: ignore[arg-type]
        self.port = Port(self.near, self.near.channels["r"])
        self.end = End(self.local)
        self.pattern.attach(self.end, [self.port])  # type: ignore[arg-type]
        self.pattern.marks.entry_open = self.pattern.marks.exit_open = False
        self.ahead = Ahead(self, self.pattern, self.port)

    # --- what is asked of a device

    def now(self) -> float:
        return self.time

    def way(self, peer: Peer, shortcut: pump.Shortcut) -> Way | None:
        return self.link, b"", b""

    def look(self, peer: Peer) -> None:
        self.looks += 1

    def touch(self, peer: Peer) -> None:
        self.touched.append(peer)

    def settle(self) -> None:
        """As the device does: feed what waits, send what may go."""
        if self.near.arrived:
            self.near.arrived.clear()
            self.pattern.arrived(self.port)
        for _, parts in self.near.transmit(self.time):
            self.line_says(parts)
        if self.near.ack_at != FOREVER:
            self.call_later(self.near.ack_at - self.time, self.settle)

    def line_says(self, parts: Any) -> None:
        self.link.send_multipart([bytes(part) for part in parts])

    def breach(self, peer: Peer, error: RemoteProtocolError) -> None:
        self.breaches.append(error)

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> None:
        self.later.append((self.time + delay_s, fn))

    # --- what a test does

    def drain(self) -> pump.Drained | None:
        assert self.local.poll(SECONDS * 1000)
        return pump.drain(self.local, 1 << 20, False, self.port.shortcut)

    def say(self, body: bytes, ack: Ack | None = None) -> None:
        """The far half sends a batch of one message; it goes by the shortcut."""
        outbound = self.far.channels["r"].outbound
        assert outbound is not None
        run = encode([[body]])
        header = wire.encode_data(Data(outbound.channel, outbound.next_seq, int(self.time * 1e6), 1, False, ack))
        self.far.departed(
            self.far.channels["r"], pump.Piece((run,), len(run), 1), outbound.next_seq, len(header), self.time
        )
        self.line.send(header + run)
        assert self.link.poll(SECONDS * 1000)
        assert pump.recv(self.link, False, self.port.shortcut) is None

    def hear(self) -> None:
        """The far half takes what came from here."""
        while self.line.poll(0):
            parts = self.line.recv_multipart()
            lane = Lane.DATA if parts[0][0] == wire.Kind.DATA else Lane.CONTROL
            self.far.receive(lane, parts, self.time)

    def wait(self, seconds: float) -> None:
        """Time passes; timers ring."""
        end = self.time + seconds
        while self.later and min(at for at, _ in self.later) <= end:
            due = min(self.later, key=lambda entry: entry[0])
            self.later.remove(due)
            self.time = max(self.time, due[0])
            due[1]()
        self.time = end


@pytest.fixture
def context() -> Iterator[zmq.Context[Socket]]:
    context: zmq.Context[Socket] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def half(context: zmq.Context[Socket]) -> Half:
    half = Half(context)
    half.ahead.arm()
    assert half.near.ahead is half.ahead
    return half


def inbound_of(peer: Peer) -> Any:
    return peer.channels["r"].inbound


def outbound_of(peer: Peer) -> Any:
    return peer.channels["r"].outbound


def test_a_conversation_and_its_accounts(half: Half) -> None:
    for number in range(5):
        half.say(b"question")
        assert receive(half.application, 1) == [[b"question"]]
        half.application.send(b"answer")
        assert half.drain() is None
        half.hear()
        assert inbound_of(half.far).received == number + 1
    assert half.far.credit.outstanding == 0
    assert outbound_of(half.far).unacked_bytes == 0
    assert (inbound_of(half.near).received, outbound_of(half.near).next_seq) == (0, 1)
    half.near.catch_up()
    assert (inbound_of(half.near).received, inbound_of(half.near).delivered) == (5, 5)
    assert outbound_of(half.near).next_seq == 6
    assert half.near.ack_at == FOREVER
    tally = half.pattern.tally
    assert (tally.messages_in, tally.messages_out, tally.ahead) == (5, 5, 10)
    assert tally.bytes_out == 5 * len(encode([[b"question"]]))
    assert half.touched == [half.near]
    assert half.near.arrived == []


def test_what_came_is_acknowledged_in_time(half: Half) -> None:
    half.say(b"task")
    half.time = time.monotonic()
    half.wait(2 * ACK_DELAY_S)
    assert half.near.ahead is None
    half.hear()
    assert outbound_of(half.far).unacked_bytes == 0


def test_accounts_wait_no_longer_than_some_rings(half: Half) -> None:
    half.application.send(b"x")
    assert half.drain() is None
    rings = 0
    while half.near.ahead is half.ahead:
        half.wait(ACK_DELAY_S)
        rings += 1
        assert rings < 20
    assert outbound_of(half.near).next_seq == 2
    assert rings > 1


def test_many_entries_are_accounted_for_at_the_next_ring(half: Half) -> None:
    for _ in range(JOURNAL // 2):
        half.application.send(b"x")
        assert half.drain() is None
    half.wait(ACK_DELAY_S)
    assert outbound_of(half.near).next_seq == JOURNAL // 2 + 1


def test_a_local_socket_that_becomes_full(context: zmq.Context[Socket]) -> None:
    half = Half(context, hwm=1)
    half.ahead.arm()
    outbound = outbound_of(half.far)
    run = encode([[b"%d" % number] for number in range(9)])
    header = wire.encode_data(Data(outbound.channel, outbound.next_seq, 0, 9, False, None))
    half.line.send(header + run)
    assert half.link.poll(SECONDS * 1000)
    assert pump.recv(half.link, False, half.port.shortcut) is None
    half.wait(0.0)
    assert half.near.ahead is None
    (waiting,) = inbound_of(half.near).runs
    assert 0 < waiting.fed < 9
    assert inbound_of(half.near).delivered == 0
    got: list[list[bytes]] = []

    def all_came() -> bool:
        while half.application.poll(0):
            got.append(half.application.recv_multipart())
        half.pattern._blocked = False
        half.pattern.push()
        return len(got) == 9

    until(all_came, SECONDS, lambda: f"only {got}")
    assert got == [[b"%d" % number] for number in range(9)]
    assert inbound_of(half.near).delivered == 1


def test_an_acknowledgement_of_what_was_never_sent_breaks_the_link(half: Half) -> None:
    half.say(b"x", ack=Ack(1 << 40, []))
    half.say(b"y")
    half.near.catch_up()
    half.wait(0.0)
    assert [error.code for error in half.breaches] == ["sequence"]
    assert inbound_of(half.near).delivered == 2
    assert not inbound_of(half.near).runs


def test_what_is_too_old_is_left_to_the_usual_way(context: zmq.Context[Socket]) -> None:
    half = Half(context, max_age_s=5.0)
    half.ahead.arm()
    outbound = outbound_of(half.far)
    half.line.send(wire.encode_data(Data(outbound.channel, 1, 0, 1, False, None)) + encode([[b"old"]]))
    assert half.link.poll(SECONDS * 1000)
    assert pump.recv(half.link, False, half.port.shortcut) is not None
    assert not half.application.poll(50)


def test_nothing_is_armed_where_it_could_do_harm(half: Half) -> None:
    half.near.catch_up()
    half.pattern.marks.entry_open = half.pattern.marks.exit_open = True
    half.ahead.arm()
    assert half.near.ahead is None
    half.pattern.marks.exit_open = False
    half.end.may_send = False
    half.ahead.arm()
    assert half.near.ahead is None


def test_edges_are_looked_after(half: Half) -> None:
    half.line.send(b"something")
    assert half.link.poll(SECONDS * 1000)
    half.application.send(b"x")
    assert half.drain() is None
    assert half.looks == 1


def is_settled(half: Half) -> bool:
    half.hear()
    return outbound_of(half.far).unacked_bytes == 0


def test_who_only_asks_for_numbers_delays_no_acknowledgement(half: Half) -> None:
    """A greeting, or the question whether all is drained, has it catch up, and sends nothing itself."""
    half.say(b"task")
    half.near.announce()
    half.time = time.monotonic()
    half.wait(3 * ACK_DELAY_S)
    assert half.touched
    assert is_settled(half)


def test_a_clock_that_cannot_be(half: Half) -> None:
    """The peer may say what it likes: its batches go the usual way, ours ahead or not, and nothing is half armed."""
    half.near.catch_up()
    half.near.receive(Lane.CONTROL, wire.encode_ping(2**64 - 1), half.time)
    half.ahead.arm()
    assert half.port.shortcut is not None
    assert not half.port.shortcut.enters
    assert half.port.shortcut.leaves is (half.near.ahead is half.ahead)


def test_an_age_that_cannot_be(context: zmq.Context[Socket]) -> None:
    half = Half(context, max_age_s=1e16)
    half.ahead.arm()
    half.say(b"x")
    assert receive(half.application, 1) == [[b"x"]]
