"""Mails that were taken and not handed on yet: on disk, one row each, with what is known of them.

A mail is here when `put` has given its number, and not a moment before. It leaves when somebody has answered for it
(`finish`), or an operator drops it. What nobody will ever take (`bury`), or has waited too long, stays as a dead letter
with the reason: somebody was told that it is in good hands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bridges.mail.bodies import Body, tidy
from bridges.mail.database import Database
from bridges.mail.limits import DATABASE_GROUP
from tunnel.config.plan import SpoolPlan
from tunnel.limits import SPOOL_LIST_ROWS, SPOOL_REASON_CHARACTERS

MARK: Final = b"ZTin"
SCHEMA: Final = (
    # the body comes last, so that counting never reads its pages
    "CREATE TABLE mails (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, rule TEXT, topic BLOB, born REAL,"
    " size INTEGER, dead INTEGER NOT NULL DEFAULT 0, reason TEXT, meta BLOB, file TEXT, body BLOB)",
    "CREATE INDEX waiting ON mails (number) WHERE dead = 0",
    "CREATE TABLE taken (digest BLOB PRIMARY KEY, id TEXT, at REAL, told INTEGER) WITHOUT ROWID",
    "CREATE INDEX taken_at ON taken (at)",
)
_ROW_BYTES: Final = 512
"""What a row costs beside its mail, in the bound."""


class FullError(Exception):
    """There is no room for this mail now; the sentence says where."""


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail as it lies here; `file`: its bytes are there, else in `body`."""

    number: int
    id: str
    rule: str
    topic: bytes
    born: float
    size: int
    meta: bytes
    file: str | None
    body: bytes | None


