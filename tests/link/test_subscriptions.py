"""Topic sets: they arrive whole, changes follow, and what was half told is not believed."""

from __future__ import annotations

import pytest

from tunnel.errors import RemoteProtocolError
from tunnel.limits import SUBSCRIPTIONS
from tunnel.link import subscriptions
from tunnel.link.subscriptions import Granted, Wanted
from tunnel.link.wire import Subscribe, decode_subscribe


def told(wanted: Wanted) -> list[Subscribe]:
    return [decode_subscribe(frame[0]) for frame in wanted.frames(1)]


def topics(*names: bytes) -> Wanted:
    """A set that the far half has taken."""
    wanted = Wanted()
    for name in names:
        wanted.change(add=True, topic=name)
    told(wanted)
    wanted.acknowledged = wanted.generation
    return wanted


def test_the_first_telling_is_the_whole_set() -> None:
    wanted = Wanted(standing=(b"s",))
    wanted.change(add=True, topic=b"a")
    (piece,) = told(wanted)
    assert (piece.first, piece.last, piece.generation) == (True, True, 1)
    assert sorted(piece.changes) == [(True, b"a"), (True, b"s")]
    assert not wanted.settled
    wanted.acknowledged = 1
    assert wanted.settled


def test_an_empty_set_is_told_too() -> None:
    (piece,) = told(Wanted())
    assert (piece.first, piece.last, piece.changes) == (True, True, [])


def test_then_changes_of_which_the_last_counts() -> None:
    wanted = topics(b"a")
    for add in (False, True, False):
        wanted.change(add=add, topic=b"a")
    wanted.change(add=True, topic=b"b")
    (piece,) = told(wanted)
    assert not piece.first
    assert sorted(piece.changes) == [(False, b"a"), (True, b"b")]
    assert told(wanted) == []


def test_changes_wait_until_the_last_ones_were_taken() -> None:
    wanted = topics()
    wanted.change(add=True, topic=b"a")
    assert len(told(wanted)) == 1
    for topic in (b"b", b"c"):
        wanted.change(add=True, topic=topic)
        assert told(wanted) == []
    wanted.acknowledged = wanted.generation
    (piece,) = told(wanted)
    assert sorted(piece.changes) == [(True, b"b"), (True, b"c")]


def test_a_link_that_opens_does_not_wait() -> None:
    wanted = topics()
    wanted.change(add=True, topic=b"a")
    told(wanted)
    wanted.restart()
    (piece,) = told(wanted)
    assert (piece.first, piece.changes) == (True, [(True, b"a")])


def test_standing_topics_stay() -> None:
    wanted = Wanted(standing=(b"s",))
    wanted.change(add=True, topic=b"a")
    wanted.change(add=False, topic=b"s")
    wanted.clear()
    assert wanted.topics == {b"s"}


def test_wanting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "SUBSCRIPTIONS", 2)
    wanted = Wanted()
    assert [wanted.change(add=True, topic=topic) for topic in (b"a", b"b", b"c")] == [True, True, False]
    assert wanted.topics == {b"a", b"b"}


# --- the publisher's half --------------------------------------------------------------------------------------------


def piece(*changes: tuple[bool, bytes], first: bool = False, last: bool = True) -> Subscribe:
    return Subscribe(1, 1, first, last, list(changes))


def test_a_set_replaces_the_one_before() -> None:
    granted = Granted("r")
    granted.take(piece((True, b"a"), (True, b"b"), first=True))
    changes = granted.take(piece((True, b"b"), (True, b"c"), first=True))
    assert sorted(changes) == [(False, b"a"), (True, b"c")]
    assert granted.topics == {b"b", b"c"}


def test_a_set_in_pieces_counts_only_when_it_is_whole() -> None:
    granted = Granted("r")
    granted.take(piece((True, b"a"), first=True))
    assert granted.take(piece((True, b"b"), first=True, last=False)) == []
    assert granted.topics == {b"a"}
    assert sorted(granted.take(piece((True, b"c")))) == [(False, b"a"), (True, b"b"), (True, b"c")]


def test_a_set_that_was_cut_off_is_forgotten_by_the_next() -> None:
    granted = Granted("r")
    granted.take(piece((True, b"a"), first=True, last=False))
    assert granted.take(piece((True, b"b"), first=True)) == [(True, b"b")]


def test_changes_are_told_once() -> None:
    granted = Granted("r")
    granted.take(piece(first=True))
    assert granted.take(piece((True, b"a"), (True, b"a"), (False, b"x"))) == [(True, b"a")]
    assert granted.take(piece((False, b"a"))) == [(False, b"a")]


@pytest.mark.parametrize("first", [True, False])
def test_granting_is_bounded(monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    monkeypatch.setattr(subscriptions, "SUBSCRIPTIONS", 2)
    granted = Granted("r")
    granted.take(piece(first=True))
    with pytest.raises(RemoteProtocolError, match="more than 2 topics"):
        granted.take(piece((True, b"a"), (True, b"b"), (True, b"c"), first=first))
    assert SUBSCRIPTIONS > 2
