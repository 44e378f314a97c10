"""The spool's own thread: takes everything that waits, puts it on disk in one transaction, answers questions, tells.

Between two commits orders pile up in a queue; a commit takes them all, so the busier it is the more rows share an
fsync. With nothing to do the thread sleeps in the queue without a timeout. It never gives up: an error closes the
database, and the same orders are tried again after a pause (0.2 to 5 s). Rows leave its memory when a commit has said
so, or when the file, opened again, shows that the commit which failed was written after all.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import queue
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from tunnel.errors import SpoolError
from tunnel.limits import (
    SPOOL_CALM_S,
    SPOOL_EXPIRE_LOOK_S,
    SPOOL_REMOVE_ROWS,
    SPOOL_REMOVE_S,
    SPOOL_RETRY_MAX_S,
    SPOOL_RETRY_MIN_S,
)
from tunnel.spool.file import SpoolFile, is_corrupt
from tunnel.spool.rows import Row, Totals, Waiting

State = Literal["ok", "full", "failing"]
NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Done:
    upto: int


@dataclass(frozen=True, slots=True)
class Finish:
    number: int


@dataclass(frozen=True, slots=True)
class Bury:
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Read:
    """Is answered however long the disk takes."""

    after: int
    most_bytes: int
    then: Callable[[list[Row]], None]


@dataclass(frozen=True, slots=True)
class Ask:
    """A question of an operator: answered once, by a SpoolError where the disk fails."""

    work: Callable[[SpoolFile], Any]
    then: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Flush:
    then: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Close:
    pass


Order = Waiting | Done | Finish | Bury | Read | Ask | Flush | Close


@dataclass(frozen=True, slots=True)
class Report:
    """What the loop thread learns after each piece of work. `answers` are called there."""

    totals: Totals
    durable: int
    written_bytes: int
    """Bytes that do not wait any more since the last report."""
    oldest: tuple[int, float] | None
    state: State
    reason: str
    commits: int
    checkpoints: int
    errors: int
    lengths: tuple[int, int]
    answers: tuple[Callable[[], None], ...] = ()


class _Trouble:
    """One kind of work that fails: why, and when it is tried again."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.again_at = 0.0
        self._pause_s = 0.0

    def happened(self, error: BaseException, now: float) -> None:
        self.error = error
        self._pause_s = min(max(2 * self._pause_s, SPOOL_RETRY_MIN_S), SPOOL_RETRY_MAX_S)
        self.again_at = now + self._pause_s

    def over(self) -> None:
        self.error, self.again_at, self._pause_s = None, 0.0, 0.0


