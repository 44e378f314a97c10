"""A mail on its way to 0MQ: given, and kept until somebody has answered for it.

What an answer is depends on the socket of the table:

    REQ, DEALER      a reply of the application: it has done its work
    PUSH, PUB        at a route of this box: the half's receipt, that the route's own promise holds from here
                     (docs/bridges.md, "Receipts"); anywhere else: the socket has it, and nobody can say more

What is not answered in time, or was given to somebody who went away, is given again and counted: a mail may come twice,
and its id tells, but none is lost.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import zmq

from bridges.mail.limits import GIVE_AGAIN_S, GIVEN_BYTES, GIVEN_MAILS, MAIL_BYTES
from bridges.messages import pieces_of
from bridges.zmq_side import ZmqSide
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.config.plan import Endpoint
from tunnel.limits import BRIDGE_TICK_S
from tunnel.monitor import Monitor, MonitorEvent
from tunnel.pump import Segment
from tunnel.reactor import Reactor

Then = Callable[[str], None]
"""Called once: "" when the mail is taken, else why it never will be."""
_NUMBER: Final = struct.Struct("!Q")
_ASKING: Final = ("REQ", "DEALER")


@dataclass(slots=True)
class _Given:
    """One mail under way."""

    pieces: tuple[Segment, ...]
    size: int
    then: Then
    deadline: float


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
        """By number, those whose deadline comes first before the others."""
        self._bytes = 0
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self.may_repeat = 0
        self.desk = plan.socket not in _ASKING and plan.receipts is not None
        """It is a half's receipt that answers."""
        self.answers = self.desk or plan.socket in _ASKING
        """Somebody answers at all."""
        used = replace(plan, endpoints=(Endpoint("connect", str(plan.receipts)),)) if self.desk else plan
        kind = "DEALER" if self.answers else plan.socket
        self.zmq = ZmqSide(reactor, used, kind, MAIL_BYTES, self._heard, self._changed, immediate=self.answers)
        self._monitor = Monitor(reactor, self.zmq.socket, self._on_event, zmq.Event.DISCONNECTED)
        self._alone = len(plan.endpoints) == 1

    def __repr__(self) -> str:
        return f"<HandOver given={len(self._given)} bytes={self._bytes}>"

    @property
    def has_room(self) -> bool:
        return not self._closed and (not self._given or (self._bytes < GIVEN_BYTES and len(self._given) < GIVEN_MAILS))

    @property
    def under_way(self) -> int:
        """Mails given and not answered."""
        return len(self._given)

    def give(self, number: int, frames: Sequence[Segment], then: Then) -> None:
        """Hand a mail over; `number` is the caller's, and in no use at the moment."""
        head: list[Segment] = [b"put"] if self.desk else []
        if self.answers:
            head += [_NUMBER.pack(number)] if self.desk else [_NUMBER.pack(number), b""]
        pieces = pieces_of([*head, *frames])
        size = sum(map(len, pieces))
        self._given[number] = given = _Given(pieces, size, then, self._loop.time() + self._again_s)
        self._bytes += size
        if self.answers:
            self._send(given)
        else:
            self.zmq.outlet.put(pieces, lambda: self._answered(number, ""))
            self.zmq.poke()
        if self._timer is None:
            self._timer = self._loop.call_later(BRIDGE_TICK_S, self._on_time)

    def forget(self, number: int) -> None:
        """The caller waits no longer; an answer that comes all the same is none of his."""
        given = self._given.pop(number, None)
        if given is not None:
            self._bytes -= given.size

    def close(self) -> None:
        """What was not answered stays the caller's. A socket that nobody answers for gets BRIDGE_LINGER_S to leave."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._monitor.close()
        self.zmq.close()

    def status(self) -> dict[str, Any]:
        return self.zmq.status() | {
            "messages_in": self.zmq.messages,
            "under_way": len(self._given),
            "may_repeat": self.may_repeat,
            "answered_by": "the half" if self.desk else "the application" if self.answers else "nobody",
        }

    def _send(self, given: _Given) -> None:
        self.zmq.outlet.put(given.pieces)
        self.zmq.poke()

    def _heard(self, messages: list[list[bytes]]) -> None:
        for frames in messages:
            word, number, why = b"taken", frames[0], b""
            if self.desk:
                word, number, why = (*frames, b"", b"", b"")[:3]
            if len(number) == _NUMBER.size and word in (b"taken", b"refused"):
                refusal = why.decode("utf-8", "replace") or "refused" if word == b"refused" else ""
                self._answered(_NUMBER.unpack(number)[0], refusal)

    def _answered(self, number: int, refusal: str) -> None:
        given = self._given.get(number)
        if given is None:  # answered before, or nobody waits any more
            return
        had = self.has_room
        self.forget(number)
        given.then(refusal)
        if not had and self.has_room:
            self._on_room()

    def _on_event(self, event: MonitorEvent) -> None:
        """Whoever was to answer is gone, and what it had with it."""
        if event.kind == zmq.Event.DISCONNECTED and self.answers and self._alone:
            now = self._loop.time()
            for given in self._given.values():
                given.deadline = now
            if self._given:
                self._on_time()

    def _on_time(self) -> None:
        """Give again what has waited too long, unless the socket has not even taken what it was given."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        now = self._loop.time()
        if self.answers and not self.zmq.outlet.blocked:
            for number, given in tuple(self._given.items()):
                if given.deadline > now:
                    break
                if self._on_late is not None:
                    self._on_late()
                    break
                given.deadline = now + self._again_s
                self._given[number] = self._given.pop(number)
                self.may_repeat += 1
                self._send(given)
        if self._given and not self._closed:
            self._timer = self._loop.call_later(BRIDGE_TICK_S, self._on_time)

    def _changed(self) -> None:
        """The outlet is full, or no longer: `has_room` counts bytes, so nothing is to be done here."""
