"""A disk that fails under a bridge for mail; for tests."""

from __future__ import annotations

import contextlib
import sqlite3

from bridges.mail.database import Database
from tunnel.errors import SpoolError


async def abandoned(made: Database) -> None:
    """It has given up its connection, in its own thread, and opens another one for the next order."""

    def fails(_db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with contextlib.suppress(SpoolError):
        await made.ask(fails)
