"""The mails that an smtp-client has taken, on disk: mails, their bodies, and what has become of each recipient.

    mails        one row a mail; `open` until each recipient is settled, then `sent` or `dead`; `refused`: never a mail
    bodies       the bytes that leave; gone with the last recipient who got them
    jobs         a mail and one destination that it goes to: `waiting` until `due`, `sending`, `over`
    recipients   queued, deferred, sent, failed, or unknown: the line was lost after the final dot

A job is marked `sending` on disk before its final dot may leave. So after a kill -9 everything that may have reached
the server is known: it goes again, counted, and everything else goes for the first time.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from bridges.mail.database import Database
from bridges.mail.outbox_records import MARK, OVER, SCHEMA, SENDING, WAITING, Change, Due, Job, Mail, Result, Taken

T = TypeVar("T")
OPEN: Final = "state IN ('queued', 'deferred', 'unknown')"
"""Recipients to whom the mail still goes."""


class Outbox:
    """Owns the file; all its methods are awaited on the loop. SpoolError: the disk failed, and nothing was changed."""

    def __init__(self, path: Path) -> None:
        self.db = Database(path, MARK, SCHEMA)
        self.jobs = self.bytes = self.dead = 0
        """What lies here, once `begin` was awaited."""
        self.oldest: float | None = None
        """When the oldest mail that is not settled was taken, as of the last tidying."""

    def __repr__(self) -> str:
        return f"<Outbox jobs={self.jobs} bytes={self.bytes} dead={self.dead}>"

    async def order(self, answer: asyncio.Future[tuple[T, Change]]) -> T:
        """An order that changes what lies here, and its result."""
        result, change = await answer
        self.jobs += change.jobs
        self.bytes += change.bytes
        self.dead += change.dead
        return result

    async def begin(self, now: float) -> int:
        """Once, at the start: counts what is there; how many mails may have been sent without our knowing."""

        def work(db: sqlite3.Connection) -> tuple[int, Change]:
            words = "this bridge ended while it was being sent"
            lost = [job for (job,) in db.execute("SELECT job FROM jobs WHERE state = ?", (SENDING,))]
            for job in lost:
                _mark(db, job, Result("unknown", words), now)
                db.execute("UPDATE jobs SET state = ?, due = ? WHERE job = ?", (WAITING, now, job))
            (jobs,) = db.execute("SELECT count(*) FROM jobs WHERE state < ?", (OVER,)).fetchone()
            (size,) = db.execute("SELECT coalesce(sum(length(bytes)), 0) FROM bodies").fetchone()
            (dead,) = db.execute("SELECT count(*) FROM mails WHERE state IN ('dead', 'refused')").fetchone()
            return len(lost), Change(jobs, size, dead)

        return await self.order(self.db.do(work))

    async def put(self, mail: Mail, now: float) -> Taken:
        def work(db: sqlite3.Connection) -> tuple[Taken, Change]:
            found = db.execute("SELECT number, digest FROM mails WHERE id = ?", (mail.id,)).fetchone()
            if found is not None:
                return Taken(found[0], "repeated" if found[1] == mail.digest else "other"), Change()
            number = _insert(db, mail.id, mail.named, mail.digest, now, mail.sender, mail.raw, mail.utf8, "open")
            for destination, addresses in mail.to.items():
                values = (number, destination, WAITING, now, now)
                row = db.execute("INSERT INTO jobs (mail, destination, state, since, due) VALUES (?,?,?,?,?)", values)
                rows = [(number, address, row.lastrowid, "queued") for address in addresses]
                db.executemany("INSERT INTO recipients (mail, address, job, state) VALUES (?,?,?,?)", rows)
            return Taken(number, ""), Change(len(mail.to), len(mail.raw))

        return await self.order(self.db.do(work))

    async def put_aside(self, mail_id: str, run: bytes, why: str, now: float) -> int:
        """A message that is no mail, as a dead letter: `run` are its frames."""

        def work(db: sqlite3.Connection) -> tuple[int, Change]:
            number = _insert(db, mail_id, False, b"", now, "", run, False, "refused", why)
            db.execute("UPDATE mails SET ended = ? WHERE number = ?", (now, number))
            return number, Change(0, len(run), 1)

        return await self.order(self.db.do(work))

    async def due(self, now: float, limit: int, without: Sequence[str] = ()) -> Due:
        """Jobs whose time has come, the oldest first, but those of some destinations."""

        def work(db: sqlite3.Connection) -> Due:
            marks = ",".join("?" * len(without))
            rows = db.execute(
                "SELECT job, mail, id, destination, since, attempts, sender, size, utf8 FROM jobs "
                "JOIN mails ON number = mail WHERE jobs.state = ? AND due <= ? "
                f"AND destination NOT IN ({marks}) ORDER BY due, job LIMIT ?",
                (WAITING, now, *without, limit),
            )
            jobs = [Job(*row) for row in rows]
            (after,) = db.execute("SELECT min(due) FROM jobs WHERE state = ? AND due > ?", (WAITING, now)).fetchone()
            return Due(jobs, after)

        return await self.db.ask(work)

    async def load(self, job: Job) -> tuple[bytes, list[str]] | None:
        """The mail, and those to whom this job still has to bring it; None: it was dropped meanwhile."""

        def work(db: sqlite3.Connection) -> tuple[bytes, list[str]] | None:
            body = db.execute("SELECT bytes FROM bodies WHERE mail = ?", (job.mail,)).fetchone()
            rows = db.execute(
                f"SELECT address FROM recipients WHERE mail = ? AND job = ? AND {OPEN}", (job.mail, job.job)
            )
            to = [address for (address,) in rows]
            return (bytes(body[0]), to) if body is not None and to else None

        return await self.db.ask(work)

    def sending(self, job: int) -> asyncio.Future[bool]:
        """Its final dot may leave, once this is done; False: it is not to be sent any more."""

        def work(db: sqlite3.Connection) -> bool:
            return (
                db.execute("UPDATE jobs SET state = ? WHERE job = ? AND state = ?", (SENDING, job, WAITING)).rowcount
                > 0
            )

        return self.db.do(work)

    async def settle(
        self, job: int, results: Mapping[str, Result], now: float, due: float, *, unreached: bool = False
    ) -> tuple[str, dict[str, Result]]:
        """What became of the recipients of an attempt. Where the mail is not over for some, it goes again at `due`.

        The state of the mail (open, sent, dead, or gone: dropped meanwhile), and all its recipients'. `unreached`: the
        server was not even there.
        """

        def work(db: sqlite3.Connection) -> tuple[tuple[str, dict[str, Result]], Change]:
            found = db.execute("SELECT mail, state FROM jobs WHERE job = ?", (job,)).fetchone()
            if found is None or found[1] == OVER:  # it was dropped meanwhile
                return ("gone", {}), Change()
            mail = found[0]
            rows = [(result.state, result.words, now, mail, address) for address, result in results.items()]
            db.executemany("UPDATE recipients SET state = ?, words = ?, at = ? WHERE mail = ? AND address = ?", rows)
            states = _states(db, mail)
            if _still_open(db, mail, job):
                db.execute(
                    "UPDATE jobs SET state = ?, due = ?, attempts = attempts + 1, unreached = ? WHERE job = ?",
                    (WAITING, due, unreached, job),
                )
                return ("open", states), Change()
            db.execute("UPDATE jobs SET state = ? WHERE job = ?", (OVER, job))
            state, change = close(db, mail, now)
            return (state, states), change._replace(jobs=-1)

        return await self.order(self.db.do(work))

    async def release(self, job: int) -> None:
        """It was marked, and never sent."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE jobs SET state = ? WHERE job = ? AND state = ?", (WAITING, job, SENDING))

        await self.db.do(work)

    async def reached(self, destination: str, now: float) -> int:
        """A server is there again: those that waited for it are due."""

        def work(db: sqlite3.Connection) -> int:
            return db.execute(
                "UPDATE jobs SET due = ?, unreached = 0 WHERE state = ? AND due > ? AND destination = ? AND unreached",
                (now, WAITING, now, destination),
            ).rowcount

        return await self.db.do(work)

    async def states(self, mail: int) -> dict[str, Result]:
        """Each recipient."""

        return await self.db.ask(lambda db: _states(db, mail))

    async def untried(self, mail: int) -> list[str]:
        """Destinations of recipients for whom nothing was tried yet."""

        def work(db: sqlite3.Connection) -> list[str]:
            rows = db.execute(
                "SELECT DISTINCT destination FROM jobs JOIN recipients USING (mail, job) "
                "WHERE mail = ? AND recipients.state = 'queued'",
                (mail,),
            )
            return [destination for (destination,) in rows]

        return await self.db.ask(work)

    async def note(self, name: str, value: str | None) -> None:
        """Keep a word over restarts, or forget it."""

        def work(db: sqlite3.Connection) -> None:
            if value is None:
                db.execute("DELETE FROM notes WHERE name = ?", (name,))
            else:
                db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

        await self.db.do(work)

    async def noted(self, name: str) -> str | None:
        def work(db: sqlite3.Connection) -> str | None:
            found = db.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
            return None if found is None else str(found[0])

        return await self.db.ask(work)

    async def close(self) -> None:
        await self.db.close()


