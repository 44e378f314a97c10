"""Which mail goes when, and on which connection: from the outbox to destinations, and what came of it back to disk.

A destination is the relay, or, without one, a domain. It has up to `connections` workers, each with a connection that
carries one mail after the other; it rests while its server cannot be reached, and the relay is paused while its server
refuses what we are. What is under way is never held twice: a job is taken from the disk's list once, and its worker
gives it back.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, Protocol

from bridges.mail.addresses import parts
from bridges.mail.destination import RELAY, Destination
from bridges.mail.limits import (
    SEND_DESTINATIONS,
    SEND_PAUSE_S,
    SEND_READY,
    SEND_SHARE,
    SEND_STOP_S,
    SEND_WORKERS,
    TAKE_AGAIN_S,
)
from bridges.mail.outbox import Outbox
from bridges.mail.outbox_records import Result
from bridges.mail.worker import Worker
from tunnel.config.mail.smtp_client_plan import SmtpClientPlan
from tunnel.config.values import tcp
from tunnel.errors import SpoolError
from tunnel.log import Log

_PAUSED: Final = "paused by `ztunnel mail pause`; `ztunnel mail resume` lets it go on"

Lookup = Callable[[str], Awaitable[list[str]]]
"""The mail servers of a domain, the first to be tried first. NoMail, Unreachable."""


class Listener(Protocol):
    """Who is told what became of mails."""

    def settled(self, mail: int, states: Mapping[str, Result]) -> None:
        """An attempt is over, and on disk; how all its recipients are now."""

    def held_up(self) -> None:
        """Nothing goes to some destination for now."""


class Dispatch:
    """See the module. `start`, then `wake` whenever something was taken; `close`."""

    def __init__(
        self, plan: SmtpClientPlan, outbox: Outbox, listener: Listener, log: Log, lookup: Lookup | None = None
    ) -> None:
        self.counts: Counter[str] = Counter()
        """sent, deferred, failed, unknown: recipients, by what an attempt came to; may_repeat: mails."""
        self.paused = False
        """By a person."""
        self.trouble = ""
        """Of the disk."""
        self.plan = plan
        self.outbox = outbox
        self.listener = listener
        self.log = log
        self.lookup = lookup
        self.loop = asyncio.get_running_loop()
        self._destinations: dict[str, Destination] = {}
        self.taken: set[int] = set()
        """Jobs in memory."""
        self._woken = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.closing = False
        self.connecting = self.workers = 0

    def destination_of(self, address: str) -> str:
        """Where the mail for this recipient goes."""
        return RELAY if self.plan.relay else parts(address).domain

    async def servers(self, name: str) -> list[tuple[str, int]]:
        """Of a destination, the first to be tried first. NoMail, Unreachable."""
        if self.plan.relay:
            return [(address.host, address.port) for address in map(tcp, self.plan.relay)]
        if self.lookup is None:
            from bridges.mail.mx import servers_of  # brings a resolver along, which a relay needs not

            self.lookup = servers_of
        return [(host, self.plan.direct_port) for host in await self.lookup(name)]

    def server(self, name: str) -> str:
        """Of a destination, the one that was reached last, as HOST:PORT; "": none was."""
        destination = self._destinations.get(name)
        return "" if destination is None else destination.server

    def holds(self, name: str) -> bool:
        """Nothing goes to this destination for now, other than for its rate."""
        return bool(self.why_held(name))

    def why_held(self, name: str) -> str:
        """... and why; "": it goes."""
        destination = self._destinations.get(name)
        return _PAUSED if self.paused else self.trouble or (destination.reason if destination is not None else "")

    # --- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._spawn(self._run())

    def wake(self) -> None:
        """Something is due, or may go again."""
        self._woken.set()

    def resume(self) -> None:
        """After `pause`; and whoever rests is tried now."""
        self.paused = False
        self.hurry()

    def hurry(self) -> None:
        """Whoever rests, or is paused for what its server said, is tried now."""
        for destination in self._destinations.values():
            destination.free()
        self.wake()

    def pause(self) -> None:
        """Nothing more goes; what is being sent ends."""
        self.paused = True
        for destination in self._destinations.values():
            self.give_back(destination)
        self.listener.held_up()

    async def close(self) -> None:
        """What is being sent may end, for a while."""
        self.closing = True
        self.wake()
        for destination in self._destinations.values():
            self.give_back(destination)
            destination.woken.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SEND_STOP_S)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.call_exception_handler({"message": "a mail worker failed", "exception": error, "task": task})

    # --- from the disk's list to destinations ------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self.closing:
            self._woken.clear()
            try:
                wait_s = await self._share_out()
                self.trouble = ""
            except SpoolError as error:
                self.trouble, wait_s = str(error), TAKE_AGAIN_S
            if self.closing:
                return
            try:
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _share_out(self) -> float:
        """Give what is due to those who may have it; when to look again, in seconds."""
        if self.paused:
            return 60.0
        now = self.loop.time()
        held = {one.name: wait_s for one in self._destinations.values() if (wait_s := one.held_s(now)) > 0}
        waits = [60.0, *held.values()]
        room = SEND_READY - len(self.taken)
        if room <= 0 or (self.plan.relay and held):
            return min(waits)
        share = SEND_READY if self.plan.relay else SEND_SHARE
        full = [one.name for one in self._destinations.values() if len(one.ready) >= share]
        most = room + len(self.taken)
        due = await self.outbox.due(time.time(), most, sorted({*held, *full}))
        if self.paused or self.closing:
            return 60.0
        fresh = [job for job in due.jobs if job.job not in self.taken][:room]
        for job in fresh:
            destination = self._destination(job.destination)
            if destination.held_s(now) > 0 or len(destination.ready) >= share:
                continue
            if not destination.workers and self.workers >= SEND_WORKERS:
                waits.append(1.0)
                continue
            self.taken.add(job.job)
            destination.ready.append(job)
            self._staff(destination)
        if due.next is not None:
            waits.append(max(0.05, due.next - time.time()))
        if len(due.jobs) == most:
            waits.append(1.0)
        return min(waits)

    def _destination(self, name: str) -> Destination:
        found = self._destinations.get(name)
        if found is None:
            if len(self._destinations) >= SEND_DESTINATIONS:
                idle = [one for one in self._destinations.values() if not one.workers]
                idle.sort(key=lambda one: bool(one.reason))
                for one in idle[: SEND_DESTINATIONS // 10]:
                    del self._destinations[one.name]
            found = self._destinations[name] = Destination(name, self.plan.rate)
        return found

    def _staff(self, destination: Destination) -> None:
        """Somebody takes what is ready; while a server's first answer is not known, one alone tries."""
        destination.woken.set()
        known = bool(destination.open) and destination.workers < self.plan.connections
        if len(destination.ready) > destination.waiting and (known or not destination.workers):
            self.hire(destination)

    def hire(self, destination: Destination) -> None:
        """One more worker."""
        destination.workers += 1
        self.workers += 1
        self._spawn(Worker(self, destination).run())

    def give_back(self, destination: Destination) -> None:
        """Nothing of this goes now: the disk's list still has it."""
        for job in destination.ready:
            self.taken.discard(job.job)
        destination.ready.clear()

    # --- destinations that get nothing for now -----------------------------------------------------------------------

    def rest(self, destination: Destination, reason: str) -> None:
        """Its server cannot be reached."""
        destination.rest.fail(self.loop.time(), random.random())
        self._hold(destination, "unreached", reason)

    def refused(self, destination: Destination, reason: str) -> None:
        """The server refuses what we are: somebody has to look. It is tried again all the same, slowly."""
        if not self.plan.relay:
            self.rest(destination, reason)
            return
        destination.paused_until = self.loop.time() + SEND_PAUSE_S
        self._hold(destination, "paused", reason)

    def _hold(self, destination: Destination, event: str, reason: str) -> None:
        destination.reason = reason
        self.give_back(destination)
        self.log.warning(event, server=destination.name or "relay", reason=reason)
        self.listener.held_up()
        self.wake()

    # --- what it says of itself --------------------------------------------------------------------------------------

    def state(self) -> tuple[str, str]:
        """A word, and why."""
        now = self.loop.time()
        if self.paused:
            return "paused", _PAUSED
        if self.trouble:
            return "retrying", self.trouble
        refused = next((one for one in self._destinations.values() if one.paused_until > now), None)
        if refused is not None:
            return "paused", f"{refused.reason}; tried again every {SEND_PAUSE_S / 60:.0f} min, or at `mail resume`"
        if any(one.open for one in self._destinations.values()):
            return "up", ""
        relay = self._destinations.get(RELAY)
        if relay is not None and relay.reason:
            return "retrying", relay.reason
        return ("connecting", "") if self.connecting else ("idle", "")

    @property
    def connections(self) -> int:
        return sum(one.open for one in self._destinations.values())

    def troubles(self, most: int = 20) -> dict[str, str]:
        """Destinations that are not well, with their reasons."""
        found = ((one.name, one.reason) for one in self._destinations.values() if one.reason and one.name)
        return dict(pair for pair, _ in zip(found, range(most), strict=False))
