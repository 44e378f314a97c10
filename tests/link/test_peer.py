"""A peer: what is said when, over which lane, as transcripts; what a peer may not do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.link.ends import Ends, kinds, piece, route, token
from tunnel.errors import RemoteProtocolError
from tunnel.limits import ACK_DELAY_S, BATCH_BYTES, LANE_CREDIT_BYTES, PING_IDLE_S, SILENCE_S
from tunnel.link import peer as peers
from tunnel.link import wire
from tunnel.link.acks import FOREVER
from tunnel.link.hello import Hello
from tunnel.link.outbound import Terms
from tunnel.link.peer import Peer
from tunnel.link.wire import Ack, Data, Lane

KIB = 1024


def met(*routes: Any, theirs: Any = None) -> tuple[Peer, Peer]:
    """Two peers that are open towards each other."""
    a, z = Peer("a", "z", token(16)), Peer("z", "a", token(16))
    for one in routes or (route(),):
        a.add(one)
    for one in theirs or routes or (route(),):
        z.add(one)
    for peer, other in ((a, z), (z, a)):
        hello = Hello(other.own_side, other.session, 1, peer.session, 0, other.announce())
        peer.begin(hello, resume=False, now=0.0)
    for peer in (a, z):
        peer.open({}, 0.0)
    while cross(a, z, 0.01) + cross(z, a, 0.01):
        for peer in (a, z):
            for channel in peer.channels.values():
                peer.topics_applied(channel)
    for peer in (a, z):
        peer.arrived.clear()
        peer.freed.clear()
    return a, z


def again(a: Peer, z: Peer, now: float = 0.0) -> None:
    """The connection is cut, and the two meet again."""
    for peer in (a, z):
        peer.closed()
    for peer, other in ((a, z), (z, a)):
        hello = Hello(other.own_side, other.session, 2, peer.session, 0, other.announce())
        peer.begin(hello, resume=True, now=now)
    numbers = {peer: peer.numbers() for peer in (a, z)}
    a.open(numbers[z], now)
    z.open(numbers[a], now)


def put(peer: Peer, *bodies: bytes, now: float = 0.0, name: str = "r") -> None:
    out = peer.channels[name].outbound
    assert out is not None
    out.put([piece(body) for body in bodies], now)
    peer.wake(peer.channels[name])


def take(peer: Peer, now: float, name: str = "r") -> int:
    """Hand everything on; gives how many batches."""
    channel = peer.channels[name]
    assert channel.inbound is not None
    count = 0
    while channel.inbound.runs:
        run = channel.inbound.runs[0]
        channel.inbound.done(run)
        peer.delivered(channel, run.size, now)
        count += 1
    return count


def cross(sender: Peer, receiver: Peer, now: float) -> list[str]:
    frames = sender.transmit(now)
    for lane, parts in frames:
        receiver.receive(lane, parts, now)
    return kinds(frames)


def test_nothing_is_said_before_the_link_is_open() -> None:
    peer = Peer("a", "z", token(16))
    peer.add(route())
    put(peer, b"x")
    assert peer.transmit(0.0) == []
    assert peer.deadline() == FOREVER
    assert peer.tick(100.0) is None


def test_a_batch_crosses_and_is_acknowledged_soon() -> None:
    a, z = met()
    put(a, b"hello")
    assert cross(a, z, 1.0) == ["DATA"]
    assert z.arrived == [z.channels["r"]]
    assert take(z, 1.0) == 1
    assert cross(z, a, 1.0) == []
    assert z.deadline() <= 1.0 + ACK_DELAY_S
    assert cross(z, a, 1.0 + ACK_DELAY_S) == ["ACK"]
    assert a.freed[-1] is a.channels["r"]
    assert a.drained
    assert z.deadline() > 2.0


def test_an_acknowledgement_rides_on_data_going_back() -> None:
    a, z = met()
    put(a, b"question")
    cross(a, z, 1.0)
    take(z, 1.0)
    put(z, b"answer")
    assert cross(z, a, 1.0) == ["DATA"]
    assert a.channels["r"].outbound is not None
    assert a.channels["r"].outbound.unacked_bytes == 0


@pytest.mark.parametrize(("size", "parts"), [(10, 1), (4 * KIB, 1), (4 * KIB + 1, 2)])
def test_a_short_batch_travels_beside_its_header(monkeypatch: pytest.MonkeyPatch, size: int, parts: int) -> None:
    monkeypatch.setattr(peers, "INLINE_BYTES", 4 * KIB)
    a, z = met()
    put(a, bytes(range(10)) + bytes(size - 10))
    ((lane, frame),) = a.transmit(1.0)
    assert len(frame) == parts
    z.receive(lane, frame, 1.0)
    inbound = z.channels["r"].inbound
    assert inbound is not None
    assert b"".join(bytes(memoryview(s)) for s in inbound.runs[0].segments) == bytes(range(10)) + bytes(size - 10)
    assert a.credit.outstanding == sum(map(len, frame))
    cross(z, a, 2.0)
    assert a.credit.outstanding == 0


def test_an_emptied_batch_crosses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "INLINE_BYTES", 4 * KIB)
    a, z = met(route(terms=Terms(64 * KIB, max_age_s=1.0)))
    put(a, b"old")
    a.transmit(0.1)
    for peer in (a, z):
        peer.closed()
    assert z.channels["r"].inbound is not None
    a.open({"r": (0, 0)}, 5.0)
    z.is_open = True
    assert "DATA" in cross(a, z, 5.0)
    assert take(z, 5.0) == 1
    assert z.channels["r"].inbound.delivered == 1


def test_a_quarter_of_the_window_is_acknowledged_at_once() -> None:
    a, z = met()
    put(a, bytes(20 * KIB))
    cross(a, z, 1.0)
    take(z, 1.0)
    assert cross(z, a, 1.0) == ["ACK"]


def test_received_is_not_delivered() -> None:
    a, z = met()
    put(a, b"hello")
    cross(a, z, 1.0)
    assert cross(z, a, 2.0) == ["ACK"]
    assert a.credit.outstanding == 0
    assert not a.drained


def test_acknowledgements_of_many_channels_come_in_turns() -> None:
    names = [f"r{n}" for n in range(wire.ACK_ITEMS + 10)]
    a, z = met(*(route(name) for name in names))
    for name in names:
        put(a, b"x", name=name)
    cross(a, z, 1.0)
    for name in names:
        take(z, 1.0, name)
    assert cross(z, a, 2.0) + cross(z, a, 2.0) == ["ACK", "ACK"]
    assert a.drained
    assert cross(z, a, 3.0) == []


def test_the_lanes_credit_bounds_what_is_under_way() -> None:
    a, _ = met(route(terms=Terms(64 << 20)))
    put(a, *[bytes(200 * KIB)] * 20)
    assert kinds(a.transmit(0.0)) == ["DATA"] * (LANE_CREDIT_BYTES // (200 * KIB) + 1)
    assert a.transmit(0.0) == []


def test_a_route_whose_consumer_stands_still_stops_nobody() -> None:
    a, z = met(route("stuck"), route("free"))
    for name in ("stuck", "free"):
        put(a, *[bytes(30 * KIB)] * 5, name=name)
    cross(a, z, 1.0)
    take(z, 1.0, "free")
    cross(z, a, 1.0)
    free, stuck = a.channels["free"].outbound, a.channels["stuck"].outbound
    assert free is not None
    assert stuck is not None
    assert free.has_room
    assert not stuck.has_room


def test_rooms_that_age_made_are_told() -> None:
    a, _ = met(route(terms=Terms(8 * KIB, max_age_s=1.0)))
    put(a, bytes(9 * KIB))
    a.freed.clear()
    assert a.transmit(5.0) == []
    assert a.freed == [a.channels["r"]]


def test_the_stricter_window_and_size_count() -> None:
    a, _ = met(
        route(terms=Terms(64 * KIB), max_message_bytes=500),
        theirs=[route(terms=Terms(16 * KIB), max_message_bytes=900)],
    )
    channel = a.channels["r"]
    assert channel.outbound is not None
    assert (channel.outbound.window_bytes, channel.max_message_bytes) == (16 * KIB, 500)


def test_routes_that_differ_are_refused_by_name_and_the_others_run() -> None:
    a, z = met(route("ok"), route("odd"), theirs=[route("ok"), route("odd", pattern="pubsub")])
    assert (a.channels["ok"].refused, z.channels["ok"].refused) == (None, None)
    assert "pattern is pair at a and pubsub at z" in str(a.channels["odd"].refused)
    assert "pattern is pubsub at z and pair at a" in str(z.channels["odd"].refused)
    put(a, b"x", name="ok")
    put(a, b"x", name="odd")
    assert cross(a, z, 1.0) == ["DATA"]


def test_a_route_that_only_one_end_has_is_refused_in_a_sentence() -> None:
    a, _ = met(route("r"), theirs=[route("other")])
    assert a.channels["r"].refused == "z has no route r with a; add it there and reload"


# --- what a peer may not do ------------------------------------------------------------------------------------------

DATA = wire.encode_data(Data(1, 1, 0, 1, False, None))


@pytest.mark.parametrize(
    ("lane", "parts", "code"),
    [
        (Lane.DATA, [], "frame"),
        (Lane.DATA, [b""], "frame"),
        (Lane.DATA, [b"\xff"], "frame"),
        (Lane.CONTROL, [DATA, b"x"], "frame"),
        (Lane.DATA, wire.encode_ack(Ack(0, [])), "frame"),
        (Lane.DATA, wire.encode_subscribed(1, 1), "frame"),
        (Lane.CONTROL, [b"\1{}"], "frame"),
        (Lane.CONTROL, wire.encode_open(b"n" * 16), "frame"),
        (Lane.DATA, [wire.encode_data(Data(9, 1, 0, 1, False, None)), b"x"], "channel"),
        (Lane.DATA, [wire.encode_data(Data(1, 2, 0, 1, False, None)), b"x"], "sequence"),
        (Lane.DATA, [wire.encode_data(Data(1, 1, 0, 1, False, Ack(1, []))), b"x"], "sequence"),
        (Lane.CONTROL, wire.encode_ack(Ack(0, [(1, 1)])), "sequence"),
        (Lane.CONTROL, wire.encode_subscribe(1, 1, [(True, b"t")], anew=True)[0], "channel"),
        (Lane.CONTROL, wire.encode_subscribe(7, 1, [(True, b"t")], anew=True)[0], "channel"),
    ],
)
def test_breaches(lane: Lane, parts: list[bytes], code: str) -> None:
    _, z = met()
    with pytest.raises(RemoteProtocolError) as error:
        z.receive(lane, parts, 1.0)
    assert error.value.code == code


def test_a_direction_that_a_route_does_not_have_may_not_be_used() -> None:
    _, z = met(route(sends=True, takes=False), theirs=[route(sends=True, takes=False)])
    with pytest.raises(RemoteProtocolError, match="may not open"):
        z.receive(Lane.DATA, [DATA, b"x"], 1.0)


def test_acknowledgements_of_channels_that_are_not_there_are_ignored() -> None:
    a, _ = met()
    a.receive(Lane.CONTROL, wire.encode_ack(Ack(0, [(99, 5)])), 1.0)
    a.receive(Lane.CONTROL, wire.encode_peers([(99, 5)]), 1.0)
    a.receive(Lane.CONTROL, wire.encode_subscribed(99, 5), 1.0)
    assert not a.freed or a.freed[-1] is a.channels["r"]


# --- liveness --------------------------------------------------------------------------------------------------------


def test_an_idle_link_is_pinged_and_lives() -> None:
    a, z = met()
    now = 0.0
    for _ in range(60):
        now += 1.0
        for peer in (a, z):
            assert peer.tick(now) is None
        cross(a, z, now)
        cross(z, a, now)
        cross(a, z, now)
    assert a.rtt_s == 0.0


def test_a_peer_that_falls_silent_is_found_out() -> None:
    a, _ = met()
    assert a.tick(PING_IDLE_S) is None
    assert kinds(a.transmit(PING_IDLE_S)) == ["PING", "PING"]
    assert a.deadline() <= SILENCE_S
    assert "silent for 15 s" in str(a.tick(SILENCE_S))


def test_bytes_that_do_not_move_are_found_out_while_control_lives() -> None:
    a, z = met()
    put(a, b"x")
    a.transmit(0.0)
    reason, now = None, 0.0
    while reason is None and now < 60.0:
        now += 1.0
        z.tick(now)
        cross(z, a, now)
        for lane, parts in a.transmit(now):
            if lane is Lane.CONTROL:
                z.receive(lane, parts, now)
        reason = a.tick(now)
    assert "data" in str(reason)
    assert now <= SILENCE_S + 1


def slow_line(a: Peer, z: Peer, rate: float, until: float) -> tuple[list[int], str | None]:
    """The data lane from `a` to `z` carries `rate` bytes a second. Sizes of the messages that came, and who died."""
    line: list[Any] = []
    sizes: list[int] = []
    now = budget = 0.0
    while now < until:
        now += 0.1
        budget += rate * 0.1
        dead = a.tick(now) or z.tick(now)
        if dead:
            return sizes, dead
        for lane, parts in a.transmit(now):
            if lane is Lane.DATA:
                line.append(parts)
            else:
                z.receive(lane, parts, now)
        while line and budget >= sum(map(len, line[0])):
            parts = line.pop(0)
            sizes.append(sum(map(len, parts)))
            budget -= sizes[-1]
            z.receive(Lane.DATA, parts, now)
            take(z, now)
        if not line:
            budget = 0.0
        for lane, parts in z.transmit(now):
            a.receive(lane, parts, now)
    return sizes, None


def test_a_saturated_slow_line_is_not_declared_dead() -> None:
    """Pings on the data lane wait behind payload: that bytes move is proof of life. Batches get shorter."""
    a, z = met(route(terms=Terms(64 << 20)))
    put(a, *[bytes(200 * KIB)] * 60)
    sizes, dead = slow_line(a, z, rate=40e3, until=200.0)
    assert dead is None
    assert sum(sizes) > 0.9 * 200 * 40e3
    assert max(sizes[-20:]) < 30e3
    assert a.credit.credit_bytes < 200 * KIB


def test_a_line_that_cannot_carry_a_batch_in_time_gets_shorter_ones_the_next_time() -> None:
    a, z = met(route(terms=Terms(64 << 20)))
    put(a, *[bytes(200 * KIB)] * 3)
    _, dead = slow_line(a, z, rate=5e3, until=60.0)
    assert "did not move" in str(dead) or "silent" in str(dead)
    assert a.credit.batch_bytes == BATCH_BYTES
    again(a, z)
    assert a.credit.batch_bytes < 10e3
    sizes, dead = slow_line(a, z, rate=5e3, until=200.0)
    assert dead is None
    assert sum(sizes) > 600 * KIB
    assert not a.channels["r"].outbound.unacked_bytes  # type: ignore[union-attr]


# --- subscription sets and applications ------------------------------------------------------------------------------

SUBSCRIBER = {"sends": False, "wants": True}
PUBLISHER = {"takes": False, "grants": True}


def test_a_set_crosses_changes_follow_and_are_taken() -> None:
    a, z = met(route(**SUBSCRIBER), theirs=[route(**PUBLISHER)])
    wanted, there = a.channels["r"].wanted, z.channels["r"]
    assert wanted is not None
    wanted.change(add=True, topic=b"t")
    a.topics_changed(a.channels["r"])
    assert cross(a, z, 1.0) == ["SUBSCRIBE"]
    assert there.topic_changes == [(True, b"t")]
    assert z.arrived == [there]
    assert "SUBSCRIBED" not in kinds(z.transmit(1.0))
    z.topics_applied(there)
    assert "SUBSCRIBED" in cross(z, a, 1.0)
    assert wanted.settled
    wanted.change(add=False, topic=b"t")
    a.topics_changed(a.channels["r"])
    assert cross(a, z, 2.0) == ["SUBSCRIBE"]
    assert there.topic_changes[-1] == (False, b"t")


def test_changes_that_waited_go_when_the_last_ones_were_taken() -> None:
    a, z = met(route(**SUBSCRIBER), theirs=[route(**PUBLISHER)])
    wanted = a.channels["r"].wanted
    assert wanted is not None
    for topic in (b"t", b"u", b"v"):
        wanted.change(add=True, topic=topic)
        a.topics_changed(a.channels["r"])
        cross(a, z, 1.0)
    z.topics_applied(z.channels["r"])
    cross(z, a, 1.0)
    assert cross(a, z, 1.0) == ["SUBSCRIBE"]
    assert z.channels["r"].granted is not None
    assert z.channels["r"].granted.topics == {b"t", b"u", b"v"}


def test_what_an_older_connection_told_is_not_confirmed_on_a_new_one() -> None:
    ends = Ends()
    ends.both(route(**SUBSCRIBER), route(**PUBLISHER))
    ends.connect()
    channel = ends.z.channels["r"]
    assert channel.topic_ack is not None
    ends.cut()
    ends.listener.lost((Lane.DATA, 1), "gone")
    ends.z.topics_applied(channel)
    ends.connect()
    assert ends.said.count("z: SUBSCRIBED") == 0
    ends.z.topics_applied(channel)
    ends.talk()
    assert ends.said.count("z: SUBSCRIBED") == 1
    assert ends.a.channels["r"].wanted is not None
    assert ends.a.channels["r"].wanted.settled


def test_how_many_applications_there_are_is_told_once_and_after_a_cut() -> None:
    ends = Ends()
    ends.both(route())
    ends.a.say_peers(ends.a.channels["r"], 3)
    ends.connect()
    assert ends.z.channels["r"].remote_peers == 3
    ends.a.say_peers(ends.a.channels["r"], 3)
    ends.talk()
    assert ends.said.count("a: PEERS") == 1
    ends.cut()
    ends.connect()
    assert ends.said.count("a: PEERS") == 2