class Inbox:
    """One bridge's. Opens its files, blocking for milliseconds; SpoolError says why it cannot."""

    def __init__(self, plan: SpoolPlan) -> None:
        self.plan = plan
        self.bodies = plan.folder / "bodies"
        self.database = Database(plan.file("mails"), MARK, SCHEMA)
        self.rows = self.bytes = self.dead = 0
        self.expired = 0
        self.on_found: Callable[[], None] = lambda: None
        """A mail is here of which `put` had said that it is not."""
        self._answered: list[tuple[int, int, str | None]] = []
        """Mails that somebody has answered for, and that a failing disk still has."""
        self._doubtful: list[tuple[str, int, str | None]] = []
        """(id, size, file) of mails that a failing disk did not take, as it said. They are counted as being here."""

    def __repr__(self) -> str:
        return f"<Inbox rows={self.rows} bytes={self.bytes} dead={self.dead}>"

    async def open(self) -> None:
        """Find out what is here."""

        def look(db: sqlite3.Connection) -> Any:
            counts = db.execute("SELECT count(*), total(size), total(dead) FROM mails").fetchone()
            return counts, {name for (name,) in db.execute("SELECT file FROM mails WHERE file IS NOT NULL")}

        (rows, size, dead), named = await self.database.ask(look)
        # a corrupt database that lies beside this one still names mails that somebody was told of
        path = self.database.path
        lost = any(path.parent.glob(f"{path.name}.corrupt-*"))
        await asyncio.to_thread(tidy, self.bodies, named, keep=lost)
        self.dead = int(dead)
        self.rows, self.bytes = int(rows) - self.dead, int(size) + int(rows) * _ROW_BYTES

    def body(self, mail_id: str) -> Body:
        """Where a mail's bytes go as they come."""
        return Body(self.bodies / f"{mail_id}.eml")

    def refusal(self, size: int) -> str:
        """Why a mail of so many bytes cannot be taken now; "": it can."""
        if self.bytes + size + _ROW_BYTES > self.plan.max_bytes:
            return f"the spool holds {self.bytes} bytes, of {self.plan.max_bytes} that it may"
        if not self.database.has_space(size):
            return f"the disk of {self.plan.folder} is full"
        return ""

    async def put(self, mail_id: str, rule: str, topic: bytes, meta: bytes, body: Body, digest: bytes) -> int:
        """Its number, when it is on disk. FullError: no room; SpoolError: the disk failed."""
        refusal = self.refusal(body.size)
        if refusal:
            raise FullError(refusal)
        size = body.size
        self.rows += 1  # at once: many may come at the same time
        self.bytes += size + _ROW_BYTES
        try:
            await body.finish()
        except BaseException:
            self.rows -= 1
            self.bytes -= size + _ROW_BYTES
            raise
        file = body.file
        body.leave()
        try:
            number = await self._insert(mail_id, rule, topic, meta, body, digest)
        except BaseException:
            # a disk that says no may have it all the same, and show it when it works again: as a mail, and as a repeat
            self._doubtful.append((mail_id, size, file))
            self.look_again()
            raise
        body.close()
        return number

    def look_again(self) -> None:
        """Which of those that a failing disk did not take are there after all? Those that are not, leave nothing."""
        doubtful, self._doubtful = self._doubtful[:DATABASE_GROUP], self._doubtful[DATABASE_GROUP:]
        if not doubtful:
            return
        marks = ",".join("?" * len(doubtful))
        query, ids = f"SELECT id FROM mails WHERE id IN ({marks})", [one[0] for one in doubtful]

        def looked(done: asyncio.Future[set[str]]) -> None:
            if done.cancelled() or done.exception() is not None:
                self._doubtful += doubtful
                return
            for mail_id, size, file in doubtful:
                if mail_id not in done.result():
                    self.rows -= 1
                    self.bytes -= size + _ROW_BYTES
                    self._unlink(file)
                else:
                    self.on_found()
            self.look_again()

        answer = self.database.ask(lambda db: {found for (found,) in db.execute(query, ids)})
        answer.add_done_callback(looked)

    async def _insert(self, mail_id: str, rule: str, topic: bytes, meta: bytes, body: Body, digest: bytes) -> int:
        file, held, size, now = body.file, None if body.file else body.held, body.size, time.time()

        def insert(db: sqlite3.Connection) -> int:
            row = (mail_id, rule, topic, now, size, meta, file, held)
            found = db.execute(
                "INSERT INTO mails (id, rule, topic, born, size, meta, file, body) VALUES (?,?,?,?,?,?,?,?)", row
            )
            db.execute("INSERT OR REPLACE INTO taken VALUES (?,?,?,0)", (digest, mail_id, now))
            return int(found.lastrowid or 0)

        return await self.database.do(insert)

    # --- duplicates --------------------------------------------------------------------------------------------------

    async def known(self, digest: bytes, within_s: float, *, told: bool) -> str | None:
        """The id of a mail that was taken with this digest so lately. `told`: also one whose client knows it."""
        since = time.time() - within_s

        def look(db: sqlite3.Connection) -> str | None:
            found = db.execute("SELECT id, told FROM taken WHERE digest = ? AND at > ?", (digest, since)).fetchone()
            return str(found[0]) if found and (told or not found[1]) else None

        return await self.database.ask(look)

    async def remember(self, digest: bytes, mail_id: str) -> None:
        """A mail that does not lie here was taken."""
        row = (digest, mail_id, time.time())
        await self.database.do(lambda db: db.execute("INSERT OR REPLACE INTO taken VALUES (?,?,?,0)", row).rowcount)

    def told(self, digest: bytes, *, keep: bool) -> None:
        """Its client has heard that it was taken: the same once more is another mail. `keep`: `known` asks for such."""
        change = "UPDATE taken SET told = 1" if keep else "DELETE FROM taken"
        self.database.do(lambda db: db.execute(f"{change} WHERE digest = ?", (digest,)).rowcount)

    def forget(self, older_than_s: float) -> None:
        before = time.time() - older_than_s
        self.database.do(lambda db: db.execute("DELETE FROM taken WHERE at < ?", (before,)).rowcount)

    # --- on their way out --------------------------------------------------------------------------------------------

    async def waiting(self, rules: Sequence[str], others: bool, after: int, limit: int) -> list[Mail]:
        """Mails above that number, oldest first, whole unless they lie in a file. `others`: those of no such rule."""
        query = (
            "SELECT number, id, rule, topic, born, size, meta, file, body FROM mails WHERE dead = 0 AND number > ?"
            f" AND rule {'NOT ' if others else ''}IN ({','.join('?' * len(rules))}) ORDER BY number LIMIT ?"
        )
        values = (after, *rules, limit)
        return await self.database.ask(lambda db: [Mail(*row) for row in db.execute(query, values)])

    def finish(self, mail: Mail) -> asyncio.Future[int]:
        """Somebody has answered for it."""
        return self._remove(mail.number, mail.size, mail.file)

    def bury(self, number: int, reason: str) -> asyncio.Future[int]:
        """Nobody will take it: a dead letter."""
        words = reason[:SPOOL_REASON_CHARACTERS]
        change = "UPDATE mails SET dead = 1, reason = ? WHERE number = ? AND dead = 0"

        def buried(done: asyncio.Future[int]) -> None:
            if not done.cancelled() and done.exception() is None:
                self.rows -= done.result()
                self.dead += done.result()

        answer = self.database.do(lambda db: db.execute(change, (words, number)).rowcount)
        answer.add_done_callback(buried)
        return answer

    async def expire(self) -> int:
        """Bury what has waited longer than the table allows; how many those were."""
        if self.plan.expire_s is None:
            return 0
        before, reason = time.time() - self.plan.expire_s, "nobody took it in time (spool: expire)"
        change = "UPDATE mails SET dead = 1, reason = ? WHERE dead = 0 AND born < ?"
        count = await self.database.do(lambda db: db.execute(change, (reason, before)).rowcount)
        self.rows -= count
        self.dead += count
        self.expired += count
        return count

    def _remove(self, number: int, size: int, file: str | None) -> asyncio.Future[int]:
        dead: list[int] = []

        def remove(db: sqlite3.Connection) -> int:
            dead[:] = [one for (one,) in db.execute("SELECT dead FROM mails WHERE number = ?", (number,))]
            return db.execute("DELETE FROM mails WHERE number = ?", (number,)).rowcount

        def removed(done: asyncio.Future[int]) -> None:
            if done.cancelled() or done.exception() is not None:
                self._answered.append((number, size, file))
                return
            for one in dead:  # none where it had been dropped
                self.bytes -= size + _ROW_BYTES
                self.dead -= one
                self.rows -= 1 - one
            self._unlink(file)

        answer = self.database.do(remove)
        answer.add_done_callback(removed)
        return answer

    def _unlink(self, file: str | None) -> None:
        if file is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.bodies / file)

    def sweep(self) -> None:
        """What a failing disk would not let go, or took without saying so, once more."""
        self.look_again()
        answered, self._answered = self._answered, []
        for number, size, file in answered:
            self._remove(number, size, file)

    # --- for the command line ----------------------------------------------------------------------------------------

    async def list(self, after: int, limit: int, *, dead: bool | None = None) -> list[dict[str, Any]]:
        """Mails without their bytes, oldest first; `dead`: only those that are dead letters, or are not."""
        which = "" if dead is None else f" AND dead = {int(dead)}"
        columns = "number, id, born, size, dead, reason, meta"
        query = f"SELECT {columns} FROM mails WHERE number > ?{which} ORDER BY number LIMIT ?"
        rows = await self.database.ask(lambda db: db.execute(query, (after, min(limit, SPOOL_LIST_ROWS))).fetchall())
        return [
            {
                "number": n,
                "id": i,
                "born": b,
                "bytes": s,
                "state": "dead" if d else "queued",
                "reason": r or "",
                "meta": m,
            }
            for n, i, b, s, d, r, m in rows
        ]

    async def head(self, number: int, most: int) -> bytes:
        """The first bytes of a mail; b"" where it is not here any more."""
        query = "SELECT file, substr(body, 1, ?) FROM mails WHERE number = ?"
        row = await self.database.ask(lambda db: db.execute(query, (most, number)).fetchone())
        file, held = row or (None, b"")
        return await asyncio.to_thread(_begin, self.bodies / file, most) if file is not None else bytes(held or b"")

    async def retry(self, number: int) -> bool:
        """A dead letter waits again."""
        change = "UPDATE mails SET dead = 0, reason = NULL, born = ? WHERE number = ? AND dead = 1"
        found = await self.database.do(lambda db: db.execute(change, (time.time(), number)).rowcount)
        self.dead -= found
        self.rows += found
        return bool(found)

    async def drop(self, number: int) -> bool:
        """Away with it, for good."""
        row = await self.database.ask(
            lambda db: db.execute("SELECT size, file FROM mails WHERE number = ?", (number,)).fetchone()
        )
        if row is None:
            return False
        size, file = row
        return bool(await self._remove(number, size, file))

    def status(self) -> dict[str, Any]:
        return {
            "path": str(self.database.path),
            "rows": self.rows,
            "bytes": self.bytes,
            "max_bytes": self.plan.max_bytes,
            "dead": self.dead,
            "expired": self.expired,
            "reason": self.database.trouble,
            "set_aside": self.database.set_aside,
        }

    async def close(self) -> None:
        await self.database.close()


def _begin(file: Path, most: int) -> bytes:
    with contextlib.suppress(OSError), file.open("rb") as opened:
        return opened.read(most)
    return b""
