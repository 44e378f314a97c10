"""A mail on its way to 0MQ: given, and kept until somebody has answered for it.

What an answer is depends on the socket of the table:

    REQ, DEALER      a reply of the application: it has done its work
    PUSH, PUB        at a route of this box: the half's receipt, that the route's own promise holds from here
                     (docs/receipts.md); anywhere else: the socket has it, and nobody can say more

What is not answered in time, or was given to somebody who went away, is given again and counted: a mail may come twice,
and its id tells, but none is lost.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import zmq

from bridges.mail.limits import GIVE_AGAIN_S, GIVEN_BYTES, GIVEN_MAILS, LARGE_BYTES, MAIL_BYTES
from bridges.messages import pieces_of
from bridges.outlet import Whole
from bridges.receipts import Giver
from bridges.zmq_side import ZmqSide
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.limits import BRIDGE_TICK_S
from tunnel.monitor import MonitorEvent
from tunnel.pump import Segment
from tunnel.reactor import Reactor

Then = Callable[[str], None]
"""Called once: "" when the mail is taken, else why it never will be."""
_NUMBER: Final = struct.Struct("!Q")
_ASKING: Final = ("REQ", "DEALER")


def _nothing() -> None:
    """What is asked for is answered later."""


@dataclass(slots=True)
class _Given:
    """One mail under way."""

    pieces: tuple[Segment, ...] | Whole
    size: int
    then: Then
    deadline: float = 0.0
    sent: bool = False
    """The socket has taken it; from then on it may wait until the deadline."""


class HandOver:
    """One socket's mails under way: GIVEN_BYTES and GIVEN_MAILS at most, and one mail at least, however large.

    `on_room` is called when `has_room` has turned True again.
    """

    def __init__(
        self,
        reactor: Reactor,
        plan: ZmqPlan,
        on_room: Callable[[], None],
        again_s: float = GIVE_AGAIN_S,
        on_late: Callable[[], None] | None = None,
    ) -> None:
        """`on_late`: called in place of giving again what has waited too long, or was with somebody who went away."""
        self._loop = reactor.loop
        self._on_room = on_room
        self._again_s = again_s
        self._on_late = on_late
        self._given: dict[int, _Given] = {}
        """By number."""
        self._bytes = 0
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._repeated = 0
        self._left = False
        """Whoever was connected has gone."""
        self._lines: dict[int, bool] = {}
        """Connections, by descriptor: whether 0MQ's handshake is over."""
        self._plan = plan
        self._asks = plan.socket in _ASKING
        self._alone = len(plan.endpoints) == 1
        self._giver: Giver | None = None
        """To a half, whose receipts answer; it looks after repeats itself."""
        self.zmq: ZmqSide | None = None
        if not self._asks and plan.receipts is not None:
            self._giver = Giver(reactor, plan.receipts)
        else:
            kind = "DEALER" if self._asks else plan.socket
            self.zmq = ZmqSide(
                reactor,
                plan,
                kind,
                MAIL_BYTES,
                self._heard,
                lambda: None,
                immediate=self._asks,
                on_event=self._on_event,
            )

    def __repr__(self) -> str:
        return f"<HandOver given={len(self._given)} bytes={self._bytes}>"

    @property
    def has_room(self) -> bool:
        return not self._closed and (not self._given or (self._bytes < GIVEN_BYTES and len(self._given) < GIVEN_MAILS))

    @property
    def under_way(self) -> int:
        """Mails given and not answered."""
        return len(self._given)

    def give(self, number: int, frames: Sequence[bytes], then: Then) -> None:
        """Hand a mail over; `number` is the caller's, and in no use at the moment."""
        size = sum(map(len, frames))
        given = _Given((), size, then)
        self._given[number] = given
        self._bytes += size
        if self._giver is not None:
            self._giver.put(number, frames, lambda refusal: self._answered(number, refusal or ""))
            return
        message = [_NUMBER.pack(number), b"", *frames] if self._asks else list(frames)
        given.pieces = pieces_of(message) if size < LARGE_BYTES else Whole(message)
        self._send(given, _nothing if self._asks else lambda: self._answered(number, ""))
        if self._asks and self._timer is None:
            self._timer = self._loop.call_later(BRIDGE_TICK_S, self._on_time)

    def forget(self, number: int) -> None:
        """The caller waits no longer: what the socket did not take yet goes nowhere; an answer that comes all the same
        is none of his."""
        given = self._given.pop(number, None)
        if given is None:
            return
        self._bytes -= given.size
        if self._giver is not None:
            self._giver.forget(number)
        elif self.zmq is not None and not given.sent:
            self.zmq.outlet.forget(given.pieces)

    def close(self) -> None:
        """What was not answered stays the caller's. A socket that nobody answers for gets BRIDGE_LINGER_S to leave."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self.zmq is not None:
            self.zmq.close()
        if self._giver is not None:
            self._giver.close()

    @property
    def answers(self) -> bool:
        """Whether anybody answers for mails here at all."""
        return self._asks or self._giver is not None

    @property
    def is_there(self) -> bool:
        """Whether somebody is connected who takes mails now."""
        return self._giver.up if self._giver is not None else any(self._lines.values())

    @property
    def judges(self) -> bool:
        """Whether a mail without an answer says anything of whoever has it: an application has taken what it was given.
        (A half answers when its route's promise holds, after hours where the link is down.)"""
        return self._asks and self.zmq is not None and not self.zmq.outlet.blocked

    @property
    def reason(self) -> str:
        """Why the socket is not bound."""
        return "" if self.zmq is None else self.zmq.reason

    @property
    def may_repeat(self) -> int:
        """Mails that were given more than once."""
        return self._repeated if self._giver is None else self._giver.repeated

    @property
    def answered_by(self) -> str:
        """Who answers for mails here, in words."""
        return "the half" if self._giver is not None else "the application" if self._asks else "nobody"

    def status(self) -> dict[str, Any]:
        """As docs/bridges.md says for `zmq`, and what is under way."""
        if self.zmq is not None:
            socket = self.zmq.status() | {"messages_in": self.zmq.messages}
        else:
            socket = self._plan.told()
            if self._giver is not None:
                socket |= {"blocked": not self._giver.up, "messages_in": self._giver.taken}
        return socket | {
            "under_way": len(self._given),
            "may_repeat": self.may_repeat,
            "answered_by": self.answered_by,
        }

    def _send(self, given: _Given, done: Callable[[], None] = _nothing) -> None:
        assert self.zmq is not None

        def taken() -> None:
            given.sent = True
            given.deadline = self._loop.time() + self._again_s
            done()

        given.sent = False
        self.zmq.outlet.put(given.pieces, taken)
        self.zmq.poke()

    def _heard(self, messages: list[list[bytes]]) -> None:
        for number, *_ in messages:
            if len(number) == _NUMBER.size:
                self._answered(_NUMBER.unpack(number)[0], "")

    def _answered(self, number: int, refusal: str) -> None:
        given = self._given.get(number)
        if given is None:  # answered before, or nobody waits any more
            return
        had = self.has_room
        del self._given[number]
        self._bytes -= given.size
        given.then(refusal)
        if not had and self.has_room:
            self._on_room()

    def _on_event(self, event: MonitorEvent) -> None:
        """Whoever was to answer has gone, and what he had with him; so has what the socket took since, until somebody
        is there again (it says so before it takes no more)."""
        self._count(event)
        if not self._asks or not self._alone:
            return
        if event.kind == zmq.Event.DISCONNECTED:
            self._left = True
        elif event.kind == zmq.Event.HANDSHAKE_SUCCEEDED and self._left:
            self._left = False
            now = self._loop.time()
            for given in self._given.values():
                given.deadline = now
            if self._given:
                self._on_time()

    def _count(self, event: MonitorEvent) -> None:
        """Which of several young connections a handshake belongs to is not told: the oldest is taken for it."""
        if event.kind == zmq.Event.DISCONNECTED:
            self._lines.pop(event.value, None)
        elif event.kind == zmq.Event.HANDSHAKE_SUCCEEDED:
            young = next((line for line, up in self._lines.items() if not up), None)
            if young is not None:
                self._lines[young] = True
        else:
            self._lines[event.value] = False

    def _on_time(self) -> None:
        """Give again what the socket has taken, and nobody has answered for, too long ago."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        now = self._loop.time()
        late = [given for given in self._given.values() if given.sent and given.deadline <= now]
        if late and self._on_late is not None:
            self._on_late()
        else:
            self._repeated += len(late)
            for given in late:
                self._send(given)
        if self._given and not self._closed:
            self._timer = self._loop.call_later(BRIDGE_TICK_S, self._on_time)
