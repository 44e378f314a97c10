"""The demo's own copy of configs/demo.yaml: its own folder, fresh keys, free ports and a name of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demo.ports import free_ports
from tunnel.config import load_table, plan_for
from tunnel.config.plan import Plan, RoutePlan
from tunnel.keys import write_pair

SOURCE = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"
SIDES = ("dmz", "plant")
_PORT = re.compile(r"(?<=tcp://127\.0\.0\.1:)\d+")
_NAME = re.compile(r"^name:.*$", re.MULTILINE)


@dataclass(frozen=True)
class Route:
    """One route, seen from both ends."""

    name: str
    pattern: str
    ends: dict[str, RoutePlan]
    """`from` and `to`."""
    sides: dict[str, str]
    """`from` and `to`: the side there."""


@dataclass(frozen=True)
class Demo:
    """The table and what each side runs."""

    name: str
    table: Path
    plans: dict[str, Plan]
    routes: tuple[Route, ...]


def prepare(folder: Path) -> Demo:
    """Writes the keys and the table into `folder`, and reads the table back as ztunnel does. Raises TableError."""
    for side in SIDES:
        write_pair(folder / "keys", side)
    name = f"demo-{os.getpid()}"
    table = folder / f"{name}.yaml"
    text = _PORT.sub(_port_chooser(), SOURCE.read_text())
    table.write_text(_NAME.sub(f"name: {name}", text))
    loaded = load_table(table)
    plans = {side: plan_for(loaded, side) for side in SIDES}
    return Demo(name, table, plans, _routes(plans))


def _port_chooser() -> Callable[[re.Match[str]], str]:
    """Each port of the table becomes one free port, the same wherever it stands."""
    free = iter(free_ports(20))
    chosen: dict[str, str] = {}

    def choose(match: re.Match[str]) -> str:
        if match[0] not in chosen:
            chosen[match[0]] = str(next(free))
        return chosen[match[0]]

    return choose


def _routes(plans: dict[str, Plan]) -> tuple[Route, ...]:
    found: dict[str, Route] = {}
    for side, plan in plans.items():
        for route in plan.routes:
            both = found.setdefault(route.name, Route(route.name, route.pattern, {}, {}))
            both.ends[route.where] = route
            both.sides[route.where] = side
    return tuple(found.values())
