"""The memory carrier's faults: what each end is told, and what no longer arrives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.carriers.ends import Ends, run_within, until
from tunnel.carriers import Lane
from tunnel.carriers.memory import Ends as Told
from tunnel.carriers.memory import MemoryCarrier


def over_memory(body: Callable[[Ends, MemoryCarrier], Awaitable[None]]) -> None:
    async def main() -> None:
        ends = Ends("memory", "")
        try:
            assert isinstance(ends.carrier, MemoryCarrier)
            ends.listen()
            await body(ends, ends.carrier)
        finally:
            ends.close()

    run_within(main())


@pytest.mark.parametrize(
    ("told", "dialler_knows", "listener_knows"),
    [("both", True, True), ("dialler", True, False), ("listener", False, True)],
)
def test_a_cut_tells_the_ends_that_are_named(told: Told, dialler_knows: bool, listener_knows: bool) -> None:
    async def body(ends: Ends, carrier: MemoryCarrier) -> None:
        dialled, spy, *conns = await ends.pair()
        ends.spy.received.clear()
        assert carrier.cut(told) == 2
        assert {lane for lane, _ in spy.losses} == (set(Lane) if dialler_knows else set())
        for lane in Lane:
            assert dialled.send(lane, [b"up"]) is not dialler_knows
            assert ends.listener is not None
            assert ends.listener.send(conns[lane], [b"down"]) is not listener_knows
        await asyncio.sleep(0.05)
        assert (spy.received, ends.spy.received) == ([], [])
        await ends.pair()

    over_memory(body)


def test_one_lane_is_cut_and_the_other_goes_on() -> None:
    async def body(ends: Ends, carrier: MemoryCarrier) -> None:
        dialled, spy, _, _ = await ends.pair()
        ends.spy.received.clear()
        assert carrier.cut("both", [Lane.DATA]) == 1
        assert [lane for lane, _ in spy.losses] == [Lane.DATA]
        assert dialled.send(Lane.CONTROL, [b"on"])
        await until(lambda: ends.spy.received)

    over_memory(body)


def test_dropping_tells_nobody() -> None:
    async def body(ends: Ends, carrier: MemoryCarrier) -> None:
        dialled, spy, control, _ = await ends.pair()
        ends.spy.received.clear()
        assert carrier.drop() == 2
        assert dialled.send(Lane.CONTROL, [b"up"])
        assert ends.listener is not None
        assert ends.listener.send(control, [b"down"])
        await asyncio.sleep(0.05)
        assert (spy.received, spy.losses, ends.spy.received) == ([], [], [])
        await ends.pair()

    over_memory(body)


def test_frames_under_way_at_a_cut_are_lost_and_come_late_from_nobody() -> None:
    async def body(ends: Ends, carrier: MemoryCarrier) -> None:
        dialled, spy, _, data = await ends.pair()
        ends.spy.received.clear()
        carrier.delay_s = 0.05
        dialled.send(Lane.DATA, [b"up"])
        assert ends.listener is not None
        ends.listener.send(data, [b"down"])
        carrier.cut()
        await asyncio.sleep(0.15)
        assert (spy.received, ends.spy.received) == ([], [])

    over_memory(body)


def test_delay_each_way_keeps_order() -> None:
    async def body(ends: Ends, carrier: MemoryCarrier) -> None:
        dialled, spy, _, _ = await ends.pair()
        ends.spy.echo = True
        carrier.delay_s = 0.05
        start = time.monotonic()
        for number in range(50):
            dialled.send(Lane.DATA, [b"%d" % number])
        await until(lambda: len(spy.received) == 50)
        assert time.monotonic() - start >= 0.098  # uvloop's timers count whole milliseconds, and may ring one early
        assert [int(parts[0]) for _, parts in spy.received] == list(range(50))

    over_memory(body)


def test_worlds_are_apart() -> None:
    async def body(ends: Ends, carrier: MemoryCarrier) -> None:
        other = Ends("memory", "")
        other.address = ends.address
        _, spy = other.dial()
        await until(lambda: spy.losses)
        assert "connection refused" in spy.losses[0][1]
        other.close()

    over_memory(body)
