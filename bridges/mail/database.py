"""The database of a mail bridge: one SQLite file, one owner process, one thread, one connection.

    loop thread                          the database's thread
    do(work) ──────────────────────────► everything that waits runs in one transaction, and one fsync makes it last
    a future, with what work gave  ◄──── ... and only then

Unlike the spool of a route (tunnel/spool), which waits until a disk works again, a disk that fails is told to whoever
asked: behind a mail bridge stands somebody who will send again. How the file is kept, and why, is told there: WAL with
synchronous=FULL, one lock, and a WAL that a failed fsync may have left half written is written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from bridges.mail.limits import DATABASE_CLOSE_S, DATABASE_GROUP
from tunnel.errors import SpoolError
from tunnel.limits import SPOOL_CACHE_BYTES, SPOOL_PAGE_BYTES, SPOOL_RESERVE_BYTES
from tunnel.spool.owned import open_plain, set_aside, sync_folder, take_lock, write_again

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRAGMAS: Final = (
    f"page_size={SPOOL_PAGE_BYTES}",
    "locking_mode=EXCLUSIVE",
    "journal_mode=WAL",
    "synchronous=FULL",
    f"cache_size=-{SPOOL_CACHE_BYTES // 1024}",
    "mmap_size=0",
    "secure_delete=OFF",
    "temp_store=MEMORY",
    "foreign_keys=ON",
)


class Database:
    """Opens (or makes) the file, blocking for milliseconds; SpoolError says why it cannot.

    `mark` is 4 bytes that say whose file it is (SQLite's application_id), `schema` the statements that make it,
    `version` theirs. A corrupt file is set aside as NAME.corrupt-N, and named by `set_aside`; a new one is begun.
    """

    def __init__(self, path: Path, mark: bytes, schema: Sequence[str], version: int = 1) -> None:
        self.path = path
        self.set_aside = ""
        self.trouble = ""
        """What was the matter with the disk at the last attempt, in words; "": nothing."""
        self._free_bytes = 0
        """Of pages in the file that nothing lies in: it never shrinks."""
        self._identity = int.from_bytes(mark), version, tuple(schema)
        self._loop = asyncio.get_running_loop()
        self._orders: queue.SimpleQueue[tuple[Work, asyncio.Future[Any], bool] | None] = queue.SimpleQueue()
        self._db: sqlite3.Connection | None = None
        self._closed = False
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = take_lock(path.with_name(path.name + ".lock"), path)
        except OSError as error:
            raise SpoolError(f"{path}: it could not be opened: {error}.") from error
        try:
            self._open_first()
        except (sqlite3.Error, OSError) as error:
            os.close(self._lock)
            raise SpoolError(f"{path}: it could not be opened: {error}.") from error
        except SpoolError:
            os.close(self._lock)
            raise
        self._thread = threading.Thread(target=self._run, name=f"database {path.name}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Database {self.path}{' closed' if self._closed else ''}>"

    def do(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """`work` in a transaction; its result when that is on disk. SpoolError (in the future): the disk failed, and
        nothing of it counts. What `work` itself raises undoes `work` alone.

        It may run twice: after another one of its group raised.
        """
        return self._order(work, writes=True)

    def ask(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """`work` only reads; it sees what was done before it."""
        return self._order(work, writes=False)

    def has_space(self, wanted: int) -> bool:
        """Have the file and its file system room for so many bytes, twice (WAL and file), and some left over?"""
        try:
            disk = os.statvfs(self.path.parent)
        except OSError:
            return False
        reserve = min(SPOOL_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 8)
        return disk.f_bavail * disk.f_frsize + self._free_bytes - reserve > 2 * wanted

    async def close(self) -> None:
        """Do what was asked, close the file. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join, DATABASE_CLOSE_S)
        if not self._thread.is_alive():
            os.close(self._lock)

    def _order(self, work: Callable[[sqlite3.Connection], T], *, writes: bool) -> asyncio.Future[T]:
        answer: asyncio.Future[Any] = self._loop.create_future()
        if self._closed:
            answer.set_exception(SpoolError(f"{self.path}: closed."))
            answer.exception()  # whoever does not look has lost nothing
        else:
            self._orders.put((work, answer, writes))
        return answer

    # --- in its own thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        going = True
        while going:
            group = [self._orders.get()]
            with contextlib.suppress(queue.Empty):
                while len(group) < DATABASE_GROUP:
                    group.append(self._orders.get_nowait())
            orders = [order for order in group if order is not None]
            going = len(orders) == len(group)
            told = self._together(orders) if orders else []
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(_tell, told)
        self._abandon()

    def _together(self, orders: list[tuple[Work, asyncio.Future[Any], bool]]) -> list[tuple[asyncio.Future[Any], Any]]:
        """Each future with its result or its exception."""
        try:
            db = self._reopened()
            writes = any(order[2] for order in orders)
            if writes:
                db.execute("BEGIN IMMEDIATE")
            results: list[Any] = []
            try:
                for work, _, _ in orders:
                    results.append(work(db))
                if writes:
                    db.execute("COMMIT")
                    (free,) = db.execute("PRAGMA freelist_count").fetchone()
                    self._free_bytes = free * SPOOL_PAGE_BYTES
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    if writes:
                        db.execute("ROLLBACK")
                raise
        except (sqlite3.OperationalError, OSError, SpoolError) as error:
            self._abandon()
            self.trouble = f"{self.path}: the disk does not take it: {error}"
            return [(answer, SpoolError(self.trouble)) for _, answer, _ in orders]
        except Exception as error:
            if isinstance(error, sqlite3.DatabaseError) and _is_corrupt(error):
                self._abandon()
                self.trouble = f"{self.path}: {error}"
                return [(answer, SpoolError(self.trouble)) for _, answer, _ in orders]
            if len(orders) == 1:
                return [(orders[0][1], error)]
            return [pair for order in orders for pair in self._together([order])]
        self.trouble = ""
        return [(answer, result) for (_, answer, _), result in zip(orders, results, strict=True)]

    def _reopened(self) -> sqlite3.Connection:
        if self._db is None:
            if not self.path.exists():  # a file that vanished must not come back empty, as if nothing had been taken
                raise SpoolError("the file has vanished")
            self._open()
        assert self._db is not None
        return self._db

    def _abandon(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    # --- opening -----------------------------------------------------------------------------------------------------

    def _open_first(self) -> None:
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if not _is_corrupt(error):
                raise
            self._abandon()
            self.set_aside = set_aside(self.path)
            self._open()

    def _open(self) -> None:
        fresh = not self.path.exists()
        # no database is open here whose locks closing the descriptor would take away
        os.close(open_plain(self.path, os.O_CREAT))
        write_again(self.path.with_name(self.path.name + "-wal"))
        self._db = db = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            for pragma in _PRAGMAS:
                db.execute(f"PRAGMA {pragma}").fetchall()
            self._identify(db)
        except BaseException:
            self._abandon()
            raise
        if fresh:
            sync_folder(self.path.parent)

    def _identify(self, db: sqlite3.Connection) -> None:
        mark, version, schema = self._identity
        (found,), (written,) = (
            db.execute("PRAGMA application_id").fetchone(),
            db.execute("PRAGMA user_version").fetchone(),
        )
        (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if (found, written, tables) == (0, 0, 0):
            db.execute("BEGIN IMMEDIATE")
            for statement in (*schema, f"PRAGMA application_id={mark}", f"PRAGMA user_version={version}"):
                db.execute(statement)
            db.execute("COMMIT")
        elif found != mark:
            raise SpoolError(f"{self.path} is a database of something else: name another folder.")
        elif written != version:
            raise SpoolError(
                f"{self.path} was written by {'a newer' if written > version else 'an older'} ztunnel (version "
                f"{written} of the file; this one reads {version}): let that one deliver what is in it."
            )


def _is_corrupt(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _CORRUPT


def _tell(told: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for answer, result in told:
        if answer.done():  # whoever asked has gone
            continue
        if isinstance(result, BaseException):
            answer.set_exception(result)
            answer.exception()  # looked at, so that one that nobody waits for any more is no noise
        else:
            answer.set_result(result)
