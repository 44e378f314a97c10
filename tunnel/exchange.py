"""Between routes and links: whatever happens at one of them, here it is seen to that the others learn of it, in order.

It is the Hub of the patterns (patterns/base.py) and the Owner of the shortcuts (ahead.py). Within one callback of the
loop peers are only noted as stirred; `settle`, at its end, feeds what arrived, reads where windows opened and sends
what may go, until all is at rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunnel import pump
from tunnel.ahead import Aheads, Way
from tunnel.errors import RemoteProtocolError
from tunnel.link.channel import Channel
from tunnel.link.peer import Peer
from tunnel.links import DialLink, ListenLink
from tunnel.log import Log
from tunnel.reactor import Reactor

SETTLE_ROUNDS = 64
"""A settling that has not come to rest after so many rounds goes on in the next loop turn."""


class Exchange:
    """The links of one device, and what is to be done between them and its routes. The device puts links in."""

    def __init__(self, reactor: Reactor, log: Log) -> None:
        self.dials: dict[str, DialLink] = {}
        self.listens: ListenLink | None = None
        self.aheads = Aheads(self)
        self._reactor = reactor
        self._log = log
        self._stirred: set[Peer] = set()
        self._settling = False

    @property
    def links(self) -> list[DialLink | ListenLink]:
        links: list[DialLink | ListenLink] = list(self.dials.values())
        return [*links, self.listens] if self.listens is not None else links

    def redial(self, side: str, reason: str) -> None:
        """Break the connection with this side off, and meet again."""
        if side in self.dials:
            self.dials[side].redial(reason)
        elif self.listens is not None:
            self.listens.redial(side, reason)

    # --- the hub of the patterns -------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._reactor.now()

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> Any:
        return self._reactor.call_later(delay_s, fn)

    def touch(self, peer: Peer) -> None:
        self._stirred.add(peer)

    def express(self, peer: Peer, channel: Channel, piece: pump.Piece, now: float) -> bool:
        parts = peer.express(channel, piece, now)
        if parts is None:
            return False
        link = self._link(peer)
        if link is not None:
            link.express(peer, parts)
        self.aheads.saw(peer, channel, piece.size)
        return True

    def breach(self, peer: Peer, error: RemoteProtocolError) -> None:
        self._log.warn("protocol-breach", peer=peer.side, code=error.code, reason=str(error))
        link = self._link(peer)
        if link is not None:
            link.breach(peer, error)

    def settle(self) -> None:
        if self._settling:
            return
        self._settling = True
        try:
            for _ in range(SETTLE_ROUNDS):
                if not self._stirred:
                    return
                self._settle_one(self._stirred.pop())
            self._reactor.loop.call_soon(self.settle)
        finally:
            self._settling = False

    # --- the owner of the shortcuts ----------------------------------------------------------------------------------

    def way(self, peer: Peer, shortcut: pump.Shortcut) -> Way | None:
        link = self._link(peer)
        return link.way(peer, shortcut) if link is not None else None

    def look(self, peer: Peer) -> None:
        link = self._link(peer)
        if link is not None:
            link.look(peer)

    # --- called by the links -----------------------------------------------------------------------------------------

    def stir(self, peer: Peer) -> None:
        """Something came from this peer, or its link has come or gone."""
        if self._settling:
            self._stirred.add(peer)
            return
        self._settling = True
        try:
            self._settle_one(peer)
        finally:
            self._settling = False
        if self._stirred:
            self.settle()

    def _settle_one(self, peer: Peer) -> None:
        if peer.arrived:
            arrived, peer.arrived = peer.arrived, []
            for channel in arrived:
                if channel.owner is not None:
                    pattern, port = channel.owner
                    if channel.inbound is not None and channel.inbound.runs:
                        self.aheads.saw(peer, channel, channel.inbound.runs[-1].size)
                    pattern.arrived(port)
        if peer.freed:
            freed, peer.freed = peer.freed, []
            for channel in freed:
                if channel.owner is not None:
                    pattern, port = channel.owner
                    pattern.freed(port)
        self._stirred.discard(peer)  # what was touched meanwhile goes now
        link = self._link(peer)
        if link is not None:
            link.transmit(peer)
        if peer.arrived or peer.freed:
            self._stirred.add(peer)
        else:
            self.aheads.arm(peer)

    def _link(self, peer: Peer) -> DialLink | ListenLink | None:
        return self.dials.get(peer.side) or self.listens
