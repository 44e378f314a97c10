"""What a reload touches: nothing that is the same in both plans."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.config.tables import BASE, with_keys
from tunnel.changes import between
from tunnel.config import read_plan
from tunnel.config.plan import Plan


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return read_plan(with_keys(tmp_path, BASE), "dmz")


def test_nothing_changes_between_a_plan_and_itself(plan: Plan) -> None:
    changes = between(plan, dataclasses.replace(plan))
    assert changes.told() == {"removed": [], "added": [], "links": False}
    assert changes.sides == set()


def test_a_route_that_differs_in_anything_is_removed_and_added(plan: Plan) -> None:
    route, *others = plan.routes
    changed = dataclasses.replace(route, window_bytes=route.window_bytes + 1)
    changes = between(plan, dataclasses.replace(plan, routes=(changed, *others)))
    assert changes.removed == (route,)
    assert changes.added == (changed,)
    assert changes.told() == {"removed": [route.name], "added": [route.name], "links": False}
    assert changes.sides == set(route.peers)


def test_sides_of_routes_that_come_and_go_are_met_again(plan: Plan) -> None:
    route = plan.routes[0]
    gone = dataclasses.replace(route, name="gone", peers=("old",))
    come = dataclasses.replace(route, name="come", peers=("new", "other"))
    changes = between(dataclasses.replace(plan, routes=(route, gone)), dataclasses.replace(plan, routes=(come, route)))
    assert changes.told() == {"removed": ["gone"], "added": ["come"], "links": False}
    assert changes.sides == {"old", "new", "other"}


@pytest.mark.parametrize("what", ["listens", "peer_keys"])
def test_links_are_made_anew_when_anything_about_them_differs(plan: Plan, what: str) -> None:
    assert getattr(plan, what)
    changes = between(plan, dataclasses.replace(plan, **{what: type(getattr(plan, what))()}))
    assert changes.told() == {"removed": [], "added": [], "links": True}
