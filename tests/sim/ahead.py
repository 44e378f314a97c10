"""What goes ahead of the bookkeeping, as tunnel/ahead.py and the pump's Shortcut do it, without sockets.

Between two calls of the link's `Peer` batches leave and enter by what was foreseen, and are only noted; the Peer has
them accounted for before it does anything else, and a timer sees to it that this happens soon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tests.sim.ledger import Broken
from tunnel.errors import LocalMisuseError, RemoteProtocolError
from tunnel.limits import ACK_DELAY_S, BATCH_COST_BYTES, INLINE_BYTES, JOURNAL
from tunnel.link import wire
from tunnel.link.acks import FOREVER
from tunnel.link.channel import Channel
from tunnel.link.peer import Peer
from tunnel.link.wire import Ack, Data, Kind, Lane

if TYPE_CHECKING:
    from tests.sim.half import Half, Piece


class Ahead:
    """One channel of one half, armed."""

    def __init__(self, half: Half, peer: Peer, channel: Channel) -> None:
        foreseen = peer.foresee(channel)
        assert foreseen is not None
        self.half, self.peer, self.channel = half, peer, channel
        self.departs, self.enters = foreseen.departs, foreseen.enters
        self.lane_bytes, ack_at, self.owed_here = foreseen.owed
        self.owed = ack_at != FOREVER
        self.room = self.departs[2] if self.departs is not None else 0
        self.sent = self.came = 0
        self.journal: list[Callable[[], None]] = []
        peer.ahead = self
        # longer than it ever takes, so that several batches are noted and much happens meanwhile
        half.world.after(half.world.random.choice((ACK_DELAY_S, 0.2)), self._on_timer)

    def leave(self, piece: Piece) -> list[Any] | None:
        """The DATA of a small piece that goes at once; None: it must go the usual way."""
        if self.departs is None or piece.more or piece.size > INLINE_BYTES:
            return None
        if self.room <= 0 or len(self.journal) >= JOURNAL:
            return None
        number, first_seq, _ = self.departs
        at, seq = self.half.now(), first_seq + self.sent
        header = wire.encode_data(Data(number, seq, int(at * 1e6), piece.messages, False, self._ack()))
        self.owed = self.owed_here = False
        self.sent += 1
        self.room -= max(piece.size, BATCH_COST_BYTES) + len(header)
        self.journal.append(lambda: self._left(piece, seq, len(header), at))
        return [header, *piece.segments]

    def _ack(self) -> Ack | None:
        if not self.owed:
            return None
        delivered = [(self.enters[0], self.enters[1] + self.came - 1)] if self.enters and self.owed_here else []
        return Ack(self.lane_bytes, delivered)

    def enter(self, parts: Sequence[Any], deliver: Callable[[list[Any]], None]) -> bool:
        """Deliver a batch that is the one that is due. False: it must go the usual way, and so must all that follow."""
        if self.enters is None or parts[0][0] != Kind.DATA:
            return False
        header, _ = wire.decode_data(parts[0])
        number, due, offset_us = self.enters
        size, at = sum(map(len, parts)), self.half.now()
        age_s = self.channel.route.terms.max_age_s
        fits = (header.channel, header.seq, header.more) == (number, due + self.came, False)
        fresh = age_s is None or at - (header.born_us + offset_us) / 1e6 <= age_s
        if not (fits and fresh and 0 < size - len(parts[0]) <= INLINE_BYTES and len(self.journal) < JOURNAL):
            self.departs = self.enters = None
            return False
        deliver(list(parts[1:]))
        self.came += 1
        self.lane_bytes += size
        self.owed = self.owed_here = True
        self.journal.append(lambda: self._entered(parts, at))
        return True

    def catch_up(self) -> None:
        """See Peer.ahead."""
        self.departs = self.enters = None
        journal, self.journal = self.journal, []
        for entry in journal:
            entry()

    def _left(self, piece: Piece, seq: int, header_bytes: int, at: float) -> None:
        try:
            self.peer.departed(self.channel, piece, seq, header_bytes, at)
        except LocalMisuseError as error:
            raise Broken(str(error)) from None

    def _entered(self, parts: Sequence[Any], at: float) -> None:
        inbound = self.channel.inbound
        assert inbound is not None
        try:
            self.peer.receive(Lane.DATA, parts, at)
        except RemoteProtocolError as error:  # its acknowledgement, when a carrier repeats batches
            self.half.world.after(0, self.half.breach, self.peer, str(error))
        if len(inbound.runs) != 1:
            raise Broken(f"{inbound!r} did not take what was delivered ahead")
        run = inbound.runs[0]
        inbound.done(run)
        self.peer.delivered(self.channel, run.size, at)
        self.peer.arrived.pop()

    def _on_timer(self) -> None:
        if self.half.alive and self.peer.ahead is self:
            self.peer.catch_up()
            self.half.settle()
