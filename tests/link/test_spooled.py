"""A channel whose messages are on disk: what may go when, what is released, and where it goes on after a restart."""

from __future__ import annotations

import pytest

from tests.link.ends import Ends, piece, route
from tunnel.errors import RemoteProtocolError
from tunnel.link.channel import Route
from tunnel.link.inbound import Run
from tunnel.link.outbound import Batch, Terms
from tunnel.link.peer import Peer
from tunnel.link.spooled import UNKNOWN, SpooledInbound, SpooledOutbound, Stored
from tunnel.link.wire import Data

KIB = 1024
TERMS = Terms(64 * KIB)


def sender(first: int = 1, next: int = 1, spool: str = "s1", **terms: object) -> SpooledOutbound:
    return SpooledOutbound(1, "r", Terms(64 * KIB, **terms), Stored(spool, first, next))  # type: ignore[arg-type]


def receiver(spool: str = "s1") -> SpooledInbound:
    inbound = SpooledInbound(1, "r", 64 * KIB, 1 << 20)
    inbound.meet(spool)
    return inbound


def take(inbound: SpooledInbound, seq: int, unit: int, body: bytes = b"x", *, more: bool = False) -> bool:
    return inbound.accept(Data(1, seq, 0, int(not more), more, None, unit), (body,) if body else (), len(body), 0.0)


def fly(outbound: SpooledOutbound) -> list[int]:
    """Units of everything that may enter the lane."""
    units = []
    while outbound.next_size(0.0) is not None:
        units.append(outbound.take(0.0).unit)
    return units


def store(outbound: SpooledOutbound, *units: int, size: int = 10) -> None:
    for unit in units:
        outbound.stored(unit, [piece(b"x" * size)], 0.0)


def rows(*units: int, size: int = 10) -> list[Batch]:
    return [Batch((b"x" * size,), size, 1, False, 0.0, unit=unit) for unit in units]


# --- sender ----------------------------------------------------------------------------------------------------------


def test_nothing_goes_before_it_is_on_disk() -> None:
    out = sender()
    out.start(*UNKNOWN, 0.0)
    store(out, 1, 2)
    assert fly(out) == []
    assert out.synced(1)
    assert fly(out) == [1]
    assert out.synced(2)
    assert fly(out) == [2]


def test_what_is_delivered_is_released() -> None:
    out = sender()
    out.start(*UNKNOWN, 0.0)
    store(out, 1, 2, 3)
    out.synced(3)
    fly(out)
    out.acknowledge(2)
    assert out.released == 2
    out.acknowledge(3)
    assert (out.released, out.backlog) == (3, 0)


def test_memory_holds_a_window_and_the_rest_is_read_back_in_order() -> None:
    out = sender()
    out.start(*UNKNOWN, 0.0)
    store(out, *range(1, 11), size=16 * KIB)
    out.synced(10)
    assert fly(out) == [1, 2, 3, 4]
    assert out.wants() is None
    out.acknowledge(2)
    assert out.wants() == (4, 10, 32 * KIB)
    store(out, 11)
    out.synced(11)
    assert out.loaded(4, 6, rows(5, 6, size=16 * KIB))
    assert fly(out) == [5, 6]


def test_what_is_read_meanwhile_stays_in_memory_and_follows_what_is_read_back() -> None:
    out = sender(1, 4)
    out.start(*UNKNOWN, 0.0)
    store(out, 4)
    assert out.wants() == (0, 3, 64 * KIB - 256)
    store(out, 5)  # no room: what is being read may fill it
    out.synced(5)
    assert fly(out) == []
    assert out.loaded(0, 3, rows(1, 2, 3))
    assert fly(out) == [1, 2, 3, 4]
    assert out.wants() is not None


