"""Credit, liveness and clocks of a lane, second by second."""

from __future__ import annotations

import pytest

from tunnel.errors import RemoteProtocolError
from tunnel.limits import (
    BATCH_BYTES,
    FRAGMENT_BYTES,
    LANE_CREDIT_BYTES,
    LANE_CREDIT_MAX_BYTES,
    LANE_CREDIT_MIN_BYTES,
    PING_IDLE_S,
    SILENCE_S,
)
from tunnel.link.lane import Clock, Credit, Pulse


def carry(credit: Credit, seconds: float, rate: float, least_s: float, now: float = 0.0) -> float:
    """A line of that rate and least round trip, always full: batches go while there is room. Gives the time."""
    line: list[tuple[float, int]] = []
    free = now
    sent = 0
    end = now + seconds
    while now < end:
        while credit.has_room():
            credit.add(BATCH_BYTES, now)
            sent += BATCH_BYTES
            free = max(free, now) + BATCH_BYTES / rate
            line.append((free + least_s, sent))
        now, received = line.pop(0)
        credit.acknowledge(received, now)
    return now


def test_a_batch_may_start_while_there_is_credit() -> None:
    credit = Credit()
    while credit.has_room():
        credit.add(BATCH_BYTES, 0.0)
    assert LANE_CREDIT_BYTES <= credit.outstanding < LANE_CREDIT_BYTES + BATCH_BYTES
    assert credit.acknowledge(credit.sent, 0.1)
    assert credit.outstanding == 0


def test_credit_grows_on_a_long_fat_line() -> None:
    credit = Credit()
    carry(credit, 20.0, rate=100e6, least_s=0.1)
    assert 5e6 < credit.credit_bytes <= LANE_CREDIT_MAX_BYTES


def test_credit_stays_on_a_short_line() -> None:
    credit = Credit()
    carry(credit, 5.0, rate=100e6, least_s=0.0002)
    assert credit.credit_bytes == LANE_CREDIT_BYTES


def test_credit_grows_on_a_line_so_fast_that_it_carries_it_in_no_time() -> None:
    credit = Credit()
    carry(credit, 5.0, rate=1e9, least_s=0.0002)
    assert 4e6 < credit.credit_bytes < 6e6


def test_batches_grow_once_the_line_has_carried_enough_and_not_by_a_small_one() -> None:
    credit = Credit()
    assert credit.batch_bytes == BATCH_BYTES
    credit.add(200, 0.0)
    credit.acknowledge(200, 0.1)
    assert credit.batch_bytes == BATCH_BYTES
    credit.add(BATCH_BYTES, 1.0)
    credit.acknowledge(credit.sent, 1.01)
    assert credit.batch_bytes == FRAGMENT_BYTES


def test_credit_shrinks_on_a_slow_line_and_so_do_batches() -> None:
    credit = Credit()
    carry(credit, 120.0, rate=100e3, least_s=0.001)
    assert LANE_CREDIT_MIN_BYTES <= credit.credit_bytes < LANE_CREDIT_BYTES
    assert credit.batch_bytes < BATCH_BYTES


def test_a_fresh_connection_counts_from_zero_and_keeps_what_it_learnt() -> None:
    credit = Credit()
    now = carry(credit, 20.0, rate=100e6, least_s=0.1)
    learnt = credit.credit_bytes
    credit.reset(now)
    assert (credit.sent, credit.received, credit.credit_bytes) == (0, 0, learnt)


def test_more_received_than_sent_is_the_peers_error() -> None:
    credit = Credit()
    credit.add(100, 0.0)
    with pytest.raises(RemoteProtocolError):
        credit.acknowledge(101, 0.0)


def test_bytes_that_stand_still_have_a_deadline() -> None:
    credit = Credit()
    assert credit.stall_at() == float("inf")
    credit.add(200, 5.0)
    assert credit.stall_at() == 5.0 + SILENCE_S
    assert credit.acknowledge(100, 9.0)
    assert not credit.acknowledge(100, 11.0)
    assert credit.stall_at() == 9.0 + SILENCE_S
    credit.acknowledge(200, 12.0)
    assert credit.stall_at() == float("inf")


def run_pulse(pulse: Pulse, answers: range, until: float) -> tuple[list[float], float | None]:
    """When it pinged, and when it was found dead; somebody is heard in the seconds of `answers`."""
    pings, now = [], 0.0
    while now < until:
        if int(now) in answers:
            pulse.heard(now)
        if pulse.dead(now):
            return pings, now
        if pulse.ping_due(now):
            pings.append(now)
            pulse.pinged(now)
        now += 0.5
    return pings, None


def test_a_silent_lane_is_pinged_and_then_given_up() -> None:
    pings, dead_at = run_pulse(Pulse(0.0), range(0), 60.0)
    assert pings[0] == PING_IDLE_S
    assert dead_at == SILENCE_S


def test_a_lane_that_is_heard_is_not_given_up() -> None:
    assert run_pulse(Pulse(0.0), range(60), 60.0) == ([], None)


def test_a_steady_lane_is_pinged_always_and_must_answer() -> None:
    pings, dead_at = run_pulse(Pulse(0.0, steady=True), range(60), 60.0)
    assert pings[:3] == [5.0, 10.0, 15.0]
    assert dead_at == 2 * SILENCE_S


def test_the_deadline_is_never_late() -> None:
    pulse = Pulse(0.0)
    assert pulse.deadline() == PING_IDLE_S
    pulse.pinged(PING_IDLE_S)
    assert pulse.deadline() <= SILENCE_S
    pulse.pinged(2 * PING_IDLE_S)
    assert pulse.deadline() == SILENCE_S


def test_answers_are_thinned() -> None:
    pulse = Pulse(0.0)
    assert [pulse.may_pong(n / 100) for n in range(25)].count(True) == 3


def test_a_clock_goes_by_the_shortest_delay() -> None:
    clock = Clock(30.0)
    for sent, delay in ((0.0, 0.5), (1.0, 0.01), (2.0, 8.0)):
        clock.sample(1000.0 + sent, sent + delay)
    assert clock.local(1002.0, 20.0) == pytest.approx(2.01)


def test_a_time_is_never_in_the_future() -> None:
    clock = Clock(30.0)
    assert clock.local(5.0, 3.0) == 3.0
    clock.sample(0.0, 10.0)
    assert clock.local(50.0, 12.0) == 12.0


def test_a_clock_forgets_so_that_drift_does_not_show() -> None:
    clock = Clock(30.0)
    clock.sample(0.0, 0.0)
    for now in range(1, 200):
        clock.sample(now * 0.999, now)  # the peer's clock is slow: the offset grows
    assert clock.local(199 * 0.999, 300.0) == pytest.approx(199.0, abs=0.07)
