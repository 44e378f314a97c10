"""smtp-client: messages become mail, by a relay or straight to each domain's servers.

    0MQ ─► intake ─► outbox (disk) ─► dispatch ─► conversations with mail servers
                        │                 │
           replies ◄────┘                 └──► outbox: what became of each recipient

Here they are put together; docs/mail.md says what users see of it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Awaitable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from bridges.mail import limits, outbox_tidy
from bridges.mail.client_trial import ClientTrial
from bridges.mail.desk import MailDesk
from bridges.mail.dispatch import Dispatch, Lookup
from bridges.mail.intake import Intake, Verdict
from bridges.mail.limits import TAKE_CREDIT
from bridges.mail.outbox import Outbox
from bridges.mail.outbox_records import Result
from bridges.mail.replies import Replies, told
from bridges.messages import messages_of
from bridges.receipts import Taker
from bridges.zmq_side import ZmqSide
from tunnel.config.bridge_plan import BridgePlan
from tunnel.config.mail.smtp_client_plan import SmtpClientPlan
from tunnel.control import Command, Reply
from tunnel.errors import NotRunningError, SpoolError
from tunnel.log import Log
from tunnel.reactor import Reactor
from tunnel.spool import Spool

PAUSED: Final = "paused"
"""The note that a person has paused it: over restarts."""
_TRIAL: Final = "mail-test"


class SmtpClient:
    """See `tunnel.served.Process`; the Listener of its dispatch."""

    def __init__(
        self, plan: BridgePlan[SmtpClientPlan], reactor: Reactor, log: Log, lookup: Lookup | None = None
    ) -> None:
        self.plan = plan.own
        self.log = log
        self.loop = reactor.loop
        self._bridge = plan
        self._reactor = reactor
        self._lookup = lookup
        self._numbers = itertools.count(1)
        self._slow = self._bytes_in = self._messages_in = 0
        self._forgotten: Counter[str] = Counter()
        self._tidying: asyncio.Task[None] | None = None
        self._asides: set[asyncio.Task[None]] = set()
        self._closing = False
        self._taker: Taker | None = None
        """PULL at a route of this box: the half gives a message out again until it was said that it is on our disk."""
        self._held: deque[tuple[int, list[bytes]]] = deque()
        """Given by it, and no room yet: TAKE_CREDIT at most."""
        self.trials: dict[int, Mapping[str, Result]] = {}
        """Mails of `mail test`, and what became of their recipients."""
        self._zmq: ZmqSide | None = None
        self._replies: Replies | None = None

    # --- its life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """SpoolError: its file cannot be opened."""
        plan, zmq = self.plan, self._bridge.zmq
        self.outbox = Outbox(plan.state.file("mails"))
        if self.outbox.db.set_aside:
            self.log.error("corrupt", set_aside=self.outbox.db.set_aside)
        may_repeat = await self.outbox.begin(time.time())
        self.dispatch = Dispatch(plan, self.outbox, self, self.log, self._lookup)
        self.dispatch.counts["may_repeat"] = may_repeat
        self.dispatch.paused = await self.outbox.noted(PAUSED) is not None
        self.intake = Intake(
            plan,
            self.outbox,
            self.log,
            table=self._bridge.table,
            topics=zmq.socket == "SUB",
            answers=zmq.socket == "REP",
            destination_of=self.dispatch.destination_of,
            on_change=self._look,
        )
        if zmq.socket == "PULL" and zmq.receipts is not None:
            self._taker = Taker(self._reactor, zmq.receipts, self._given, TAKE_CREDIT)
        else:
            kind = "ROUTER" if zmq.socket == "REP" else zmq.socket
            # a little more than a mail may have is read, so that it can be answered, or put aside, with a sentence
            self._zmq = ZmqSide(self._reactor, zmq, kind, 2 * plan.max_bytes, self._heard, lambda: None)
            self._replies = Replies(self._zmq, self._on_slow) if kind == "ROUTER" else None
        desk = MailDesk(self.outbox, self.dispatch, self._look_again)
        self._answers: dict[str, Command] = {**desk.commands, _TRIAL: ClientTrial(self, self._bridge.name)}
        self.dispatch.start()
        self._tidying = self.loop.create_task(self._tidy())
        self._look()

    async def close(self) -> None:
        self._closing = True
        if self._tidying is None:  # it never began
            return
        if self._zmq is not None:
            self._zmq.read(False)
        self._tidying.cancel()
        await self.intake.close()
        await self.dispatch.close()
        await asyncio.gather(self._tidying, *self._asides, return_exceptions=True)
        for one in (self._replies, self._zmq, self._taker):
            if one is not None:
                one.close()
        await self.outbox.close()

    def commands(self) -> Mapping[str, Command]:
        return {name: partial(self._command, name) for name in (*MailDesk.NAMES, _TRIAL)}

    def _command(self, name: str, request: Reply) -> Awaitable[Reply] | Reply:
        if self._tidying is None:
            raise NotRunningError("this bridge is only starting: ask again.")
        return self._answers[name](request)

    def spools(self) -> Mapping[str, Spool]:
        return {}

    # --- from 0MQ ----------------------------------------------------------------------------------------------------

    def _heard(self, messages: list[list[bytes]]) -> None:
        for message in messages:
            self._count(message)
            envelope, frames = ([], message) if self._replies is None else Replies.split(message)
            self.intake.take(next(self._numbers), frames, partial(self._decided, envelope))
        self._look()

    def _given(self, number: int, frames: list[bytes]) -> None:
        self._count(frames)
        self._held.append((number, frames))
        self._look()

    def _count(self, message: list[bytes]) -> None:
        self._messages_in += 1
        self._bytes_in += sum(map(len, message))

    def _safe(self, number: int, verdict: Verdict) -> None:
        """What a half gave out is on disk, as a mail or put aside."""
        if self._taker is not None:
            self._taker.done(number)
        self._decided([], verdict)

    def _decided(self, envelope: list[bytes], verdict: Verdict) -> None:
        """A message is on disk, or refused."""
        if verdict.state == "queued":
            self.dispatch.wake()
        if self._replies is None or not envelope or self._closing:
            return
        if not self.plan.result or not verdict.mail:
            self._replies.tell(envelope, told(verdict))
            return
        self._replies.wait(envelope, verdict, self._tell_result)
        self._aside(self._tell(verdict.mail, held=verdict.state != "repeated"))

    def _look(self) -> None:
        """Read on, or leave messages with whoever sends them."""
        if self._closing:
            return
        if self._zmq is not None:
            self._zmq.read(self.intake.has_room)
        while self._held and self.intake.has_room:
            number, frames = self._held.popleft()
            self.intake.take(number, frames, partial(self._safe, number))

    def _on_slow(self) -> None:
        self._slow += 1

    async def _look_again(self, number: int, frames_run: bytes) -> bool:
        """A message that was refused: is it a mail by now?"""
        (frames,) = messages_of((frames_run,))
        mail = self.intake.mail_of(frames)
        taken = await self.outbox.put(mail, time.time())
        return taken.verdict != "other"

    # --- what became of mails ----------------------------------------------------------------------------------------

    def settled(self, mail: int, states: Mapping[str, Result]) -> None:
        self._look()
        if mail in self.trials:
            self.trials[mail] = states
        if self._replies is not None and all(result.state != "queued" for result in states.values()):
            self._replies.result(mail, states)

    def held_up(self) -> None:
        for mail in self._replies.mails if self._replies is not None else ():
            self._aside(self._tell(mail, held=True))

    def _tell_result(self, mail: int) -> None:
        self._aside(self._tell(mail))

    async def _tell(self, mail: int, *, held: bool = False) -> None:
        """How it is, to those who wait for it; `held`: only if nothing of it goes anywhere for now."""
        with suppress(SpoolError):
            if held and not all(map(self.dispatch.holds, await self.outbox.untried(mail))):
                return
            if self._replies is not None:
                self._replies.result(mail, await self.outbox.states(mail))

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    # --- time --------------------------------------------------------------------------------------------------------

    async def _tidy(self) -> None:
        """End what is too old, forget what nobody asks for any more."""
        while True:
            with suppress(SpoolError):
                await self._tidy_once(time.time())
            self._look()
            await asyncio.sleep(limits.SEND_TIDY_S)

    async def _tidy_once(self, now: float) -> None:
        plan = self.plan
        if plan.expire_s is not None:
            while jobs := await outbox_tidy.expired(self.outbox, now - plan.expire_s):
                ended = await outbox_tidy.give_up(self.outbox, jobs, "not sent in time", now)
                self.dispatch.counts["failed"] += ended
                self.log.warning("expired", recipients=ended)
                if not ended:
                    break
        dropped, early = await outbox_tidy.tidy(
            self.outbox,
            None if plan.remember_s is None else now - plan.remember_s,
            None if plan.state.expire_s is None else now - plan.state.expire_s,
            plan.state.max_bytes // 2,
        )
        self._forgotten["dead"] += dropped
        self._forgotten["ids"] += early
        if dropped:
            self.log.warning("dropped", dead_letters=dropped)

    # --- what it says of itself --------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        if self._tidying is None:
            none: dict[str, Any] = {word: {} for word in ("refused", "dropped", "ended", "zmq", "detail")}
            counts = dict.fromkeys(("connections", "frames_in", "frames_out", "bytes_in", "bytes_out"), 0)
            return {"state": "connecting", "reason": "", **counts, **none}
        state, reason = self.dispatch.state()
        full = self.outbox.bytes >= self.plan.state.max_bytes
        if self.intake.trouble or (full and state in ("up", "idle", "connecting")):
            state = "retrying"
            reason = self.intake.trouble or (
                f"{self.outbox.bytes} bytes of mails lie here, which is all that spool: max lets; nothing more is taken"
            )
        did = self.dispatch.counts
        oldest = self.outbox.oldest
        dropped = Counter(self.intake.dropped)
        dropped["slow"] += self._slow
        if self._zmq is not None:
            dropped["too_large"] += self._zmq.too_large
            dropped["unreachable"] += self._zmq.unreachable
        return {
            "state": state,
            "reason": reason,
            "connections": self.dispatch.connections,
            "frames_in": 0,
            "frames_out": did["mails"],
            "bytes_in": 0,
            "bytes_out": did["bytes"],
            "refused": {},
            "dropped": dict(sorted((+dropped).items())),
            "ended": {},
            "zmq": self._socket() | {"messages_in": self._messages_in, "bytes_in": self._bytes_in},
            "detail": {
                "taken": self.intake.taken,
                "repeated": self.intake.repeated,
                **{word: did[word] for word in ("sent", "deferred", "failed", "unknown", "may_repeat")},
                "queue": self.outbox.jobs,
                "oldest_s": None if oldest is None else round(max(0.0, time.time() - oldest), 1),
                "dead": self.outbox.dead,
                "bytes": self.outbox.bytes,
                "max_bytes": self.plan.state.max_bytes,
                "forgotten": dict(+self._forgotten),
                "troubles": self.dispatch.troubles(),
            },
        }

    def _socket(self) -> dict[str, Any]:
        if self._zmq is not None:
            return self._zmq.status()
        plan = self._bridge.zmq
        blocked = self._taker is None or not self._taker.up
        return plan.told() | {"blocked": blocked}
