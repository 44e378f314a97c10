"""One other side, for as long as this process lives: its channels outlive every connection (docs/protocol.md, "Peer").

The dialler or the listener brings connections (`begin`, `open`, `closed`); in between frames come in by `receive` and
go out by `transmit`. Deliveries wait in each channel's inbound until the owner has handed them on and says `delivered`.
The owner calls `tick` at `deadline()`. Nothing here does I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from tunnel.errors import LocalMisuseError, RemoteProtocolError
from tunnel.limits import ACK_BYTES, ACK_DELAY_S, CLOCK_WINDOW_S, INLINE_BYTES, SILENCE_S
from tunnel.link import wire
from tunnel.link.channel import Ahead, Channel, Foresight, Route
from tunnel.link.hello import Announced, Hello, Numbers, disagreement
from tunnel.link.inbound import Inbound
from tunnel.link.lane import Clock, Credit, Pulse
from tunnel.link.outbound import Batch, Compact, Outbound, Piece
from tunnel.link.schedule import Schedule
from tunnel.link.subscriptions import Granted, Wanted
from tunnel.link.wire import Ack, Data, Kind, Lane

if TYPE_CHECKING:
    from tunnel.link.wire import Parts, Segment

FOREVER = float("inf")


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
        self.channels: dict[str, Channel] = {}
        self.arrived: list[Channel] = []
        """Channels with fresh runs or topic changes; the owner takes and clears."""
        self.freed: list[Channel] = []
        """Channels whose window has opened; the owner takes and clears."""
        self.counts: Counter[str] = Counter()
        self.rtt_s: float | None = None
        self.credit = Credit()
        self._compact = compact
        self._clock = Clock(CLOCK_WINDOW_S)
        self._schedule = Schedule()
        self._numbers = 0
        self._by_number: dict[int, Channel] = {}
        self._by_peer_number: dict[int, Channel] = {}
        self._telling: set[int] = set()
        """Channels whose topic set has changes to be sent."""
        self._pulses = [Pulse(0.0) for _ in Lane]
        self._outbox: list[tuple[Lane, Parts]] = []
        self._lane_received = 0
        self._owed_bytes = 0
        self._owed_channels: dict[int, Inbound] = {}
        self.ack_at = FOREVER
        """When an acknowledgement must go at the latest: the one deadline that comes nearer while a link is open."""
        self.ahead: Ahead | None = None
        """Whoever was told by `foresee` what may go ahead; the first call of anything here has it catch up."""
        self._peer_counts: dict[int, int] = {}
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

    # --- routes ------------------------------------------------------------------------------------------------------

    def add(self, route: Route) -> Channel:
        """A route that this side shares with the peer; announced at the next HELLO."""
        self._numbers += 1
        number = self._numbers
        channel = Channel(
            route=route,
            number=number,
            outbound=Outbound(number, route.name, route.terms, self._compact) if route.sends else None,
            inbound=Inbound(0, route.name, route.terms.window_bytes, route.max_message_bytes) if route.takes else None,
            wanted=Wanted(route.standing) if route.wants else None,
            granted=Granted(route.name) if route.grants else None,
            max_message_bytes=route.max_message_bytes,
        )
        self.channels[route.name] = self._by_number[number] = channel
        return channel

    def remove(self, name: str) -> None:
        """A route is gone from this side's table; what it held is forgotten. Redial after this."""
        self.catch_up()
        channel = self.channels.pop(name)
        del self._by_number[channel.number]
        self._peer_counts.pop(channel.number, None)
        self._telling.discard(channel.number)
        if channel.peer_number is not None:
            self._by_peer_number.pop(channel.peer_number, None)
        self._schedule.replace(self._sending())

    def announce(self) -> tuple[Announced, ...]:
        """Every route of this side, with what it has of the peer's present session."""
        self.catch_up()
        return tuple(
            Announced(
                name=channel.route.name,
                pattern=channel.route.pattern,
                from_sides=channel.route.from_sides,
                to_sides=channel.route.to_sides,
                delivery=channel.route.delivery,
                number=channel.number,
                window_bytes=channel.route.terms.window_bytes,
                max_message_bytes=channel.route.max_message_bytes,
                numbers=self._numbers_of(channel),
                peer_number=channel.met_number,
            )
            for channel in self.channels.values()
        )

    def numbers(self) -> dict[str, Numbers]:
        self.catch_up()
        return {name: self._numbers_of(channel) for name, channel in self.channels.items()}

    @staticmethod
    def _numbers_of(channel: Channel) -> Numbers:
        inbound = channel.inbound
        return (inbound.received, inbound.delivered) if inbound else (0, 0)

    # --- connections -------------------------------------------------------------------------------------------------

    def begin(self, hello: Hello, *, resume: bool, now: float, heard_at: float | None = None) -> None:
        """A connection is agreed: take the peer's frames from now on. Not `resume`: one of the two processes is new.

        `heard_at`: when the greeting came, if that was earlier; its clock is worth most then.
        """
        self.catch_up()
        self.is_open = False
        if not resume:
            for channel in self.channels.values():
                self._restart(channel)
            self._clock = Clock(CLOCK_WINDOW_S)
        self.peer_session = hello.session
        self._agree(hello)
        self._clock.sample(hello.clock_us / 1e6, now if heard_at is None else heard_at)
        self.credit.reset(now)
        self._pulses = [Pulse(now, steady=lane is Lane.CONTROL) for lane in Lane]
        self._outbox.clear()
        self._lane_received = 0
        self._owed_bytes = 0
        self._owed_channels = {n: c.inbound for n, c in self._by_peer_number.items() if c.inbound}
        self.ack_at = now + ACK_DELAY_S

    @staticmethod
    def _restart(channel: Channel) -> None:
        if channel.outbound:
            channel.outbound.restart()
            if not channel.route.keep_on_restart:
                # replies to clients of the process that is gone; in the new one their routing ids are other clients'
                channel.outbound.drop_all("peer_restart")
        if channel.inbound:
            channel.inbound.restart(keep=channel.route.keep_on_restart)
        channel.met_number = 0

    def _agree(self, hello: Hello) -> None:
        theirs = {route.name: route for route in hello.routes}
        self._by_peer_number.clear()
        for ours in self.announce():
            channel = self.channels[ours.name]
            other = theirs.get(ours.name)
            if other is None:
                channel.refused = f"{self.side} has no route {ours.name} with {self.own_side}; add it there and reload"
            else:
                channel.refused = disagreement(ours, other, self.own_side, self.side)
            channel.peer_number = channel.topic_ack = None
            if other is None or channel.refused is not None:
                continue
            if channel.met_number not in (0, other.number):
                self._restart(channel)  # the peer took the route away and has it again: its numbers begin anew
            channel.peer_number = channel.met_number = other.number
            channel.max_message_bytes = min(ours.max_message_bytes, other.max_message_bytes)
            self._by_peer_number[other.number] = channel
            if channel.inbound:
                channel.inbound.channel = other.number
            if channel.outbound:
                channel.outbound.agreed(min(ours.window_bytes, other.window_bytes), channel.max_message_bytes)

    def open(self, numbers: Mapping[str, Numbers], now: float) -> None:
        """The peer has switched over and has this much: replay what it lacks, then go on."""
        self.catch_up()
        for name, channel in self.channels.items():
            if channel.outbound and channel.refused is None:
                channel.outbound.resume(*numbers.get(name, (0, 0)))
                self.freed.append(channel)
            if channel.wanted and channel.refused is None:
                channel.wanted.restart()
                self._telling.add(channel.number)
        self._schedule.replace(self._sending())
        self.is_open = True
        self.opened_at = now
        self._ping(Lane.CONTROL, now)
        counts = list(self._peer_counts.items())
        if counts:
            self._outbox.append((Lane.CONTROL, wire.encode_peers(counts)))

    def _sending(self) -> Iterable[Outbound]:
        return [c.outbound for c in self.channels.values() if c.outbound and c.refused is None]

    def renew(self, session: bytes) -> None:
        """Another process has taken our place at the peer: what we were is forgotten there, so begin as a new one."""
        self.catch_up()
        self.session, self.peer_session = session, b""
        for channel in self.channels.values():
            self._restart(channel)

    def closed(self) -> None:
        """The connection is gone; everything else stays, but the fragments of `live` messages that were cut in two."""
        self.catch_up()
        self.is_open = False
        self._outbox.clear()
        self.ack_at = FOREVER
        if self.credit.outstanding and self._pulses[Lane.CONTROL].heard_at > self.credit.progress_at + SILENCE_S / 2:
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
        inbound = channel.inbound
        if inbound is None or channel.peer_number is None:
            return
        self._owed_channels[channel.peer_number] = inbound
        inbound.owed_bytes += size
        if inbound.owed_bytes >= inbound.window_bytes // 4:
            self.ack_at = now
        elif self.ack_at is FOREVER:
            self.ack_at = now + ACK_DELAY_S

    def topics_changed(self, channel: Channel) -> None:
        """`wanted` has changes for the peer."""
        if channel.refused is None:
            self._telling.add(channel.number)

    def topics_applied(self, channel: Channel) -> None:
        """The local socket has taken every change to `granted`: tell the peer."""
        if channel.topic_ack is not None and self.is_open:
            self._outbox.append((Lane.CONTROL, wire.encode_subscribed(*channel.topic_ack)))
            channel.topic_ack = None

    def say_peers(self, channel: Channel, count: int) -> None:
        """How many applications are connected at this half of the route."""
        if self._peer_counts.get(channel.number) == count:
            return
        self._peer_counts[channel.number] = count
        if self.is_open:
            self._outbox.append((Lane.CONTROL, wire.encode_peers([(channel.number, count)])))

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
        waiting = any(c.outbound and c.outbound.unacked_bytes for c in self.channels.values() if c.refused is None)
        return not waiting and not self._owed_channels and not self._outbox

    # --- out ---------------------------------------------------------------------------------------------------------

    def transmit(self, now: float) -> list[tuple[Lane, Parts]]:
        """Everything that may go now, in order."""
        self.catch_up()
        if not self.is_open:
            return []
        out, self._outbox = self._outbox, []
        while self._telling:
            channel = self._by_number[self._telling.pop()]
            if channel.wanted is not None and channel.refused is None:
                out.extend((Lane.CONTROL, frame) for frame in channel.wanted.frames(channel.number))
        while self.credit.has_room():
            outbound = self._schedule.pick(now, self.credit.batch_bytes)
            if outbound is None:
                break
            out.append((Lane.DATA, self._data(outbound, now)))
        for outbound in self._schedule.relieved:
            self.freed.append(self._by_number[outbound.channel])
        self._schedule.relieved.clear()
        if self._owed_bytes >= ACK_BYTES or now >= self.ack_at:
            out.append((Lane.CONTROL, wire.encode_ack(self._ack())))
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
        ack = self._ack() if self.ack_at is not FOREVER else None
        header = wire.encode_data(
            Data(outbound.channel, batch.seq, int(batch.born * 1e6), batch.messages, batch.more, ack)
        )
        self.credit.add(len(header) + batch.size, now)
        if batch.size <= INLINE_BYTES:
            return [b"".join((header, *batch.segments))]
        return [header, *batch.segments]

    def _ack(self) -> Ack:
        items = list(islice(self._owed_channels.items(), wire.ACK_ITEMS))
        delivered = [(number, inbound.delivered) for number, inbound in items if inbound.channel == number]
        for number, inbound in items:
            del self._owed_channels[number]
            inbound.owed_bytes = 0
        self._owed_bytes = 0
        if not self._owed_channels:
            self.ack_at = FOREVER
        return Ack(self._lane_received, delivered)

    def _ping(self, lane: Lane, now: float) -> None:
        self._outbox.append((lane, wire.encode_ping(int(now * 1e6))))
        self._pulses[lane].pinged(now)

    def knock(self, now: float) -> None:
        """Ping both lanes now: somebody wants to know whether the link lives at this moment."""
        if self.is_open:
            for lane in Lane:
                self._ping(lane, now)

    def answered_since(self, then: float) -> list[Lane]:
        """The lanes on which a ping was answered, or that were opened, since then."""
        return [lane for lane in Lane if self.is_open and self._pulses[lane].answered_at >= then]

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
        departs = enters = None
        if inbound is not None and inbound.is_clear and self._clock.offset is not None:
            enters = channel.peer_number, inbound.received + 1, int(self._clock.offset * 1e6)
        owes = channel.peer_number in self._owed_channels
        owes_others = len(self._owed_channels) > int(owes)
        if outbound is not None and not owes_others and (enters is not None or not owes):
            room = min(outbound.room_bytes, self.credit.credit_bytes - self.credit.outstanding)
            departs = outbound.channel, outbound.next_seq, room
        return Foresight(departs, enters, (self._lane_received, self.ack_at, owes))

    def departed(self, channel: Channel, piece: Piece, seq: int, header_bytes: int, at: float) -> None:
        """This batch went ahead, with an acknowledgement if one was owed."""
        outbound = channel.outbound
        if outbound is None or outbound.next_seq != seq:
            raise LocalMisuseError(f"batch {seq} went ahead of {outbound!r}")
        outbound.take_at_once(piece, at)
        self.credit.add(header_bytes + piece.size, at)
        if self.ack_at is not FOREVER:
            self._ack()

    # --- time --------------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick` wants to be called, at the latest."""
        if not self.is_open:
            return FOREVER
        control, data = self._pulses
        ack_at = self.ack_at if self.ahead is None else FOREVER  # who goes ahead knows better
        return min(control.deadline(), data.deadline(), ack_at, self.credit.stall_at())

    def tick(self, now: float) -> str | None:
        """Ping what is idle. A sentence when the link is dead: redial both lanes."""
        if not self.is_open:
            return None
        for lane, pulse in zip(Lane, self._pulses, strict=True):
            if pulse.dead(now):
                return f"the {lane.name.lower()} lane was silent for {now - pulse.heard_at:.0f} s"
            if pulse.ping_due(now):
                self._ping(lane, now)
        if now >= self.credit.stall_at():
            stuck_s = now - self.credit.progress_at
            return f"{self.credit.outstanding} bytes on the data lane did not move for {stuck_s:.0f} s"
        return None

    # --- in ----------------------------------------------------------------------------------------------------------

    def receive(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        """A message of an agreed connection. RemoteProtocolError: tell the peer and drop the connection."""
        self.catch_up()
        self._pulses[lane].heard(now)
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
        self._lane_received += size + len(parts[0]) - len(first)
        self._owed_bytes += size
        if self.ack_at is FOREVER:
            self.ack_at = now + ACK_DELAY_S
        channel = self._by_peer_number.get(header.channel)
        if channel is None or channel.inbound is None:
            raise RemoteProtocolError("channel", f"the peer sends on channel {header.channel}, which it may not open")
        born = self._clock.local(header.born_us / 1e6, now)
        if channel.inbound.accept(header, segments, size, born) and not header.more:
            self.arrived.append(channel)
        if header.ack is not None:
            self._acknowledge(header.ack, now)

    def _on_ack(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        self._acknowledge(wire.decode_ack(parts[0]), now)

    def _acknowledge(self, ack: Ack, now: float) -> None:
        if self.credit.acknowledge(ack.lane_bytes, now):
            self._pulses[Lane.DATA].heard(now)  # it lives, though its answers may wait behind payload
        for number, delivered in ack.delivered:
            channel = self._by_number.get(number)
            if channel is not None and channel.outbound and channel.outbound.acknowledge(delivered):
                if channel not in self.freed:
                    self.freed.append(channel)
                if channel.outbound.queue:
                    self._schedule.wake(channel.outbound)

    def _on_ping(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        clock_us = wire.decode_ping(parts[0])
        self._clock.sample(clock_us / 1e6, now)
        if self._pulses[lane].may_pong(now):
            self._outbox.append((lane, wire.encode_pong(clock_us, int(now * 1e6))))

    def _on_pong(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        echo_us, clock_us = wire.decode_pong(parts[0])
        self._clock.sample(clock_us / 1e6, now)
        trip_s = now - echo_us / 1e6
        if 0 <= trip_s < 60:
            self._pulses[lane].answered(now)
            if lane is Lane.CONTROL:
                self.rtt_s = trip_s

    def _on_subscribe(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        piece = wire.decode_subscribe(parts[0])
        channel = self._by_peer_number.get(piece.channel)
        if channel is None or channel.granted is None:
            raise RemoteProtocolError(
                "channel", f"the peer subscribes on channel {piece.channel}, which it may not open"
            )
        channel.topic_changes.extend(channel.granted.take(piece))
        if piece.last:
            channel.topic_ack = (piece.channel, piece.generation)
            self.arrived.append(channel)

    def _on_subscribed(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        number, generation = wire.decode_subscribed(parts[0])
        channel = self._by_number.get(number)
        if channel is not None and channel.wanted is not None:
            channel.wanted.acknowledged = generation
            self._telling.add(number)

    def _on_peers(self, lane: Lane, parts: Sequence[Segment], now: float) -> None:
        for number, count in wire.decode_peers(parts[0]):
            channel = self._by_peer_number.get(number)
            if channel is not None:
                channel.remote_peers = count