# --- in the database's thread ----------------------------------------------------------------------------------------


def _states(db: sqlite3.Connection, mail: int) -> dict[str, Result]:
    rows = db.execute("SELECT address, state, words FROM recipients WHERE mail = ?", (mail,))
    return {address: Result(state, words) for address, state, words in rows}


def _insert(
    db: sqlite3.Connection,
    mail_id: str,
    named: bool,
    digest: bytes,
    now: float,
    sender: str,
    raw: bytes,
    utf8: bool,
    state: str,
    why: str = "",
) -> int:
    values = (mail_id, named, digest, now, sender, len(raw), utf8, state, why)
    columns = "id, named, digest, born, sender, size, utf8, state, why"
    row = db.execute(f"INSERT INTO mails ({columns}) VALUES (?,?,?,?,?,?,?,?,?)", values)
    number = row.lastrowid
    assert number is not None
    db.execute("INSERT INTO bodies VALUES (?, ?)", (number, raw))
    return number


def _mark(db: sqlite3.Connection, job: int, result: Result, now: float) -> None:
    """All recipients of a job that are open."""
    db.execute(
        "UPDATE recipients SET state = ?, words = ?, at = ? WHERE job = ? AND mail = (SELECT mail FROM jobs "
        f"WHERE job = ?) AND {OPEN}",
        (*result, now, job, job),
    )


