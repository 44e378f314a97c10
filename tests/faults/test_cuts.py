"""Fifty cuts of the link under load on all four patterns: `confirmed` loses nothing, `live` counts what it loses.

The limits of redialling and of silence are shortened here, so that fifty cuts of every kind fit into a minute; the real
ones are tested in test_liveness.py, and here too with FAULTS=full.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from tests.faults.load import Load, four_routes
from tests.faults.rig import FULL, QUICK, Rig
from tests.journal import Requests, Verdict
from tests.relay import Relay
from tests.waiting import elapse, until
from tunnel.errors import NotRunningError

LIMITS = [] if FULL else [*QUICK, "PING_IDLE_S=0.5", "SILENCE_S=1.5"]
RESUMED_WITHIN_S = 90 if FULL else 15
TIMEOUT_S = 5400 if FULL else 600
CUTS = 50


def rst(relay: Relay) -> None:
    relay.cut("rst")


def fin(relay: Relay) -> None:
    relay.cut("fin")


def swallowed_then_cut(relay: Relay) -> None:
    """Frames vanish for a while before the connection breaks: much is under way."""
    relay.swallow()
    elapse(0.15)
    relay.cut("rst")
    relay.heal()


def deaf_then_cut(relay: Relay) -> None:
    """What the listener says vanishes for a while, acknowledgements too; what the dialler says arrives."""
    relay.swallow("to_client")
    elapse(0.15)
    relay.cut("fin")
    relay.heal()


def half_open_dialler(relay: Relay) -> None:
    """The dialler sees its end close; the listener hears nothing."""
    relay.half_open("client")


def half_open_listener(relay: Relay) -> None:
    """The listener sees its end close; the dialler hears nothing until it asks."""
    relay.half_open("target", how="fin")


def black_hole(relay: Relay) -> None:
    """Nothing passes, nothing closes, for longer than the silence that is borne."""
    relay.swallow()
    relay.heal()  # for those that come after; the present connections carry nothing again


def short_hole(relay: Relay) -> None:
    """Nothing passes for a moment, then everything does; cut just then, from the other side."""
    relay.black_hole()
    elapse(0.2)
    relay.heal()
    relay.cut("fin")


Cut = Callable[[Relay], None]
QUICK_ONES: tuple[Cut, ...] = (rst, fin, swallowed_then_cut, deaf_then_cut, half_open_dialler, short_hole)
SLOW_ONES: tuple[Cut, ...] = (half_open_listener, black_hole)
"""Noticed only by silence."""


SOME_CUTS: list[Cut] = [swallowed_then_cut, deaf_then_cut, rst] * 2
"""For the controls: each takes something with it."""


def plan_of_cuts(count: int) -> list[Cut]:
    """Every kind, mixed, the same each time; one in ten is of the slow kinds."""
    chance = random.Random(count)
    quick, slow = itertools.cycle(QUICK_ONES), itertools.cycle(SLOW_ONES)
    cuts = [next(slow) if index % 10 == 5 else next(quick) for index in range(count)]
    chance.shuffle(cuts)
    return cuts


def resumes(rig: Rig) -> int:
    try:
        return int(rig.plant.link()["resumes"])
    except NotRunningError:
        return -1


def resumed(rig: Rig, before: int, after: str) -> None:
    until(
        lambda: resumes(rig) > before,
        RESUMED_WITHIN_S,
        lambda: f"resumed after {after}: {rig.told()}",
    )


def cut_again_and_again(rig: Rig, cuts: list[Cut]) -> None:
    """Cuts, waits for the link to resume, lets the load flow a moment (sometimes hardly any), cuts again."""
    chance = random.Random(7)
    for number, cut in enumerate(cuts):
        before = resumes(rig)
        cut(rig.relay)
        resumed(rig, before, f"cut {number} ({cut.__name__})")
        elapse(chance.choice((0.0, 0.05, 0.2, 0.4)))


def run(rig: Rig, delivery: str, cuts: list[Cut], *, flow: bool = True, **how: list[str]) -> Load:
    """The load on all four routes, cut; finished when nothing moves any more."""
    rig.write_routes(four_routes(rig, delivery))
    rig.start(limits=LIMITS, **how)
    # a lost request of a live route is never answered: its client must ask anew some time
    load = Load(rig, timeout_s=120 if delivery == "confirmed" else 8)
    load.go()
    cut_again_and_again(rig, cuts)
    if flow:
        load.flows(20)
    load.finish()
    return load


@pytest.mark.timeout(TIMEOUT_S)
def test_fifty_cuts_lose_repeat_and_reorder_nothing(rig: Rig) -> None:
    assert len({cut.__name__ for cut in plan_of_cuts(CUTS)}) == len(QUICK_ONES) + len(SLOW_ONES)
    load = run(rig, "confirmed", plan_of_cuts(CUTS))
    load.assert_clean()
    assert rig.plant.link()["resumes"] >= CUTS
    assert rig.both_dropped().total() == 0, rig.both_dropped()


@pytest.mark.timeout(TIMEOUT_S)
def test_fifty_cuts_of_live_routes_lose_what_is_counted(rig: Rig) -> None:
    load = run(rig, "live", plan_of_cuts(CUTS), flow=False)
    lost, counted = account(rig, load)
    assert counted == lost, f"\n{told(load)}\n{rig.dmz.dropped()} {rig.plant.dropped()}"
    assert sum(lost.values()) > 0, "the cuts cost nothing: the test shows nothing"


@pytest.mark.parametrize(
    ("without", "fault"),
    [
        pytest.param(["replay"], 0, id="replay: lost"),
        pytest.param(["resume_point", "sequence"], 1, id="sequence check and resume point: repeated"),
    ],
)
def test_the_same_cuts_lose_or_repeat_without_the_protection(rig: Rig, without: list[str], fault: int) -> None:
    load = run(rig, "confirmed", SOME_CUTS, flow=False, without=without)
    faults = [verdict.faults[fault] for verdict in load.messages().values()]
    assert sum(faults) > 0, f"the control shows nothing:\n{told(load)}"


def test_the_sequence_check_alone_makes_a_wrong_resume_point_harmless(rig: Rig) -> None:
    load = run(rig, "confirmed", SOME_CUTS, without=["resume_point"])
    load.assert_clean()


def test_live_losses_are_not_told_when_the_counting_is_out(rig: Rig) -> None:
    load = run(rig, "live", SOME_CUTS, flow=False, without=["counting"])
    lost, counted = account(rig, load)
    assert sum(lost.values()) > sum(counted.values()), f"the control shows nothing:\n{told(load)}"


def account(rig: Rig, load: Load) -> tuple[dict[str, int], dict[str, int]]:
    """(lost, counted) per route. Nothing may be repeated, reordered or mistaken on a live route either."""
    messages, requests = load.messages(), [load.requests(load.clients), load.requests(load.crowd)]
    assert all(verdict.faults[1:] == (0, 0, 0) for verdict in (*messages.values(), *requests)), told(load)
    lost = {
        "orders": sum(len(verdict.unanswered) for verdict in requests),
        "ticks": len(messages["ticks"].lost),
        "weights": len(messages["weights"].lost),
        "chat": len(messages["chat outwards"].lost) + len(messages["chat inwards"].lost),
    }
    return lost, {route: rig.both_dropped(route).total() for route in lost}


def told(load: Load) -> str:
    account: dict[str, Verdict | Requests] = load.account()
    return "\n".join(f"{name}: {verdict}" for name, verdict in account.items())
