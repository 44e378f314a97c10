"""A pytest plugin: `--outcome FILE` writes what became of each test, one a line, for scripts/test.

Lines are `passed ID`, `failed ID` (in its set-up and clean-up too), `skipped ID`; and `cut-short WHY` where the run
does not speak for the suite: it ended early, a module was not collected, or a process died under a test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_WORD = {"passed": "passed", "failed": "failed", "error": "failed", "skipped": "skipped"}
_DIED = "???"  # pytest-xdist's `when` of the test that a process died under


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcome", metavar="FILE", help="write what became of each test to FILE")


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    path = config.getoption("--outcome")
    if path and not hasattr(config, "workerinput"):
        lines = dict.fromkeys(_lines(terminalreporter.stats, exitstatus, config))
        Path(path).write_text("".join(f"{line}\n" for line in lines))


def _lines(stats: dict[str, list[Any]], exitstatus: int, config: pytest.Config) -> Iterator[str]:
    for category, word in _WORD.items():
        for report in stats.get(category, []):
            yield f"{word} {report.nodeid}"
            if category in ("failed", "error") and getattr(report, "when", None) is None:
                yield f"cut-short {report.nodeid} was not collected"
            elif getattr(report, "when", None) == _DIED:
                yield f"cut-short a process died under {report.nodeid}"
    if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        yield f"cut-short exit status {int(exitstatus)}"
    if config.getoption("maxfail") and exitstatus != pytest.ExitCode.OK:
        yield "cut-short it was to end at the first failures"
