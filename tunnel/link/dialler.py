"""The half that dials: attempts, HELLO → WELCOME → OPEN → OPENED, and when to try again (docs/protocol.md).

It decides and returns: `actions` says when the owner must dial or hang up, `transmit` what to send. Every attempt is a
fresh connection of both lanes; nothing of an attempt that was hung up is heard any more.

    IDLE ──time──► CONNECTING ──control up──► GREETING ──WELCOME, data up──► OPENING ──OPENED──► OPEN
      ▲                 │ lost, refused, too slow, dead: hang up, wait                              │
      └─────────────────┴───────────────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from tunnel.errors import RemoteProtocolError
from tunnel.limits import EVICTED_S, HANDSHAKE_S, REDIAL_MIN_S
from tunnel.link import wire
from tunnel.link.acks import FOREVER
from tunnel.link.backoff import Backoff
from tunnel.link.hello import Hello, parse_hello, parse_numbers
from tunnel.link.peer import Peer
from tunnel.link.wire import Kind, Lane

if TYPE_CHECKING:
    from tunnel.link.wire import Parts, Segment

AT_ONCE = frozenset({"stale", "reload", "attempt", "lost"})
"""Refusals that say nothing against another try."""


class State(Enum):
    IDLE = auto()
    CONNECTING = auto()
    GREETING = auto()
    OPENING = auto()
    OPEN = auto()


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect both lanes, afresh. `attempt` counts from 1; addresses and keys take turns by it."""

    attempt: int


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close both lanes of the present attempt at once."""

    reason: str


class Dialler:
    """The dialling end of one link. `chance` draws from [0, 1), `token(n)` gives n random bytes."""

    def __init__(self, peer: Peer, chance: Callable[[], float], token: Callable[[int], bytes]) -> None:
        self.peer = peer
        self.state = State.IDLE
        self.reason = "not dialled yet"
        """Why the link is not open, for people."""
        self.redials = 0
        self.resumes = 0
        self.actions: list[Dial | HangUp] = []
        self._chance = chance
        self._token = token
        self._backoff = Backoff()
        self._dials = 0
        self._redial_at = 0.0
        self._deadline = FOREVER
        self._up: set[Lane] = set()
        self._welcome: Hello | None = None
        self._welcomed_at = 0.0
        self._outbox: list[tuple[Lane, Parts]] = []

    def __repr__(self) -> str:
        return f"<Dialler {self.peer.side} {self.state.name} attempt={self.peer.attempts} redials={self.redials}>"

    # --- time --------------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        if self.state is State.IDLE:
            return self._redial_at
        return min(self._deadline, self.peer.deadline())

    def tick(self, now: float) -> None:
        if self.state is State.IDLE:
            if now >= self._redial_at:
                self._dial(now)
        elif now >= self._deadline:
            self._hang_up(
                f"{self.peer.side} did not answer within {HANDSHAKE_S:.0f} s ({self.state.name.lower()})", now
            )
        elif self.state is State.OPEN:
            reason = self.peer.tick(now)
            if reason is not None:
                self._hang_up(reason, now)

    def _dial(self, now: float) -> None:
        self._dials += 1
        self.redials += self._dials > 1
        self.peer.attempts += 1
        self.state = State.CONNECTING
        self._deadline = now + HANDSHAKE_S
        self._up.clear()
        self._welcome = None
        self._outbox.clear()
        self.actions.append(Dial(self._dials))

    def redial(self, reason: str, now: float) -> None:
        """Our own table has changed: meet anew, without a pause."""
        if self.state is not State.IDLE:
            self._hang_up(reason, now)
        self._redial_at = now

    def _hang_up(self, reason: str, now: float, pause_s: float | None = None) -> None:
        calm_s = now - self.peer.opened_at if self.peer.is_open else 0.0
        self.peer.closed()
        self.state = State.IDLE
        self.reason = reason
        self._deadline = FOREVER
        self._redial_at = now + (self._backoff.pause(self._chance(), calm_s) if pause_s is None else pause_s)
        self.actions.append(HangUp(reason))

    # --- the connection ----------------------------------------------------------------------------------------------

    def lane_up(self, lane: Lane, now: float) -> None:
        """A lane is connected and authenticated."""
        self._up.add(lane)
        if lane is Lane.CONTROL and self.state is State.CONNECTING:
            self.state = State.GREETING
            self._deadline = now + HANDSHAKE_S
            self._outbox.append((Lane.CONTROL, wire.encode_json(Kind.HELLO, self._hello(now).fields())))
        self._open_when_ready(now)

    def lane_lost(self, lane: Lane, reason: str, now: float) -> None:
        if self.state is not State.IDLE:
            self._hang_up(reason, now)

    def _hello(self, now: float) -> Hello:
        peer = self.peer
        return Hello(
            side=peer.own_side,
            session=peer.session,
            attempt=peer.attempts,
            peer_session=peer.peer_session,
            clock_us=int(now * 1e6),
            routes=peer.announce(),
        )

    def receive(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        """A message of the present attempt."""
        if self.state is State.IDLE:
            return
        try:
            self._dispatch(lane, parts, now)
        except RemoteProtocolError as error:
            self.break_off(error, now)

    def break_off(self, error: RemoteProtocolError, now: float) -> None:
        """The listener broke the protocol: tell it, hang up, and pause before the next try."""
        if self.state is State.IDLE:
            return
        refusal = wire.encode_json(Kind.REFUSE, {"code": error.code, "text": str(error)})
        self._hang_up(str(error), now)
        self._outbox = [(Lane.CONTROL, refusal)]

    def _dispatch(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        kind = wire.kind_of(parts)
        if kind is Kind.DATA and self.state is State.OPEN:
            self.peer.receive(lane, parts, now)
            return
        if kind is Kind.REFUSE:
            self._on_refuse(parts, now)
        elif kind is Kind.BYE:
            text = wire.said(wire.decode_json(parts), "text")
            self._hang_up(f"{self.peer.side} said goodbye: {text}", now)
        elif kind is Kind.WELCOME and self.state is State.GREETING and self._welcome is None:
            self._on_welcome(parse_hello(wire.decode_json(parts)), now)
        elif kind is Kind.OPENED and self.state is State.OPENING:
            self._on_opened(parts, now)
        elif self.state in (State.OPENING, State.OPEN):
            self.peer.receive(lane, parts, now)
        else:
            raise RemoteProtocolError("frame", f"{kind.name} came while {self.state.name.lower()}")

    def _on_welcome(self, welcome: Hello, now: float) -> None:
        if welcome.side != self.peer.side:
            raise RemoteProtocolError(
                "side", f"the listener says it is {welcome.side}, the table says {self.peer.side}"
            )
        if welcome.resume and welcome.session != self.peer.peer_session:
            raise RemoteProtocolError("session", "the listener resumes a session that we do not know")
        self._welcome, self._welcomed_at = welcome, now
        self._open_when_ready(now)

    def _open_when_ready(self, now: float) -> None:
        welcome = self._welcome
        if welcome is None or self.state is not State.GREETING or Lane.DATA not in self._up:
            return
        self.peer.begin(welcome, resume=welcome.resume, now=now, heard_at=self._welcomed_at)
        self.state = State.OPENING
        self._deadline = now + HANDSHAKE_S
        self._outbox.append((Lane.DATA, wire.encode_open(welcome.nonce)))

    def _on_opened(self, parts: Sequence[Segment], now: float) -> None:
        numbers = parse_numbers(wire.decode_json(parts))
        self.resumes += bool(self._welcome and self._welcome.resume)
        self.peer.open(numbers, now)
        self.state = State.OPEN
        self.reason = ""
        self._deadline = FOREVER

    def _on_refuse(self, parts: Sequence[Segment], now: float) -> None:
        fields = wire.decode_json(parts)
        code, text = wire.said(fields, "code"), wire.said(fields, "text")
        if code == "evicted":
            self._hang_up(text, now, EVICTED_S)
            self.peer.renew(self._token(16))
        else:
            self._hang_up(f"{self.peer.side} refused: {text} ({code})", now, REDIAL_MIN_S if code in AT_ONCE else None)

    def transmit(self, now: float) -> list[tuple[Lane, Parts]]:
        """Everything that may go now; what is for an attempt that was hung up goes before the owner acts on HangUp."""
        out, self._outbox = self._outbox, []
        if self.state in (State.OPENING, State.OPEN):
            out.extend(self.peer.transmit(now))
        return out

    def goodbye(self, text: str, now: float) -> None:
        """An orderly end: tell the peer, then hang up and stay so."""
        if self.state is State.OPEN:
            self._outbox.append((Lane.CONTROL, wire.encode_json(Kind.BYE, {"text": text})))
            self._outbox[:0] = self.peer.transmit(now)
        if self.state is not State.IDLE:
            outbox = self._outbox
            self._hang_up(text, now)
            self._outbox = outbox
        self._redial_at = FOREVER
