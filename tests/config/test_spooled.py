"""What a spooled route says of itself, and what its side plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.tables import BASE, load, with_keys
from tunnel.config import load_table
from tunnel.config.describe import route_sentence
from tunnel.config.plan import RoutePlan, SpoolPlan
from tunnel.config.planning import plan_for

TASKS = BASE + "  tasks:\n    pattern: pipeline\n    from: dmz bind local\n    to: plant bind local\n"


def planned(folder: Path, side: str, *lines: str) -> RoutePlan:
    text = TASKS + "".join(f"    {line}\n" for line in lines)
    return plan_for(load_table(with_keys(folder, text)), side).routes[-1]


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTUNNEL_STATE_DIR", "/state")


def test_its_files_and_bounds_are_planned_where_messages_enter(tmp_path: Path) -> None:
    near = planned(tmp_path, "dmz", "delivery: spooled", "spool: {max: 1GiB, expire: 2d}")
    assert near.spool == SpoolPlan(Path("/state/dmz.dmz/spool/tasks"), 1 << 30, 2 * 86400.0)
    assert near.spool.file("plant") == Path("/state/dmz.dmz/spool/tasks/plant.db")
    assert planned(tmp_path, "plant", "delivery: spooled").spool is None
    assert planned(tmp_path, "dmz").spool is None


def test_what_it_says_goes_before_defaults(tmp_path: Path) -> None:
    path = with_keys(
        tmp_path,
        TASKS.replace("routes:", "defaults:\n  spool: {max: 1GiB, expire: never}\n  overflow: drop-newest\n\nroutes:")
        + "    delivery: spooled\n    spool: {max: 64MiB}\n",
    )
    route = plan_for(load_table(path), "dmz").routes[-1]
    assert route.overflow == "block"
    assert route.spool is not None
    assert (route.spool.max_bytes, route.spool.expire_s) == (64 << 20, None)


def test_left_out_it_is_2gib_and_a_week(tmp_path: Path) -> None:
    table = load(tmp_path, TASKS + "    delivery: spooled\n")
    assert route_sentence(table, "tasks") == (
        "tasks: PUSH applications at dmz → PULL applications at plant, "
        "spooled (up to 2GiB, 7d), block, dialled by plant"
    )