def test_what_lacks_its_predecessors_when_it_is_durable_is_left_to_the_disk() -> None:
    out = sender(1, 4)
    out.start(*UNKNOWN, 0.0)
    store(out, 4, 5)
    out.synced(4)
    assert out.waiting_bytes == 256
    after, through, _ = out.wants() or (0, 0, 0)
    assert (after, through) == (0, 4)
    out.loaded(0, 2, rows(1, 2))  # not all that was asked for
    out.synced(5)
    assert out.waiting_bytes == 0
    assert out.wants() == (2, 5, 64 * KIB - 2 * 256)
    out.loaded(2, 5, rows(3, 4, 5))
    assert fly(out) == [1, 2, 3, 4, 5]


def test_rows_that_are_gone_are_passed_over() -> None:
    out = sender(3, 9)
    out.start(*UNKNOWN, 0.0)
    assert out.wants() == (2, 8, 64 * KIB)
    assert out.loaded(2, 8, rows(5))
    assert fly(out) == [5]
    assert out.wants() is None
    out.acknowledge(1)
    assert out.released == 8


def test_an_answer_that_comes_after_a_restart_is_of_no_use() -> None:
    out = sender(1, 9)
    out.start(*UNKNOWN, 0.0)
    assert out.wants() == (0, 8, 64 * KIB)
    out.restart()
    assert not out.loaded(0, 4, rows(1, 2, 3, 4))
    out.start("s1", 2, 0.0)
    assert not out.loaded(0, 4, rows(1, 2, 3, 4))
    assert fly(out) == [2]


def test_it_goes_on_behind_what_the_peer_has_and_hears_of_its_delivery() -> None:
    out = sender(3, 9)
    out.start("s1", 6, 0.0)
    assert out.wants() == (6, 8, 64 * KIB - 256)
    out.loaded(6, 8, rows(7, 8))
    assert fly(out) == [6, 7, 8]
    assert out.may_repeat == 0
    assert out.released == 2
    out.acknowledge(1)
    assert out.released == 6


@pytest.mark.parametrize("told", [UNKNOWN, ("another", 7)])
def test_a_peer_that_does_not_know_the_spool_gets_everything_again_counted(told: tuple[str, int]) -> None:
    out = sender(3, 9)
    out.start(*told, 0.0)
    store(out, 9)
    out.synced(9)
    assert out.wants() == (2, 9, 64 * KIB)
    out.loaded(2, 9, rows(*range(3, 10)))
    assert fly(out) == list(range(3, 10))
    assert out.may_repeat == 6


def test_a_peer_that_has_more_than_there_is_is_told_to_forget_it() -> None:
    out = sender(3, 9)
    out.start("s1", 12, 0.0)
    out.loaded(2, 8, rows(*range(3, 9)))
    assert fly(out)[0] == 0
    assert out.may_repeat == 6


def test_what_is_too_old_is_dropped_and_released() -> None:
    out = sender(max_age_s=5.0)
    out.start(*UNKNOWN, 0.0)
    store(out, 1, 2)
    out.synced(2)
    out.expire(6.0)
    assert out.dropped == {"expired": 2}
    assert out.released == 2


def test_what_is_too_large_for_the_peer_is_dropped_when_it_is_read_back() -> None:
    out = sender(1, 3)
    out.agreed(64 * KIB, 100)
    out.start(*UNKNOWN, 0.0)
    out.loaded(0, 2, rows(1, size=1 << 20) + rows(2))
    assert fly(out) == [2]
    assert out.dropped == {"too_large": 1}


# --- receiver --------------------------------------------------------------------------------------------------------


def hand_on(inbound: SpooledInbound) -> Run:
    run = inbound.runs[0]
    inbound.done(run)
    return run


def test_it_knows_what_came_completely() -> None:
    inbound = receiver()
    assert inbound.known == UNKNOWN
    take(inbound, 1, 4)
    take(inbound, 2, 7, more=True)
    assert inbound.known == ("s1", 4)
    take(inbound, 3, 7)
    assert inbound.known == ("s1", 7)


