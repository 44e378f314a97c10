"""The half that is dialled: who is bound to which connection, and when an older one must go (docs/protocol.md).

A connection is a hashable that the owner chooses (a routing id); `user_id` is what its CURVE key was let in as. The one
rule behind everything: only OPEN with the newest nonce of a side switches that side over. Frames of connections that
are not bound are dropped and counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunnel.errors import RemoteProtocolError
from tunnel.limits import HANDSHAKE_S, HELLO_BURST, HELLO_GAP_S
from tunnel.link import wire
from tunnel.link.acks import FOREVER
from tunnel.link.hello import Hello, Numbers, encode_numbers, parse_hello
from tunnel.link.peer import Peer
from tunnel.link.wire import Kind, Lane

if TYPE_CHECKING:
    from tunnel.link.wire import Parts, Segment

EVICTED_KEPT = 64
"""Ended sessions of a side that are remembered, to refuse their late greetings."""


@dataclass(slots=True)
class _Pending:
    """A greeting that was welcomed and may be opened."""

    conn: Hashable
    hello: Hello
    nonce: bytes
    resume: bool
    heard_at: float


@dataclass(slots=True)
class _Side:
    """What the listener knows of one side."""

    peer: Peer
    lanes: dict[Lane, Hashable] = field(default_factory=dict)
    session: bytes = b""
    """Of the process that was opened last."""
    pending: _Pending | None = None
    attempts: dict[bytes, int] = field(default_factory=dict)
    ended: deque[bytes] = field(default_factory=lambda: deque(maxlen=EVICTED_KEPT))
    greeted_at: float = 0.0
    greetings: float = HELLO_BURST
    """How many greetings may come at once just now."""
    reason: str = "nobody has dialled in yet"
    opens: int = 0
    resumes: int = 0


class Listener:
    """The listening end of the links with every side in `peers`. `token(n)` gives n random bytes."""

    def __init__(self, peers: Mapping[str, Peer], token: Callable[[int], bytes]) -> None:
        self.counts: Counter[str] = Counter()
        self.changes = 0
        """Goes up whenever a link opens or ends."""
        self._token = token
        self._sides = {side: _Side(peer) for side, peer in peers.items()}
        self._bound: dict[Hashable, tuple[_Side, Lane]] = {}
        self._outbox: list[tuple[Hashable, Parts]] = []

    def __repr__(self) -> str:
        return f"<Listener bound={len(self._bound)} open={[s for s, k in self._sides.items() if k.peer.is_open]}>"

    def add(self, peer: Peer) -> None:
        self._sides[peer.side] = _Side(peer)

    def remove(self, side: str, text: str) -> None:
        """This side may not come any more."""
        known = self._sides.pop(side)
        self._refuse_bound(known, "side", text)

    def conn(self, peer: Peer, lane: Lane) -> Hashable | None:
        """The connection of an open link's lane."""
        return self._sides[peer.side].lanes.get(lane)

    def reason(self, side: str) -> str:
        """Why the link with a side is not open, for people; empty when it is."""
        return "" if self._sides[side].peer.is_open else self._sides[side].reason

    def resumes(self, side: str) -> int:
        return self._sides[side].resumes

    def redials(self, side: str) -> int:
        return max(0, self._sides[side].opens - 1)

    # --- frames ------------------------------------------------------------------------------------------------------

    def receive(self, conn: Hashable, user_id: str, parts: Sequence[Segment], now: float) -> Peer | None:
        """A message. Gives the peer whose state it changed."""
        bound = self._bound.get(conn)
        if bound is not None:
            self._receive_bound(*bound, user_id, parts, now)
            return bound[0].peer
        try:
            kind = wire.kind_of(parts)
            if kind is Kind.HELLO:
                self._on_hello(conn, user_id, parts, now)
            elif kind is Kind.OPEN:
                return self._on_open(conn, user_id, wire.decode_open(parts), now)
            else:
                self.counts["unbound"] += 1
        except RemoteProtocolError as error:
            self._refuse(conn, error.code, str(error))
        return None

    def _receive_bound(self, side: _Side, lane: Lane, user_id: str, parts: Sequence[Segment], now: float) -> None:
        try:
            if user_id != side.peer.side:
                raise RemoteProtocolError("side", "a connection has changed its key")
            if lane is Lane.DATA:
                side.peer.receive(lane, parts, now)
                return
            kind = wire.kind_of(parts)
            if kind is Kind.BYE:
                self._unbind(side, f"{side.peer.side} said goodbye: {wire.said(wire.decode_json(parts), 'text')}")
            elif kind is Kind.REFUSE:
                self._unbind(side, f"{side.peer.side} broke off: {wire.said(wire.decode_json(parts), 'text')}")
            else:
                side.peer.receive(lane, parts, now)
        except RemoteProtocolError as error:
            self._refuse_bound(side, error.code, str(error))

    def _on_hello(self, conn: Hashable, user_id: str, parts: Sequence[Segment], now: float) -> None:
        side = self._sides.get(user_id)
        if side is None:
            raise RemoteProtocolError("side", f"{user_id or 'this key'} has no link here")
        side.greetings = min(HELLO_BURST, side.greetings + (now - side.greeted_at) / HELLO_GAP_S)
        side.greeted_at = now
        if side.greetings < 1:
            self.counts["hello_flood"] += 1
            return
        side.greetings -= 1
        hello = parse_hello(wire.decode_json(parts))
        if hello.side != user_id:
            raise RemoteProtocolError("side", f"the key is {user_id}'s, but the greeting says {hello.side}")
        if hello.session in side.ended:
            raise RemoteProtocolError("evicted", f"another process of {hello.side} has taken this one's place")
        if hello.attempt <= side.attempts.get(hello.session, 0):
            raise RemoteProtocolError("attempt", f"attempt {hello.attempt} is not newer than the last one")
        side.attempts = {session: n for session, n in side.attempts.items() if session == side.session}
        side.attempts[hello.session] = hello.attempt
        peer = side.peer
        resume = bool(peer.peer_session) and hello.session == peer.peer_session and hello.peer_session == peer.session
        side.pending = _Pending(conn, hello, self._token(16), resume, now)
        self._outbox.append((conn, self._welcome(side.pending, peer, now)))

    @staticmethod
    def _welcome(pending: _Pending, peer: Peer, now: float) -> Parts:
        welcome = Hello(
            side=peer.own_side,
            session=peer.session,
            attempt=pending.hello.attempt,
            peer_session=pending.hello.session,
            clock_us=int(now * 1e6),
            routes=peer.announce(),
            nonce=pending.nonce,
            resume=pending.resume,
        )
        return wire.encode_json(Kind.WELCOME, welcome.fields())

    def _on_open(self, conn: Hashable, user_id: str, nonce: bytes, now: float) -> Peer | None:
        side = self._sides.get(user_id)
        pending = side.pending if side else None
        if side is None or pending is None or nonce != pending.nonce or now > pending.heard_at + HANDSHAKE_S:
            raise RemoteProtocolError("stale", "this greeting was overtaken by a newer one")
        if conn == pending.conn:
            raise RemoteProtocolError("frame", "OPEN came on the control lane")
        side.pending = None
        hello, peer = pending.hello, side.peer
        ours = {channel.route.name: channel.number for channel in peer.channels.values()}
        if side.session and side.session != hello.session:
            side.ended.append(side.session)
            self._refuse_bound(side, "evicted", f"another process of {peer.side} has taken this one's place")
        self._unbind(side, "")
        self.changes += 1
        side.session = hello.session
        side.opens += 1
        side.resumes += pending.resume
        side.lanes = {Lane.CONTROL: pending.conn, Lane.DATA: conn}
        for lane, lane_conn in side.lanes.items():
            self._bound[lane_conn] = (side, lane)
        peer.begin(hello, resume=pending.resume, now=now, heard_at=pending.heard_at)
        numbers = peer.numbers()
        self._outbox.append((pending.conn, wire.encode_json(Kind.OPENED, encode_numbers(numbers))))
        theirs: dict[str, Numbers] = {}
        if pending.resume:
            theirs = {r.name: r.numbers for r in hello.routes if r.peer_number == ours.get(r.name)}
        try:
            peer.open(theirs, now)
        except RemoteProtocolError as error:
            self._refuse_bound(side, error.code, str(error))
        return peer

    # --- ends --------------------------------------------------------------------------------------------------------

    def lost(self, conn: Hashable, reason: str) -> Peer | None:
        """The owner could not send to this connection: it is gone."""
        bound = self._bound.get(conn)
        if bound is None:
            return None
        side, _ = bound
        for other in side.lanes.values():
            if other != conn:
                self._refuse(other, "lost", reason)
        self._unbind(side, reason)
        return side.peer

    def break_off(self, side: str, code: str, text: str) -> None:
        """End the connection from here; the peer redials. A greeting under way is void: it told an older state."""
        self._sides[side].pending = None
        self._refuse_bound(self._sides[side], code, text)

    def goodbye(self, text: str, now: float) -> None:
        """An orderly end with every side."""
        for side in self._sides.values():
            if side.lanes:
                control = side.lanes[Lane.CONTROL]
                self._outbox.extend((side.lanes[lane], parts) for lane, parts in side.peer.transmit(now))
                self._outbox.append((control, wire.encode_json(Kind.BYE, {"text": text})))
                self._unbind(side, text)

    def _refuse(self, conn: Hashable, code: str, text: str) -> None:
        self.counts[f"refused_{code}"] += 1
        self._outbox.append((conn, wire.encode_json(Kind.REFUSE, {"code": code, "text": text})))

    def _refuse_bound(self, side: _Side, code: str, text: str) -> None:
        if side.lanes:
            self._refuse(side.lanes[Lane.CONTROL], code, text)
        self._unbind(side, text)

    def _unbind(self, side: _Side, reason: str) -> None:
        for conn in side.lanes.values():
            self._bound.pop(conn, None)
        self.changes += 1
        side.lanes = {}
        side.reason = reason
        side.peer.closed()

    # --- time and output ---------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        return min((side.peer.deadline() for side in self._sides.values()), default=FOREVER)

    def tick(self, now: float) -> None:
        for side in self._sides.values():
            reason = side.peer.tick(now)
            if reason is not None:
                self._refuse_bound(side, "silent", reason)

    def transmit(self, now: float, peer: Peer | None = None) -> list[tuple[Hashable, Parts]]:
        """Everything that may go now, to whom: to this peer, or to all."""
        out, self._outbox = self._outbox, []
        for side in self._sides.values() if peer is None else (self._sides[peer.side],):
            if side.lanes:
                out.extend((side.lanes[lane], parts) for lane, parts in side.peer.transmit(now))
        return out
