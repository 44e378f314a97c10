"""One worker of a destination: takes what is ready, one mail after the other, on one connection; and tells the disk.

Whatever happens to a mail on its way is decided here: which trouble defers it, which fails it, which stops the whole
destination (bridges/mail/troubles.py).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from bridges.mail.destination import Destination
from bridges.mail.limits import SEND_IDLE_DIRECT_S, SEND_IDLE_S, SEND_READY, TAKE_AGAIN_S
from bridges.mail.outbox_records import Job, Result
from bridges.mail.sending import Conversation
from bridges.mail.troubles import Misconfigured, NoMail, Stale, Unreachable
from tunnel.errors import SpoolError

if TYPE_CHECKING:
    from bridges.mail.dispatch import Dispatch

T = TypeVar("T")


class Worker:
    """`run` until there is nothing to do for a while, or nothing may go."""

    def __init__(self, office: Dispatch, destination: Destination) -> None:
        self._office = office
        self._destination = destination

    async def run(self) -> None:
        line: Conversation | None = None
        try:
            while (job := await self._next()) is not None:
                try:
                    line = await self._one(job, line)
                finally:
                    self._office.taken.discard(job.job)
                    if len(self._office.taken) < SEND_READY // 2 or not self._destination.ready:
                        self._office.wake()
        finally:
            self._destination.workers -= 1
            self._office.workers -= 1
            await self._hang_up(line)
            self._office.wake()

    async def _next(self) -> Job | None:
        """The next that may go; None: there is none, and this worker is not needed."""
        while not self._office.closing:
            wait_s = self._destination.held_s(self._office.loop.time())
            if wait_s > 0:
                self._office.give_back(self._destination)
                if self._office.paused or self._destination.reason or wait_s >= SEND_IDLE_S:
                    return None
                await self._sleep(wait_s)  # for its rate
                self._office.wake()
                continue
            if self._destination.ready and not self._office.paused:
                self._destination.rate.take(self._office.loop.time())
                return self._destination.ready.popleft()
            idle_s = SEND_IDLE_S if self._office.plan.relay else SEND_IDLE_DIRECT_S
            if not await self._sleep(idle_s) and not self._destination.ready:
                return None
        return None

    async def _sleep(self, wait_s: float) -> bool:
        """Whether it was woken."""
        self._destination.woken.clear()
        self._destination.waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await self._destination.woken.wait()
        except TimeoutError:
            return False
        finally:
            self._destination.waiting -= 1
        return True

    async def _one(self, job: Job, line: Conversation | None) -> Conversation | None:
        """One job on this connection, or on a new one; the connection, if it is still good for something."""
        try:
            loaded = await self._office.outbox.load(job)
            if loaded is None:
                return line
            raw, to = loaded
            while True:
                if line is not None and line.worn:
                    await self._hang_up(line)
                    line = None
                if line is None:
                    line = await self._connected()
                try:
                    results = await line.send(
                        job.sender, to, raw, lambda: self._office.outbox.sending(job.job), utf8=job.utf8
                    )
                    break
                except Stale:
                    await self._hang_up(line)
                    line = None
            await self._settle(job, results)
            if line.alive or any(result.state == "sent" for result in results.values()):
                self._destination.rest.over()
            else:
                self._office.rest(self._destination, next(iter(results.values())).words)
        except NoMail as error:
            await self._settle(job, dict.fromkeys(to, Result("failed", str(error))))
        except Unreachable as error:
            self._office.rest(self._destination, str(error))
            await self._settle(job, dict.fromkeys(to, Result("deferred", str(error))), unreached=True)
        except Misconfigured as error:
            await self._hang_up(line)
            line = None
            self._office.refused(self._destination, str(error))
            await self._written(lambda: self._office.outbox.release(job.job))
        except SpoolError as error:
            self._office.trouble = str(error)
            await self._written(lambda: self._office.outbox.release(job.job))
        return line

    async def _settle(self, job: Job, results: dict[str, Result], *, unreached: bool = False) -> None:
        """What an attempt came to."""
        if any(result.state == "gone" for result in results.values()):
            return
        due = time.time() + self._office.plan.retry.after(job.attempts + 1, random.random())
        order = partial(self._office.outbox.settle, job.job, results, due=due, unreached=unreached)
        state, states = await self._written(lambda: order(now=time.time()))
        for result in results.values():
            self._office.counts[result.state] += 1
        if any(result.state == "sent" for result in results.values()):
            self._office.counts["mails"] += 1
            self._office.counts["bytes"] += job.size
        if any(result.state == "unknown" for result in results.values()):
            self._office.counts["may_repeat"] += 1
        self._tell(job, results, state)
        self._office.listener.settled(job.mail, states)

    async def _written(self, order: Callable[[], Awaitable[T]]) -> T:
        """To disk, however long that takes: what was sent must not be sent again."""
        while True:
            try:
                result = await order()
            except SpoolError as error:
                self._office.trouble = str(error)
                self._office.log.warning("disk", reason=str(error))
                await asyncio.sleep(TAKE_AGAIN_S)
            else:
                self._office.trouble = ""
                return result

    def _tell(self, job: Job, results: dict[str, Result], state: str) -> None:
        by_state = Counter(result.state for result in results.values())
        bad = next((result.words for result in results.values() if result.state != "sent"), None)
        tell = self._office.log.info if bad is None else self._office.log.warning
        tell("mail", id=job.id, number=job.mail, **dict(sorted(by_state.items())), said=bad, mail=state)

    # --- connections -------------------------------------------------------------------------------------------------

    async def _connected(self) -> Conversation:
        """The first of its servers that takes us. NoMail, Unreachable, Misconfigured."""
        self._office.connecting += 1
        try:
            hosts = await self._office.servers(self._destination.name)
            troubles: list[Exception] = []
            for host, port in hosts:
                line = Conversation(self._office.plan, host, port)
                try:
                    await line.open()
                except (Unreachable, Misconfigured) as error:
                    troubles.append(error)
                    continue
                self._destination.lines.add(line)
                self._destination.server = line.address
                await self._well()
                return line
        finally:
            self._office.connecting -= 1
        words = "; ".join(map(str, troubles))
        if self._office.plan.relay and all(isinstance(error, Misconfigured) for error in troubles):
            raise Misconfigured(words)
        raise Unreachable(words)

    async def _well(self) -> None:
        """Its server is there: what waited for it need not wait for its time."""
        there = self._destination
        if there.unknown or there.reason or there.rest.failures:
            there.unknown = False
            self._office.log.info("reached", server=there.name or "relay")
            with suppress(SpoolError):  # then it waits
                await self._office.outbox.reached(there.name, time.time())
        there.free()
        self._office.wake()
        while self._destination.workers < min(self._office.plan.connections, len(self._destination.ready) + 1):
            self._office.hire(self._destination)

    async def _hang_up(self, line: Conversation | None) -> None:
        if line is None:
            return
        self._destination.lines.discard(line)
        if self._office.closing:
            line.abort()
        else:
            await line.quit()
