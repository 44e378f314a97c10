"""Medians, ratios and targets: from the raw figures of every round to a table and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from benchmarks.scenarios import Figures

Medians = dict[str, dict[str, Figures]]
"""scenario → system → figure → median over the rounds."""

WINDOWS_MB = 2 * 2 * 4 * 1.048576
"""The windows of the stopped-consumer table: two routes, two directions, 4 MiB each."""


@dataclass(frozen=True)
class Target:
    """A promise: a figure of one system (`ours`), or its ratio to another's (`base`), and where it must lie."""

    scenario: str
    says: str
    figure: str
    ratio: bool
    must: float
    aim: float | None = None
    at_least: bool = False
    ours: str = "ztunnel"
    base: str = "proxies"

    def value(self, medians: Medians) -> float | None:
        """What was measured, or None when that scenario or system did not run."""
        systems = medians.get(self.scenario, {})
        ours = systems.get(self.ours, {}).get(self.figure)
        if ours is None or not self.ratio:
            return ours
        theirs = systems.get(self.base, {}).get(self.figure)
        return ours / theirs if theirs else None

    def met(self, value: float) -> str:
        def reaches(limit: float) -> bool:
            return value >= limit if self.at_least else value <= limit

        if not reaches(self.must):
            return "NOT MET"
        return "met" if self.aim is None or not reaches(self.aim) else "met, aim too"


def faster(size: str, must: float, aim: float) -> Target:
    """A throughput target against (a)."""
    return Target(f"throughput {size}", f"throughput {size}, ztunnel / (a)", "rate", True, must, aim, at_least=True)


def stopped(scenario: str, messages: str) -> tuple[Target, Target]:
    """What a stopped consumer may cost the others."""
    return (
        Target(scenario, f"another route's p99, consumer of {messages} stopped / undisturbed", "p99_ratio", False, 2.0),
        Target(scenario, f"a half's memory meanwhile, {messages}, MB", "memory_mb", False, WINDOWS_MB + 80),
    )


TARGETS: tuple[Target, ...] = (
    faster("64 B", 4.5, 7),
    faster("1 KiB", 1.8, 2.5),
    faster("64 KiB", 1.1, 1.4),
    faster("1 MiB", 0.9, 1.2),
    Target("round trip", "round trip p50, ztunnel / (a)", "p50_us", True, 1.25, 1.0),
    Target("idle", "idle with a request pending, CPU % of a half", "cpu_percent", False, 1.0),
    Target("idle", "a half with four routes, MB resident", "memory_mb", False, 80),
    *stopped("stopped consumer", "1 KiB messages"),
    *stopped("stopped consumer 64 KiB", "64 KiB messages"),
    *stopped("stopped consumer 1 MiB", "1 MiB messages"),
)

COMPARED = {"ztunnel": "ztunnel", "proxies": "(a) two zmq_proxy", "direct": "(b) direct"}
"""The systems that carry messages, as the report calls them."""
TITLES: dict[str, tuple[str, Callable[[float], str]]] = {
    "mb_s": ("MB/s", lambda value: f"{value:,.0f}"),
    "cpu_gb_s": ("CPU s per GB, between", lambda value: f"{value:.2f}"),
    "opened_s": ("connections opened a second", lambda value: f"{value:,.0f}"),
    "kb_each": ("KB resident each", lambda value: f"{value:.1f}"),
    "rate": ("messages/s", lambda value: f"{value:,.0f}"),
    "put_s": ("messages/s into disk", lambda value: f"{value:,.0f}"),
    "replay_s": ("messages/s replayed", lambda value: f"{value:,.0f}"),
    "p50_us": ("p50 µs", lambda value: f"{value:,.0f}"),
    "p99_us": ("p99 µs", lambda value: f"{value:,.0f}"),
    "calm_p99_us": ("p99 µs undisturbed", lambda value: f"{value:,.0f}"),
    "held_p99_us": ("p99 µs, consumer stopped", lambda value: f"{value:,.0f}"),
    "p99_ratio": ("p99, stopped / undisturbed", lambda value: f"{value:.2f}"),
    "cpu_s": ("CPU s per million, halves", lambda value: f"{value:.2f}"),
    "cpu_all_s": ("CPU s per million, whole path", lambda value: f"{value:.2f}"),
    "cpu_percent": ("CPU % of a half", lambda value: f"{value:.2f}"),
    "memory_mb": ("MB per half", lambda value: f"{value:.0f}"),
}


def medians_of(rounds: dict[str, dict[str, list[Figures]]]) -> Medians:
    """The median of every figure."""
    return {
        scenario: {
            system: {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
            for system, runs in systems.items()
            if runs
        }
        for scenario, systems in rounds.items()
    }


def _rows(medians: Medians, names: Sequence[str]) -> list[list[str]]:
    rows = []
    for scenario, systems in medians.items():
        for figure, (title, show) in TITLES.items():
            values = [systems.get(system, {}).get(figure) for system in names]
            if all(value is None for value in values):
                continue
            ours, *others = values
            ratios = [f"{ours / other:.2f}" if ours is not None and other else "" for other in others]
            rows.append([scenario, title, *("" if value is None else show(value) for value in values), *ratios])
    return rows


def _target_rows(medians: Medians, targets: Sequence[Target]) -> list[list[str]]:
    rows = []
    for target in targets:
        value = target.value(medians)
        if value is not None:
            sign = "≥" if target.at_least else "≤"
            aim = f"{target.aim:g}" if target.aim is not None else ""
            rows.append([target.says, f"{value:.2f}", f"{sign} {target.must:.4g}", aim, target.met(value)])
    return rows


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well as text and as markdown."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [header, *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def tables(medians: Medians, systems: Mapping[str, str] = COMPARED, targets: Sequence[Target] = TARGETS) -> str:
    """Both tables: every figure, and the targets. `systems`: name → title; the first is held against the others."""
    ours, *others = systems.values()
    ratios = [f"{ours}/{other.split()[0] if other.startswith('(') else other}" for other in others]
    measured = markdown(["scenario", "figure", ours, *others, *ratios], _rows(medians, list(systems)))
    return f"{measured}\n\n{markdown(['target', 'measured', 'must', 'aim', ''], _target_rows(medians, targets))}"


def write_json(
    path: Path,
    rounds: dict[str, dict[str, list[Figures]]],
    medians: Medians,
    promised: Sequence[Target],
    options: dict[str, Any],
) -> None:
    """Everything measured, with the machine it was measured on."""
    targets = [
        {"target": target.says, "value": value, "must": target.must, "aim": target.aim, "result": target.met(value)}
        for target in promised
        if (value := target.value(medians)) is not None
    ]
    content = {
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "libzmq": zmq.zmq_version(),
            "pyzmq": zmq.pyzmq_version(),
        },
        "options": options,
        "targets": targets,
        "medians": medians,
        "rounds": rounds,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
