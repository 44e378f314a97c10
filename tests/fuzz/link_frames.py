"""Fuzz target: frames of a peer that is authenticated and means harm, against both ends of the pure link.

Frames are real ones of a transcript, mutated, cut, glued and sent in any order, at any stage of a connection. Whatever
comes: no exception but a refusal, no memory beyond the window, and an honest peer can meet us afterwards.

    .venv/bin/python -m tests.fuzz.link_frames SECONDS [SEED]     runs until a seed fails, and names it
"""

from __future__ import annotations

import sys
import time
from random import Random
from typing import Any

from tests.link.ends import Ends, piece, route
from tunnel.limits import BATCH_COST_BYTES, FRAGMENT_BYTES, MESSAGE_FRAMES
from tunnel.link import wire
from tunnel.link.dialler import State
from tunnel.link.peer import Peer
from tunnel.link.spooled import SpooledOutbound, Stored
from tunnel.link.wire import Ack, Data, Kind, Lane

Frame = tuple[Lane, list[bytes]]


def _ends() -> Ends:
    ends = Ends()
    ends.both(route("r"))
    ends.both(route("s", sends=False, wants=True), route("s", takes=False, grants=True))
    ends.both(route("t", takes=False, grants=True), route("t", sends=False, wants=True))
    stored = Stored("5b1e", 1, 1)
    takes, sends = (route(name, sends=False, delivery="spooled") for name in "uv"), {"takes": False, "stored": stored}
    ends.both(route("u", delivery="spooled", **sends), next(takes))
    ends.both(next(takes), route("v", delivery="spooled", **sends))
    return ends


def _store(ends: Ends, peer: Peer, unit: int) -> None:
    """Units of both spooled routes, whole and in fragments, and what came of the other."""
    for name in "uv":
        outbound = peer.channels[name].outbound
        if isinstance(outbound, SpooledOutbound):
            outbound.stored(unit, [piece(bytes(50), messages=0, more=True), piece(bytes(50))], ends.now)
            outbound.synced(unit)
            peer.wake(peer.channels[name])
        else:
            ends.hand_on(peer, name)


def _corpus() -> tuple[list[Frame], list[Frame]]:
    """Every kind of frame, as an honest transcript has them: of the dialler, and of the listener."""
    ends = _ends()
    up: list[Any] = []
    down: list[Any] = []
    ends.now += 1
    ends.dialler.tick(ends.now)
    ends.up(*Lane)
    for step in range(12):
        for peer in (ends.a, ends.z):
            if peer.is_open:
                ends.put(peer, b"\3\0\0\0abc", bytes(1000))
                ends.hand_on(peer)
                _store(ends, peer, step + 1)
                peer.say_peers(peer.channels["r"], step)
                for channel in peer.channels.values():
                    peer.topics_applied(channel)
                peer.tick(ends.now)
        frames = ends.from_a()
        up += [(lane, [bytes(part) for part in parts]) for lane, parts in frames]
        ends.to_z(frames)
        answers = ends.from_z()
        down += [(conn[0], [bytes(part) for part in parts]) for conn, parts in answers]
        ends.to_a(answers)
        ends.now += 3
    extra: list[Frame] = [
        (Lane.CONTROL, wire.encode_json(Kind.BYE, {"text": "x"})),
        (Lane.CONTROL, wire.encode_json(Kind.REFUSE, {"code": "evicted", "text": "x"})),
        (Lane.CONTROL, wire.encode_ack(Ack(10**9, [(1, 10**6)]))),
        (Lane.DATA, [wire.encode_data(Data(1, 1, 0, 0, True, None))]),
        (Lane.DATA, [wire.encode_data(Data(1, 1, 0, 1, True, None)), bytes(FRAGMENT_BYTES)]),
    ]
    return up + extra, down + extra


UP, DOWN = _corpus()


