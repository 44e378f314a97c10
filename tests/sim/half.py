"""A half around the pure link, as the device is one: applications that write and read, timers, connections.

It does what the owner of a Peer has to do and nothing more: read while there is room, hand on what arrived, apply topic
changes, call `tick` at the deadline, send what `transmit` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.sim.ahead import Ahead
from tests.sim.disk import Disk, Spool, unpack
from tests.sim.ledger import Broken, Ledger, Segment, SpooledStream, Stream
from tests.sim.world import NEVER, Conn, World
from tunnel.backlog import Backlog, stored
from tunnel.limits import FRAGMENT_BYTES
from tunnel.link import peer as peers
from tunnel.link import wire
from tunnel.link.channel import Channel, Route
from tunnel.link.dialler import Dial, Dialler, State
from tunnel.link.listener import Listener
from tunnel.link.outbound import Outbound, Terms
from tunnel.link.peer import Peer
from tunnel.link.spooled import SpooledOutbound, Stored
from tunnel.link.wire import Kind, Lane

peers.INLINE_BYTES = -1  # type: ignore[attr-defined]  # a simulated segment has no bytes to put beside a header

CUTS = ("both", "client", "server", "hole", "up", "down")
HONEST_CODES = {"stale", "attempt", "evicted", "silent", "lost", "reload"}
"""Refusals that two halves without faults may give each other; any other says that one broke the protocol."""
MESSAGE_BYTES = 1_000_000
SLACK_BYTES = MESSAGE_BYTES + 2 * FRAGMENT_BYTES + 2048


@dataclass
class Piece:
    segments: tuple[Segment, ...]
    size: int
    messages: int
    more: bool


def keep_latest(runs: Sequence[Sequence[Any]]) -> tuple[list[Piece], int]:
    """Messages whose numbers are equal modulo 3 have the same topic here."""
    messages = [list(run) for run in runs]
    whole = [[s for s in run if s.id == id] for run in messages for id in dict.fromkeys(s.id for s in run)]
    newest = {run[0].id % 3: run[0].id for run in whole}
    kept = [run for run in whole if newest[run[0].id % 3] == run[0].id]
    pieces = [Piece((segment,), segment.size, int(segment.ends), not segment.ends) for run in kept for segment in run]
    return pieces, len(whole) - len(kept)


@dataclass(frozen=True)
class RouteKind:
    """A route of a scenario. Messages go from `a` (the dialling sides) to the listener, the other way, or both."""

    name: str
    up: bool
    down: bool
    terms: Terms
    topics: bool = False
    keep_on_restart: bool = True
    spooled: bool = False

    def route(self, dialling: bool, stored: Stored | None = None) -> Route:
        sends, takes = (self.up, self.down) if dialling else (self.down, self.up)
        return Route(
            name=self.name,
            pattern="pubsub" if self.topics else "pair",
            from_sides=("a", "b"),
            to_sides=("z",),
            delivery="spooled" if self.spooled else "confirmed" if self.terms.confirmed else "live",
            terms=self.terms,
            max_message_bytes=MESSAGE_BYTES,
            sends=sends,
            takes=takes,
            wants=self.topics and takes,
            grants=self.topics and sends,
            keep_on_restart=self.keep_on_restart,
            stored=stored,
        )

    def sends(self, dialling: bool) -> bool:
        return self.up if dialling else self.down


class Half:
    """A process: several peers, each with its channels. Subclasses bring connections."""

    incarnations = 0

    def __init__(self, world: World, side: str, ledger: Ledger, kinds: Sequence[RouteKind], dialling: bool) -> None:
        Half.incarnations += 1
        self.id = Half.incarnations
        self.world = world
        self.side = side
        self.ledger = ledger
        self.kinds = kinds
        self.dialling = dialling
        self.alive = True
        self.writing = True
        self.reads_at: dict[tuple[Peer, str], float] = {}
        self.streams: dict[tuple[Peer, str], Stream] = {}
        self.applied: dict[tuple[Peer, str], set[bytes]] = {}
        self.backlogs: dict[tuple[Peer, str], Backlog] = {}
        self.peers: list[Peer] = []
        self._offset_s = 1000.0 * world.random.random()
        self.slow = world.random.choice((0.0, 0.3, 0.8))
        """How often a local socket is full after a run."""
        self._tick_at = NEVER
        self.aheads = 0
        """Batches that went ahead of their bookkeeping, in or out."""

    def __repr__(self) -> str:
        return f"<Half {self.side}{self.id}>"

    def now(self) -> float:
        return self.world.now + self._offset_s

    # --- routes ------------------------------------------------------------------------------------------------------

    def new_peer(self, side: str) -> Peer:
        peer = Peer(self.side, side, self.world.token(16), compact=keep_latest)
        self.peers.append(peer)
        for kind in self.kinds:
            self.add(peer, kind)
        return peer

    def add(self, peer: Peer, kind: RouteKind) -> None:
        key = (peer, kind.name)
        if kind.spooled and kind.sends(self.dialling):
            self._add_spooled(peer, kind)
            return
        channel = peer.add(kind.route(self.dialling))
        if channel.outbound:
            name = f"{kind.name}/{self.side}{self.id}>{peer.side}"
            self.streams[key] = Stream(name, channel.outbound, kind.terms.max_age_s)
            self.ledger.streams.append(self.streams[key])
            self.world.after(self.world.random.random(), self._write, key, channel)
        if channel.granted:
            self.applied[key] = set()
        if channel.wanted:
            self.world.after(0, self._subscribe, key, channel)

    def _add_spooled(self, peer: Peer, kind: RouteKind) -> None:
        """Where messages enter: they go to the disk that the last process has left."""
        key, name = (peer, kind.name), f"{kind.name}/{self.side}>{peer.side}"
        disk = self.ledger.disks.get(name)
        if disk is None:
            stream = SpooledStream(name, Outbound(0, name, kind.terms), kind.terms.max_age_s, far=peer.side)
            self.ledger.streams.append(stream)
            disk = self.ledger.disks[name] = Disk(self.world.token(16), stream)
        spool = Spool(self.world, disk, lambda: self.backlogs[key].on_durable())
        channel = peer.add(kind.route(self.dialling, stored(spool)))
        assert isinstance(channel.outbound, SpooledOutbound)
        disk.stream.next_process(channel.outbound)
        self.streams[key] = disk.stream

        def stir() -> None:
            peer.wake(channel)
            self.world.after(0, self.settle)

        self.backlogs[key] = Backlog(spool, channel.outbound, stir, self.now, self.wall)
        self.world.after(self.world.random.random(), self._write, key, channel)

    def wall(self) -> float:
        """What the box's clock says: the same to every process."""
        return self.world.now + 1e9

    def close_spools(self) -> None:
        """An orderly end syncs."""
        for backlog in self.backlogs.values():
            backlog.store.close()
        self.backlogs.clear()

    def remove(self, peer: Peer, name: str) -> None:
        key = (peer, name)
        peer.remove(name)
        if key in self.backlogs:
            self.backlogs.pop(key).store.close()
        elif key in self.streams:
            self.streams.pop(key).dead = True
        self.applied.pop(key, None)

    def kill(self) -> None:
        self.alive = False
        for stream in self.streams.values():
            stream.dead = not isinstance(stream, SpooledStream)
        for backlog in self.backlogs.values():
            backlog.store.crash(backlog.outbound._again_through)

    # --- applications ------------------------------------------------------------------------------------------------

    def _writes(self, key: tuple[Peer, str], channel: Channel) -> bool:
        return self.alive and self.writing and key[0].channels.get(key[1]) is channel

    def _write(self, key: tuple[Peer, str], channel: Channel) -> None:
        """The application gives a few messages, if they are read."""
        if not self._writes(key, channel) or self.world.calm:
            return
        random = self.world.random
        outbound, backlog = channel.outbound, self.backlogs.get(key)
        if backlog is not None and backlog.has_room:
            backlog.put(self._pieces(self.streams[key]), self.now())
            self.settle()
        elif backlog is None and outbound is not None and outbound.has_room:
            pieces = self._pieces(self.streams[key])
            if not self._leave_ahead(key[0], channel, pieces):
                self._put(key[0], channel, pieces)
        self.world.after(random.choice((0.001, 0.01, 0.1, 0.5, 1.0)), self._write, key, channel)

    def _put(self, peer: Peer, channel: Channel, pieces: list[Piece]) -> None:
        parts = peer.express(channel, pieces[0], self.now()) if len(pieces) == 1 else None
        if parts is not None:
            self.send_data(peer, parts)
        elif channel.outbound is not None:
            channel.outbound.put(pieces, self.now())
            peer.wake(channel)
        self.settle()

    def _leave_ahead(self, peer: Peer, channel: Channel, pieces: list[Piece]) -> bool:
        ahead = peer.ahead
        if not isinstance(ahead, Ahead) or ahead.channel is not channel or len(pieces) != 1:
            return False
        parts = ahead.leave(pieces[0])
        if parts is not None:
            self.aheads += 1
            self.send_data(peer, parts)
        return parts is not None

    def _enter_ahead(self, peer: Peer, parts: Sequence[Any]) -> bool:
        """Deliver what came on the data lane before anybody looks at it, if that was foreseen and there is room."""
        ahead = peer.ahead
        if not isinstance(ahead, Ahead):
            return False
        reads_at = self.reads_at.get((peer, ahead.channel.route.name), 0.0)
        if not self.world.calm and (reads_at > self.world.now or self.world.chance(self.slow)):
            return False
        entered = ahead.enter(
            parts, lambda run: self.ledger.deliver_run(run, self.id, self.world.now, self.world.worst_delay_s)
        )
        self.aheads += entered
        return entered

    def _arm(self) -> None:
        """Everything is at rest: what comes next may go ahead."""
        for peer in self.peers:
            open_channels = [c for c in peer.channels.values() if c.refused is None and c.peer_number is not None]
            if peer.is_open and peer.ahead is None and open_channels and self.world.chance(0.7):
                Ahead(self, peer, self.world.random.choice(open_channels))

    def _pieces(self, stream: Stream) -> list[Piece]:
        random = self.world.random
        now = self.world.now
        if random.random() < 0.15:
            n, id = random.randint(2, 3), stream.new_id(now)
            size = MESSAGE_BYTES // 4
            return [Piece((Segment(stream, id, size, k, n),), size, int(k + 1 == n), k + 1 < n) for k in range(n)]
        size = random.choice((50, 3000, 60_000, 250_000))
        segments = tuple(Segment(stream, stream.new_id(now), size) for _ in range(random.randint(1, 4)))
        return [Piece(segments, size * len(segments), len(segments), False)]

    def _subscribe(self, key: tuple[Peer, str], channel: Channel) -> None:
        wanted = channel.wanted
        if not self._writes(key, channel) or wanted is None or self.world.calm:
            return
        random = self.world.random
        for _ in range(random.randint(1, 4)):
            wanted.change(add=random.random() < 0.6, topic=b"%d" % random.randint(0, 9))
        key[0].topics_changed(channel)
        self.settle()
        self.world.after(random.choice((0.01, 0.3, 2.0)), self._subscribe, key, channel)

    def stand_still(self, seconds: float) -> None:
        """The local sockets of some channels take nothing for a while."""
        for peer in self.peers:
            for name in peer.channels:
                if self.world.chance(0.5):
                    self.reads_at[peer, name] = self.world.now + seconds
        self.world.after(seconds, self.go_on)

    def go_on(self) -> None:
        if self.alive:
            for peer in self.peers:
                peer.arrived.extend(peer.channels.values())
            self.settle()

    def _read(self, peer: Peer, channel: Channel) -> None:
        inbound = channel.inbound
        key = (peer, channel.route.name)
        if channel.topic_changes or channel.topic_ack:
            for add, topic in channel.topic_changes:
                (self.applied[key].add if add else self.applied[key].discard)(topic)
            channel.topic_changes.clear()
            peer.topics_applied(channel)
        if inbound is None or (not self.world.calm and self.reads_at.get(key, 0.0) > self.world.now):
            return
        age_s = channel.route.terms.max_age_s
        while inbound.runs:
            if not self.world.calm and self.world.chance(self.slow):
                pause_s = self.world.random.choice((0.01, 0.1, 0.6))
                self.reads_at[key] = self.world.now + pause_s
                self.world.after(pause_s, self.go_on)
                return
            run = inbound.runs[0]
            if age_s is not None and self.now() - run.born > age_s:
                self.ledger.expire_run(unpack(run.segments))
            else:
                self.ledger.deliver_run(unpack(run.segments), self.id, self.world.now, self.world.worst_delay_s)
            inbound.done(run)
            peer.delivered(channel, run.size, self.now())

    # --- the owner's loop --------------------------------------------------------------------------------------------

    def settle(self) -> None:
        if not self.alive:
            return
        self.exchange()
        for peer in self.peers:
            arrived, peer.arrived = peer.arrived, []
            freed, peer.freed = peer.freed, []
            for channel in freed:
                if (peer, channel.route.name) in self.backlogs:
                    self.backlogs[peer, channel.route.name].advance()
            if arrived:
                for channel in arrived:
                    if peer.channels.get(channel.route.name) is channel:
                        self._read(peer, channel)
        self.exchange()
        self.check()
        self._arm()
        deadline = self.deadline()
        if deadline < self._tick_at:
            self._tick_at = deadline
            self.world.after(max(0.0, deadline - self.now()) + 1e-6, self._on_tick, deadline)

    def _on_tick(self, at: float) -> None:
        if not self.alive or at != self._tick_at:
            return
        self._tick_at = NEVER
        if self.now() >= self.deadline():
            self.tick()
        self.settle()

    def check(self) -> None:
        """What must hold at every moment."""
        for peer in self.peers:
            for channel in peer.channels.values():
                outbound, inbound = channel.outbound, channel.inbound
                waiting = outbound.waiting_bytes if isinstance(outbound, SpooledOutbound) else 0
                if outbound and outbound.unacked_bytes + waiting > outbound.terms.window_bytes + SLACK_BYTES:
                    raise Broken(f"{outbound!r} holds more than its window and a message")
                if inbound and inbound.held_bytes > inbound.window_bytes + SLACK_BYTES:
                    raise Broken(f"{inbound!r} holds more than its window and a message")

    def check_credit(self, peer: Peer, before: int) -> None:
        """A batch may enter the lane only while less than the credit is under way."""
        now = peer.credit.outstanding
        if now > before and now > peer.credit.credit_bytes + FRAGMENT_BYTES + 8192:
            raise Broken(f"{now} bytes are under way where the credit is {peer.credit.credit_bytes}")

    def idle(self, peer: Peer) -> bool:
        """Nothing waits and nothing is under way on any route that both ends have."""
        peer.catch_up()
        for channel in peer.channels.values():
            if channel.refused is not None:
                continue
            if channel.outbound and channel.outbound.unacked_bytes:
                return False
            if isinstance(channel.outbound, SpooledOutbound) and channel.outbound.backlog:
                return False
            if channel.inbound and channel.inbound.runs:
                return False
            if channel.wanted and not channel.wanted.settled:
                return False
        return True

    def send_data(self, peer: Peer, parts: Sequence[Any]) -> None:
        raise NotImplementedError

    def breach(self, peer: Peer, reason: str) -> None:
        """The peer broke the protocol, found out too late to say so as an answer."""
        raise NotImplementedError

    def exchange(self) -> None:
        raise NotImplementedError

    def tick(self) -> None:
        raise NotImplementedError

    def deadline(self) -> float:
        raise NotImplementedError


