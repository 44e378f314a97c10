"""The readers of taps: leases, counts that add up, and no tap left behind."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from tests.test_tap import drained
from tunnel.errors import UsageError
from tunnel.limits import TAP_BATCH_MESSAGES, TAP_FRAME_MOST_BYTES, TAP_LEASE_S, TAP_POLL_MESSAGES, TAP_READERS
from tunnel.tap import Tap
from tunnel.taps import Taps


class Route:
    """A pattern, as far as taps know one."""

    tap: Tap | None = None

    def cross(self, messages: int) -> None:
        if self.tap is not None:
            self.tap.entered("plant", drained(*[[b"0123456789"]] * messages))


class World:
    """Two routes, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.routes = {"orders": Route(), "ticks": Route()}
        self.time = 1000.0
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self.taps = Taps(self.routes.get, self._call_later, lambda: self.time)

    def _call_later(self, delay_s: float, fn: Callable[[], object]) -> None:
        heapq.heappush(self._timers, (self.time + delay_s, next(self._order), fn))

    def pass_s(self, seconds: float) -> None:
        until = self.time + seconds
        while self._timers and self._timers[0][0] <= until:
            self.time, _, fn = heapq.heappop(self._timers)
            fn()
        self.time = until

    @property
    def timers(self) -> int:
        return len(self._timers)

    def start(self, route: str = "orders", frame_bytes: int = 32) -> str:
        return str(self.taps.start({"route": route, "bytes": frame_bytes})["reader"])

    def poll(self, reader: str) -> dict[str, Any]:
        return self.taps.poll({"reader": reader})


@pytest.fixture
def world() -> World:
    return World()


def test_a_route_without_readers_has_no_tap(world: World) -> None:
    assert world.routes["orders"].tap is None
    reader = world.start()
    assert world.routes["orders"].tap is not None
    assert world.routes["ticks"].tap is None
    world.taps.stop({"reader": reader})
    assert world.routes["orders"].tap is None


def test_a_reader_gets_what_crossed_since_it_asked_last(world: World) -> None:
    reader = world.start()
    assert world.poll(reader) == {"messages": [], "left_out": {"in": 0, "out": 0}, "more": False}
    world.routes["orders"].cross(2)
    answer = world.poll(reader)
    assert [message["frames"] for message in answer["messages"]] == [[[10, b"0123456789".hex()]]] * 2
    assert answer["messages"][0].keys() == {
        "time", "direction", "peer", "size", "frame_count", "frames", "whole", "certain"
    }  # fmt: skip
    assert world.poll(reader)["messages"] == []


def test_what_is_shown_and_what_is_left_out_add_up(world: World) -> None:
    reader = world.start()
    shown = left_out = crossed = 0
    for messages in (5, 100, 1, 400, 3, 17, 1000, 0, 2):
        for _ in range(4):
            world.routes["orders"].cross(messages)
            crossed += messages
        world.time += 0.3
        more = True
        while more:
            answer = world.poll(reader)
            assert len(answer["messages"]) <= TAP_POLL_MESSAGES
            assert min(answer["left_out"].values()) >= 0
            shown += len(answer["messages"])
            left_out += answer["left_out"]["in"]
            more = answer["more"]
    assert shown + left_out == crossed
    assert shown >= 9 * 4
    assert left_out > 0


def test_a_slow_reader_is_told_how_much_it_missed(world: World) -> None:
    reader, crossed = world.start(), 0
    for _ in range(600):  # 9,600 samples at a rate that the tap takes: far more than the ring holds
        world.routes["orders"].cross(TAP_BATCH_MESSAGES)
        crossed += TAP_BATCH_MESSAGES
        world.time += 0.1
    shown = left_out = 0
    more = True
    while more:
        answer = world.poll(reader)
        shown, left_out, more = shown + len(answer["messages"]), left_out + answer["left_out"]["in"], answer["more"]
    assert shown == 1000
    assert shown + left_out == crossed


def test_two_readers_each_see_everything_as_long_as_they_asked_for(world: World) -> None:
    short, long = world.start(frame_bytes=2), world.start(frame_bytes=8)
    world.routes["orders"].cross(1)
    assert world.poll(short)["messages"][0]["frames"] == [[10, b"01".hex()]]
    assert world.poll(long)["messages"][0]["frames"] == [[10, b"01234567".hex()]]
    world.taps.stop({"reader": long})
    world.routes["orders"].cross(1)
    assert world.poll(short)["messages"][0]["frames"] == [[10, b"01".hex()]]
    tap = world.routes["orders"].tap
    assert tap is not None
    assert tap.frame_bytes == 2, "no more is kept than somebody wants"


def test_a_late_reader_is_not_told_of_what_was_before(world: World) -> None:
    world.start()
    world.routes["orders"].cross(50)
    assert world.poll(world.start()) == {"messages": [], "left_out": {"in": 0, "out": 0}, "more": False}


def test_who_does_not_ask_is_forgotten_and_the_tap_comes_off(world: World) -> None:
    silent = world.start()
    world.pass_s(2 * TAP_LEASE_S)
    assert world.routes["orders"].tap is None
    assert world.poll(silent) == {"ended": True}
    world.pass_s(TAP_LEASE_S)
    assert world.timers == 0, "and nothing ticks on"


def test_who_asks_stays(world: World) -> None:
    asking, silent = world.start(), world.start()
    for _ in range(20):
        world.pass_s(TAP_LEASE_S / 2)
        assert "ended" not in world.poll(asking)
    assert world.poll(silent) == {"ended": True}


def test_a_route_that_was_changed_ends_the_reader(world: World) -> None:
    reader = world.start()
    world.routes["orders"] = Route()
    assert world.poll(reader) == {"ended": True}
    again = world.start()
    world.routes["orders"].cross(1)
    assert len(world.poll(again)["messages"]) == 1
    world.pass_s(2 * TAP_LEASE_S)  # the lease of the old one ends, too
    del world.routes["orders"]
    assert world.poll(again) == {"ended": True}


def test_so_many_readers_and_no_more(world: World) -> None:
    for _ in range(TAP_READERS):
        world.start()
    with pytest.raises(UsageError, match="taps are open at this side already"):
        world.start("ticks")
    world.pass_s(2 * TAP_LEASE_S)
    world.start("ticks")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "no route None"),
        ({"route": "nope"}, "no route nope"),
        ({"route": ["orders"]}, "no route"),
        ({"route": "orders", "bytes": -1}, f"0 to {TAP_FRAME_MOST_BYTES} bytes"),
        ({"route": "orders", "bytes": TAP_FRAME_MOST_BYTES + 1}, "bytes"),
        ({"route": "orders", "bytes": "32"}, "bytes"),
        ({"route": "orders", "bytes": True}, "bytes"),
    ],
)
def test_wrong_requests(world: World, request_: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        world.taps.start(request_)
    assert world.routes["orders"].tap is None


def test_strange_readers_are_told_that_they_have_ended(world: World) -> None:
    assert world.taps.poll({}) == {"ended": True}
    assert world.taps.poll({"reader": 5}) == {"ended": True}
    assert world.taps.stop({"reader": "nobody"}) == {}
