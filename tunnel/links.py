"""The two ends of a link, made real: the pure dialler and listener of `tunnel.link`, carriers, and timers.

Here decisions become calls: Dial opens a carrier, HangUp closes it, frames go where `transmit` says. One timer an end;
it is moved only when it must fire earlier, and when it fires early it looks and waits again.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from tunnel.carriers import CARRIERS, Lane
from tunnel.config.plan import DialPlan, KeyPair, ListenPlan
from tunnel.errors import LocalError, RemoteProtocolError
from tunnel.limits import BYE_LINGER_S
from tunnel.link.dialler import Dial, Dialler, HangUp, State
from tunnel.link.listener import Listener
from tunnel.link.peer import Peer
from tunnel.log import Log
from tunnel.resolve import resolve

if TYPE_CHECKING:
    from tunnel.ahead import Way
    from tunnel.carriers import Dialled
    from tunnel.carriers import Listener as Listening
    from tunnel.pump import Segment, Shortcut
    from tunnel.reactor import Reactor
    from tunnel.zap import Zap

_QUIET = frozenset({"unbound", "lost", "silent", "reload", "stale", "attempt"})
"""What every redial may bring: late frames of a connection that is gone, and our own breaking off. Counted only."""

Settle = Callable[[Peer], None]
"""This peer was stirred: feed what arrived, read where windows opened, send what may go."""


def scheme(address: str) -> str:
    return address.partition("://")[0]


class Alarm:
    """One timer that calls `ring` at the deadline it was last told, or a little before."""

    def __init__(self, reactor: Reactor, ring: Callable[[], None]) -> None:
        self._reactor = reactor
        self._ring = ring
        self._at = float("inf")
        self._handle: Any = None

    def set(self, at: float) -> None:
        """Ring at this monotonic time at the latest; an earlier ring that is set already stands."""
        if at < self._at:
            self.cancel()
            self._at = at
            self._handle = self._reactor.call_later(max(0.0, at - self._reactor.now()), self._fire)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._at = None, float("inf")

    def _fire(self) -> None:
        self._handle, self._at = None, float("inf")
        self._ring()


class DialLink:
    """The dialling end of one link."""

    role = "dial"

    def __init__(self, reactor: Reactor, plan: DialPlan, own: KeyPair, keys: Sequence[str], peer: Peer, settle: Settle):
        self.plan = plan
        self.peer = peer
        self.dialler = Dialler(peer, random.random, os.urandom)
        self.address = plan.addresses[0]
        self._reactor = reactor
        self._own = own
        self._settle = settle
        self._targets = [(address, key) for key in keys for address in plan.addresses]
        self._target = 0
        self._dialled: Dialled | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._alarm = Alarm(reactor, self._on_alarm)
        self._was_open = False
        self._log = Log("link")

    def start(self) -> None:
        self._on_alarm()

    def close(self) -> None:
        """At once, without a word to the peer."""
        self._alarm.cancel()
        self._hang_up(0.0)

    def redial(self, reason: str) -> None:
        """Meet the peer anew: what the two tell each other has changed."""
        self.dialler.redial(reason, self._reactor.now())
        self.transmit()

    def breach(self, _peer: Peer, error: RemoteProtocolError) -> None:
        """The peer broke the protocol, found out too late to be the answer to a frame."""
        self.dialler.break_off(error, self._reactor.now())
        self.transmit()

    def goodbye(self, text: str) -> None:
        self.dialler.goodbye(text, self._reactor.now())
        self._send()
        self.dialler.actions.clear()
        self._alarm.cancel()
        self._hang_up(BYE_LINGER_S)

    def status(self) -> dict[str, Any]:
        return {
            "peer": self.peer.side,
            "role": self.role,
            "address": self.address,
            "state": "up" if self.peer.is_open else "down",
            "reason": self.dialler.reason,
            "resumes": self.dialler.resumes,
            "redials": self.dialler.redials,
        }

    # --- decisions ---------------------------------------------------------------------------------------------------

    def transmit(self, _peer: Peer | None = None) -> None:
        """Send what may go, do what was decided, set the alarm."""
        self._send()
        actions, self.dialler.actions = self.dialler.actions, []
        for action in actions:
            if isinstance(action, HangUp):
                self._on_hang_up(action)
            else:
                self._on_dial(action)
        if self.dialler.state is State.OPEN and not self._was_open:
            self._was_open = True
            self._log.info("link-up", peer=self.peer.side, address=self.address, resumes=self.dialler.resumes)
            self._alarm.set(self.dialler.deadline())  # the first ping may be due long before the handshake's deadline
        self._alarm.set(self.peer.ack_at if self._was_open else self.dialler.deadline())

    def _send(self) -> None:
        dialled = self._dialled
        for lane, parts in self.dialler.transmit(self._reactor.now()):
            if dialled is not None and not dialled.send(lane, parts):
                self.dialler.lane_lost(lane, "the connection is gone", self._reactor.now())
                return

    def express(self, _peer: Peer, parts: Any) -> None:
        """Send a batch that waits for nobody."""
        if self._dialled is None or not self._dialled.send(Lane.DATA, parts):
            self.dialler.lane_lost(Lane.DATA, "the connection is gone", self._reactor.now())

    def way(self, _peer: Peer, shortcut: Shortcut) -> Way | None:
        """See tunnel.ahead.Owner."""
        socket = self._dialled.way(shortcut) if self._dialled is not None else None
        return (socket, b"", b"") if socket is not None else None

    def look(self, _peer: Peer) -> None:
        """See tunnel.ahead.Owner."""
        if self._dialled is not None:
            self._dialled.look()

    def _on_alarm(self) -> None:
        now = self._reactor.now()
        if self.dialler.deadline() > now:
            self._alarm.set(self.dialler.deadline())
            return
        self.dialler.tick(now)
        self.transmit()
        self._alarm.set(self.dialler.deadline())
        self._settle(self.peer)

    def _on_hang_up(self, action: HangUp) -> None:
        self._hang_up(0.0)
        if self._was_open or self.dialler.redials == 0:
            self._log.warning("link-down", peer=self.peer.side, address=self.address, reason=action.reason)
        else:
            self._log.info("dial-failed", peer=self.peer.side, address=self.address, reason=action.reason)
        if not self._was_open:
            self._target += 1
        self._was_open = False

    def _hang_up(self, linger_s: float) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        if self._dialled is not None:
            self._dialled.close(linger_s)
            self._dialled = None

    def _on_dial(self, action: Dial) -> None:
        self.address, key = self._targets[self._target % len(self._targets)]
        self._dialling = self._reactor.loop.create_task(self._dial(action.attempt, self.address, key))

    async def _dial(self, attempt: int, address: str, key: str) -> None:
        try:
            numeric = await resolve(self.plan.via.get(address, address))
            chosen = numeric[(attempt - 1) % len(numeric)]
            carrier = CARRIERS[scheme(chosen)]
            self._dialled = carrier.dial(self._reactor, chosen, self._own, key, self.plan.source, self)
        except LocalError as error:
            self.lost(Lane.CONTROL, str(error))

    # --- the carrier's events ----------------------------------------------------------------------------------------

    def up(self, lane: Lane) -> None:
        self.dialler.lane_up(lane, self._reactor.now())
        self.transmit()

    def frames(self, lane: Lane, parts: list[Segment]) -> None:
        self.dialler.receive(lane, parts, self._reactor.now())
        self._settle(self.peer)

    def lost(self, lane: Lane, reason: str) -> None:
        self.dialler.lane_lost(lane, reason, self._reactor.now())
        self.transmit()
        self._settle(self.peer)


class _Port:
    """One listening address; its connections are (port, routing id)."""

    def __init__(self, link: ListenLink, plan: ListenPlan) -> None:
        self.plan = plan
        self.link = link
        self.listening: Listening | None = None
        self.refused: Counter[str] = Counter()
        """What came with a known key and was not taken, by the protocol's word for it."""

    def frames(self, conn: bytes, user_id: str, parts: list[Segment]) -> None:
        link = self.link
        peer = link.listener.receive((self, conn), user_id, parts, time.monotonic())
        if peer is not None:
            link.settle(peer)
        else:
            link.note_refused(self, user_id)
            link.transmit()


