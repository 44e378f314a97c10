"""When a PAIR must be made anew: the pure rules."""

from __future__ import annotations

from tunnel.local.pair import PairPeers, Verdict


def test_the_first_peer_is_attached() -> None:
    pair = PairPeers()
    assert pair.judge(readable=False, writable=False) is Verdict.KEEP
    pair.up(1)
    assert pair.judge(readable=False, writable=True) is Verdict.KEEP
    assert pair.attached == 1


def test_a_second_peer_waits_and_the_first_is_not_disturbed() -> None:
    pair = PairPeers()
    pair.up(1)
    pair.judge(readable=False, writable=True)
    pair.up(2)
    assert pair.judge(readable=False, writable=False) is Verdict.KEEP  # 1 does not read: full, not orphaned
    assert (pair.attached, pair.orphans) == (1, 1)


def test_when_the_first_goes_the_orphan_needs_a_new_socket() -> None:
    pair = PairPeers()
    pair.up(1)
    pair.judge(readable=False, writable=True)
    pair.up(2)
    pair.down(1)
    assert pair.judge(readable=True, writable=False) is Verdict.LATER
    assert pair.judge(readable=False, writable=False) is Verdict.REOPEN


def test_an_orphan_that_goes_is_forgotten() -> None:
    pair = PairPeers()
    pair.up(1)
    pair.judge(readable=False, writable=True)
    pair.up(2)
    pair.down(2)
    pair.down(1)
    assert pair.judge(readable=False, writable=False) is Verdict.KEEP


def test_a_peer_that_came_back_in_time_is_attached() -> None:
    pair = PairPeers()
    pair.up(1)
    pair.judge(readable=False, writable=True)
    pair.down(1)
    pair.up(2)
    assert pair.judge(readable=True, writable=True) is Verdict.KEEP
    assert pair.attached == 2
