"""A spool and a loop's thread in miniature, for tests: callbacks wait in a queue until the test asks for something."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunnel.limits import MIB
from tunnel.spool import Row, Spool


class Owner:
    """Owns one Spool; `soon` puts callbacks into `calls`, which only run in `turn`, in the test's thread."""

    def __init__(self, path: Path, max_bytes: int = 1024 * MIB, expire_s: float | None = None) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.expire_s = expire_s
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.durable_told: list[int] = []
        self.rooms = 0
        self.spool = self._open()

    def _open(self) -> Spool:
        return Spool(
            self.path,
            self.calls.put,
            max_bytes=self.max_bytes,
            expire_s=self.expire_s,
            on_durable=self.durable_told.append,
            on_room=self._room,
        )

    def _room(self) -> None:
        assert self.spool.has_room
        self.rooms += 1

    def reopen(self) -> None:
        self.spool.close()
        self.spool = self._open()

    def close(self) -> None:
        self.spool.close()

    def put(self, body: bytes, messages: int = 1, born: float | None = None, meta: bytes = b"") -> int:
        return self.spool.put([body], messages, time.time() if born is None else born, meta)

    def turn(self, timeout_s: float = 0.01) -> None:
        """Runs what waits, after waiting so long for the first."""
        try:
            self.calls.get(timeout=timeout_s)()
            while True:
                self.calls.get_nowait()()
        except queue.Empty:
            return

    def until(self, condition: Callable[[], object], what: str = "", within_s: float = 20.0) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            self.turn()
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {within_s:g} s: {what} {self.spool!r} {self.spool.status()}")

    def until_durable(self, number: int, within_s: float = 20.0) -> None:
        self.until(lambda: self.spool.durable >= number, f"row {number} durable", within_s)

    def answer(self, ask: Callable[[Callable[[Any], None]], None], within_s: float = 20.0) -> Any:
        """The answer to a question: `owner.answer(lambda then: owner.spool.show(1, then))`."""
        answers: list[Any] = []
        ask(answers.append)
        self.until(lambda: answers, "an answer", within_s)
        return answers[0]

    def read(self, after: int = 0, most_bytes: int = 256 * MIB) -> list[Row]:
        rows: list[Row] = self.answer(lambda then: self.spool.read(after, most_bytes, then))
        return rows

    def read_all(self) -> list[Row]:
        rows: list[Row] = []
        while found := self.read(rows[-1].number if rows else 0):
            rows += found
        return rows

    def flush(self) -> object:
        return self.answer(self.spool.flush)
