"""The desk where messages leave: takers get them one by one, and a run counts as delivered once all of it is `done`.

While there is a taker, everything goes to takers, and nothing to the route's own PUSH socket: one rule, and no message
at two places. A taker that goes leaves what it had not answered to the others; after the last one it waits for the
next, or for a PULL application at the route's own socket, and goes to that. All that waits here is held in the link's
inbound channels: never more than the route's window and one message of each side.

libzmq does not say which peer of a ROUTER has gone, but only that one has. So takers are then knocked at, and a word to
one that is gone fails.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar

import zmq

from tunnel import pump
from tunnel.errors import RemoteProtocolError
from tunnel.limits import (
    DESK_CREDIT,
    DESK_DOUBT_S,
    DESK_HASHED_BYTES,
    DESK_KNOCKS,
    DESK_MESSAGES_A_TURN,
    DESK_TAKERS,
)
from tunnel.link.inbound import Run
from tunnel.link.spooled import SpooledInbound
from tunnel.patterns.desk import Desk
from tunnel.pump import MORE, Segment
from tunnel.receipts import ANEW, CREDIT, DONE, HERE, MESSAGE, NUMBER, TAKE, THERE

if TYPE_CHECKING:
    from tunnel.patterns.base import Pattern, Port

_U32 = struct.Struct("<I")
_SIZE_OF_NUMBER = 8


@dataclass(slots=True, eq=False)
class _Open:
    """A run that is being given out. `position`: where its next message begins, the `index`-th."""

    port: Port
    run: Run
    position: int
    end: int
    index: int = 0
    intact: bool = False
    """Nothing of it has left by the route's own socket: messages are where they are in its repeats."""
    left: int = 0
    """Messages that were cut off and are not done."""

    @property
    def finished(self) -> bool:
        return self.position >= self.end and not self.left


@dataclass(slots=True, eq=False)
class _Message:
    """One of them, as a run of its own."""

    of: _Open
    number: bytes
    index: int
    segments: Sequence[Segment]
    size: int


@dataclass(slots=True, eq=False)
class _Taker:
    """A bridge. `credit`: messages that it may have unanswered at a time."""

    peer: bytes
    credit: int = 0
    has: dict[bytes, _Message] = field(default_factory=dict)
    knocks: int = 0
    """Since it said anything."""