def _still_open(db: sqlite3.Connection, mail: int, job: int) -> bool:
    found = db.execute(f"SELECT 1 FROM recipients WHERE mail = ? AND job = ? AND {OPEN} LIMIT 1", (mail, job))
    return found.fetchone() is not None


def close(db: sqlite3.Connection, mail: int, now: float) -> tuple[str, Change]:
    """One of its jobs is over: is the mail?"""
    if db.execute("SELECT 1 FROM jobs WHERE mail = ? AND state < ? LIMIT 1", (mail, OVER)).fetchone() is not None:
        return "open", Change()
    if (
        db.execute("SELECT 1 FROM recipients WHERE mail = ? AND state <> 'sent' LIMIT 1", (mail,)).fetchone()
        is not None
    ):
        db.execute("UPDATE mails SET state = 'dead', ended = ? WHERE number = ?", (now, mail))
        return "dead", Change(0, 0, 1)
    (named,) = db.execute("SELECT named FROM mails WHERE number = ?", (mail,)).fetchone()
    if not named:
        return "sent", forget(db, mail)
    (size,) = db.execute("SELECT coalesce(sum(length(bytes)), 0) FROM bodies WHERE mail = ?", (mail,)).fetchone()
    db.execute("DELETE FROM bodies WHERE mail = ?", (mail,))
    db.execute("UPDATE mails SET state = 'sent', ended = ? WHERE number = ?", (now, mail))
    return "sent", Change(0, -size, 0)


def forget(db: sqlite3.Connection, mail: int) -> Change:
    """Remove everything of a mail; the bytes that this frees."""
    (size,) = db.execute("SELECT coalesce(sum(length(bytes)), 0) FROM bodies WHERE mail = ?", (mail,)).fetchone()
    db.execute("DELETE FROM mails WHERE number = ?", (mail,))
    return Change(0, -size, 0)