def test_after_a_restart_complete_units_are_still_handed_on_and_an_incomplete_one_comes_again() -> None:
    inbound = receiver()
    take(inbound, 1, 4)
    take(inbound, 2, 5, b"half", more=True)
    inbound.restart(keep=True)
    assert inbound.known == ("s1", 4)
    take(inbound, 1, 4, b"")
    take(inbound, 2, 5, b"whole")
    assert [b"".join(map(bytes, hand_on(inbound).segments)) for _ in range(3)] == [b"x", b"", b"whole"]
    assert not inbound.repeats


def test_a_unit_that_it_has_is_taken_as_an_empty_batch() -> None:
    inbound = receiver()
    take(inbound, 1, 4)
    inbound.restart(keep=True)
    take(inbound, 1, 3, more=True)
    take(inbound, 2, 3)
    take(inbound, 3, 4)
    take(inbound, 4, 5)
    assert [len(hand_on(inbound).segments) for _ in range(4)] == [1, 0, 0, 1]
    assert inbound.delivered == 4
    assert inbound.known == ("s1", 5)


def test_it_tells_no_more_than_a_restart_would_leave() -> None:
    inbound = receiver()
    for session in range(4):
        for seq in range(1, 4):
            take(inbound, seq, session * 3 + seq, b"x" * 500 * KIB)
        told = inbound.known[1]
        inbound.restart(keep=True)
        assert inbound.known[1] == told == inbound.unit
    assert not inbound.dropped


def test_another_spool_begins_from_nothing() -> None:
    inbound = receiver()
    take(inbound, 1, 4)
    inbound.restart(keep=True)
    inbound.meet("s2")
    assert inbound.known == UNKNOWN
    take(inbound, 1, 1)
    hand_on(inbound)
    assert inbound.known == ("s2", 1)


def test_told_to_forget_it_takes_lower_units_again() -> None:
    inbound = receiver()
    take(inbound, 1, 4)
    inbound.restart(keep=True)
    take(inbound, 1, 0, b"")
    take(inbound, 2, 2)
    assert [len(hand_on(inbound).segments) for _ in range(3)] == [1, 0, 1]
    assert inbound.known == ("s1", 2)


@pytest.mark.parametrize(("seq", "unit", "body"), [(2, 0, b""), (2, 0, b"x"), (2, 6, b"x"), (2, 1 << 63, b"x")])
def test_units_that_cannot_be_are_a_breach(seq: int, unit: int, body: bytes) -> None:
    inbound = receiver()
    take(inbound, 1, 5, more=True)
    with pytest.raises(RemoteProtocolError) as breach:
        take(inbound, seq, unit, body)
    assert breach.value.code == "sequence"


# --- both ------------------------------------------------------------------------------------------------------------


def spooled(name: str = "r", *, stored: Stored | None = None, sends: bool) -> Route:
    return route(name, sends=sends, takes=not sends, delivery="spooled", terms=TERMS, stored=stored)


@pytest.mark.parametrize("near", ["a", "z"])
def test_a_new_process_of_the_near_half_repeats_nothing(near: str) -> None:
    ends = Ends()
    source, target = (ends.a, ends.z) if near == "a" else (ends.z, ends.a)
    target.add(spooled(sends=False))
    out = add_sender(source, Stored("s1", 1, 1))
    ends.connect()
    store(out, 1, 2, 3)
    out.synced(3)
    source.wake(source.channels["r"])
    ends.talk()
    assert len(ends.hand_on(target)) == 3
    ends.cut()
    other = Ends(Peer("a", "z", b"n" * 16), ends.z) if near == "a" else Ends(ends.a, Peer("z", "a", b"n" * 16))
    other.now, other.base = ends.now, 100
    again = add_sender(other.a if near == "a" else other.z, Stored("s1", 2, 4))
    other.connect()
    other.talk()
    assert ends.hand_on(target) == [b""]
    other.now += 1.0
    other.talk()
    assert again.released == 3
    assert again.may_repeat == 0


def add_sender(peer: Peer, stored: Stored) -> SpooledOutbound:
    outbound = peer.add(spooled(stored=stored, sends=True)).outbound
    assert isinstance(outbound, SpooledOutbound)
    return outbound