class Worker:
    """Everything here but `orders` belongs to the thread that runs `run`. `tell` is called in that thread."""

    def __init__(
        self,
        file: SpoolFile,
        tell: Callable[[Report], None],
        *,
        max_bytes: int,
        expire_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._file = file
        self._tell = tell
        self._max_bytes = max_bytes
        self._expire_s = expire_s
        self._clock = clock
        self._wall = wall
        self._waiting: list[Waiting] = []
        self._done_upto = 0
        self._removed_upto = 0
        self._remove_at = NEVER
        self._finished: set[int] = set()
        self._buried: dict[int, str] = {}
        self._reads: deque[Read] = deque()
        self._asks: deque[Ask] = deque()
        self._flushes: list[Flush] = []
        self._writing, self._reading = _Trouble(), _Trouble()
        self._calm_at = NEVER
        self._expire_at = NEVER
        self._closing = False
        self._errors = 0
        self._written_bytes = 0
        self._answers: list[Callable[[], None]] = []
        self._oldest: tuple[int, float] | None = None
        self._told: Report | None = None
        self.busy_since = NEVER
        """Since when the thread is at the disk; read by others."""
        self._look_at_oldest()
        if file.wal_written:
            self._calm_at = 0.0

    # --- the thread ---

    def run(self) -> None:
        while not self._closing:
            self._collect()
            self.busy_since = self._clock()
            self._round()
            self.busy_since = NEVER
        self._file.close(tidy=self._writing.error is None)

    def _collect(self) -> None:
        """Waits for an order, or for the time at which something is due; then takes all that there are."""
        pause = self._next_at() - self._clock()
        with contextlib.suppress(queue.Empty):
            self._take(self.orders.get(timeout=None if pause == NEVER else max(pause, 0.0)))
            for _ in range(self.orders.qsize()):
                self._take(self.orders.get_nowait())

    def _next_at(self) -> float:
        """When there is something to do without an order; NEVER at rest."""
        wants = min(self._calm_at, self._remove_at, self._expire_at)
        if self._waiting or self._writing.error:
            wants = 0.0
        if wants < NEVER:
            wants = max(wants, self._writing.again_at)
        return min(wants, self._reading.again_at) if self._reads else wants

    def _take(self, order: Order) -> None:
        match order:
            case Waiting():
                self._waiting.append(order)
            case Done(upto):
                self._done_upto = max(self._done_upto, upto)
                self._plan_removal(self._done_upto - self._removed_upto)
            case Finish(number):
                self._finished.add(number)
                self._plan_removal(len(self._finished))
            case Bury(number, reason):
                self._buried[number] = reason
                self._plan_removal(len(self._buried))
            case Read():
                self._reads.append(order)
            case Ask():
                self._asks.append(order)
            case Flush():
                self._flushes.append(order)
                self._hurry()
            case Close():
                self._closing = True
                self._hurry()

    def _hurry(self) -> None:
        """No pauses now: try again at once, remove what is done."""
        self._writing.again_at = self._reading.again_at = 0.0
        if self._remove_at < NEVER:
            self._remove_at = 0.0

    def _plan_removal(self, rows: int) -> None:
        """At once where somebody may wait for the room, or where there is much to remove; else in a while."""
        now = self._clock()
        soon = rows >= SPOOL_REMOVE_ROWS or 2 * self._file.totals.bytes >= self._max_bytes
        self._remove_at = min(self._remove_at, now if soon else now + SPOOL_REMOVE_S)

    def _round(self) -> None:
        """One turn. Reading and writing fail apart: on a full disk what is there can still be read."""
        if self._reads and self._clock() >= self._reading.again_at:
            self._try(self._reading, self._answer_reads)
        if self._asks:
            self._answer_asks()
        if self._clock() >= self._writing.again_at:
            self._try(self._writing, self._write)
        for flush in self._flushes:
            self._answer(flush.then, self._complaint(self._writing.error) if self._writing.error else None)
        self._flushes.clear()
        self._tell_all()

    def _try(self, trouble: _Trouble, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # a bug, too, must neither end the thread nor lose what waits
            self._errors += 1
            if is_corrupt(error):
                self._file.suspect()
            self._file.abandon()
            trouble.happened(error.with_traceback(None), self._clock())
        else:
            trouble.over()

    # --- reading ---

    def _answer_reads(self) -> None:
        self._reopen()
        while self._reads:
            read = self._reads[0]
            after = max(read.after, self._done_upto)
            rows: list[Row] = []
            while not rows and (found := self._file.read(after, read.most_bytes)):
                after = found[-1].number  # when all of these are finished, their removal is on its way: look further
                rows = [row for row in found if row.number not in self._finished and row.number not in self._buried]
            self._answer(read.then, rows)
            self._reads.popleft()

    def _answer_asks(self) -> None:
        while self._asks:
            ask = self._asks.popleft()
            answer: Any
            try:
                self._reopen()
                answer = ask.work(self._file)
                self._look_at_oldest()
                self._calm_at = self._clock() + SPOOL_CALM_S if self._file.wal_written else self._calm_at
            except Exception as error:
                self._errors += 1
                self._file.abandon()
                answer = self._complaint(error)
            self._answer(ask.then, answer)

    def _answer(self, then: Callable[[Any], None], answer: Any) -> None:
        self._answers.append(lambda: then(answer))

    def _complaint(self, error: BaseException) -> SpoolError:
        return SpoolError(f"{self._file.path}: {sentence_of(error)}")

    # --- writing ---

    def _write(self) -> None:
        self._reopen()
        self._commit()
        while (self._waiting or self._removal_is_due()) and self.orders.empty():
            self._commit()
        if self._file.wal_written > self._file.wal_bytes:
            self._file.checkpoint(cut=False)
        if self._flushes or self._clock() >= self._calm_at:
            self._file.checkpoint(cut=True)
            self._calm_at = NEVER

    def _reopen(self) -> None:
        """After an error: opens the file again, and forgets what turns out to be on disk."""
        if self._file.reopen():
            self._written(sum(row.number < self._file.totals.next for row in self._waiting))
            self._look_at_oldest()

    def _commit(self) -> None:
        """Everything that waits goes into one transaction; what is not wanted any more rides along. Then tells."""
        rows = self._rows_with_room()
        if rows or self._removal_is_due():
            with self._file.transaction():
                if rows:
                    self._file.insert(rows)
                left = self._remove_some()
            self._finished.difference_update(left)
            for number in left:
                self._buried.pop(number, None)
            self._written(len(rows))
            self._look_at_oldest()
            self._calm_at = self._clock() + SPOOL_CALM_S
            self._tell_all()
        if self._waiting and not self._rows_with_room():
            raise OSError(errno.ENOSPC, "only the reserve is left of the file system")

    def _rows_with_room(self) -> list[Waiting]:
        wanted = sum(row.size for row in self._waiting)
        room = self._file.room(wanted) if wanted else 0
        if room >= wanted:
            return self._waiting[:]
        sums = itertools.accumulate(row.size for row in self._waiting)
        return self._waiting[: sum(1 for size in sums if size <= room)]

    def _written(self, rows: int) -> None:
        self._written_bytes += sum(row.size for row in self._waiting[:rows])
        del self._waiting[:rows]

    # --- what is not wanted any more ---

    def _removal_is_due(self) -> bool:
        return self._clock() >= self._remove_at or self._something_expired()

    def _something_expired(self) -> bool:
        if self._expire_s is None or self._oldest is None:
            return False
        return self._oldest[1] <= self._wall() - self._expire_s

    def _remove_some(self) -> list[int]:
        """In a transaction: a group of what is finished, buried and done. Gives the numbers of the first two.

        What is too old goes only when none of those is left, or they would be counted as expired.
        """
        on_disk = self._file.totals.next
        buried = list(itertools.islice((n for n in self._buried if n < on_disk), SPOOL_REMOVE_ROWS))
        finished = list(itertools.islice((n for n in self._finished if n < on_disk), SPOOL_REMOVE_ROWS))
        for number in buried:
            self._file.bury(number, self._buried[number])
        if finished:
            self._file.remove(finished)
        if self._done_upto > self._removed_upto:
            self._file.remove_upto(self._done_upto)
        oldest = self._file.oldest()
        more = len(self._finished) > len(finished) or len(self._buried) > len(buried)
        if self._expire_s is not None and not more and oldest is not None and oldest[0] > self._done_upto:
            self._file.expire(self._wall() - self._expire_s)
        return buried + finished

    def _look_at_oldest(self) -> None:
        """After every change of the file: what is oldest now, and when something is due again."""
        self._oldest = self._file.oldest()
        self._remove_at = NEVER
        if self._oldest is not None and self._oldest[0] <= self._done_upto:
            self._removed_upto = self._oldest[0] - 1
            self._plan_removal(SPOOL_REMOVE_ROWS)
        else:
            self._removed_upto = min(self._done_upto, self._file.totals.next - 1)
            if self._finished or self._buried:
                self._plan_removal(max(len(self._finished), len(self._buried)))
        self._plan_expiry()

    def _plan_expiry(self) -> None:
        """The clock on the wall may be set, so the pause has an end; looking costs no access to the disk."""
        self._expire_at = NEVER
        if self._expire_s is not None and self._oldest is not None:
            left = self._oldest[1] + self._expire_s - self._wall()
            self._expire_at = self._clock() + min(max(left, 0.001), SPOOL_EXPIRE_LOOK_S)

    # --- telling ---

    def report(self) -> Report:
        trouble = self._writing.error or self._reading.error
        return Report(
            totals=self._file.totals,
            durable=self._file.totals.next - 1,
            written_bytes=self._written_bytes,
            oldest=self._oldest,
            state="ok" if trouble is None else "full" if is_full(trouble) else "failing",
            reason="" if trouble is None else sentence_of(trouble),
            commits=self._file.commits,
            checkpoints=self._file.checkpoints,
            errors=self._errors,
            lengths=self._file.lengths(),
            answers=tuple(self._answers),
        )

    def _tell_all(self) -> None:
        report = self.report()
        if report != self._told:
            self._tell(report)
            self._told = replace(report, written_bytes=0, answers=())
            self._answers.clear()
            self._written_bytes = 0


def is_full(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def sentence_of(error: BaseException) -> str:
    """What is wrong with the disk, and what happens now."""
    goes_on = "nothing is dropped, no more is read from applications, and it is tried again until it works"
    if is_full(error):
        return f"the disk is full ({error}): {goes_on}"
    if is_corrupt(error):
        return f"the file is corrupt ({error}): {goes_on}; a restart checks the file, and sets it aside if it is"
    if isinstance(error, (sqlite3.Error, OSError, SpoolError)):
        name = getattr(error, "sqlite_errorname", "")
        return f"the disk fails ({f'{name}: ' if name else ''}{error}): {goes_on}"
    return f"a bug in ztunnel ({type(error).__name__}: {error}): {goes_on}"