def mutate(random: Random, frame: Frame, corpus: list[Frame]) -> Frame:
    lane, parts = frame
    parts = list(parts)
    for _ in range(random.choice((0, 0, 1, 1, 2, 5))):
        at = random.randrange(len(parts)) if parts else 0
        body = bytearray(parts[at]) if parts else bytearray()
        what = random.randrange(8)
        if what == 0 and body:
            body[random.randrange(min(len(body), 64))] = random.randrange(256)
        elif what == 1:
            body = body[: random.randrange(len(body) + 1)]
        elif what == 2:
            body += random.randbytes(random.randrange(40))
        elif what == 3 and len(body) > 8:
            spot = random.randrange(min(len(body), 64) - 7)
            body[spot : spot + 8] = random.choice((bytes(8), b"\xff" * 8, b"\1" + bytes(7)))
        elif what == 4:
            parts.append(bytes(random.choice((0, 1, 1000))))
        elif what == 5:
            parts += random.choice(corpus)[1]
        elif what == 6:
            lane = Lane(1 - lane)
        elif parts:
            del parts[at]
            continue
        if parts:
            parts[at] = bytes(body)
    return lane, parts


def attack(seed: int) -> None:
    """One evil peer's life; raises when we do not bear it."""
    random = Random(seed)
    ends = _ends()
    evil_dialler = random.random() < 0.5
    stage = random.randrange(3)
    if stage == 2:
        ends.connect()
    else:
        ends.dialler.tick(ends.now)
        ends.up(*Lane)
        if stage == 1:
            ends.to_z(ends.from_a())
            ends.to_a(ends.from_z())
    corpus = UP if evil_dialler else DOWN
    for _ in range(random.randint(1, 60)):
        lane, parts = mutate(random, random.choice(corpus), corpus)
        ends.now += random.choice((0.0, 0.01, 0.1))
        if evil_dialler:
            conn = (lane, random.choice((ends.attempt, ends.attempt, 99)))
            ends.listener.receive(conn, random.choice(("a", "a", "a", "", "b")), parts, ends.now)
            ends.listener.transmit(ends.now)
            ends.listener.tick(ends.now)
            victim = ends.z
        else:
            ends.dialler.receive(lane, parts, ends.now)
            ends.dialler.transmit(ends.now)
            ends.dialler.tick(ends.now)
            ends.dialler.actions.clear()
            victim = ends.a
        if random.random() < 0.3:
            ends.hand_on(victim)
            ends.put(victim, b"\3\0\0\0abc")
        _bounded(victim)
    _recovers(ends, evil_dialler)


def _bounded(peer: Peer) -> None:
    for channel in peer.channels.values():
        inbound = channel.inbound
        if inbound is None:
            continue
        limit = inbound.window_bytes + channel.route.max_message_bytes + 4 * MESSAGE_FRAMES + FRAGMENT_BYTES
        assert inbound.held_bytes <= limit, inbound
        assert len(inbound.runs) <= 2 * limit // BATCH_COST_BYTES, inbound


def _recovers(ends: Ends, evil_dialler: bool) -> None:
    """An honest process meets the one that was attacked."""
    ends.now += 120.0
    fresh = _ends()
    fresh.base = 1000
    if evil_dialler:
        fresh.z, fresh.listener = ends.z, ends.listener
    else:
        fresh.a, fresh.dialler = ends.a, ends.dialler
        if fresh.dialler.state is not State.IDLE:
            fresh.dialler.redial("again", ends.now)
        fresh.dialler.actions.clear()
    fresh.now = ends.now
    fresh.connect()
    fresh.put(fresh.a, b"up")
    fresh.put(fresh.z, b"down")
    fresh.talk()
    got = fresh.hand_on(fresh.z), fresh.hand_on(fresh.a)
    assert got[0][-1:] == [b"up"], got
    assert got[1][-1:] == [b"down"], got


def main() -> None:
    end = time.monotonic() + float(sys.argv[1])
    seed = first = int(sys.argv[2]) if len(sys.argv) > 2 else time.monotonic_ns() % 10**9
    while time.monotonic() < end:
        try:
            attack(seed)
        except BaseException:
            print(f"seed {seed} fails; again: .venv/bin/python -m tests.fuzz.link_frames 0.001 {seed}")
            raise
        seed += 1
    print(f"{seed - first} attacks from seed {first} on were borne")


if __name__ == "__main__":
    main()
