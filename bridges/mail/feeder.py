"""From the inbox to one 0MQ socket: what waits on disk is given, and removed when somebody has answered for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from bridges.mail.handover import HandOver
from bridges.mail.inbox import Inbox, Mail
from tunnel.errors import SpoolError
from tunnel.log import Log

_ROWS: Final = 16
"""Read from the disk at once: each at most INLINE_BYTES long."""
_RETRY_S: Final = 1.0

Frames = Callable[[Mail, bytes], Awaitable[list[bytes]]]
"""A mail and its bytes as a message."""


class Feeder:
    """One socket's. `rules`: whose mails these are; or whose they are not, where it takes all others."""

    def __init__(
        self, inbox: Inbox, handover: HandOver, rules: tuple[str, ...], others: bool, frames: Frames, log: Log
    ) -> None:
        self.handover = handover
        self.taken = self.refused = 0
        self._inbox = inbox
        self._rules = rules
        self._others = others
        self._frames = frames
        self._log = log
        self._after = 0
        """What is above this number was not read yet."""
        self._under_way: set[int] = set()
        self._wake = asyncio.Event()
        self._wake.set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def __repr__(self) -> str:
        return f"<Feeder {self._rules} after={self._after} under_way={len(self._under_way)}>"

    def look(self, number: int | None = None) -> None:
        """There may be something to do; `number`: this mail waits again."""
        if number is not None:
            self._after = min(self._after, number - 1)
        self._wake.set()

    async def close(self) -> None:
        """Give nothing more. What is under way and not answered comes again with the next start."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.handover.close()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while self.handover.has_room and await self._some():
                    pass
            except (SpoolError, OSError, MemoryError) as error:
                self._log.warning("inbox", reason=str(error))
                await asyncio.sleep(_RETRY_S)
                self._wake.set()

    async def _some(self) -> bool:
        """Read and give; False: there is nothing, or no room."""
        at = self._after
        mails = await self._inbox.waiting(self._rules, self._others, at, _ROWS)
        for mail in mails:
            if not self.handover.has_room:
                return False
            if mail.number not in self._under_way:
                await self._give(mail)
            if self._after != at:  # meanwhile an older one waits again
                return True
            at = self._after = mail.number
        return bool(mails)

    async def _give(self, mail: Mail) -> None:
        raw = mail.body
        if raw is None:
            raw = await asyncio.to_thread(_bytes_of, self._inbox.bodies / str(mail.file))
        if raw is None:
            self._log.error("lost", mail=mail.id, reason=f"its file {mail.file} is gone")
            await self._inbox.bury(mail.number, f"its file {mail.file} is gone")
            return
        try:
            frames = await self._frames(mail, raw)
        except (SpoolError, OSError, MemoryError):
            raise
        except Exception as error:  # one mail that we stumble over stops none of the others
            self._log.error("stumbled", mail=mail.id, error=f"{type(error).__name__}: {error}")
            await self._inbox.bury(mail.number, f"no message could be made of it ({type(error).__name__})")
            return
        del raw
        light = replace(mail, meta=b"", body=None)
        self._under_way.add(mail.number)
        self.handover.give(mail.number, frames, lambda refusal: self._answered(light, refusal))

    def _answered(self, mail: Mail, refusal: str) -> None:
        self._under_way.discard(mail.number)
        if refusal:
            self.refused += 1
            self._log.warning("refused", mail=mail.id, reason=refusal)
            self._inbox.bury(mail.number, refusal)
        else:
            self.taken += 1
            self._inbox.finish(mail)
        self._wake.set()


def _bytes_of(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None
