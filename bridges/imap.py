"""imap: a mailbox becomes messages (docs/mail.md).

    Mailbox (a thread a folder) ──asks──► Folder ──► Giving ──► HandOver ──► 0MQ
       IMAPClient                            └─► Books (SQLite)

Here they are put together, started and ended, and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from bridges.mail.bookkeeping import Books
from bridges.mail.folder import Folder
from bridges.mail.giving import Giving
from bridges.mail.imap_trial import ImapTrial
from bridges.mail.ledger import Counts
from bridges.mail.limits import IMAP_CLOSE_S
from bridges.mail.mailbox import Mailbox
from tunnel.config.bridge_plan import BridgePlan
from tunnel.config.mail.imap import ImapPlan
from tunnel.control import Command
from tunnel.log import Log
from tunnel.reactor import Reactor
from tunnel.spool import Spool

_WORST: tuple[str, ...] = ("stopped", "refused", "retrying", "connecting", "up")


class ImapBridge:
    """See `bridges.process.Bridge`."""

    def __init__(self, plan: BridgePlan[ImapPlan], reactor: Reactor, log: Log) -> None:
        """SpoolError: the database cannot be opened."""
        self.plan = plan.own
        self._loop = reactor.loop
        self._name = plan.name
        self.books = Books(self.plan.file, self.plan.user)
        self.giving = Giving(reactor, plan.zmq, self._on_room, self.plan.again_s)
        self.counts = Counts()
        self.paused = False
        self.folders: list[Folder] = []
        self._mailboxes: list[Mailbox] = []
        if self.books.was_lost and self.books.database.set_aside:
            log.error("corrupt", aside=self.books.database.set_aside)
        for name in self.plan.folders:
            folder = Folder(self.plan, name, self.books, self.giving, self.counts, log)
            mailbox = Mailbox(self.plan, name, folder, self._loop)
            folder.wake = mailbox.wake
            self.folders.append(folder)
            self._mailboxes.append(mailbox)

    async def start(self) -> None:
        for mailbox in self._mailboxes:
            mailbox.start()

    async def close(self) -> None:
        """What is under way gets a moment to be answered, what was answered to be marked."""
        self._pause(True)
        deadline = self._loop.time() + IMAP_CLOSE_S
        while self.giving.under_way and self.giving.over.answers and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
        for folder in self.folders:
            await folder.settle(1.0)
        await asyncio.gather(*(mailbox.close(IMAP_CLOSE_S) for mailbox in self._mailboxes))
        self.giving.close()
        await self.books.close()

    def status(self) -> dict[str, Any]:
        told = [folder.told for folder in self.folders]
        state = next(word for word in _WORST if word in told)
        worst = next(folder for folder in self.folders if folder.told == state)
        counts = self.counts
        return {
            "state": "retrying" if state in ("stopped", "refused") else state,
            "reason": worst.reason or self.books.database.trouble,
            "connections": told.count("up"),
            "frames_in": counts.fetched,
            "frames_out": 0,
            "bytes_in": counts.fetched_bytes,
            "bytes_out": 0,
            "refused": {},
            "dropped": {},
            "ended": {},
            "zmq": self.giving.status(),
            "detail": {
                "paused": self.paused,
                "fetched": counts.fetched,
                "handed": self.giving.handed,
                "marked": counts.marked,
                "quarantined": counts.quarantined,
                "skipped": dict(sorted((+counts.skipped).items())),
                "may_repeat": self.giving.may_repeat,
                "under_way": self.giving.under_way,
                "held_bytes": self.giving.held_bytes,
                "folders": {folder.name: folder.status() for folder in self.folders},
            },
        }

    def commands(self) -> Mapping[str, Command]:
        return {
            "mail-pause": lambda _: self._pause(True),
            "mail-resume": lambda _: self._pause(False),
            "mail-test": ImapTrial(self, self._name),
        }

    def spools(self) -> Mapping[str, Spool]:
        return {}

    def _pause(self, paused: bool) -> dict[str, Any]:
        """No more mails are fetched; those that were are handed over and marked."""
        self.paused = paused
        for folder in self.folders:
            folder.paused = paused
            folder.wake()
        return {"paused": paused}

    def _on_room(self) -> None:
        for folder in self.folders:
            folder.has_room()
