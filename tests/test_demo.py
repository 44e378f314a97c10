"""`python -m demo` as `make demo` runs it: it carries messages on all four routes, and leaves no process behind."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from demo.apps.common import Tally
from demo.screen import link_line
from demo.table import prepare
from tests.waiting import until
from tunnel.places import runtime_root

ROOT = Path(__file__).resolve().parent.parent
ROUTES_S = 60.0
PATTERNS = {"reqrep", "pubsub", "pipeline", "pair"}


class Demo:
    """A running demo. Its processes are known by the name of its table, which holds its pid."""

    def __init__(self, folder: Path, seconds: float | None, stdout: int | None = None) -> None:
        self._said = folder / "said"
        environment = {**os.environ, "TMPDIR": str(folder), "TERM": "xterm", "COLUMNS": "120"}
        environment.pop("DEMO_SECONDS", None)
        if seconds is not None:
            environment["DEMO_SECONDS"] = str(seconds)
        with self._said.open("w") as said:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "demo"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said if stdout is None else stdout,
                stderr=subprocess.STDOUT if stdout is None else said,
            )

    def said(self) -> str:
        return self._said.read_text()

    def all_routes_carried(self) -> bool:
        """Whether the latest line shows messages on every route."""
        lines = [line for line in self.said().splitlines() if "link:" in line]
        counts = re.findall(r"(\w+) (\d+) \(\d+/s", lines[-1]) if lines else []
        return len(counts) == len(PATTERNS) and all(int(count) > 10 for _, count in counts)

    def wait_until_said(self, words: str) -> None:
        until(lambda: words in self.said() or self.child.poll() is not None, ROUTES_S, self.said)
        assert words in self.said(), self.said()

    def processes(self) -> list[str]:
        """Command lines of every process of this demo but the demo itself."""
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                stands_for = (folder / "environ").read_bytes() if folder.name.isdigit() else b""
                tied = f"demo-{self.child.pid}" in command or str(self._said.parent).encode() in stands_for
                if tied and folder.name != str(self.child.pid):
                    found.append(command)
        return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    started: list[Demo] = []

    def start_demo(seconds: float | None = None, stdout: int | None = None) -> Demo:
        started.append(Demo(tmp_path, seconds, stdout))
        return started[-1]

    yield start_demo
    for demo in started:
        if demo.child.poll() is None:
            demo.child.terminate()
            with suppress(subprocess.TimeoutExpired):
                demo.child.wait(40)
            demo.child.kill()
            demo.child.wait()
        for folder in runtime_root().glob(f"demo-{demo.child.pid}.*"):  # a killed demo leaves its logs
            shutil.rmtree(folder, ignore_errors=True)


def test_it_ends_by_itself_and_every_route_carried_messages(start: Callable[..., Demo]) -> None:
    demo = start(seconds=3)
    assert demo.child.wait(ROUTES_S) == 0, demo.said()
    closing = re.findall(r"^(\w+) .* ([\d,]+) messages(.*)$", demo.said(), re.MULTILINE)
    assert len(closing) == len(PATTERNS)
    assert all(int(count.replace(",", "")) > 0 and not missing for _, count, missing in closing), demo.said()
    assert "sees plant up" in demo.said()
    assert demo.processes() == []
    assert not list(runtime_root().glob(f"demo-{demo.child.pid}.*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_order_when_asked(start: Callable[..., Demo], number: signal.Signals) -> None:
    demo = start()
    demo.wait_until_said("Ready.")
    until(demo.all_routes_carried, 30, demo.said)
    demo.child.send_signal(number)
    assert demo.child.wait(ROUTES_S) == 0, demo.said()
    assert demo.processes() == []


def test_a_killed_demo_leaves_no_process_behind(start: Callable[..., Demo]) -> None:
    demo = start()
    demo.wait_until_said("Ready.")
    assert len(demo.processes()) > 8
    demo.child.kill()
    demo.child.wait()
    until(lambda: not demo.processes(), 30, demo.processes)


def test_in_a_terminal_it_draws_a_table(start: Callable[..., Demo]) -> None:
    ours, theirs = pty.openpty()
    demo = start(seconds=3, stdout=theirs)
    os.close(theirs)
    drawn = b""
    with suppress(OSError):  # EIO: the other end is closed
        while piece := os.read(ours, 65536):
            drawn += piece
    os.close(ours)
    assert demo.child.wait(ROUTES_S) == 0, demo.said()
    assert "applications" in drawn.decode()
    assert "─────" in drawn.decode()


def test_a_wrong_number_of_seconds_is_refused(tmp_path: Path) -> None:
    environment = {**os.environ, "DEMO_SECONDS": "soon"}
    command = [sys.executable, "-m", "demo"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)
    assert result.returncode == 2
    assert "DEMO_SECONDS=soon is not a number" in result.stderr


def test_its_table_has_all_four_patterns_and_ports_of_its_own(tmp_path: Path) -> None:
    first, second = prepare(tmp_path / "first"), prepare(tmp_path / "second")
    assert {route.pattern for route in first.routes} == PATTERNS
    ports = [set(re.findall(r"tcp://127\.0\.0\.1:(\d+)", demo.table.read_text())) for demo in (first, second)]
    assert len(ports[0]) >= len(PATTERNS)
    assert ports[0] != ports[1]
    assert [link.peer for link in first.plans["plant"].dials] == ["dmz"]
    assert not first.plans["dmz"].dials


def test_a_gap_in_the_numbers_is_missing_messages() -> None:
    tally = Tally(first=0)
    for number in (0, 1, 4, 5):
        tally.number(number)
    assert (tally.received, tally.missing) == (4, 2)


def test_who_joins_late_misses_nothing() -> None:
    tally = Tally()
    tally.number(1000, b"speed")
    tally.number(7, b"pressure")
    tally.number(1001, b"speed")
    assert (tally.received, tally.missing) == (3, 0)


def test_the_link_is_told_from_both_sides() -> None:
    statuses = {"dmz": {"links": [{"peer": "plant", "state": "up", "rtt_ms": 0.5}]}, "plant": {}}
    assert link_line(statuses) == "link: dmz sees plant up, 0.50 ms; plant sees ? no answer"
