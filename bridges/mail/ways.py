"""The ways out of an smtp-server: its 0MQ sockets, what waits on disk for each, and (`accept: acked`) mails whose
clients wait for an answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

from bridges.mail import meta
from bridges.mail.feeder import Feeder
from bridges.mail.handover import HandOver
from bridges.mail.inbox import Inbox, Mail
from bridges.mail.parse import parsed
from bridges.mail.smtp_post import Letter
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.config.mail.smtp_server_plan import SmtpServerPlan
from tunnel.log import Log
from tunnel.reactor import Reactor


class NoRoomError(Exception):
    """Too much is under way on that socket."""


class Ways:
    """One hand-over a socket, and one feeder, from `start` on."""

    def __init__(self, plan: SmtpServerPlan, reactor: Reactor, inbox: Inbox, log: Log) -> None:
        self._plan = plan
        self._inbox = inbox
        self._log = log
        self._feeders: dict[ZmqPlan, Feeder] = {}
        self._handovers = {rule.zmq: self._handover(reactor, rule.zmq) for rule in plan.rules}
        self._turns = {zmq: asyncio.Lock() for zmq in self._handovers}
        self._numbers = itertools.count(1 << 63)  # those below are rows of the inbox

    def __repr__(self) -> str:
        return f"<Ways {list(self._handovers.values())}>"

    def __iter__(self) -> Iterator[HandOver]:
        return iter(self._handovers.values())

    @property
    def taken(self) -> int:
        """Mails from the disk that somebody has answered for."""
        return sum(feeder.taken for feeder in self._feeders.values())

    @property
    def refused(self) -> int:
        """... and that nobody will ever take."""
        return sum(feeder.refused for feeder in self._feeders.values())

    @property
    def reason(self) -> str:
        """Why one of the sockets is not bound."""
        return next((handover.reason for handover in self if handover.reason), "")

    def start(self) -> None:
        """One feeder a socket; the first takes what rules that the table has no more have left. With `accept: acked`
        too: a table that said `spooled` before may have left mails."""
        first, *_ = self._handovers
        for zmq, handover in self._handovers.items():
            own = tuple(rule.name for rule in self._plan.rules if rule.zmq == zmq)
            elsewhere = tuple(rule.name for rule in self._plan.rules if rule.zmq != zmq)
            rules, others = (elsewhere, True) if zmq == first else (own, False)
            self._feeders[zmq] = Feeder(self._inbox, handover, rules, others, self._frames, self._log)

    async def close(self) -> None:
        """What waits lies on disk."""
        for feeder in self._feeders.values():
            await feeder.close()
        for handover in self:
            handover.close()

    def look(self, zmq: ZmqPlan | None = None) -> None:
        """Something waits on disk, for that socket or for whichever."""
        for feeder in self._feeders.values() if zmq is None else filter(None, [self._feeders.get(zmq)]):
            feeder.look()

    def again(self, number: int) -> None:
        """An operator has made a dead letter wait again."""
        for feeder in self._feeders.values():
            feeder.look(number)

    def handed(self, zmq: ZmqPlan) -> int:
        """Mails of a socket that somebody has answered for, refusals included."""
        feeder = self._feeders.get(zmq)
        return 0 if feeder is None else feeder.taken + feeder.refused

    def answered_by(self, zmq: ZmqPlan) -> str:
        """Who answers for mails there, in words."""
        return self._handovers[zmq].answered_by

    async def ask(self, letter: Letter) -> str:
        """Until somebody has answered for it: "", or why it is refused. NoRoomError; TimeoutError: nobody has."""
        rule = letter.destination
        handover = self._handovers[rule.zmq]
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        number = next(self._numbers)
        async with self._turns[rule.zmq]:  # one mail at a time comes into memory, and only where there is room
            if not handover.has_room:
                raise NoRoomError
            raw = await letter.body.whole()
            mail = Mail(0, letter.id, rule.rule, rule.topic, 0, len(raw), letter.meta(), None, raw)
            frames = await self._frames(mail, raw)
            del raw, mail
            handover.give(number, frames, lambda said: None if answer.done() else answer.set_result(said))
            del frames
        try:
            async with asyncio.timeout(self._plan.answer_s):
                return await answer
        finally:
            handover.forget(number)
            self.look(rule.zmq)

    def _handover(self, reactor: Reactor, zmq: ZmqPlan) -> HandOver:
        return HandOver(reactor, zmq, lambda: self.look(zmq))

    async def _frames(self, mail: Mail, raw: bytes) -> list[bytes]:
        if not self._plan.parse:
            return [mail.topic, mail.meta, raw]
        told: dict[str, Any]
        told, attachments = await asyncio.to_thread(parsed, raw)
        known = meta.read(mail.meta)
        return [mail.topic, meta.frame_of({**known, "parsed": told}), raw, *attachments]
