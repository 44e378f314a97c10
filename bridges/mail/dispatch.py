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
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from bridges.mail.addresses import parts
from bridges.mail.limits import (
    SEND_DESTINATIONS,
    SEND_IDLE_DIRECT_S,
    SEND_IDLE_S,
    SEND_PAUSE_S,
    SEND_READY,
    SEND_REST_MAX_S,
    SEND_REST_MIN_S,
    SEND_STOP_S,
    SEND_WORKERS,
    TAKE_AGAIN_S,
)
from bridges.mail.outbox import Outbox
from bridges.mail.outbox_records import Job, Result
from bridges.mail.retry import Rate, Rest
from bridges.mail.sending import Conversation
from bridges.mail.troubles import Misconfigured, NoMail, Stale, Unreachable
from tunnel.config.mail.smtp_client_plan import SmtpClientPlan
from tunnel.config.values import tcp
from tunnel.errors import SpoolError
from tunnel.log import Log

T = TypeVar("T")
Lookup = Callable[[str], Awaitable[list[str]]]
"""The mail servers of a domain, the first to be tried first. NoMail, Unreachable."""
RELAY: Final = ""
"""The destination of everything, where there is a relay."""


class Listener(Protocol):
    """Who is told what became of mails."""

    def settled(self, mail: int, states: Mapping[str, Result]) -> None:
        """An attempt is over, and on disk; how all its recipients are now."""

    def held_up(self) -> None:
        """Nothing goes to some destination for now."""


