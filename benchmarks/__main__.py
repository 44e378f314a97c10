"""Runs the scenarios, round by round and system by system, so that a slow minute of the machine hits all alike."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report, scenarios, systems
from benchmarks.natives import BuildError
from benchmarks.process import MeasureError
from benchmarks.scenarios import Figures, Scenario
from benchmarks.systems import System

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> int:
    options = _parse()
    chosen = [
        scenario
        for scenario in scenarios.ALL
        if not options.only or any(word in scenario.name for word in options.only)
    ]
    against = [system for system in systems.ALL if not options.systems or system.name in options.systems]
    if not chosen or not against:
        names = ", ".join(scenario.name for scenario in scenarios.ALL)
        print(
            f"bench: nothing to measure. The scenarios are: {names}; the systems: ztunnel, proxies, direct.",
            file=sys.stderr,
        )
        return 2
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    if busy > 0.5 * cores:
        print(f"bench: this machine is busy (load {busy:.1f} on {cores} cores); expect noise.", file=sys.stderr)
    try:
        rounds, failures = _measure(chosen, against, options.rounds, options.seconds)
    except BuildError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    medians = report.medians_of(rounds)
    print(report.tables(medians))
    report.write_json(options.json, rounds, medians, {"rounds": options.rounds, "seconds": options.seconds})
    print(f"\nwritten to {options.json}")
    for failure in failures:
        print(f"bench: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds of one second: a look, not a measurement")
    parser.add_argument("--only", action="append", metavar="WORDS", help="scenarios whose name contains these words")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="of ztunnel, proxies, direct")
    parser.add_argument("--rounds", type=int, help="measurements of each, of which the median counts (5)")
    parser.add_argument("--seconds", type=float, help="length of one measurement (2)")
    parser.add_argument(
        "--json", type=Path, help="where the figures are written (results/latest.json, or partial.json)"
    )
    options = parser.parse_args()
    partial = options.quick or options.only or options.systems
    options.json = options.json or RESULTS / ("partial.json" if partial else "latest.json")
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (1.0 if options.quick else 2.0)
    return options


def _measure(
    chosen: Sequence[Scenario], against: Sequence[System], rounds: int, seconds: float
) -> tuple[dict[str, dict[str, list[Figures]]], list[str]]:
    found: dict[str, dict[str, list[Figures]]] = {scenario.name: {} for scenario in chosen}
    failures = []
    with tempfile.TemporaryDirectory(prefix="ztunnel-bench-") as folder:
        for number in range(1, rounds + 1):
            for scenario in chosen:
                for system in against:
                    if not scenario.runs_on(system):
                        continue
                    try:
                        figures = scenario.run(system, Path(folder), seconds)
                    except MeasureError as error:
                        failures.append(f"{scenario.name}, {system.name}, round {number}: {error}")
                        continue
                    found[scenario.name].setdefault(system.name, []).append(figures)
                    _progress(number, rounds, scenario, system, figures)
    return found, failures


def _progress(number: int, rounds: int, scenario: Scenario, system: System, figures: Figures) -> None:
    shown = ", ".join(f"{report.TITLES[name][0]} {report.TITLES[name][1](value)}" for name, value in figures.items())
    print(f"round {number}/{rounds}  {scenario.name:<24} {system.name:<8} {shown}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
