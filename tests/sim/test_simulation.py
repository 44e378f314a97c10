"""10,000 seeds of the pure link: cuts, late frames, restarts, twins, reloads, carriers that lose batches.

A failing seed says how to run it again alone. The controls take one protection out each and must turn red, quickly.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.ledger import Broken
from tests.sim.protections import PROTECTIONS, Take
from tests.sim.scenario import replay

SEEDS = 10_000
CHUNK = 250
CONTROL_SEEDS = 500


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_promises_hold(first: int) -> None:
    for seed in range(first, first + CHUNK):
        replay(seed)


def test_every_seed_is_played() -> None:
    assert len(range(0, SEEDS, CHUNK)) * CHUNK == SEEDS


def test_the_simulation_meets_what_it_is_for() -> None:
    """That nothing is lost proves little where nothing happens."""
    seen: Counter[str] = Counter()
    for seed in range(SEEDS, SEEDS + 150):
        run = replay(seed)
        seen["messages"] += run.ledger.messages
        seen["fragmented"] += run.ledger.fragments
        seen["cut on a slow line"] += run.ledger.cut
        for half in run.diallers:
            seen["resumes"] += half.dialler.resumes
            seen["redials"] += half.dialler.redials
            seen["evictions"] += half.evictions
            seen["went ahead"] += half.aheads
        seen["late frames"] += run.listener.listener.counts["unbound"]
        seen["overtaken greetings"] += run.listener.listener.counts["refused_stale"]
        for stream in run.ledger.streams:
            seen["repeated"] += stream.repeated
            seen["died with their process"] += stream.lost if stream.dead else 0
            seen["expired beyond"] += stream.expired_there
            seen.update(stream.outbound.dropped)
        seen[f"class {run.kind}"] += 1
    for what in (
        *(
            "messages",
            "fragmented",
            "cut on a slow line",
            "resumes",
            "redials",
            "evictions",
            "late frames",
            "overtaken greetings",
            "went ahead",
        ),
        *("repeated", "died with their process", "expired beyond", "overflow", "expired", "link_cut", "peer_restart"),
        *(f"class {kind}" for kind in ("cuts", "restarts", "twins", "reload", "goodbye", "lossy")),
    ):
        assert seen[what] > 0, (what, seen)


def _fault_of(seed: int) -> Broken | None:
    try:
        replay(seed)
    except Broken as fault:
        return fault
    return None


@pytest.mark.parametrize("take_out", PROTECTIONS, ids=lambda take: take.__name__)
def test_turns_red_without(take_out: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    take_out(monkeypatch)
    for seed in range(CONTROL_SEEDS):
        fault = _fault_of(seed)
        if fault is not None:
            if not isinstance(fault.__cause__, Broken):
                raise fault  # the simulation itself fell over
            print(fault)
            return
    pytest.fail(f"{CONTROL_SEEDS} seeds stay green without {take_out.__name__}")