class ListenLink:
    """Every address where this side is dialled, and every side that may come there."""

    role = "listen"

    def __init__(
        self,
        reactor: Reactor,
        zap: Zap,
        plans: Sequence[ListenPlan],
        own: KeyPair,
        keys: Mapping[str, Sequence[str]],
        peers: Mapping[str, Peer],
        settle: Settle,
    ) -> None:
        self.peers = dict(peers)
        self.listener = Listener(self.peers, os.urandom)
        self._reactor = reactor
        self._zap = zap
        self._own = own
        self._keys = keys
        self.settle = settle
        self._ports = [_Port(self, plan) for plan in plans]
        self._alarm = Alarm(reactor, self._on_alarm)
        self._noted: Counter[str] = Counter()
        self._up: set[str] = set()
        self._changes = 0
        self._log = Log("link")

    def start(self) -> None:
        for port in self._ports:
            plan = port.plan
            if plan.via is not None:
                plan = replace(plan, address=plan.via, mode=None, group=None)
            carrier = CARRIERS[scheme(plan.address)]
            port.listening = carrier.listen(self._reactor, self._zap, plan, self._own, self._who(plan), port)
        self._alarm.set(self.listener.deadline())

    def _who(self, plan: ListenPlan) -> Callable[[str], str | None]:
        def who(public: str) -> str | None:
            return next((side for side in plan.peers if public in self._keys.get(side, ())), None)

        return who

    @property
    def opened(self) -> bool:
        return all(
            port.listening is not None and port.listening.status()["state"] == "listening" for port in self._ports
        )

    def close(self) -> None:
        self._alarm.cancel()
        for port in self._ports:
            if port.listening is not None:
                port.listening.close(0.0)

    def redial(self, side: str, reason: str) -> None:
        """Have a side meet us anew."""
        self.listener.break_off(side, "reload", reason)
        self.transmit()

    def breach(self, peer: Peer, error: RemoteProtocolError) -> None:
        """See DialLink.breach."""
        self.listener.break_off(peer.side, error.code, str(error))
        self.transmit()

    def goodbye(self, text: str) -> None:
        self.listener.goodbye(text, self._reactor.now())
        self.transmit()
        self._alarm.cancel()
        for port in self._ports:
            if port.listening is not None:
                port.listening.close(BYE_LINGER_S)

    def status(self) -> list[dict[str, Any]]:
        addresses = [port.plan.address for port in self._ports]
        return [
            {
                "peer": side,
                "role": self.role,
                "address": ", ".join(addresses),
                "state": "up" if peer.is_open else "down",
                "reason": self.listener.reason(side),
                "resumes": self.listener.resumes(side),
                "redials": self.listener.redials(side),
            }
            for side, peer in self.peers.items()
        ]

    def ports_status(self) -> list[dict[str, Any]]:
        return [_port_status(port, port.listening) for port in self._ports if port.listening is not None]

    # --- decisions ---------------------------------------------------------------------------------------------------

    def transmit(self, peer: Peer | None = None) -> None:
        """Send what may go, to this peer or to all."""
        for conn, parts in self.listener.transmit(self._reactor.now(), peer):
            self._send(conn, parts)
        if self.listener.changes != self._changes:
            self._note_changes()
        if peer is not None:
            self._alarm.set(peer.ack_at)

    def express(self, peer: Peer, parts: Any) -> None:
        """Send a batch that waits for nobody."""
        self._send(self.listener.conn(peer, Lane.DATA), parts)

    def way(self, peer: Peer, shortcut: Shortcut) -> Way | None:
        """See tunnel.ahead.Owner."""
        conn = self.listener.conn(peer, Lane.DATA)
        if conn is None:
            return None
        port, routing_id = cast("tuple[_Port, bytes]", conn)
        socket = port.listening.way(shortcut) if port.listening is not None else None
        return (socket, routing_id, peer.side.encode()) if socket is not None else None

    def look(self, peer: Peer) -> None:
        """See tunnel.ahead.Owner."""
        conn = self.listener.conn(peer, Lane.DATA)
        if conn is not None:
            listening = cast("tuple[_Port, bytes]", conn)[0].listening
            if listening is not None:
                listening.look()

    def _send(self, conn: Hashable, parts: Any) -> None:
        port, routing_id = cast("tuple[_Port, bytes]", conn)
        if port.listening is None or not port.listening.send(routing_id, parts):
            self.listener.lost(conn, "the connection is gone")

    def _note_changes(self) -> None:
        self._changes = self.listener.changes
        up = {side for side, peer in self.peers.items() if peer.is_open}
        for side in up - self._up:
            self._log.info("link-up", peer=side, resumes=self.listener.resumes(side))
        for side in self._up - up:
            self._log.warning("link-down", peer=side, reason=self.listener.reason(side))
        self._up = up
        self._alarm.set(self.listener.deadline())

    def _on_alarm(self) -> None:
        now = self._reactor.now()
        if self.listener.deadline() > now:
            self._alarm.set(self.listener.deadline())
            return
        self.listener.tick(now)
        self.transmit()
        self._alarm.set(self.listener.deadline())
        for peer in self.peers.values():
            self.settle(peer)

    def note_refused(self, port: _Port, user_id: str) -> None:
        """Put down to this port what the listener has counted since the last look, its own breaking off included."""
        for counted, count in (self.listener.counts - self._noted).items():
            reason = counted.removeprefix("refused_")
            port.refused[reason] += count
            if reason not in _QUIET:
                self._log.warning("refused", peer=user_id, port=port.plan.address, reason=reason)
        self._noted = self.listener.counts.copy()


def _port_status(port: _Port, listening: Listening) -> dict[str, Any]:
    status = listening.status()
    status["refused"] = {**status["refused"], **port.refused}
    if port.plan.via is not None:
        status["address"] = port.plan.address
    return status
