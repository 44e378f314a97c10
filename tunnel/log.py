"""Logging: one event a line, `time level part event key=value ...`, to stderr, where the supervisor picks it up.

    2026-03-01T12:00:00.123Z info  device link-up peer=plant rtt_ms=1.2

Repeats are thinned (the same event with the same values, within a few seconds), values are quoted so that nobody can
forge a line, secrets mask themselves (`tunnel.config.plan.Secret`), and a reader that stands still never blocks the
writer: a line that would have to wait is dropped and counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tunnel.limits import LOG_LINE_BYTES, LOG_REPEAT_S, LOG_REPEATS, LOG_REPEATS_KEPT

LEVELS: Final = ("debug", "info", "warn", "error")
_BARE: Final = re.compile(r"[\w.,:/@+*\[\]<>()~^%#&?!|;-]+\Z")
"""A value of these characters needs no quotes."""


class Log:
    """The log of one part. `with_part` gives another part's log on the same stream and with the same thinning.

    The lowest level shown comes from ZTUNNEL_LOG (debug, info, warn, error; info when unset).
    """

    def __init__(
        self,
        part: str,
        *,
        fd: int | None = None,
        level: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        _thinner: Thinner | None = None,
    ) -> None:
        self.part = part
        self._fd = fd
        wanted = level or os.environ.get("ZTUNNEL_LOG", "info")
        self._lowest = LEVELS.index(wanted) if wanted in LEVELS else LEVELS.index("info")
        self._clock = clock
        self._wall = wall
        self._thinner = _thinner or Thinner()

    def with_part(self, part: str) -> Log:
        return Log(
            part,
            fd=self._fd,
            level=LEVELS[self._lowest],
            clock=self._clock,
            wall=self._wall,
            _thinner=self._thinner,
        )

    def debug(self, event: str, **values: object) -> None:
        self._log("debug", event, values)

    def info(self, event: str, **values: object) -> None:
        self._log("info", event, values)

    def warn(self, event: str, **values: object) -> None:
        self._log("warn", event, values)

    warning = warn

    def error(self, event: str, **values: object) -> None:
        self._log("error", event, values)

    def _log(self, level: str, event: str, values: dict[str, object]) -> None:
        if LEVELS.index(level) < self._lowest:
            return
        tail = "".join(f" {key}={text(value)}" for key, value in values.items() if value is not None)
        body = f"{level:<5} {self.part} {event}{tail}"
        held_back = self._thinner.admit(body, self._clock())
        if held_back is None:
            return
        if held_back:
            body += f" repeated={held_back}"
        if self._thinner.lost:
            body += f" log_lines_lost={self._thinner.lost}"
        if self._write(f"{stamp(self._wall())} {body}"):
            self._thinner.lost = 0
        else:
            self._thinner.lost += 1

    def _write(self, line: str) -> bool:
        data = line.encode("utf-8", "backslashreplace")
        if len(data) > LOG_LINE_BYTES:
            data = data[: LOG_LINE_BYTES - 4] + b" ..."
        fd = self._fd if self._fd is not None else _stderr()
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        with contextlib.suppress(OSError):
            # A pipe that polls writable takes PIPE_BUF bytes (pipe(7)), and a line is shorter than that.
            if poller.poll(0):
                os.write(fd, data + b"\n")
                return True
        return False


@dataclass(slots=True)
class _Repeat:
    since: float
    shown: int
    held_back: int


class Thinner:
    """Lets the first few equal lines of a period pass, and counts the others."""

    def __init__(self) -> None:
        self.lost = 0
        self._seen: OrderedDict[str, _Repeat] = OrderedDict()

    def admit(self, body: str, now: float) -> int | None:
        """None: hold this line back. Else how many equal lines were held back before it."""
        seen = self._seen.get(body)
        if seen is None or now - seen.since >= LOG_REPEAT_S:
            self._seen[body] = _Repeat(now, 1, 0)
            self._seen.move_to_end(body)
            while len(self._seen) > LOG_REPEATS_KEPT:
                self._seen.popitem(last=False)
            return seen.held_back if seen else 0
        if seen.shown < LOG_REPEATS:
            seen.shown += 1
            return 0
        seen.held_back += 1
        return None


def text(value: object) -> str:
    """One value of a line: bare where that is unambiguous, else quoted as JSON does. Floats to 3 digits."""
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).hex()
    elif isinstance(value, list | tuple | set | frozenset):
        value = ",".join(map(str, value))
    word = str(value)  # Secret masks itself here
    return word if _BARE.match(word) else json.dumps(word, ensure_ascii=False)


def stamp(wall: float) -> str:
    """Wall clock in UTC, to the millisecond: what a person reads, and sorts by."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(wall * 1000) % 1000:03d}Z"


def _stderr() -> int:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # a test captures it
        return 2
