"""Turns on the data lane: shares by priority, nobody starves, nobody is asked in vain."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.link.ends import piece
from tunnel.limits import BATCH_BYTES
from tunnel.link.outbound import Outbound, Terms
from tunnel.link.schedule import Schedule


def channel(number: int, priority: str = "normal", size: int = 0, count: int = 0, **terms: float) -> Outbound:
    settings = Terms(1 << 30, priority=priority, **terms)  # type: ignore[arg-type]
    out = Outbound(number, f"r{number}", settings)
    out.put([piece(bytes(size)) for _ in range(count)], 0.0)
    return out


def carry(schedule: Schedule, batches: int) -> Counter[int]:
    """Bytes by channel in that many turns."""
    sent: Counter[int] = Counter()
    for _ in range(batches):
        chosen = schedule.pick(0.0)
        if chosen is None:
            break
        sent[chosen.channel] += chosen.take(0.0).size
    return sent


def test_nothing_to_send() -> None:
    schedule = Schedule()
    assert schedule.pick(0.0) is None
    schedule.wake(channel(1))
    assert schedule.pick(0.0) is None


def test_everything_goes_in_the_end() -> None:
    schedule = Schedule()
    channels = [channel(n, priority, 1000, 7) for n, priority in enumerate(("high", "normal", "bulk"))]
    for one in channels:
        schedule.wake(one)
    assert sum(carry(schedule, 100).values()) == 21_000


@pytest.mark.parametrize(
    ("one", "two", "share"), [("normal", "normal", 1), ("high", "normal", 4), ("normal", "bulk", 4)]
)
def test_bytes_are_shared_by_priority_whatever_the_batches(one: str, two: str, share: float) -> None:
    schedule = Schedule()
    schedule.wake(channel(1, one, 100_000, 3000))
    schedule.wake(channel(2, two, 250_000, 3000))
    sent = carry(schedule, 500)
    assert sent[1] / sent[2] == pytest.approx(share, rel=0.1)


def test_the_urgent_goes_first() -> None:
    schedule = Schedule()
    schedule.wake(channel(1, "bulk", 1000, 10))
    schedule.wake(channel(2, "high", 1000, 1))
    first = schedule.pick(0.0)
    assert first is not None
    assert first.channel == 2


def test_a_large_batch_saves_up() -> None:
    schedule = Schedule()
    schedule.wake(channel(1, "bulk", BATCH_BYTES, 1))
    schedule.wake(channel(2, "bulk", 1000, 5000))
    assert carry(schedule, 400)[1] == BATCH_BYTES


def test_waking_twice_gives_one_turn() -> None:
    schedule = Schedule()
    one = channel(1, size=100_000, count=100)
    for _ in range(5):
        schedule.wake(one)
    schedule.wake(channel(2, size=100_000, count=100))
    sent = carry(schedule, 100)
    assert abs(sent[1] - sent[2]) <= BATCH_BYTES


def test_on_a_slow_line_an_urgent_batch_waits_for_little() -> None:
    schedule = Schedule()
    schedule.wake(channel(1, "bulk", BATCH_BYTES, 3))
    chosen = schedule.pick(0.0, 5000)
    assert chosen is not None
    assert chosen.take(0.0).size == 5000


def test_replace_starts_over() -> None:
    schedule = Schedule()
    schedule.wake(channel(1, size=10, count=3))
    schedule.replace([channel(2, size=10, count=2)])
    assert carry(schedule, 10) == {2: 20}


def test_who_dropped_the_old_is_told() -> None:
    schedule = Schedule()
    old = channel(1, size=10, count=3, max_age_s=1.0)
    schedule.wake(old)
    assert schedule.pick(5.0) is None
    assert schedule.relieved == [old]
    assert old.has_room