class DialHalf(Half):
    """A process that dials."""

    def __init__(self, world: World, side: str, ledger: Ledger, kinds: Sequence[RouteKind], place: Place) -> None:
        super().__init__(world, side, ledger, kinds, dialling=True)
        self.place = place
        self.peer = self.new_peer("z")
        self.dialler = Dialler(self.peer, world.random.random, world.token)
        self.conns: dict[Lane, Conn] = {}
        self.evictions = 0
        self.settle_soon()

    def settle_soon(self) -> None:
        self.world.after(0.1 * self.world.random.random(), self._begin)

    def _begin(self) -> None:
        if self.alive:
            self.dialler.tick(self.now())
            self.settle()

    def exchange(self) -> None:
        dialler = self.dialler
        before = self.peer.credit.outstanding
        for lane, parts in dialler.transmit(self.now()):
            _honest(parts, self.place)
            if lane in self.conns:
                self.conns[lane].send_up(parts)
        self.check_credit(self.peer, before)
        actions, dialler.actions = dialler.actions, []
        for action in actions:
            for conn in self.conns.values():
                conn.close()
            self.conns = {}
            if isinstance(action, Dial):
                self._dial()

    def send_data(self, peer: Peer, parts: Sequence[Any]) -> None:
        self.conns[Lane.DATA].send_up(parts)

    def _dial(self) -> None:
        world = self.world
        half_succeeds = not world.calm and world.chance(self.place.bad)
        broken = world.random.choice((*Lane, None)) if half_succeeds else None
        for lane in Lane:
            conn = Conn(world, lane, self.side, self, self.place.listener, self.place)
            self.conns[lane] = conn
            conn.make(lane is not broken)
            if half_succeeds and world.chance(0.5):
                world.after(0.5 * world.random.random(), conn.cut, world.random.choice(CUTS))

    def lane_up(self, conn: Conn) -> None:
        if self.alive and self.conns.get(conn.lane) is conn:
            self.dialler.lane_up(conn.lane, self.now())
            self.settle()

    def lane_lost(self, conn: Conn, reason: str) -> None:
        if self.alive and self.conns.get(conn.lane) is conn:
            self.dialler.lane_lost(conn.lane, reason, self.now())
            self.settle()

    def from_server(self, conn: Conn, parts: Sequence[Any]) -> None:
        if self.alive and self.conns.get(conn.lane) is conn:
            if conn.lane is Lane.DATA and self._enter_ahead(self.peer, parts):
                return
            session = self.peer.session
            self.dialler.receive(conn.lane, parts, self.now())
            self.evictions += session != self.peer.session
            self.settle()

    def redial(self, reason: str = "the table has changed") -> None:
        self.dialler.redial(reason, self.now())
        self.settle()

    def breach(self, peer: Peer, reason: str) -> None:
        if self.alive:
            self.redial(reason)

    def tick(self) -> None:
        self.dialler.tick(self.now())

    def deadline(self) -> float:
        return self.dialler.deadline()

    def kill(self) -> None:
        super().kill()
        for conn in self.conns.values():
            conn.close()

    def goodbye(self) -> None:
        self.dialler.goodbye("stopping", self.now())
        self.settle()

    @property
    def is_open(self) -> bool:
        return self.dialler.state is State.OPEN