class Destination:
    """One of them: what is ready to go there, and how its server was lately."""

    def __init__(self, name: str, rate: tuple[int, float] | None) -> None:
        self.name = name
        self.ready: deque[Job] = deque()
        self.workers = 0
        self.waiting = 0
        """Workers with nothing to do."""
        self.lines: set[Conversation] = set()
        self.rate = Rate(*rate) if rate is not None else Rate()
        self.rest = Rest(SEND_REST_MIN_S, SEND_REST_MAX_S)
        self.reason = ""
        """Why it rests or is paused."""
        self.paused_until = 0.0
        """It refuses what we are."""
        self.woken = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Destination {self.name or 'relay'} ready={len(self.ready)} lines={len(self.lines)} {self.reason}>"

    @property
    def open(self) -> int:
        """Connections."""
        return sum(line.alive for line in self.lines)

    def held_s(self, now: float) -> float:
        """For how long nothing is to go there."""
        return max(self.rest.until - now, self.paused_until - now, self.rate.wait_s(now), 0.0)

    def free(self) -> None:
        """It is there, or is to be tried at once."""
        self.rest.until = self.paused_until = 0.0
        self.reason = ""


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
        self._plan = plan
        self._outbox = outbox
        self._listener = listener
        self._log = log
        self._lookup = lookup
        self._loop = asyncio.get_running_loop()
        self._destinations: dict[str, Destination] = {}
        self._taken: set[int] = set()
        """Jobs in memory."""
        self._woken = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._connecting = self._workers = 0

    def destination_of(self, address: str) -> str:
        """Where the mail for this recipient goes."""
        return RELAY if self._plan.relay else parts(address).domain

    def holds(self, name: str) -> bool:
        """Nothing goes to this destination for now, other than for its rate."""
        destination = self._destinations.get(name)
        return self.paused or bool(self.trouble) or (destination is not None and bool(destination.reason))

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
            self._give_back(destination)
        self._listener.held_up()

    async def close(self) -> None:
        """What is being sent may end, for a while."""
        self._closing = True
        self.wake()
        for destination in self._destinations.values():
            self._give_back(destination)
            destination.woken.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SEND_STOP_S)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a mail worker failed", "exception": error, "task": task})

    # --- from the disk's list to destinations ------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._closing:
            self._woken.clear()
            try:
                wait_s = await self._share_out()
                self.trouble = ""
            except SpoolError as error:
                self.trouble, wait_s = str(error), TAKE_AGAIN_S
            if self._closing:
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
        now = self._loop.time()
        held = {one.name: wait_s for one in self._destinations.values() if (wait_s := one.held_s(now)) > 0}
        waits = [60.0, *held.values()]
        room = SEND_READY - len(self._taken)
        if room <= 0 or (self._plan.relay and held):
            return min(waits)
        due = await self._outbox.due(time.time(), room + len(self._taken), sorted(held))
        if self.paused or self._closing:
            return 60.0
        fresh = [job for job in due.jobs if job.job not in self._taken][:room]
        for job in fresh:
            destination = self._destination(job.destination)
            if destination.held_s(now) > 0:
                continue
            if not destination.workers and self._workers >= SEND_WORKERS:
                waits.append(1.0)
                continue
            self._taken.add(job.job)
            destination.ready.append(job)
            self._staff(destination)
        if due.next is not None:
            waits.append(max(0.05, due.next - time.time()))
        if len(due.jobs) == room + len(self._taken):
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
            found = self._destinations[name] = Destination(name, self._plan.rate)
        return found

    def _staff(self, destination: Destination) -> None:
        """Somebody takes what is ready; while a server's first answer is not known, one alone tries."""
        destination.woken.set()
        known = bool(destination.open) and destination.workers < self._plan.connections
        if len(destination.ready) > destination.waiting and (known or not destination.workers):
            self._hire(destination)

    def _hire(self, destination: Destination) -> None:
        destination.workers += 1
        self._workers += 1
        self._spawn(self._work(destination))

    def _give_back(self, destination: Destination) -> None:
        """Nothing of this goes now: the disk's list still has it."""
        for job in destination.ready:
            self._taken.discard(job.job)
        destination.ready.clear()

    # --- a worker ----------------------------------------------------------------------------------------------------

    async def _work(self, destination: Destination) -> None:
        line: Conversation | None = None
        try:
            while (job := await self._next(destination)) is not None:
                try:
                    line = await self._one(destination, job, line)
                finally:
                    self._taken.discard(job.job)
                    if len(self._taken) < SEND_READY // 2:
                        self.wake()
        finally:
            destination.workers -= 1
            self._workers -= 1
            await self._hang_up(destination, line)
            self.wake()

    async def _next(self, destination: Destination) -> Job | None:
        """The next that may go; None: there is none, and this worker is not needed."""
        while not self._closing:
            wait_s = destination.held_s(self._loop.time())
            if wait_s > 0:
                self._give_back(destination)
                if self.paused or destination.reason or wait_s >= SEND_IDLE_S:
                    return None
                await self._sleep(destination, wait_s)  # for its rate
                self.wake()
                continue
            if destination.ready and not self.paused:
                destination.rate.take(self._loop.time())
                return destination.ready.popleft()
            idle_s = SEND_IDLE_S if self._plan.relay else SEND_IDLE_DIRECT_S
            if not await self._sleep(destination, idle_s) and not destination.ready:
                return None
        return None

    async def _sleep(self, destination: Destination, wait_s: float) -> bool:
        """Whether it was woken."""
        destination.woken.clear()
        destination.waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await destination.woken.wait()
        except TimeoutError:
            return False
        finally:
            destination.waiting -= 1
        return True

    async def _one(self, destination: Destination, job: Job, line: Conversation | None) -> Conversation | None:
        """One job on this connection, or on a new one; the connection, if it is still good for something."""
        try:
            loaded = await self._outbox.load(job)
            if loaded is None:
                return line
            raw, to = loaded
            while True:
                if line is not None and line.worn:
                    await self._hang_up(destination, line)
                    line = None
                if line is None:
                    line = await self._connected(destination)
                try:
                    results = await line.send(job.sender, to, raw, lambda: self._outbox.sending(job.job), utf8=job.utf8)
                    break
                except Stale:
                    await self._hang_up(destination, line)
                    line = None
            await self._settle(job, results)
            if line.alive or any(result.state == "sent" for result in results.values()):
                destination.rest.over()
            else:
                self._rest(destination, next(iter(results.values())).words)
        except NoMail as error:
            await self._settle(job, dict.fromkeys(to, Result("failed", str(error))))
        except Unreachable as error:
            self._rest(destination, str(error))
            await self._settle(job, dict.fromkeys(to, Result("deferred", str(error))), unreached=True)
        except Misconfigured as error:
            await self._hang_up(destination, line)
            line = None
            self._refused(destination, str(error))
            await self._written(lambda: self._outbox.release(job.job))
        except SpoolError as error:
            self.trouble = str(error)
            await self._written(lambda: self._outbox.release(job.job))
        return line

    async def _settle(self, job: Job, results: dict[str, Result], *, unreached: bool = False) -> None:
        """What an attempt came to."""
        if any(result.state == "gone" for result in results.values()):
            return
        due = time.time() + self._plan.retry.after(job.attempts + 1, random.random())
        order = partial(self._outbox.settle, job.job, results, due=due, unreached=unreached)
        state, states = await self._written(lambda: order(now=time.time()))
        for result in results.values():
            self.counts[result.state] += 1
        if any(result.state == "sent" for result in results.values()):
            self.counts["mails"] += 1
            self.counts["bytes"] += job.size
        if any(result.state == "unknown" for result in results.values()):
            self.counts["may_repeat"] += 1
        self._tell(job, results, state)
        self._listener.settled(job.mail, states)

    async def _written(self, order: Callable[[], Awaitable[T]]) -> T:
        """To disk, however long that takes: what was sent must not be sent again."""
        while True:
            try:
                result = await order()
            except SpoolError as error:
                self.trouble = str(error)
                self._log.warning("disk", reason=str(error))
                await asyncio.sleep(TAKE_AGAIN_S)
            else:
                self.trouble = ""
                return result

    def _tell(self, job: Job, results: dict[str, Result], state: str) -> None:
        by_state = Counter(result.state for result in results.values())
        bad = next((result.words for result in results.values() if result.state != "sent"), None)
        tell = self._log.info if bad is None else self._log.warning
        tell("mail", id=job.id, number=job.mail, **dict(sorted(by_state.items())), said=bad, mail=state)

    # --- connections -------------------------------------------------------------------------------------------------

    async def _connected(self, destination: Destination) -> Conversation:
        """The first of its servers that takes us. NoMail, Unreachable, Misconfigured."""
        self._connecting += 1
        try:
            hosts = await self._hosts(destination)
            troubles: list[Exception] = []
            for host, port in hosts:
                line = Conversation(self._plan, host, port)
                try:
                    await line.open()
                except (Unreachable, Misconfigured) as error:
                    troubles.append(error)
                    continue
                destination.lines.add(line)
                await self._well(destination)
                return line
        finally:
            self._connecting -= 1
        words = "; ".join(map(str, troubles))
        if self._plan.relay and all(isinstance(error, Misconfigured) for error in troubles):
            raise Misconfigured(words)
        raise Unreachable(words)

    async def _hosts(self, destination: Destination) -> list[tuple[str, int]]:
        if self._plan.relay:
            return [(address.host, address.port) for address in map(tcp, self._plan.relay)]
        if self._lookup is None:
            from bridges.mail.mx import servers_of  # brings a resolver along, which a relay needs not

            self._lookup = servers_of
        return [(host, self._plan.direct_port) for host in await self._lookup(destination.name)]

    async def _well(self, destination: Destination) -> None:
        """Its server is there."""
        if destination.reason:
            self._log.info("reached", server=destination.name or "relay")
            with suppress(SpoolError):  # then they wait for their time
                await self._outbox.reached(destination.name, time.time())
        destination.free()
        self.wake()
        while destination.workers < min(self._plan.connections, len(destination.ready) + 1):
            self._hire(destination)

    async def _hang_up(self, destination: Destination, line: Conversation | None) -> None:
        if line is None:
            return
        destination.lines.discard(line)
        if self._closing:
            line.abort()
        else:
            await line.quit()

    def _rest(self, destination: Destination, reason: str) -> None:
        destination.rest.fail(self._loop.time(), random.random())
        self._hold(destination, "unreached", reason)

    def _refused(self, destination: Destination, reason: str) -> None:
        """The server refuses what we are: somebody has to look. It is tried again all the same, slowly."""
        if not self._plan.relay:
            self._rest(destination, reason)
            return
        destination.paused_until = self._loop.time() + SEND_PAUSE_S
        self._hold(destination, "paused", reason)

    def _hold(self, destination: Destination, event: str, reason: str) -> None:
        destination.reason = reason
        self._give_back(destination)
        self._log.warning(event, server=destination.name or "relay", reason=reason)
        self._listener.held_up()
        self.wake()

    # --- what it says of itself --------------------------------------------------------------------------------------

    def state(self) -> tuple[str, str]:
        """A word, and why."""
        now = self._loop.time()
        if self.paused:
            return "paused", "paused by `ztunnel mail pause`; `ztunnel mail resume` lets it go on"
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
        return ("connecting", "") if self._connecting else ("idle", "")

    @property
    def connections(self) -> int:
        return sum(one.open for one in self._destinations.values())

    def troubles(self, most: int = 20) -> dict[str, str]:
        """Destinations that are not well, with their reasons."""
        found = ((one.name, one.reason) for one in self._destinations.values() if one.reason and one.name)
        return dict(pair for pair, _ in zip(found, range(most), strict=False))
