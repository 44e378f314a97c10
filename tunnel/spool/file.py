"""The file of a spool: one SQLite database, one owner, and the SQL. Blocking; called by one thread at a time.

Errors of the disk come out as sqlite3.Error or OSError; the caller then calls `abandon()` and later `reopen()`, which
tells in `totals.next` what the disk really holds: a transaction that failed is there entirely or not at all.

Why it is set up as it is:

- WAL and synchronous=FULL: a commit is one append and one fsync. locking_mode=EXCLUSIVE: no shared memory, and no
  second process can read or checkpoint the file (SQLite before 3.51.3 may corrupt a WAL with two checkpointers); a lock
  file beside it keeps the place also while the database is closed and opened again.
- wal_autocheckpoint=0: SQLite would checkpoint inside a commit, and rows would wait for it. `checkpoint()` is called
  when everybody was told, and an error in it is not taken for one of the commit.
- No mmap: a read error would be a SIGBUS instead of an error. secure_delete=OFF (Debian compiles it ON): zeroing what
  is removed doubles the writes; the file is readable by its owner only.
- A failed fsync is never trusted. SQLite does not count the frames of a commit whose fsync failed, but the next process
  would find them in the page cache and take them for written. So before the WAL is read it is written again, byte for
  byte, and fsynced: pages that a failed fsync has marked clean become dirty once more. The same makes true what a
  killed process had written and not yet synced.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, Final

from tunnel.errors import SpoolError
from tunnel.limits import (
    SPOOL_CACHE_BYTES,
    SPOOL_DEAD_BYTES,
    SPOOL_DEAD_ROWS,
    SPOOL_PAGE_BYTES,
    SPOOL_READ_ROWS,
    SPOOL_REASON_CHARACTERS,
    SPOOL_REMOVE_BYTES,
    SPOOL_REMOVE_ROWS,
    SPOOL_RESERVE_BYTES,
    SPOOL_RESERVE_SHARE,
    SPOOL_WAL_BYTES,
)
from tunnel.spool.owned import open_plain, set_aside, sync_folder, take_lock, write_again
from tunnel.spool.rows import Entry, Row, Totals, Waiting

APPLICATION_ID: Final = int.from_bytes(b"ZTsp")
SCHEMA_VERSION: Final = 1
SCHEMA: Final = (
    "CREATE TABLE identity (id BLOB NOT NULL, made REAL NOT NULL)",
    "CREATE TABLE state (next INTEGER, rows INTEGER, bytes INTEGER, messages INTEGER,"
    " dead INTEGER, dead_bytes INTEGER, dead_lost INTEGER, expired INTEGER, dropped INTEGER)",
    # `size` stands before the body, so that counting never reads the pages of long bodies
    "CREATE TABLE rows (number INTEGER PRIMARY KEY, born REAL, messages INTEGER, size INTEGER, meta BLOB, body BLOB)",
    "CREATE TABLE dead (number INTEGER PRIMARY KEY, born REAL, messages INTEGER, size INTEGER, meta BLOB, body BLOB,"
    " reason TEXT)",
)
_SAVE: Final = (
    "UPDATE state SET (next, rows, bytes, messages, dead, dead_bytes, dead_lost, expired, dropped)"
    " = (?,?,?,?,?,?,?,?,?)"
)
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LAST: Final = (1 << 63) - 1
"""Above every number."""
_SMALL_ROW_BYTES: Final = 8 * 1024
_TOGETHER: Final = (64, 8, 1)
"""Small rows go into the database so many a statement: the interpreter lock is given away once for each statement, and
a busy loop thread gives it back late."""


def connect(path: Path) -> sqlite3.Connection:
    """Opens the database without a transaction of Python's own and without waiting for locks. Tests replace this."""
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


def is_corrupt(error: BaseException) -> bool:
    return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _CORRUPT


