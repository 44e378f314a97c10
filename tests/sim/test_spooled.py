"""Seeds of routes whose messages are on disk where they enter: cuts, restarts of either half, late syncs.

2,500 of them here, 10,000 with SIM=full. A failing seed says how to run it again alone. The controls take one
protection out each and must turn red, quickly.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.sim.ledger import Broken, SpooledStream
from tests.sim.scenario import replay
from tests.sim.spooled_protections import PROTECTIONS, Take

FULL = os.environ.get("SIM") == "full"
SEEDS = 10_000
"""Those beyond belong to the controls of what the simulation meets."""
PLAYED = SEEDS if FULL else 2_500
CHUNK = 250
CONTROL_SEEDS = 1000
FIRST = {"late_answers": 1000}
"""Where a control begins that few seeds need."""


@pytest.mark.parametrize("first", range(0, PLAYED, CHUNK))
def test_promises_hold(first: int) -> None:
    for seed in range(first, first + CHUNK):
        replay(seed, spooled=True)


def test_the_simulation_meets_what_it_is_for() -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS, SEEDS + 300):
        run = replay(seed, spooled=True)
        seen["resumes"] += sum(half.dialler.resumes for half in run.diallers)
        for stream in run.ledger.streams:
            if isinstance(stream, SpooledStream):
                seen["messages"] += len(stream.got)
                seen["not on disk in time"] += len(stream.forfeited)
                seen["repeated"] += stream.repeated
                seen["expired"] += stream.counted
                seen["near half's processes"] += len(stream.earlier)
                seen["near half restarted, far half not"] += len(stream.earlier) > 1 and not stream.disturbed
                seen["both restarted"] += len(stream.earlier) > 1 and stream.disturbed
        seen[f"class {run.kind}"] += 1
    for what in (
        *("resumes", "messages", "not on disk in time", "repeated", "expired", "near half's processes"),
        *("near half restarted, far half not", "both restarted"),
        *(f"class {kind}" for kind in ("cuts", "restarts", "reload", "goodbye", "lossy")),
    ):
        assert seen[what] > 0, (what, seen)


@pytest.mark.parametrize("take_out", PROTECTIONS, ids=lambda take: take.__name__)
def test_turns_red_without(take_out: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    take_out(monkeypatch)
    first = FIRST.get(take_out.__name__, 0)
    for seed in range(first, first + CONTROL_SEEDS):
        try:
            replay(seed, spooled=True)
        except Broken as fault:
            if not isinstance(fault.__cause__, Broken):
                raise  # the simulation itself fell over
            print(fault)
            return
    pytest.fail(f"{CONTROL_SEEDS} seeds stay green without {take_out.__name__}")
