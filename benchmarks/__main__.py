"""Runs the scenarios, round by round and system by system, so that a slow minute of the machine hits all alike."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import bridges, mail_in, mail_out, report, scenarios, spool, streams, systems
from benchmarks.natives import BuildError
from benchmarks.process import MeasureError
from benchmarks.scenarios import Figures

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Suite:
    """Systems that do the same, and what is measured on them."""

    title: str
    scenarios: Sequence[Any]
    systems: Sequence[Any]
    titles: dict[str, str]
    targets: Sequence[report.Target]
    missing: str = ""
    """Why it cannot be measured here."""


def suites() -> list[Suite]:
    """All of them."""
    titles = {system.name: system.title for system in streams.SYSTEMS}
    bridged = {system.name: system.title for system in bridges.SYSTEMS}
    mailed = {system.name: system.title for system in mail_in.SYSTEMS}
    sent = {system.name: system.title for system in mail_out.SYSTEMS}
    return [
        Suite("messages", scenarios.ALL, systems.ALL, report.COMPARED, report.TARGETS),
        Suite("streams", streams.SCENARIOS, streams.SYSTEMS, titles, streams.TARGETS, streams.missing()),
        Suite("spool", spool.SCENARIOS, spool.SYSTEMS, {one.name: one.title for one in spool.SYSTEMS}, spool.TARGETS),
        Suite("bridges", bridges.SCENARIOS, bridges.SYSTEMS, bridged, bridges.TARGETS),
        Suite("mail in", mail_in.SCENARIOS, mail_in.SYSTEMS, mailed, mail_in.TARGETS),
        Suite("mail out", mail_out.SCENARIOS, mail_out.SYSTEMS, sent, mail_out.TARGETS),
    ]


def main() -> int:
    options = _parse()
    chosen = [suite for suite in (_chosen(suite, options) for suite in suites()) if suite.scenarios and suite.systems]
    if not chosen:
        print(f"bench: nothing to measure. {_known()}", file=sys.stderr)
        return 2
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    if busy > 0.5 * cores:
        print(f"bench: this machine is busy (load {busy:.1f} on {cores} cores); expect noise.", file=sys.stderr)
    everything: dict[str, dict[str, list[Figures]]] = {}
    failures: list[str] = []
    for suite in chosen:
        if suite.missing:
            failures.append(f"{suite.title}: not measured: {suite.missing}")
            continue
        try:
            rounds, failed = _measure(suite.scenarios, suite.systems, options.rounds, options.seconds)
        except BuildError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        print(report.tables(report.medians_of(rounds), suite.titles, suite.targets), end="\n\n")
        everything |= rounds
        failures += failed
    promised = [target for suite in chosen for target in suite.targets]
    told = {"rounds": options.rounds, "seconds": options.seconds}
    report.write_json(options.json, everything, report.medians_of(everything), promised, told)
    print(f"written to {options.json}")
    for failure in failures:
        print(f"bench: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _chosen(suite: Suite, options: argparse.Namespace) -> Suite:
    """What of it was asked for."""
    wanted = [s for s in suite.scenarios if not options.only or any(word in s.name for word in options.only)]
    against = [s for s in suite.systems if not options.systems or s.name in options.systems]
    return replace(suite, scenarios=wanted, systems=against)


def _known() -> str:
    return " ".join(
        f"The scenarios of {suite.title} are: {', '.join(s.name for s in suite.scenarios)}; "
        f"the systems: {', '.join(s.name for s in suite.systems)}."
        for suite in suites()
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds of one second: a look, not a measurement")
    parser.add_argument("--only", action="append", metavar="WORDS", help="scenarios whose name contains these words")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="of ztunnel, proxies, direct; stream, ssh -L, ...")
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
    chosen: Sequence[Any], against: Sequence[Any], rounds: int, seconds: float
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


def _progress(number: int, rounds: int, scenario: Any, system: Any, figures: Figures) -> None:
    shown = ", ".join(f"{report.TITLES[name][0]} {report.TITLES[name][1](value)}" for name, value in figures.items())
    print(f"round {number}/{rounds}  {scenario.name:<24} {system.name:<8} {shown}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