class SpoolFile:
    """Opens (or makes) the file at `path` and holds it. SpoolError says why that does not work.

    A corrupt file is set aside, `NAME.corrupt-N`, and a new one with a new id is begun: the tunnel goes on carrying
    messages, which a refusal would stop, and the rows that can be saved are still there (`sqlite3 FILE .recover`).
    `set_aside` names it for the status and the log. The fourth one is refused: then the disk must be looked at.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.totals = Totals()
        self.id = b""
        self.set_aside = ""
        self.checkpoints = 0
        self.commits = 0
        self.wal_written = 0
        """Bytes that went into the WAL since it was carried over, roughly: what decides when to do that."""
        self._db: sqlite3.Connection | None = None
        self._wal = path.with_name(path.name + "-wal")
        self._suspect = path.with_name(path.name + ".suspect")
        self._lock = -1
        try:
            self._make_folder()
            self._lock = take_lock(path.with_name(path.name + ".lock"), path)
            self._open_first()
            disk = os.statvfs(path.parent)
        except BaseException as error:
            self.close(tidy=False)
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise SpoolError(f"{path} is open in another program: close it; a spool has one owner.") from error
            if isinstance(error, (sqlite3.Error, OSError)):
                raise SpoolError(f"{path}: the spool could not be opened: {error}.") from error
            raise
        self._reserve = min(SPOOL_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // SPOOL_RESERVE_SHARE)
        self.wal_bytes = min(SPOOL_WAL_BYTES, self._reserve // 2)

    def __repr__(self) -> str:
        return f"<SpoolFile {self.path} rows={self.totals.rows} next={self.totals.next} open={self._db is not None}>"

    # --- opening and closing ---

    def _make_folder(self) -> None:
        if not self.path.parent.is_dir():
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_folder(self.path.parent.parent)

    def _open_first(self) -> None:
        try:
            self.reopen()
            if self._suspect.exists():
                self._check_thoroughly()
        except sqlite3.Error as error:
            if not is_corrupt(error):
                raise
            self.abandon()
            self.set_aside = set_aside(self.path)
            self.id, self.totals = b"", Totals()
            self.reopen()
        self._suspect.unlink(missing_ok=True)

    def reopen(self) -> bool:
        """Opens the database and reads what it holds; False: it is open. Raises sqlite3.Error, OSError, SpoolError."""
        if self._db is not None:
            return False
        fresh = self._make_file()
        write_again(self._wal)
        self._db = db = connect(self.path)
        try:
            for pragma in (
                f"page_size={SPOOL_PAGE_BYTES}",
                "locking_mode=EXCLUSIVE",
                "journal_mode=WAL",
                "synchronous=FULL",
                "wal_autocheckpoint=0",
                f"journal_size_limit={SPOOL_WAL_BYTES}",
                f"cache_size=-{SPOOL_CACHE_BYTES // 1024}",
                "mmap_size=0",
                "secure_delete=OFF",
                "temp_store=MEMORY",
            ):
                db.execute(f"PRAGMA {pragma}").fetchall()
            self._identify(db)
        except BaseException:
            self.abandon()
            raise
        if fresh:
            sync_folder(self.path.parent)
        self.wal_written = SPOOL_WAL_BYTES if self._wal_length() else 0
        return True

    def _make_file(self) -> bool:
        """Makes an empty file, readable by its owner only, unless there is one. SQLite gives the WAL the same mode.

        Never in the middle of a life: a file that vanished must not come back empty, with its numbers from 1.
        """
        if self.id and not self.path.exists():
            raise FileNotFoundError(errno.ENOENT, "the file has vanished", str(self.path))
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
            return True
        except FileExistsError:
            fd = open_plain(self.path)  # no database is open, whose locks closing it would take away
        try:
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)
        return False

    def _identify(self, db: sqlite3.Connection) -> None:
        mark, version = _one(db, "PRAGMA application_id")[0], _one(db, "PRAGMA user_version")[0]
        if (mark, version, _one(db, "SELECT count(*) FROM sqlite_schema")[0]) == (0, 0, 0):
            self._make_schema(db)
        elif mark != APPLICATION_ID:
            raise SpoolError(f"{self.path} is a database of something else, not a spool: name another file.")
        elif version != SCHEMA_VERSION:
            raise SpoolError(
                f"{self.path} was written by {'a newer' if version > SCHEMA_VERSION else 'an older'} ztunnel (version "
                f"{version} of the file; this one reads {SCHEMA_VERSION}): let that one deliver what is in it."
            )
        identity = bytes(_one(db, "SELECT id FROM identity")[0])
        if self.id not in (b"", identity):
            raise OSError(f"{self.path} is not the file that it was")
        self.id = identity
        totals = Totals(*_one(db, "SELECT * FROM state"))
        # a disk that forgot what it had confirmed must not make numbers come twice
        self.totals = replace(totals, next=max(totals.next, self.totals.next))
        if self.totals.next <= (_one(db, "SELECT max(number) FROM rows")[0] or 0):
            raise _corrupt(f"{self.path} holds rows that it never counted")

    def _make_schema(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        for statement in (
            *SCHEMA,
            f"PRAGMA application_id={APPLICATION_ID}",
            f"PRAGMA user_version={SCHEMA_VERSION}",
        ):
            db.execute(statement)
        db.execute("INSERT INTO identity VALUES (?, ?)", (secrets.token_bytes(16), time.time()))
        db.execute("INSERT INTO state VALUES (?,?,?,?,?,?,?,?,?)", astuple(Totals()))
        db.execute("COMMIT")

    def _check_thoroughly(self) -> None:
        """Only after a page was found corrupt while running: it reads the whole file."""
        verdict = _one(self._open(), "PRAGMA quick_check(1)")[0]
        if verdict != "ok":
            raise _corrupt(str(verdict))

    def suspect(self) -> None:
        """A page was corrupt: the next start reads the whole file before it trusts it."""
        with contextlib.suppress(OSError):
            self._suspect.touch(0o600)

    def abandon(self) -> None:
        """Closes the database after an error; what the last transaction left is found out by `reopen()`."""
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def close(self, tidy: bool = True) -> None:
        """Closes everything; SQLite carries the WAL over as it closes."""
        if tidy and self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self.checkpoint(cut=True)
        self.abandon()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _open(self) -> sqlite3.Connection:
        self.reopen()
        assert self._db is not None
        return self._db

    # --- writing: all of it between `with file.transaction()` ---

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is on disk when this ends without an error. After an error: `abandon()`."""
        db, before = self._open(), self.totals
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute(_SAVE, astuple(self.totals))
            db.execute("COMMIT")
        except BaseException:
            self.totals = before
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        self.commits += 1
        self.wal_written += 4 * SPOOL_PAGE_BYTES

    def insert(self, rows: Sequence[Waiting]) -> None:
        """Adds rows, in the order of their numbers, which continue `totals.next`."""
        db, at = self._open(), 0
        while at < len(rows):
            together = _together(rows, at)
            values = (
                (r.number, r.born, r.messages, r.size, r.meta, b"".join(r.segments)) for r in rows[at : at + together]
            )
            db.execute(_INSERTS[together], tuple(itertools.chain.from_iterable(values)))
            at += together
        size = sum(row.size for row in rows)
        self._count(rows=len(rows), bytes=size, messages=sum(row.messages for row in rows))
        self.totals = replace(self.totals, next=rows[-1].number + 1)
        self.wal_written += size + size // 8

    def remove_upto(self, upto: int) -> None:
        """Removes rows up to that number, oldest first: at most SPOOL_REMOVE_ROWS and _BYTES at once."""
        self._remove_oldest(upto, float("inf"))

    def expire(self, born: float) -> None:
        """Removes the oldest rows, as long as they were not born after that; counts their messages `expired`."""
        self._count(expired=self._remove_oldest(_LAST, born))

    def _remove_oldest(self, upto: int, born: float) -> int:
        last, rows, size, messages = _one(
            self._open(),
            "SELECT max(number), count(*), total(size), total(messages) FROM ("
            " SELECT number, size, messages, sum(size) OVER head AS sum, max(born) OVER head AS born"
            " FROM rows WHERE number <= ?1 WINDOW head AS (ORDER BY number) LIMIT ?2"
            ") WHERE sum - size < ?3 AND born <= ?4",
            (upto, SPOOL_REMOVE_ROWS, SPOOL_REMOVE_BYTES, born),
        )
        if last is None:
            return 0
        self._open().execute("DELETE FROM rows WHERE number <= ?", (last,))
        self._removed(rows, int(size), int(messages))
        return int(messages)

    def remove(self, numbers: Sequence[int]) -> None:
        """Removes these rows, where they are still there."""
        chosen = (json.dumps(list(numbers)),)
        where = "FROM rows WHERE number IN (SELECT value FROM json_each(?))"
        rows, size, messages = _one(self._open(), f"SELECT count(*), total(size), total(messages) {where}", chosen)
        if rows:
            self._open().execute(f"DELETE {where}", chosen)
            self._removed(rows, int(size), int(messages))

    def bury(self, number: int, reason: str) -> None:
        """Moves a row to the dead letters, if it is still there; the oldest of those go when they are too many."""
        found = _one_or_none(self._open(), "SELECT size, messages FROM rows WHERE number = ?", (number,))
        if found is None:
            return
        self._open().execute(
            "INSERT OR REPLACE INTO dead SELECT number, born, messages, size, meta, body, ? FROM rows WHERE number = ?",
            (reason[:SPOOL_REASON_CHARACTERS], number),
        )
        self.remove([number])
        self._count(dead=1, dead_bytes=found[0])
        self.wal_written += int(found[0])
        while self.totals.dead > 1 and (
            self.totals.dead_bytes > SPOOL_DEAD_BYTES or self.totals.dead > SPOOL_DEAD_ROWS
        ):
            oldest, size, messages = _one(
                self._open(),
                "SELECT number, size, messages FROM dead WHERE number != ? ORDER BY number LIMIT 1",
                (number,),
            )
            self._open().execute("DELETE FROM dead WHERE number = ?", (oldest,))
            self._count(dead=-1, dead_bytes=-size, dead_lost=messages)

    def drop(self, numbers: Sequence[int] | None, dead: bool, born_before: float) -> int:
        """Removes rows or dead letters in a transaction of its own; how many messages, counted `dropped`."""
        table = "dead" if dead else "rows"
        which = "" if numbers is None else " AND number IN (SELECT value FROM json_each(?2))"
        chosen = (born_before,) if numbers is None else (born_before, json.dumps(list(numbers)))
        where = f"FROM {table} WHERE born <= ?1{which}"
        with self.transaction():
            rows, size, messages = _one(self._open(), f"SELECT count(*), total(size), total(messages) {where}", chosen)
            self._open().execute(f"DELETE {where}", chosen)
            if dead:
                self._count(dead=-rows, dead_bytes=-int(size), dropped=int(messages))
            else:
                self._removed(rows, int(size), int(messages))
                self._count(dropped=int(messages))
        return int(messages)

    def _removed(self, rows: int, size: int, messages: int) -> None:
        self._count(rows=-rows, bytes=-size, messages=-messages)
        self.wal_written += size // 8

    def _count(self, **by: int) -> None:
        self.totals = replace(self.totals, **{name: getattr(self.totals, name) + more for name, more in by.items()})

    # --- reading ---

    def read(self, after: int, most_bytes: int) -> list[Row]:
        """Rows above `after`, in order: at least one if there is one, then as many as the bytes allow."""
        found = self._open().execute(
            "SELECT number, body, messages, born, meta FROM rows WHERE number > ?1 AND number <= ("
            " SELECT max(number) FROM ("
            "  SELECT number, row_number() OVER head AS nth, sum(size) OVER head AS sum FROM rows WHERE number > ?1"
            "  WINDOW head AS (ORDER BY number) LIMIT ?2"
            " ) WHERE nth = 1 OR sum <= ?3) ORDER BY number",
            (after, SPOOL_READ_ROWS, most_bytes),
        )
        return list(itertools.starmap(Row, found.fetchall()))

    def oldest(self) -> tuple[int, float] | None:
        """Number and birth of the oldest row."""
        found: tuple[int, float] | None = _one_or_none(
            self._open(), "SELECT number, born FROM rows ORDER BY number LIMIT 1"
        )
        return found

    def entries(self, after: int, limit: int, dead: bool) -> list[Entry]:
        """Rows, or dead letters, above `after`, without their bodies."""
        columns = "number, born, messages, size, meta" + (", reason FROM dead" if dead else " FROM rows")
        found = self._open().execute(f"SELECT {columns} WHERE number > ? ORDER BY number LIMIT ?", (after, limit))
        return list(itertools.starmap(Entry, found.fetchall()))

    def entry(self, number: int) -> Entry | None:
        """One row or dead letter, with its body."""
        columns = "number, born, messages, size, meta"
        found = _one_or_none(
            self._open(),
            f"SELECT {columns}, NULL, body FROM rows WHERE number = ?1"
            f" UNION ALL SELECT {columns}, reason, body FROM dead WHERE number = ?1",
            (number,),
        )
        return None if found is None else Entry(*found)

    # --- room and the WAL ---

    def room(self, wanted: int) -> int:
        """Bytes of rows that may be written now, at most `wanted`, with the reserve left alone.

        Each byte is written twice, to the WAL and then to the file, unless the file has free pages for it.
        """
        disk = os.statvfs(self.path.parent)
        free = disk.f_bavail * disk.f_frsize
        room = (free - self._reserve) // 2
        if room < wanted + wanted // 4:
            room = max(room, min(free, _one(self._open(), "PRAGMA freelist_count")[0] * SPOOL_PAGE_BYTES))
        return min(wanted, room * 4 // 5)

    def checkpoint(self, cut: bool) -> None:
        """Carries the WAL into the file; `cut` gives its space back, and that of a file that became empty."""
        db = self._open()
        busy, *_ = _one(db, f"PRAGMA wal_checkpoint({'TRUNCATE' if cut else 'PASSIVE'})")
        if busy:
            raise OSError("the WAL could not be carried over")
        self.checkpoints += 1
        self.wal_written = 0
        if cut and not (self.totals.rows or self.totals.dead):
            free = _one(db, "PRAGMA freelist_count")[0] * SPOOL_PAGE_BYTES
            if free > SPOOL_WAL_BYTES:
                db.execute("VACUUM")
                _one(db, "PRAGMA wal_checkpoint(TRUNCATE)")

    def lengths(self) -> tuple[int, int]:
        """Bytes of the file and of its WAL on disk."""
        return _length(self.path), self._wal_length()

    def _wal_length(self) -> int:
        return _length(self._wal)


def _insert(rows: int) -> str:
    return "INSERT INTO rows (number, born, messages, size, meta, body) VALUES " + ",".join(["(?,?,?,?,?,?)"] * rows)


_INSERTS: Final = {together: _insert(together) for together in _TOGETHER}


def _together(rows: Sequence[Waiting], at: int) -> int:
    """How many rows from `at` go into one statement: large ones alone, or their bodies would be in memory twice."""
    for together in _TOGETHER:
        if len(rows) - at >= together and all(r.size <= _SMALL_ROW_BYTES for r in rows[at : at + together]):
            return together
    return 1


def _one(db: sqlite3.Connection, statement: str, values: Sequence[Any] = ()) -> Any:
    row = _one_or_none(db, statement, values)
    if row is None:
        raise _corrupt("a row is missing that is always there")
    return row


def _one_or_none(db: sqlite3.Connection, statement: str, values: Sequence[Any] = ()) -> Any:
    """fetchall, so that no statement stays open: it would keep the database open after `close`."""
    rows = db.execute(statement, values).fetchall()
    return rows[0] if rows else None


def _corrupt(sentence: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(sentence)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
