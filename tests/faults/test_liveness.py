"""A dead link is noticed in time, a living one is never given up: with the real limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.faults.load import Load, four_routes
from tests.faults.rig import Rig
from tests.waiting import elapse, until
from tunnel.limits import SILENCE_S

NOTICED_S = SILENCE_S + 1
BACK_S = 3.0
SATURATED_S = 60.0


def start(rig: Rig, **how: list[str]) -> Load:
    rig.write_routes(four_routes(rig))
    rig.start(**how)
    load = Load(rig)
    load.go()
    return load


def noticed(rig: Rig, within_s: float) -> dict[str, float]:
    """Seconds until each half said that the link is not up any more."""
    began = time.monotonic()
    seen: dict[str, float] = {}

    def both() -> bool:
        for side, half in rig.halves.items():
            if side not in seen and not half.link_is("up"):
                seen[side] = time.monotonic() - began
        return len(seen) == len(rig.halves)

    until(both, within_s, lambda: f"both halves notice; did: {seen}")
    return seen


DIRECTIONS = ("both", "to_target", "to_client")


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[dict[str, Rig]]:
    """A rig for each direction that may be swallowed."""
    with ExitStack() as stack:
        made = {}
        for direction in DIRECTIONS:
            (tmp_path / direction).mkdir()
            made[direction] = stack.enter_context(closing(Rig(tmp_path / direction)))
        yield made


@pytest.mark.serial
def test_a_black_hole_is_noticed_by_both_and_over_soon_after_it_lifts(rigs: dict[str, Rig]) -> None:
    """Also when it swallows one direction only. What was under way crosses in the end, each message once.

    All three at the same time: they mostly wait.
    """
    loads = {direction: start(rig) for direction, rig in rigs.items()}

    def swallow(direction: str) -> None:
        rig, load = rigs[direction], loads[direction]
        rig.relay.black_hole(direction)
        seen = noticed(rig, NOTICED_S + 4)
        assert max(seen.values()) <= NOTICED_S, (direction, seen)
        elapse(0.5)
        rig.relay.heal()
        rig.link_up(BACK_S)
        load.flows(10)
        load.finish()
        load.assert_clean()

    with ThreadPoolExecutor(len(rigs)) as pool:
        outcomes = {direction: pool.submit(swallow, direction).exception for direction in rigs}
    assert {direction: outcome() for direction, outcome in outcomes.items()} == dict.fromkeys(DIRECTIONS)


def test_a_short_outage_needs_no_redial(rig: Rig) -> None:
    load = start(rig)
    redials = rig.plant.link()["redials"]
    rig.relay.black_hole()
    elapse(SILENCE_S / 3)
    rig.relay.heal()
    load.flows(BACK_S)
    load.finish()
    load.assert_clean()
    assert rig.plant.link()["redials"] == redials


def test_a_black_hole_goes_unnoticed_without_silence_being_judged(rig: Rig) -> None:
    start(rig, limits=["SILENCE_S=1e6", "HEARTBEAT_TIMEOUT_S=1000"])
    rig.relay.swallow()
    with pytest.raises(AssertionError, match="both halves notice"):
        noticed(rig, NOTICED_S + 2)


def saturate(rig: Rig, **how: list[str]) -> None:
    """More tasks than the line carries, and a line whose every batch takes its time."""
    rig.write_routes(four_routes(rig))
    rig.start(**how)
    rig.relay.rate(400_000)
    push = rig.apps.start("push", f"connect {rig.ipc('weights')}", name="p", rate=2000, size=16_384, started=True)
    pull = rig.apps.start("pull", f"connect {rig.ipc('workers')}")
    until(lambda: pull.received() > 20, 20, "tasks cross")
    sent = push.sent()
    elapse(1)
    assert push.sent() - sent < 1000, "the line is not saturated"


def links(rig: Rig) -> list[tuple[str, int]]:
    return [(half.link()["state"], half.link()["redials"]) for half in rig.halves.values()]


@pytest.mark.timeout(180)
def test_a_saturated_link_is_never_declared_dead(rig: Rig) -> None:
    saturate(rig)
    before = links(rig)
    assert {state for state, _ in before} == {"up"}
    began = time.monotonic()
    while time.monotonic() - began < SATURATED_S:
        assert links(rig) == before
        elapse(0.5)
    pull = rig.apps.all[-1]
    assert pull.received() * 16_384 > SATURATED_S * 400_000 / 3, "the line was not used"


def test_a_saturated_link_is_declared_dead_when_progress_is_not_looked_at(rig: Rig) -> None:
    saturate(rig, limits=["SILENCE_S=3"], without=["progress"])
    before = rig.plant.link()["redials"]
    until(lambda: rig.plant.link()["redials"] > before, 15, "given up")