class ListenHalf(Half):
    """The process that is dialled."""

    def __init__(
        self, world: World, sides: Sequence[str], ledger: Ledger, kinds: Sequence[RouteKind], place: Place
    ) -> None:
        super().__init__(world, "z", ledger, kinds, dialling=False)
        self.place = place
        self.listener = place.kind({side: self.new_peer(side) for side in sides}, world.token)

    def from_client(self, conn: Conn, parts: Sequence[Any]) -> None:
        if self.alive:
            for peer in self.peers:
                if self.listener.conn(peer, Lane.DATA) is conn and self._enter_ahead(peer, parts):
                    return
            self.listener.receive(conn, conn.side, parts, self.now())
            self.settle()

    def exchange(self) -> None:
        again = True
        while again:
            again = False
            before = {peer: peer.credit.outstanding for peer in self.peers}
            for conn, parts in self.listener.transmit(self.now()):
                _honest(parts, self.place)
                if not conn.send_down(parts):  # type: ignore[attr-defined]
                    again |= self.listener.lost(conn, "unreachable") is not None
            for peer in self.peers:
                self.check_credit(peer, before[peer])

    def send_data(self, peer: Peer, parts: Sequence[Any]) -> None:
        conn = self.listener.conn(peer, Lane.DATA)
        if isinstance(conn, Conn) and not conn.send_down(parts):
            self.listener.lost(conn, "unreachable")

    def redial(self, side: str, reason: str = "the table has changed") -> None:
        self.listener.break_off(side, "reload", reason)
        self.settle()

    def breach(self, peer: Peer, reason: str) -> None:
        if self.alive:
            self.redial(peer.side, reason)

    def tick(self) -> None:
        self.listener.tick(self.now())

    def deadline(self) -> float:
        return self.listener.deadline()

    def goodbye(self) -> None:
        self.listener.goodbye("stopping", self.now())
        self.exchange()


class Place:
    """Where the listener is found; its process may be a new one at any time, or away."""

    def __init__(self, bad: float, rate: float) -> None:
        self.bad = bad
        """How often a dial succeeds on one lane only."""
        self.rate = rate
        """Bytes a second of a lane."""
        self.lossy = 0.0
        """How often a batch is lost or comes twice although the connection lives."""
        self.listener: ListenHalf
        self.was_lossy = False
        self.kind: type[Listener] = Listener


def _honest(parts: Sequence[Any], place: Place) -> None:
    """No half may find that the other broke the protocol."""
    head = parts[0]
    if head[0] == Kind.REFUSE:
        fields = wire.decode_json(parts)
        if fields["code"] not in HONEST_CODES and not (place.was_lossy and fields["code"] == "sequence"):
            raise Broken(f"refused: {fields['text']} ({fields['code']})")
