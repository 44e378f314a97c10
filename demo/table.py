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
_PORT_VARIABLE = re.compile(r"\$\{(\w+):-\d+\}")
"""`${DEMO_LINK_PORT:-9440}`: set it to have that port, otherwise a free one is taken."""
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
    text = _PORT_VARIABLE.sub(_port_chooser(), SOURCE.read_text())
    table.write_text(_NAME.sub(f"name: {name}", text))
    loaded = load_table(table)
    plans = {side: plan_for(loaded, side) for side in SIDES}
    return Demo(name, table, plans, _routes(plans))


def _port_chooser() -> Callable[[re.Match[str]], str]:
    """Each port variable becomes what the environment says, or one free port, the same wherever it stands."""
    chosen: dict[str, str] = {}

    def choose(match: re.Match[str]) -> str:
        name = match[1]
        if name not in chosen:
            free = next(str(port) for port in free_ports(20) if str(port) not in chosen.values())
            chosen[name] = os.environ.get(name, free)
        return chosen[name]

    return choose


def _routes(plans: dict[str, Plan]) -> tuple[Route, ...]:
    found: dict[str, Route] = {}
    for side, plan in plans.items():
        for route in plan.routes:
            both = found.setdefault(route.name, Route(route.name, route.pattern, {}, {}))
            both.ends[route.where] = route
            both.sides[route.where] = side
    return tuple(found.values())
