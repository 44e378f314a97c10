"""What an outbox is made of: its tables, and the records that go in and out. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

MARK: Final = b"ZTSC"
WAITING, SENDING, OVER = 0, 1, 2
"""States of jobs."""
SCHEMA: Final = (
    """CREATE TABLE mails (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, named INTEGER NOT NULL,
       digest BLOB NOT NULL, born REAL NOT NULL, ended REAL, sender TEXT NOT NULL, size INTEGER NOT NULL,
       utf8 INTEGER NOT NULL, state TEXT NOT NULL, why TEXT NOT NULL DEFAULT '')""",
    "CREATE INDEX mails_state ON mails (state, ended)",
    "CREATE TABLE bodies (mail INTEGER PRIMARY KEY REFERENCES mails ON DELETE CASCADE, bytes BLOB NOT NULL)",
    """CREATE TABLE jobs (job INTEGER PRIMARY KEY AUTOINCREMENT, mail INTEGER NOT NULL REFERENCES mails
       ON DELETE CASCADE, destination TEXT NOT NULL, state INTEGER NOT NULL, since REAL NOT NULL, due REAL NOT NULL,
       attempts INTEGER NOT NULL DEFAULT 0, unreached INTEGER NOT NULL DEFAULT 0)""",
    "CREATE INDEX jobs_due ON jobs (state, due)",
    "CREATE INDEX jobs_since ON jobs (state, since)",
    "CREATE INDEX jobs_mail ON jobs (mail)",
    """CREATE TABLE recipients (mail INTEGER NOT NULL REFERENCES mails ON DELETE CASCADE, address TEXT NOT NULL,
       job INTEGER NOT NULL, state TEXT NOT NULL, words TEXT NOT NULL DEFAULT '', at REAL,
       PRIMARY KEY (mail, address)) WITHOUT ROWID""",
    "CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)


@dataclass(frozen=True, slots=True)
class Mail:
    """One that is to be taken. `named`: the id is its sender's own, and means something."""

    id: str
    named: bool
    digest: bytes
    sender: str
    to: Mapping[str, tuple[str, ...]]
    """destination → recipients"""
    raw: bytes
    utf8: bool


class Taken(NamedTuple):
    number: int
    verdict: str
    """"" taken; "repeated": the same was taken before; "other": the id is another mail's."""


class Job(NamedTuple):
    """One destination of one mail, that is to be sent now."""

    job: int
    mail: int
    id: str
    destination: str
    since: float
    attempts: int
    sender: str
    size: int
    utf8: bool


class Result(NamedTuple):
    """What became of a recipient."""

    state: str
    words: str


class Change(NamedTuple):
    """By how much an order changed what lies here."""

    jobs: int = 0
    """Open ones."""
    bytes: int = 0
    """Of bodies."""
    dead: int = 0
    """Mails with a recipient who will not get it, and messages that were refused."""


class Due(NamedTuple):
    jobs: list[Job]
    next: float | None
    """When the next of the others is."""
