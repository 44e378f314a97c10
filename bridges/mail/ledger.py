"""The mails of one folder that are not done with, in memory and in the books."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridges.mail.bookkeeping import Books, Kept, State
from bridges.mail.giving import Letter
from bridges.mail.limits import IMAP_DISK_S
from tunnel.errors import SpoolError


@dataclass(slots=True)
class Counts:
    """Of all folders of a bridge."""

    fetched: int = 0
    fetched_bytes: int = 0
    marked: int = 0
    quarantined: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Mails that were not handed over, or not marked, by reason."""


@dataclass(slots=True, eq=False)
class Mail:
    """One that is not done with."""

    uidvalidity: int
    uid: int
    size: int
    state: State
    attempts: int = 0
    rests_until: float = 0.0
    """It failed: not before then (the loop's time)."""
    stumbled: bool = False
    """The connection broke at it: all others first."""
    repeats: bool = False
    """It was given by a process before this one."""
    letter: Letter | None = None
    noted: bool = True
    """How it is, is on disk."""

    @property
    def kept(self) -> Kept:
        return Kept(self.uid, self.size, self.state, self.attempts)


class Ledger:
    """`on_noted`: a mail's row is as the mail is; `on_fewer`: some are done with; `on_trouble`: the disk fails."""

    def __init__(
        self,
        folder: str,
        books: Books,
        on_noted: Callable[[], None],
        on_fewer: Callable[[], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self.mails: dict[int, Mail] = {}
        """By UID, in order."""
        self._folder = folder
        self._books = books
        self._on_noted = on_noted
        self._on_fewer = on_fewer
        self._on_trouble = on_trouble
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Ledger {self._folder} mails={len(self.mails)}>"

    def count(self, *states: State) -> int:
        return sum(mail.state in states for mail in self.mails.values())

    async def note(self, mail: Mail) -> None:
        await self._books.note(self._folder, mail.uidvalidity, [mail.kept])
        mail.noted = True
        self._on_noted()

    async def finish(self, mails: Sequence[Mail]) -> None:
        for uidvalidity in {mail.uidvalidity for mail in mails}:
            uids = [mail.uid for mail in mails if mail.uidvalidity == uidvalidity]
            await self._books.done(self._folder, uidvalidity, uids)
        for mail in mails:
            if self.mails.get(mail.uid) is mail:
                del self.mails[mail.uid]
        self._on_fewer()

    def surely(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do it; again and again while the disk fails."""

        async def until_done() -> None:
            while True:
                try:
                    await work()
                    return
                except SpoolError as error:
                    self._on_trouble(str(error))
                    await asyncio.sleep(IMAP_DISK_S)

        task = asyncio.get_running_loop().create_task(until_done())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self, within_s: float) -> None:
        """What was answered is written down."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=within_s)
            for task in late:
                task.cancel()
