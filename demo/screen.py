"""What the demo shows: a live table in a terminal, a line a second elsewhere. Knows counts, starts nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from demo.processes import App
from demo.table import Demo, Route

SOCKETS = {"reqrep": ("REQ", "REP"), "pubsub": ("PUB", "SUB"), "pipeline": ("PUSH", "PULL"), "pair": ("PAIR", "PAIR")}


@dataclass
class RouteApps:
    """A route with the applications at its two ends."""

    route: Route
    at_from: list[App] = field(default_factory=list)
    at_to: list[App] = field(default_factory=list)
    _before: tuple[float, int] = (0.0, 0)

    @property
    def title(self) -> str:
        first, second = SOCKETS[self.route.pattern]
        sides = self.route.sides
        arrow = "⇄" if self.route.pattern in ("reqrep", "pair") else "→"
        return f"{first} at {sides['from']} {arrow} {second} at {sides['to']}"

    @property
    def crossed(self) -> int:
        """Messages that arrived at an application from the other side, both ways taken together."""
        return sum(app.count("received") for app in self.at_from + self.at_to)

    @property
    def carried(self) -> bool:
        """Whether messages arrived wherever this pattern brings them."""
        there = all(app.count("received") for app in self.at_to)
        if self.route.pattern in ("reqrep", "pair"):
            return there and all(app.count("received") for app in self.at_from)
        return there

    @property
    def missing(self) -> int:
        return sum(app.count("missing") for app in self.at_from + self.at_to)

    @property
    def round_trip(self) -> str:
        times = [app.said["round_trip_ms"] for app in self.at_from if "round_trip_ms" in app.said]
        return f"{min(times):.2f} ms" if times else ""

    def per_second(self) -> float:
        """Messages a second since this was last asked."""
        now, crossed = time.monotonic(), self.crossed
        (then, before), self._before = self._before, (now, crossed)
        return (crossed - before) / (now - then) if then else 0.0


def link_line(statuses: dict[str, dict[str, Any]]) -> str:
    """Both halves' view of the link, in words."""
    views = []
    for side, status in statuses.items():
        for link in status.get("links", [{"peer": "?", "state": "no answer"}]):
            rtt = f", {link['rtt_ms']:.2f} ms" if link.get("rtt_ms") is not None else ""
            views.append(f"{side} sees {link['peer']} {link['state']}{rtt}")
    return "link: " + "; ".join(views)


class Screen:
    """Shows the demo as it goes. Use as a context manager; `show` once a second."""

    def __init__(self, demo: Demo, routes: list[RouteApps], console: Console | None = None) -> None:
        self._console = console or Console()
        self._demo, self._routes = demo, routes
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._start = time.monotonic()

    def __enter__(self) -> Screen:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live:
            self._live.__exit__(*error)

    def show(self, statuses: dict[str, dict[str, Any]]) -> None:
        rates = {route.route.name: route.per_second() for route in self._routes}
        if self._live:
            self._live.update(self._table(statuses, rates), refresh=True)
        else:
            self._print_lines(statuses, rates)

    def _table(self, statuses: dict[str, dict[str, Any]], rates: dict[str, float]) -> Table:
        seconds = time.monotonic() - self._start
        table = Table(title=f"{self._demo.name}, {seconds:.0f} s", caption=link_line(statuses), box=SIMPLE_HEAD)
        for column in ("route", "applications"):
            table.add_column(column, no_wrap=True)
        for column in ("messages", "per s", "missing", "round trip"):
            table.add_column(column, justify="right", no_wrap=True)
        for route in self._routes:
            name = route.route.name
            counts = (f"{route.crossed:,}", f"{rates[name]:,.0f}", str(route.missing), route.round_trip)
            table.add_row(name, route.title, *counts)
        return table

    def _print_lines(self, statuses: dict[str, dict[str, Any]], rates: dict[str, float]) -> None:
        seconds = time.monotonic() - self._start
        counts = []
        for route in self._routes:
            name, round_trip = route.route.name, route.round_trip
            timing = f", {round_trip}" if round_trip else ""
            counts.append(f"{name} {route.crossed} ({rates[name]:.0f}/s{timing})")
        print(f"{seconds:4.0f} s  {'  '.join(counts)}  {link_line(statuses)}", flush=True)
