"""What a mailbox bridge knows of its mails, on disk: a mail is (account, folder, UIDVALIDITY, UID).

    folder   up to which UID every mail was looked at
    mail     those up to there that are not done with yet; one without a row is done

    LISTED ──fetched──► GIVEN ──answered──► TAKEN ──marked on the server──► no row
       └──────────────────┴──failed too often, or too large──► BAD ──in quarantine──► no row

A row is written before what it tells of begins: after a kill at any moment, LISTED and GIVEN are fetched again (those
that were GIVEN may come twice, and are counted), TAKEN are only marked.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from bridges.mail.database import Database

_MARK: Final = b"ztIm"
_SCHEMA: Final = (
    """CREATE TABLE folder (
        account TEXT NOT NULL, name TEXT NOT NULL, uidvalidity INTEGER NOT NULL, upto INTEGER NOT NULL,
        marked_upto INTEGER NOT NULL, PRIMARY KEY (account, name)) WITHOUT ROWID""",
    """CREATE TABLE mail (
        account TEXT NOT NULL, folder TEXT NOT NULL, uidvalidity INTEGER NOT NULL, uid INTEGER NOT NULL,
        size INTEGER NOT NULL, state INTEGER NOT NULL, attempts INTEGER NOT NULL,
        PRIMARY KEY (account, folder, uidvalidity, uid)) WITHOUT ROWID""",
)


class State(IntEnum):
    """Of a mail that is not done with."""

    LISTED = 0
    GIVEN = 1
    TAKEN = 2
    BAD = 3


class Position(NamedTuple):
    """Where we are in a folder."""

    uidvalidity: int
    upto: int
    """Every mail up to this UID was looked at."""
    marked_upto: int
    """Up to this one a mail that bears our mark was done with, under an older UIDVALIDITY."""


class Kept(NamedTuple):
    """A mail's row."""

    uid: int
    size: int
    state: State
    attempts: int = 0


class Books:
    """Of one account. What is written is on disk when its future is done; SpoolError: the disk failed."""

    def __init__(self, file: Path, account: str) -> None:
        """SpoolError: it cannot be opened."""
        self.database = Database(file, _MARK, _SCHEMA)
        self._account = account
        self.was_lost = any(file.parent.glob(f"{file.name}.corrupt-*"))
        """An older database was corrupt: a folder that this one does not know is not new."""

    def __repr__(self) -> str:
        return f"<Books {self._account} {self.database}>"

    async def close(self) -> None:
        await self.database.close()

    def position(self, folder: str) -> asyncio.Future[Position | None]:
        """None: the folder is new."""

        def work(db: sqlite3.Connection) -> Position | None:
            asked = "SELECT uidvalidity, upto, marked_upto FROM folder WHERE account = ? AND name = ?"
            row = db.execute(asked, (self._account, folder)).fetchone()
            return None if row is None else Position(*row)

        return self.database.ask(work)

    def mails(self, folder: str, uidvalidity: int) -> asyncio.Future[list[Kept]]:
        """Those that are not done with, in order."""

        def work(db: sqlite3.Connection) -> list[Kept]:
            asked = (
                "SELECT uid, size, state, attempts FROM mail WHERE account = ? AND folder = ? AND uidvalidity = ? "
                "ORDER BY uid"
            )
            found = db.execute(asked, (self._account, folder, uidvalidity))
            return [Kept(uid, size, State(state), attempts) for uid, size, state, attempts in found]

        return self.database.ask(work)

    def begin(self, folder: str, position: Position) -> asyncio.Future[None]:
        """The folder, from there on; what was known of its mails is no more."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM mail WHERE account = ? AND folder = ?", (self._account, folder))
            db.execute("INSERT OR REPLACE INTO folder VALUES (?, ?, ?, ?, ?)", (self._account, folder, *position))

        return self.database.do(work)

    def listed(self, folder: str, uidvalidity: int, upto: int, mails: Sequence[Kept]) -> asyncio.Future[None]:
        """All up to `upto` were looked at, and these are to be dealt with."""

        def work(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT OR IGNORE INTO mail VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(self._account, folder, uidvalidity, *mail) for mail in mails],
            )
            db.execute(
                "UPDATE folder SET upto = ? WHERE account = ? AND name = ? AND uidvalidity = ?",
                (upto, self._account, folder, uidvalidity),
            )

        return self.database.do(work)

    def note(self, folder: str, uidvalidity: int, mails: Iterable[Kept]) -> asyncio.Future[None]:
        """How they are now."""
        rows = [(mail.state, mail.attempts, self._account, folder, uidvalidity, mail.uid) for mail in mails]

        def work(db: sqlite3.Connection) -> None:
            db.executemany(
                "UPDATE mail SET state = ?, attempts = ? "
                "WHERE account = ? AND folder = ? AND uidvalidity = ? AND uid = ?",
                rows,
            )

        return self.database.do(work)

    def done(self, folder: str, uidvalidity: int, uids: Iterable[int]) -> asyncio.Future[None]:
        """Nothing is left to do with them."""
        rows = [(self._account, folder, uidvalidity, uid) for uid in uids]

        def work(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM mail WHERE account = ? AND folder = ? AND uidvalidity = ? AND uid = ?", rows)

        return self.database.do(work)