class DeskOut(Desk):
    """See the module."""

    hwm: ClassVar[int] = 0  # credit and window are the bound; and their words are few

    def __init__(self, pattern: Pattern) -> None:
        super().__init__(pattern)
        self.done = 0
        """Messages that takers have safe."""
        self._takers: dict[bytes, _Taker] = {}
        """By peer; whose turn it is comes first."""
        self._open: dict[Port, deque[_Open]] = {}
        """Of each port the first runs that its channel holds."""
        self._back: deque[_Message] = deque()
        """Messages of takers that went."""
        self._turn = 0
        """Which port is the next."""
        self._number = int.from_bytes(os.urandom(_SIZE_OF_NUMBER))
        """No two processes count alike."""

    def __repr__(self) -> str:
        return f"<DeskOut {self.pattern.plan.name} takers={len(self._takers)} given={self._given} done={self.done}>"

    @property
    def _given(self) -> int:
        return sum(len(taker.has) for taker in self._takers.values())

    @property
    def in_charge(self) -> bool:
        """Does what has arrived leave here?"""
        return bool(self._takers) or (any(self._open.values()) and not self.pattern.end.peers)

    def told(self) -> dict[str, Any]:
        return {
            "takers": len(self._takers),
            "given": self._given,
            "again": len(self._back),
            "done": self.done,
            "may_repeat": self.may_repeat,
        }

    # --- words -------------------------------------------------------------------------------------------------------

    def wants_to_read(self) -> bool:
        return True

    def want(self) -> None:
        super().want()
        if not self.in_charge and any(self._open.values()):
            self.pattern.push()

    def heard(self, peer: bytes, word: bytes, frames: Sequence[zmq.Frame]) -> bool:
        taker = self._takers.get(peer)
        if taker is not None:
            taker.knocks = 0
        if word == TAKE and len(frames) == 1 and len(frames[0]) == CREDIT.size:
            (credit,) = CREDIT.unpack(frames[0].bytes)
            if taker is None and len(self._takers) >= DESK_TAKERS:
                self.say(peer, ANEW)
            elif credit:
                self._admit(taker or _Taker(peer), credit)
        elif taker is None:
            self.say(peer, ANEW)
        elif word == DONE and frames:
            for frame in frames:
                self._on_done(taker, frame.bytes)
            self.deal()
        else:
            return word == HERE
        return True

    def _admit(self, taker: _Taker, credit: int) -> None:
        if not self._takers:
            self.pattern.disarm()
            for port in self.pattern.ports:
                port.peer.catch_up()
        self._takers[taker.peer] = taker
        taker.credit = min(DESK_CREDIT, taker.credit + credit)
        self.pattern.push()

    def _on_done(self, taker: _Taker, number: bytes) -> None:
        message = taker.has.pop(number, None)
        if message is None:
            return
        self.done += 1
        pattern, run, side = self.pattern, message.of.run, message.of.port.peer.side
        pattern.tally.messages_out += 1
        pattern.tally.bytes_out += message.size
        run.fed += 1
        if pattern.tap is not None:
            pattern.tap.left(side, message.segments, 0, 1, 1)
        self._drop(message)

    def _drop(self, message: _Message) -> None:
        """It is done with."""
        message.of.left -= 1
        self._finish(message.of.port)

    def _finish(self, port: Port) -> None:
        runs = self._runs(port)
        while runs and runs[0].finished:
            self.pattern.finish(port, runs.popleft().run, self.pattern.hub.now())

    # --- takers that go ----------------------------------------------------------------------------------------------

    def on_doubt(self) -> None:
        if self._takers:
            self._look()
            self.pattern.hub.call_later(DESK_DOUBT_S, self._look)

    def _look(self) -> None:
        """Is everybody still there? What one that went had said before is heard first."""
        for _ in range(DESK_TAKERS * DESK_CREDIT):
            if not self.read():
                break
        for taker in [*self._takers.values()]:
            taker.knocks += 1
            if taker.knocks > DESK_KNOCKS:  # words to one that does not read must not pile up
                self.gone(taker.peer)
            else:
                self.say(taker.peer, THERE)
        self.pattern.hub.settle()
        self.end.watch.poke()

    def gone(self, peer: bytes) -> None:
        taker = self._takers.pop(peer, None)
        if taker is None:
            return
        self.may_repeat += len(taker.has)
        self._back.extend(taker.has.values())
        self.pattern.hub.call_later(0, self._go_on)

    def _go_on(self) -> None:
        self.pattern.push()
        self.pattern.want()
        self.pattern.hub.settle()

    def hand_back(self) -> bool:
        """Not in charge: what was not done of the open runs becomes what they are. True when there were any."""
        if not any(self._open.values()):
            return False
        rest: dict[_Open, list[_Message]] = {}
        for message in sorted(self._back, key=lambda message: message.index):
            rest.setdefault(message.of, []).append(message)
        for port in self._open:
            for one in self._runs(port):
                messages = rest.get(one, [])
                while (cut := self._cut(one)) is not None:
                    messages.append(cut)
                one.run.segments = [segment for message in messages for segment in message.segments]
                one.run.position = 0
        self._open.clear()
        self._back.clear()
        return True

    # --- giving out --------------------------------------------------------------------------------------------------

    def deal(self) -> None:
        """Give out what takers have credit for."""
        if not self.end.has_socket:
            return
        for _ in range(DESK_MESSAGES_A_TURN):
            taker = self._next_taker()
            message = self._next_message() if taker is not None else None
            if taker is None or message is None:
                return
            self._give(taker, message)
        self.pattern.hub.call_later(0, self._go_on)

    def _next_taker(self) -> _Taker | None:
        return next((taker for taker in self._takers.values() if len(taker.has) < taker.credit), None)

    def _next_message(self) -> _Message | None:
        if self._back:
            return self._back.popleft()
        ports = self.pattern.ports
        for turn in range(len(ports)):
            port = ports[(self._turn + turn) % len(ports)]
            while (one := self._next_run(port)) is not None:
                message = self._cut(one)
                if message is not None:
                    self._turn += 1
                    return message
                self._finish(port)
        return None

    def _next_run(self, port: Port) -> _Open | None:
        """The run of this port whose messages are given out now."""
        inbound, runs = port.channel.inbound, self._runs(port)
        if runs and runs[-1].position < runs[-1].end:
            return runs[-1]
        if inbound is None or len(inbound.runs) <= len(runs):
            return None
        run = inbound.runs[len(runs)]
        end = sum(map(len, run.segments))
        one = _Open(port, run, run.position, end, intact=not run.position and not run.fed)
        age_s = self.pattern.plan.max_age_s
        if age_s is not None and self.pattern.hub.now() - run.born > age_s:
            self.pattern.dropped["expired"] += max(0, run.messages - run.fed)
            one.position = end
        runs.append(one)
        return one

    def _runs(self, port: Port) -> deque[_Open]:
        """The open ones that the channel holds still: a restart of the peer may have taken the newest away."""
        runs = self._open.setdefault(port, deque())
        held = port.channel.inbound.runs if port.channel.inbound is not None else ()
        while runs and (len(held) < len(runs) or held[len(runs) - 1] is not runs[-1].run):
            runs.pop()
        return runs

    def _cut(self, one: _Open) -> _Message | None:
        """Its next message. None: there is none."""
        if one.position >= one.end:
            return None
        try:
            segments, position = pump.cut(one.run.segments, one.position)
        except pump.RunError as error:
            pattern = self.pattern
            pattern.hub.breach(one.port.peer, RemoteProtocolError("batch", f"{pattern.plan.name}: {error}"))
            pattern.dropped["malformed"] += max(1, one.run.messages - one.run.fed)
            one.position = one.end
            return None
        size = position - one.position
        message = _Message(one, self._number_of(one, segments, size), one.index, segments, size)
        one.position, one.index, one.left = position, one.index + 1, one.left + 1
        return message

    def _number_of(self, one: _Open, segments: Sequence[Segment], size: int) -> bytes:
        """Spooled: made of the row, the place in it, and what stands there, and so the same as long as the spool lives;
        and never that of another message, though a spool is put back to an older state. Else counted."""
        inbound = one.port.channel.inbound
        if one.intact and one.run.unit and isinstance(inbound, SpooledInbound):
            place = f"{one.port.peer.side} {inbound.spool} {one.run.unit} {one.index} {size} "
            return blake2b(place.encode() + _beginning(segments), digest_size=_SIZE_OF_NUMBER).digest()
        self._number = (self._number + 1) % (1 << 64)
        return NUMBER.pack(self._number)

    def _give(self, taker: _Taker, message: _Message) -> None:
        fed = pump.feed(self.socket, (_head(taker.peer, MESSAGE, message.number), *message.segments), 0, None, 1)
        self.end.watch.poke()
        if fed.messages:
            taker.has[message.number] = message
            self._takers[taker.peer] = self._takers.pop(taker.peer)  # the others come before its next turn
        elif fed.status is pump.BAD:  # with three frames before it, it has too many
            self.pattern.dropped["frames"] += 1
            self._drop(message)
        else:
            self._back.appendleft(message)
            self.gone(taker.peer)


def _head(*frames: bytes) -> bytes:
    """The first frames of a message, as part of a run."""
    return b"".join(_U32.pack(len(frame) | MORE) + frame for frame in frames)


def _beginning(segments: Sequence[Segment]) -> bytes:
    """The first bytes, wherever segments end."""
    found = b""
    for segment in segments:
        found += bytes(memoryview(segment)[: DESK_HASHED_BYTES - len(found)])
        if len(found) == DESK_HASHED_BYTES:
            break
    return found
