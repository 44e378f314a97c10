"""tunnel.log: the form of a line, thinning, masking, and that a reader that stands still blocks nobody."""

from __future__ import annotations

import fcntl
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tunnel.config.plan import KeyPair, Secret
from tunnel.limits import LOG_LINE_BYTES, LOG_REPEAT_S, LOG_REPEATS, LOG_REPEATS_KEPT
from tunnel.log import Log, stamp, text


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Pipe:
    read_end: int
    write_end: int

    def lines(self) -> list[str]:
        os.set_blocking(self.read_end, False)
        try:
            return os.read(self.read_end, 1 << 20).decode().splitlines()
        except BlockingIOError:
            return []


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = os.pipe()
    yield Pipe(*ends)
    for end in ends:
        os.close(end)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(pipe: Pipe, clock: Clock) -> Log:
    return Log("device", fd=pipe.write_end, level="info", clock=clock, wall=lambda: 1_767_225_600.25)


def test_a_line_has_time_level_part_event_and_values(log: Log, pipe: Pipe) -> None:
    log.info("link-up", peer="plant", rtt_ms=1.25, attempt=3, nothing=None)
    assert pipe.lines() == ["2026-01-01T00:00:00.250Z info  device link-up peer=plant rtt_ms=1.25 attempt=3"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ("tcp://[::1]:5555", "tcp://[::1]:5555"),
        ("a=b", '"a=b"'),
        ('say "x"', '"say \\"x\\""'),
        ("line\nforged event", '"line\\nforged event"'),
        ("\x1b[31mred", '"\\u001b[31mred"'),
        ("", '""'),
        ("größe", "größe"),
        (b"\x00\xff", "00ff"),
        (("a", "b"), "a,b"),
        (1.0, "1"),
        (0.1234567, "0.123"),
        (True, "True"),
        (Secret("hunter2"), '"****"'),
        (KeyPair("public", Secret("hunter2")), "KeyPair(public='public', secret='****')"),
    ],
)
def test_values_are_quoted_when_they_could_mislead(value: object, shown: str) -> None:
    got = text(value)
    assert got.strip('"') == shown.strip('"')
    assert "hunter2" not in got
    assert "\n" not in got


def test_a_lower_level_is_not_shown(log: Log, pipe: Pipe) -> None:
    log.debug("detail")
    log.error("trouble")
    assert [line.split()[1:] for line in pipe.lines()] == [["error", "device", "trouble"]]


def test_the_level_comes_from_the_environment(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTUNNEL_LOG", "debug")
    Log("device", fd=pipe.write_end).debug("detail")
    monkeypatch.setenv("ZTUNNEL_LOG", "nonsense")
    Log("device", fd=pipe.write_end).debug("hidden")
    assert [line.split()[-1] for line in pipe.lines()] == ["detail"]


def test_repeats_are_held_back_and_counted(log: Log, pipe: Pipe, clock: Clock) -> None:
    for _ in range(50):
        log.warn("refused", route="orders")
    assert len(pipe.lines()) == LOG_REPEATS
    log.warn("refused", route="ticks")
    assert len(pipe.lines()) == 1, "another value is another event"
    clock.now += LOG_REPEAT_S
    log.warn("refused", route="orders")
    (line,) = pipe.lines()
    assert line.endswith(f"route=orders repeated={50 - LOG_REPEATS}")


def test_what_is_remembered_of_repeats_is_bounded(log: Log) -> None:
    for number in range(LOG_REPEATS_KEPT + 100):
        log.with_part("x").info("event", number=number)
    assert len(log._thinner._seen) == LOG_REPEATS_KEPT


def test_another_part_shares_stream_and_thinning(log: Log, pipe: Pipe) -> None:
    log.with_part("link").info("up")
    assert pipe.lines()[0].split()[2:] == ["link", "up"]


def test_a_long_line_is_cut_and_stays_one_line(log: Log, pipe: Pipe) -> None:
    log.info("big", value="x" * 10_000)
    (line,) = pipe.lines()
    assert len(line) == LOG_LINE_BYTES
    assert line.endswith(" ...")


def test_a_full_pipe_never_blocks_and_the_loss_is_told(log: Log, pipe: Pipe) -> None:
    fcntl.fcntl(pipe.write_end, fcntl.F_SETPIPE_SZ, 4096)
    for number in range(100):
        log.info("flood", number=number, filler="x" * 200)  # would block for ever on the 4 KiB pipe
    shown = pipe.lines()
    assert 0 < len(shown) < 100
    log.info("after")
    (line,) = pipe.lines()
    lost = re.search(r"log_lines_lost=(\d+)", line)
    assert lost is not None
    assert int(lost[1]) == 100 - len(shown)


def test_a_closed_reader_is_no_error(clock: Clock) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    log = Log("device", fd=write_end, clock=clock)
    log.info("nobody-listens")
    os.close(write_end)
    log.info("not-even-a-stream")


def test_stderr_is_the_default(capfd: pytest.CaptureFixture[str]) -> None:
    Log("device", level="info").info("hello", who="world")
    sys.stderr.flush()
    assert capfd.readouterr().err.endswith(" info  device hello who=world\n")


@pytest.mark.parametrize(
    ("wall", "shown"), [(0.0, "1970-01-01T00:00:00.000Z"), (1e9 + 0.9999, "2001-09-09T01:46:40.999Z")]
)
def test_the_stamp_sorts_as_text(wall: float, shown: str, clock: Callable[[], float]) -> None:
    assert stamp(wall) == shown
