"""What users of the spool hold: numbers, room and callbacks, all on the loop's thread. It never touches the disk."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunnel.errors import SpoolError
from tunnel.limits import (
    SPOOL_CLOSE_S,
    SPOOL_LIST_ROWS,
    SPOOL_META_BYTES,
    SPOOL_RETRY_MAX_S,
    SPOOL_ROOM_SHARE,
    SPOOL_ROW_BYTES,
    SPOOL_WAITING_BYTES,
)
from tunnel.pump import Segment
from tunnel.spool.file import SpoolFile
from tunnel.spool.rows import Entry, Row, Waiting, size_of
from tunnel.spool.worker import Ask, Bury, Close, Done, Finish, Flush, Read, Report, Worker

Soon = Callable[[Callable[[], None]], Any]


class Spool:
    """One file, one owner process. Everything is called, and calls back, on the owner's loop thread.

    `soon` is loop.call_soon_threadsafe. The constructor opens the file (blocking, milliseconds) or raises SpoolError
    with a sentence: in use by another process, of another version, not writable, too many corrupt ones. `set_aside`
    names a corrupt file that was moved out of the way.

    `max_bytes` bounds what lies on disk and what waits for it, each row counted with 256 bytes of bookkeeping. The
    caller stops calling `put` at `has_room` False and goes on at `on_room`; a row put all the same is kept.

    id        16 random bytes drawn when the file was made
    next      the number of the next row. Numbers never repeat in the life of a file, but one that was given to a row
              that never became durable may, after a crash: nobody has been told of it
    durable   every row up to this one is on disk (fsynced)
    first     no row below is wanted any more
    """

    def __init__(
        self,
        path: Path,
        soon: Soon,
        *,
        max_bytes: int,
        expire_s: float | None = None,
        on_durable: Callable[[int], None] = lambda number: None,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.has_room = True
        self._soon = soon
        self._on_durable = on_durable
        self._on_room = on_room
        file = SpoolFile(path)
        self.id = file.id
        self.set_aside = file.set_aside
        self._worker = Worker(file, self._post, max_bytes=max_bytes, expire_s=expire_s)
        self._report = self._worker.report()
        self.next = self._report.totals.next
        self.durable = self.next - 1
        self.first = self._first_on_disk()
        self._waiting_bytes = 0
        self._reports: deque[Report] = deque()
        self._closed = False
        self._has_room_now()
        self._thread = threading.Thread(target=self._worker.run, name=f"spool {path.name}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        room = "" if self.has_room else " no room"
        return f"<Spool {self.path.name} first={self.first} durable={self.durable} next={self.next}{room}>"

    # --- rows ---

    def put(self, segments: Sequence[Segment], messages: int, born: float, meta: bytes = b"") -> int:
        """Takes a row and gives it a number; `on_durable` says when it is on disk. The segments are not copied here.

        SpoolError: after close(), or longer than SPOOL_ROW_BYTES or SPOOL_META_BYTES.
        """
        size = size_of(segments, meta)
        if self._closed or size > SPOOL_ROW_BYTES or len(meta) > SPOOL_META_BYTES:
            raise SpoolError(f"{self.path}: " + ("closed." if self._closed else f"a row of {size} bytes is too long."))
        number = self.next
        self.next += 1
        self._waiting_bytes += size
        self._worker.orders.put(Waiting(number, segments, messages, born, meta, size))
        if self.has_room:
            self._has_room_now()
        return number

    def read(self, after: int, most_bytes: int, then: Callable[[list[Row]], None]) -> None:
        """Gives durable rows above `after`, in order: at least one if there is one, at most SPOOL_READ_ROWS.

        Neither done nor finished nor buried ones. While the disk cannot be read the answer waits; after close() there
        is none.
        """
        self._worker.orders.put(Read(after, most_bytes, then))

    def done(self, upto: int) -> None:
        """Rows up to this one are not wanted any more. Removed soon, in groups; a crash before may bring them back."""
        upto = min(upto, self.next - 1)
        if upto >= self.first:
            self.first = upto + 1
            self._worker.orders.put(Done(upto))

    def finish(self, number: int) -> None:
        """One row, in any order, is done."""
        self._leave(Finish(number))

    def bury(self, number: int, reason: str) -> None:
        """One row goes to the dead letters, with the reason; SPOOL_DEAD_ROWS and _BYTES of them are kept."""
        self._leave(Bury(number, reason))

    def _leave(self, order: Finish | Bury) -> None:
        if self.first <= order.number < self.next:
            if order.number == self.first:
                self.first += 1
            self._worker.orders.put(order)

    # --- for the command line, by way of the process ---

    def list(
        self, after: int, limit: int, then: Callable[[list[Entry] | SpoolError], None], dead: bool = False
    ) -> None:
        """Rows, or dead letters, above `after`, without bodies; also such as are done and not removed yet."""
        self._worker.orders.put(Ask(lambda file: file.entries(after, min(limit, SPOOL_LIST_ROWS), dead), then))

    def show(self, number: int, then: Callable[[Entry | SpoolError | None], None]) -> None:
        """One row or dead letter with its body; None: there is none of that number."""
        self._worker.orders.put(Ask(lambda file: file.entry(number), then))

    def drop(
        self,
        then: Callable[[int | SpoolError], None],
        numbers: Sequence[int] | None = None,
        dead: bool = False,
        older_than_s: float = 0.0,
    ) -> None:
        """Removes rows on disk (`dead`: dead letters), those of `numbers` or all, that are older than so much.

        Gives the number of messages in them, when that is on disk; it is counted `dropped`.
        """
        before = time.time() - older_than_s
        self._worker.orders.put(Ask(lambda file: file.drop(numbers, dead, before), then))

    def flush(self, then: Callable[[SpoolError | None], None]) -> None:
        """Everything that waits goes to the disk now, without pauses; gives what is wrong with the disk, or None."""
        self._worker.orders.put(Flush(then))

    def status(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        report, totals = self._report, self._report.totals
        state, reason = self._state()
        return {
            "path": str(self.path),
            "id": self.id.hex(),
            "state": state,
            "reason": reason,
            "rows": totals.rows,
            "bytes": totals.bytes,
            "messages": totals.messages,
            "max_bytes": self.max_bytes,
            "has_room": self.has_room,
            "waiting_bytes": self._waiting_bytes,
            "first": self.first,
            "next": self.next,
            "durable_lag": self.next - 1 - self.durable,
            "oldest_s": None if report.oldest is None else max(0.0, time.time() - report.oldest[1]),
            "commits": report.commits,
            "checkpoints": report.checkpoints,
            "errors": report.errors,
            "dead": totals.dead,
            "dead_bytes": totals.dead_bytes,
            "dead_lost": totals.dead_lost,
            "expired": totals.expired,
            "dropped": totals.dropped,
            "file_bytes": report.lengths[0],
            "wal_bytes": report.lengths[1],
            "set_aside": self.set_aside,
        }

    def close(self) -> None:
        """Commits what waits, carries the WAL over, ends the thread; waits SPOOL_CLOSE_S at most. Safe to call twice.

        What became durable is still told, from here. What a failing disk did not take was never durable.
        """
        if self._closed:
            return
        self._closed = True
        self._worker.orders.put(Close())
        self._thread.join(SPOOL_CLOSE_S)
        self._take_reports()

    # --- from the thread ---

    def _post(self, report: Report) -> None:
        """In the spool's thread."""
        self._reports.append(report)
        if not self._closed:
            with contextlib.suppress(RuntimeError):  # the loop is closed already: close() takes it
                self._soon(self._take_reports)

    def _take_reports(self) -> None:
        while self._reports:
            report = self._reports.popleft()
            self._report = report
            self._waiting_bytes -= report.written_bytes
            self.first = max(self.first, self._first_on_disk())
            if report.durable > self.durable:
                self.durable = report.durable
                self._on_durable(report.durable)
            for answer in report.answers:
                answer()
            if self._has_room_now():
                self._on_room()

    def _first_on_disk(self) -> int:
        return self._report.durable + 1 if self._report.oldest is None else self._report.oldest[0]

    # --- room and state ---

    def _has_room_now(self) -> bool:
        """Sets `has_room`; True: it just came back. Some room must be free for that, so that it does not flutter."""
        had = self.has_room
        most, waiting = self.max_bytes, SPOOL_WAITING_BYTES
        if not had:
            most, waiting = most - most // SPOOL_ROOM_SHARE, waiting // 2
        used = self._report.totals.bytes + self._waiting_bytes
        full = used >= most and used > 0
        self.has_room = self._report.state == "ok" and not full and self._waiting_bytes < waiting
        return self.has_room and not had

    def _state(self) -> tuple[str, str]:
        silent_s = time.monotonic() - self._worker.busy_since
        if silent_s > SPOOL_RETRY_MAX_S:
            return "failing", f"the disk has not answered for {silent_s:.0f} s"
        if self._report.state == "ok" and self._report.totals.bytes + self._waiting_bytes >= self.max_bytes:
            return (
                "full",
                f"holds its {self.max_bytes} bytes: no more is read from applications until some are delivered",
            )
        return self._report.state, self._report.reason
