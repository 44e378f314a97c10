"""Topics against the plainest thing that could be one: lists, and `startswith`."""

from __future__ import annotations

import random
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pump.conftest import implementations
from tunnel.pump import DENY


class Plain:
    """What Topics should be."""

    def __init__(self) -> None:
        self.subscribed: list[tuple[int, bytes]] = []

    def add(self, side: int, prefix: bytes) -> bool:
        self.subscribed.append((side, prefix))
        return self.subscribed.count((side, prefix)) == 1

    def remove(self, side: int, prefix: bytes) -> bool:
        if (side, prefix) not in self.subscribed:
            return False
        self.subscribed.remove((side, prefix))
        return (side, prefix) not in self.subscribed

    def clear(self, side: int) -> None:
        self.subscribed = [entry for entry in self.subscribed if entry[0] != side]

    def match(self, topic: bytes) -> int:
        sides = {side for side, prefix in self.subscribed if topic.startswith(prefix)}
        return 0 if DENY in sides else sum(1 << side for side in sides)


PREFIX = st.text("ab", max_size=6).map(str.encode)
SIDE = st.sampled_from([0, 1, 2, 62, DENY])
STEP = st.one_of(
    st.tuples(st.just("add"), SIDE, PREFIX),
    st.tuples(st.just("remove"), SIDE, PREFIX),
    st.tuples(st.just("clear"), SIDE),
    st.tuples(st.just("match"), PREFIX),
)


@pytest.mark.parametrize("pump", implementations(), ids=lambda module: module.__name__.rpartition(".")[2])
@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEP, max_size=60))
def test_any_history(pump: ModuleType, steps: list[tuple[object, ...]]) -> None:
    topics, plain = pump.Topics(), Plain()
    for name, *arguments in steps:
        assert getattr(topics, str(name))(*arguments) == getattr(plain, str(name))(*arguments), (name, arguments)
    for side in range(64):
        assert set(topics.prefixes(side)) == {prefix for owner, prefix in plain.subscribed if owner == side}


def test_counts(pump: ModuleType) -> None:
    topics = pump.Topics()
    assert topics.add(3, b"a") is True
    assert topics.add(3, b"a") is False
    assert topics.add(4, b"a") is True
    assert topics.match(b"abc") == 1 << 3 | 1 << 4
    assert topics.remove(3, b"a") is False
    assert topics.match(b"abc") == 1 << 3 | 1 << 4
    assert topics.remove(3, b"a") is True
    assert topics.match(b"abc") == 1 << 4
    assert topics.remove(3, b"a") is False
    assert topics.prefixes(4) == [b"a"]


def test_the_empty_prefix_is_everything_and_deny_wins(pump: ModuleType) -> None:
    topics = pump.Topics()
    assert topics.match(b"") == 0
    topics.add(0, b"")
    assert topics.match(b"") == topics.match(b"anything") == topics.match(pump.Chunk(b"x")) == 1
    topics.add(DENY, b"any")
    assert topics.match(b"anything") == 0
    assert topics.match(b"an") == 1
    topics.remove(DENY, b"any")
    assert topics.match(b"anything") == 1


@pytest.mark.parametrize("side", [-1, 64])
def test_no_such_side(pump: ModuleType, side: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.63"):
        pump.Topics().add(side, b"x")


def test_many_topics_and_very_long_ones(pump: ModuleType) -> None:
    topics, chosen = pump.Topics(), random.Random(7)
    prefixes = [b"/".join(b"%d" % chosen.randrange(30) for _ in range(chosen.randrange(1, 6))) for _ in range(20_000)]
    prefixes += [b"n" * length for length in range(1, 4097)]
    for number, prefix in enumerate(prefixes):
        topics.add(number % 2, prefix)
    known = [set(topics.prefixes(0)), set(topics.prefixes(1))]
    for topic in [*chosen.sample(prefixes, 500), b"3/4/5/6/7/8/9", b"n" * 10_000, b"\xff"]:
        starts = [topic[:length] for length in range(min(len(topic), 4096) + 1)]
        assert topics.match(topic) == sum(any(start in known[side] for start in starts) << side for side in (0, 1))
    topics.clear(0)
    topics.clear(1)
    assert topics.match(prefixes[0]) == 0
