"""One other side, for as long as this process lives: its channels outlive every connection (docs/protocol.md, 5).

The dialler or the listener brings connections (`begin`, `open`, `closed`); in between frames come in by `receive` and
go out by `transmit`. Deliveries wait in each channel's inbound until the owner has handed them on and says `delivered`.
The owner calls `tick` at `deadline()`. Nothing here does I/O.

It sends and takes payload in turns and within the credit, and leads the rest to whoever knows it: the channels to
`directory`, acknowledgements owed to `acks`, pings to `heartbeat`, topics and counts of applications to `notices`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tunnel.errors import LocalMisuseError, RemoteProtocolError
from tunnel.limits import INLINE_BYTES, SILENCE_S
from tunnel.link import wire
from tunnel.link.acks import FOREVER, Owed
from tunnel.link.channel import Ahead, Channel, Foresight, Route
from tunnel.link.directory import Directory
from tunnel.link.heartbeat import Heartbeat
from tunnel.link.hello import Announced, Hello, Numbers, Units
from tunnel.link.lane import Credit
from tunnel.link.notices import Notices
from tunnel.link.outbound import Batch, Compact, Outbound, Piece
from tunnel.link.schedule import Schedule
from tunnel.link.spooled import UNKNOWN, SpooledOutbound
from tunnel.link.wire import Ack, Data, Kind, Lane

if TYPE_CHECKING:
    from tunnel.link.wire import Parts, Segment


class Peer:
    """Everything about one other side that outlives its connections."""

    def __init__(self, own_side: str, side: str, session: bytes, *, compact: Compact | None = None) -> None:
        self.own_side = own_side
        self.side = side
        self.session = session
        self.peer_session = b""
        self.is_open = False
        self.opened_at = 0.0
        self.attempts = 0
        """Dials so far: counted here, for the listener knows a session's attempts for as long as this process lives."""
        self._directory = Directory(own_side, side, compact)
        self.channels = self._directory.by_name
        self.arrived: list[Channel] = []
        """Channels with fresh runs or topic changes; the owner takes and clears."""
        self.freed: list[Channel] = []
        """Channels whose window has opened; the owner takes and clears."""
        self.credit = Credit()
        self._schedule = Schedule()
        self._owed = Owed()
        self._heartbeat = Heartbeat()
        self._notices = Notices(self._directory)
        self._outbox: list[tuple[Lane, Parts]] = []
        self._units: dict[str, Units] = {}
        """Of spooled channels: what the peer had when it greeted. It may have got more since; that it will drop."""
        self.ahead: Ahead | None = None
        """Whoever was told by `foresee` what may go ahead; the first call of anything here has it catch up."""
        self._on_control: dict[Kind, Callable[[Lane, Sequence[Segment], float], None]] = {
            Kind.ACK: self._on_ack,
            Kind.PING: self._on_ping,
            Kind.PONG: self._on_pong,
            Kind.SUBSCRIBE: self._on_subscribe,
            Kind.SUBSCRIBED: self._on_subscribed,
            Kind.PEERS: self._on_peers,
        }

    def __repr__(self) -> str:
        state = "OPEN" if self.is_open else "DOWN"
        return f"<Peer {self.side} {state} channels={len(self.channels)} outstanding={self.credit.outstanding}>"

    @property
    def rtt_s(self) -> float | None:
        """The last round trip of the control lane."""
        return self._heartbeat.rtt_s

    @property
    def ack_at(self) -> float:
        """When an acknowledgement must go at the latest: the one deadline that comes nearer while a link is open."""
        return self._owed.due_at

    # --- routes ------------------------------------------------------------------------------------------------------

    def add(self, route: Route) -> Channel:
        """A route that this side shares with the peer; announced at the next HELLO."""
        return self._directory.add(route)

    def remove(self, name: str) -> None:
        """A route is gone from this side's table; what it held is forgotten. Redial after this."""
        self.catch_up()
        self._notices.forget(self._directory.remove(name))
        self._schedule.replace(self._directory.sending())

    def announce(self) -> tuple[Announced, ...]:
        """Every route of this side, with what it has of the peer's present session."""
        self.catch_up()
        return self._directory.announce()

    def numbers(self) -> dict[str, Numbers]:
        """How far each channel is, (received, delivered)."""
        self.catch_up()
        return self._directory.numbers()

    # --- connections -------------------------------------------------------------------------------------------------

    def begin(self, hello: Hello, *, resume: bool, now: float, heard_at: float | None = None) -> None:
        """A connection is agreed: take the peer's frames from now on. Not `resume`: one of the two processes is new.

        `heard_at`: when the greeting came, if that was earlier; its clock is worth most then.
        """
        self.catch_up()
        self.is_open = False
        if not resume:
            self._directory.restart()
            self._heartbeat.new_session()
        self.peer_session = hello.session
        self._units = {route.name: (route.spool, route.unit) for route in hello.routes if route.unit}
        self._directory.agree(hello)
        self._heartbeat.clock.sample(hello.clock_us / 1e6, now if heard_at is None else heard_at)
        self.credit.reset(now)
        self._heartbeat.begin(now)
        self._outbox.clear()
        self._owed.begin(self._directory.inbounds(), now)

    def open(self, numbers: Mapping[str, Numbers], now: float) -> None:
        """The peer has switched over and has this much: replay what it lacks, then go on."""
        self.catch_up()
        for name, channel in self.channels.items():
            if channel.outbound and channel.refused is None:
                channel.outbound.resume(*numbers.get(name, (0, 0)))
                if isinstance(channel.outbound, SpooledOutbound) and channel.outbound.adrift:
                    channel.outbound.start(*self._units.get(name, UNKNOWN), now)
                self.freed.append(channel)
        self._schedule.replace(self._directory.sending())
        self.is_open = True
        self.opened_at = now
        self._ping(Lane.CONTROL, now)
        self._say(self._notices.opened())

    def renew(self, session: bytes) -> None:
        """Another process has taken our place at the peer: what we were is forgotten there, so begin as a new one."""
        self.catch_up()
        self.session, self.peer_session = session, b""
        self._directory.restart()

    def closed(self) -> None:
        """The connection is gone; everything else stays, but the fragments of `live` messages that were cut in two."""
        self.catch_up()
        self.is_open = False
        self._outbox.clear()
        self._owed.closed()
        heard_at = self._heartbeat.pulses[Lane.CONTROL].heard_at
        if self.credit.outstanding and heard_at > self.credit.progress_at + SILENCE_S / 2:
            self.credit.stalled()
        for channel in self.channels.values():
            if channel.inbound and not channel.route.terms.confirmed:
                channel.inbound.abandon()

    # --- local side --------------------------------------------------------------------------------------------------

    def wake(self, channel: Channel) -> None:
        """Something was put into this channel's outbound."""
        self.catch_up()
        if channel.outbound and channel.refused is None:
            self._schedule.wake(channel.outbound)

    def delivered(self, channel: Channel, size: int, now: float) -> None:
        """The channel's inbound has handed on a run of this size; the peer hears in time to keep its window open."""
        self.catch_up()
        if channel.inbound is not None and channel.peer_number is not None:
            self._owed.delivered(channel.peer_number, channel.inbound, size, now)

    def topics_changed(self, channel: Channel) -> None:
        """`wanted` has changes for the peer."""
        self._notices.topics_changed(channel)

    def topics_applied(self, channel: Channel) -> None:
        """The local socket has taken every change to `granted`: tell the peer."""
        if channel.topic_ack is not None and self.is_open:
            self._say(wire.encode_subscribed(*channel.topic_ack))
            channel.topic_ack = None

    def say_peers(self, channel: Channel, count: int) -> None:
        """How many applications are connected at this half of the route."""
        notice = self._notices.peers(channel, count)
        if self.is_open:
            self._say(notice)

    def sweep(self, now: float) -> None:
        """Let every channel drop what has grown too old, link or no link."""
        self.catch_up()
        for channel in self.channels.values():
            if channel.outbound and channel.outbound.terms.max_age_s is not None:
                before = channel.outbound.queue_bytes
                channel.outbound.expire(now)
                if channel.outbound.queue_bytes < before:
                    self.freed.append(channel)

    @property
    def drained(self) -> bool:
        """Nothing of ours is under way or waits."""
        self.catch_up()
        channels = [channel for channel in self.channels.values() if channel.refused is None]
        drained = all(channel.outbound is None or channel.outbound.drained for channel in channels)
        return drained and not self._owed.has_deliveries and not self._outbox

    # --- out ---------------------------------------------------------------------------------------------------------

    def transmit(self, now: float) -> list[tuple[Lane, Parts]]:
        """Everything that may go now, in order."""
        self.catch_up()
        if not self.is_open:
            return []
        out, self._outbox = self._outbox, []
        out.extend((Lane.CONTROL, frame) for frame in self._notices.topic_sets())
        while self.credit.has_room():
            outbound = self._schedule.pick(now, self.credit.batch_bytes)
            if outbound is None:
                break
            out.append((Lane.DATA, self._data(outbound, now)))
        for outbound in self._schedule.relieved:
            self.freed.append(self._directory.by_number[outbound.channel])
        self._schedule.relieved.clear()
        if self._owed.is_due(now):
            out.append((Lane.CONTROL, wire.encode_ack(self._owed.take())))
        return out

    def express(self, channel: Channel, piece: Piece, now: float) -> Parts | None:
        """The DATA of a piece that need not wait for anybody's turn; None when it must be `put` and wait.

        It overtakes nothing: this channel is clear, no other waits, and the lane has room.
        """
        self.catch_up()
        outbound = self._clear_outbound(channel)
        if outbound is None or piece.more or piece.size > self.credit.batch_bytes:
            return None
        return self._wrap(outbound, outbound.take_at_once(piece, now), now)

    def _clear_outbound(self, channel: Channel) -> Outbound | None:
        """Where a batch may enter the lane without waiting."""
        outbound = channel.outbound
        if outbound is None or not self.is_open or channel.refused is not None:
            return None
        return outbound if self._schedule.idle and outbound.is_clear and self.credit.has_room() else None

    def _data(self, outbound: Outbound, now: float) -> Parts:
        return self._wrap(outbound, outbound.take(now), now)

    def _wrap(self, outbound: Outbound, batch: Batch, now: float) -> Parts:
        ack = self._owed.take() if self._owed.due_at is not FOREVER else None
        header = wire.encode_data(
            Data(outbound.channel, batch.seq, int(batch.born * 1e6), batch.messages, batch.more, ack, batch.unit)
        )
        self.credit.add(len(header) + batch.size, now)
        segments = batch.segments
        if batch.size <= INLINE_BYTES:
            return [b"".join((header, *segments))]
        if segments and len(segments[0]) <= INLINE_BYTES:  # what stands before a large frame: a part less to encrypt
            return [b"".join((header, segments[0])), *segments[1:]]
        return [header, *segments]

    def _ping(self, lane: Lane, now: float) -> None:
        self._outbox.append((lane, self._heartbeat.ping(lane, now)))

    def _say(self, notice: Parts | None) -> None:
        if notice is not None:
            self._outbox.append((Lane.CONTROL, notice))

    def knock(self, now: float) -> None:
        """Ping both lanes now: somebody wants to know whether the link lives at this moment."""
        if self.is_open:
            for lane in Lane:
                self._ping(lane, now)

    def answered_since(self, then: float) -> list[Lane]:
        """The lanes on which a ping was answered, or that were opened, since then."""
        return self._heartbeat.answered_since(then) if self.is_open else []

    # --- ahead of the bookkeeping ------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Account for what went ahead, before anything else happens."""
        ahead, self.ahead = self.ahead, None
        if ahead is not None:
            ahead.catch_up()

    def foresee(self, channel: Channel) -> Foresight | None:
        """What may go at once on this channel, each way, if it is the next thing that happens: small whole batches.

        Who uses it puts itself into `ahead`, notes what goes, and accounts for it, in order, when told to catch up.
        """
        if self.ahead is not None or not self.is_open or channel.refused is not None or channel.peer_number is None:
            return None
        inbound, outbound = channel.inbound, self._clear_outbound(channel)
        offset_s = self._heartbeat.clock.offset
        departs = enters = None
        if inbound is not None and inbound.is_clear and offset_s is not None:
            enters = channel.peer_number, inbound.received + 1, int(offset_s * 1e6)
        owes, owes_others = self._owed.here_and_elsewhere(channel.peer_number)
        if outbound is not None and not owes_others and (enters is not None or not owes):
            room = min(outbound.room_bytes, self.credit.credit_bytes - self.credit.outstanding)
            departs = outbound.channel, outbound.next_seq, room
        return Foresight(departs, enters, (self._owed.lane_bytes, self._owed.due_at, owes))

    def departed(self, channel: Channel, piece: Piece, seq: int, header_bytes: int, at: float) -> None:
        """This batch went ahead, with an acknowledgement if one was owed."""
        outbound = channel.outbound
        if outbound is None or outbound.next_seq != seq:
            raise LocalMisuseError(f"batch {seq} went ahead of {outbound!r}")
        outbound.take_at_once(piece, at)
        self.credit.add(header_bytes + piece.size, at)
        if self._owed.due_at is not FOREVER:
            self._owed.take()

    # --- time --------------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick` wants to be called, at the latest."""
        if not self.is_open:
            return FOREVER
        ack_at = self._owed.due_at if self.ahead is None else FOREVER  # who goes ahead knows better
        return min(self._heartbeat.deadline(), ack_at, self.credit.stall_at())

    def tick(self, now: float) -> str | None:
        """Ping what is idle. A sentence when the link is dead: redial both lanes."""
        if not self.is_open:
            return None
        dead = self._heartbeat.dead(now)
        if dead is not None:
            return dead
        for lane in self._heartbeat.due(now):
            self._ping(lane, now)
        if now >= self.credit.stall_at():
            stuck_s = now - self.credit.progress_at
            return f"{self.credit.outstanding} bytes on the data lane did not move for {stuck_s:.0f} s"
        return None

    # --- in ----------------------------------------------------------------------------------------------------------

    def receive(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        """A message of an agreed connection. RemoteProtocolError: tell the peer and drop the connection."""
        self.catch_up()
        self._heartbeat.pulses[lane].heard(now)
        kind = wire.kind_of(parts)
        if lane is Lane.DATA and kind is Kind.DATA:
            self._on_data(parts, now)
            return
        handler = self._on_control.get(kind)
        if handler is None or (lane is Lane.DATA and kind not in (Kind.PING, Kind.PONG)):
            raise RemoteProtocolError("frame", f"{kind.name} does not belong on the {lane.name.lower()} lane now")
        handler(lane, parts, now)

    def _on_data(self, parts: Sequence[Segment], now: float) -> None:
        header, first = wire.decode_data(parts[0])
        segments: Sequence[Segment] = parts[1:] if not first else [first] if len(parts) == 1 else [first, *parts[1:]]
        size = len(segments[0]) if len(segments) == 1 else sum(map(len, segments))
        self._owed.received(len(parts[0]) - len(first), size, now)
        channel = self._directory.by_peer_number.get(header.channel)
        if channel is None or channel.inbound is None:
            raise RemoteProtocolError("channel", f"the peer sends on channel {header.channel}, which it may not open")
        born = self._heartbeat.clock.local(header.born_us / 1e6, now)
        if channel.inbound.accept(header, segments, size, born) and not header.more:
            self.arrived.append(channel)
        if header.ack is not None:
            self._acknowledge(header.ack, now)

    def _on_ack(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        self._acknowledge(wire.decode_ack(parts[0]), now)

    def _acknowledge(self, ack: Ack, now: float) -> None:
        if self.credit.acknowledge(ack.lane_bytes, now):
            self._heartbeat.pulses[Lane.DATA].heard(now)  # it lives, though its answers may wait behind payload
        for number, delivered in ack.delivered:
            channel = self._directory.by_number.get(number)
            if channel is not None and channel.outbound and channel.outbound.acknowledge(delivered):
                if channel not in self.freed:
                    self.freed.append(channel)
                if channel.outbound.queue:
                    self._schedule.wake(channel.outbound)

    def _on_ping(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        pong = self._heartbeat.on_ping(lane, parts[0], now)
        if pong is not None:
            self._outbox.append((lane, pong))

    def _on_pong(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        self._heartbeat.on_pong(lane, parts[0], now)

    def _on_subscribe(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        channel = self._notices.on_subscribe(parts[0])
        if channel is not None:
            self.arrived.append(channel)

    def _on_subscribed(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        self._notices.on_subscribed(parts[0])

    def _on_peers(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        self._notices.on_peers(parts[0])
