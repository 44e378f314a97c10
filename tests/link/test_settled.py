"""`Outbound.settled`: what lies behind it is delivered or gone, whatever happened; and in the end everything is."""

from __future__ import annotations

import random

import pytest

from tests.link.ends import piece
from tunnel import pump
from tunnel.link.outbound import Outbound, Terms

WINDOW = 16 * 1024
OVERFLOWS = ("block", "drop-oldest", "drop-newest", "keep-latest")
STEPS = 600


def outbound(overflow: str = "block", **terms: object) -> Outbound:
    return Outbound(1, "r", Terms(WINDOW, overflow=overflow, **terms), pump.keep_latest)  # type: ignore[arg-type]


def send(out: Outbound, most: int = 1 << 20) -> None:
    while out.next_size(0.0, most) is not None:
        out.take(0.0)


def test_a_place_is_settled_when_all_before_it_is_delivered() -> None:
    out = outbound()
    assert (out.placed, out.settled) == (0, 0)
    out.put([piece(), piece()], 0.0)
    out.take_at_once(piece(), 0.0) if out.is_clear else out.put([piece()], 0.0)
    assert (out.placed, out.settled) == (3, 0)
    send(out)
    out.acknowledge(2)
    assert out.settled == 2
    out.acknowledge(3)
    assert out.settled == 3


def test_a_batch_that_is_cut_keeps_its_place_until_its_last_fragment() -> None:
    out = outbound()
    out.put([piece(b"x" * 5000)], 0.0)
    send(out, 1000)
    out.acknowledge(4)
    assert out.settled == 0
    out.acknowledge(5)
    assert out.settled == 1


def test_what_goes_again_to_a_new_process_keeps_its_place() -> None:
    out = outbound()
    out.put([piece() for _ in range(5)], 0.0)
    send(out)
    out.acknowledge(2)
    out.restart()
    assert out.settled == 2
    send(out)
    out.acknowledge(3)
    assert out.settled == 5


def test_what_grew_too_old_is_settled() -> None:
    out = outbound(max_age_s=1.0)
    out.put([piece() for _ in range(5)], 0.0)
    out.expire(2.0)
    assert out.settled == 5


class Walk:
    """Random things happen to an outbound; each message bears a token of its own and one of eight names."""

    def __init__(self, overflow: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.out = outbound(overflow)
        self.places: dict[bytes, int] = {}
        """Token → the place behind the message."""
        self.received = 0

    def put(self) -> None:
        for _ in range(self.random.randint(1, 5)):
            token = b"<%d>" % len(self.places)
            body = token + bytes(self.random.choice((0, 100, 1000, 5000)))
            name = b"name%d" % self.random.randrange(8)
            now = self.random.random()
            (made,) = pump.pack([name, body])
            if self.out.is_clear and self.random.random() < 0.5:
                self.out.take_at_once(made, now)
            else:
                self.out.put([made], now)
            self.places[token] = self.out.placed

    def send(self) -> None:
        for _ in range(self.random.randint(1, 6)):
            if self.out.next_size(0.0, self.random.choice((500, 2000, 1 << 20))) is not None:
                self.out.take(0.0)

    def receive(self) -> None:
        self.received = self.random.randint(max(self.received, self.out.delivered), self.out.cursor - 1)

    def acknowledge(self) -> None:
        """What is delivered ends with a message."""
        self.receive()
        ends = [batch.seq for batch in self.out.flight if not batch.more and batch.seq <= self.received]
        if ends:
            self.out.acknowledge(self.random.choice(ends))

    def resume(self) -> None:
        self.receive()
        self.out.resume(self.received, self.out.delivered)

    def restart(self) -> None:
        self.out.restart()
        self.received = 0

    def agreed(self) -> None:
        self.out.agreed(self.random.choice((WINDOW, WINDOW // 4)), self.random.choice((1 << 20, 1 << 20, 1000)))

    def look(self) -> None:
        held = b"".join(bytes(part) for batch in (*self.out.flight, *self.out.queue) for part in batch.segments)
        early = [token for token, place in self.places.items() if place <= self.out.settled and token in held]
        assert not early, (early, self.out)


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_settled_too_early(overflow: str, seed: int) -> None:
    walk = Walk(overflow, seed)
    steps = [walk.put] * 5 + [walk.send] * 5 + [walk.acknowledge] * 3 + [walk.resume, walk.restart, walk.agreed]
    before = 0
    for _ in range(STEPS):
        walk.random.choice(steps)()
        walk.look()
        assert walk.out.settled >= before, "it never goes back"
        before = walk.out.settled
    for _ in range(STEPS):
        send(walk.out)
        walk.out.acknowledge(walk.out.cursor - 1)
    assert walk.out.settled == walk.out.placed == walk.places[b"<%d>" % (len(walk.places) - 1)]


def test_receipts_move_on_while_a_keep_latest_route_overflows_all_the_time() -> None:
    out = outbound("keep-latest")
    for number in range(3000):
        out.put(pump.pack([b"name%d" % (number % 50), b"x" * 500]), 0.0)
        if number % 60 == 0 and out.next_size(0.0) is not None:
            out.take(0.0)
            out.acknowledge(out.cursor - 1)
    assert out.dropped["overflow"] > 400
    assert out.settled > 1500, out
