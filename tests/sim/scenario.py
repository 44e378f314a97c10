"""What a seed means: topology, routes, a network, and what goes wrong when; then calm, and the audit.

`play(seed)` runs it to the end and raises Broken when a promise does not hold; it gives the run, for statistics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

from tests.sim.disk import Body
from tests.sim.half import CUTS, DialHalf, Half, ListenHalf, Place, RouteKind
from tests.sim.ledger import Broken, Ledger, Segment, SpooledStream
from tests.sim.world import Conn, World
from tunnel.limits import KIB, MIB
from tunnel.link import outbound
from tunnel.link.listener import Listener
from tunnel.link.outbound import Terms
from tunnel.link.peer import Peer

CALM_S = 150.0
"""Everything must have arrived so long after the last fault: silence 15 s, pauses to 30 s, an eviction 30 s."""

CLASSES = ("cuts", "cuts", "cuts", "cuts", "restarts", "restarts", "twins", "reload", "goodbye", "lossy")
SPOOLED_CLASSES = ("cuts", "restarts", "restarts", "restarts", "restarts", "reload", "goodbye", "lossy")
"""`lossy`: cuts, and a carrier that loses or repeats batches, as sockets with the wrong high-water mark do."""


@dataclass
class Run:
    """One scenario."""

    seed: int
    world: World
    place: Place
    ledger: Ledger
    kind: str
    sides: tuple[str, ...]
    kinds: list[RouteKind]
    diallers: list[DialHalf] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    settled_s: float = 0.0

    @property
    def listener(self) -> ListenHalf:
        return self.place.listener

    def halves(self) -> list[Half]:
        return [half for half in (*self.diallers, self.listener) if half.alive]


def _route(world: World, number: int, forced: str | None = None) -> RouteKind:
    random = world.random
    window = random.choice((64 * KIB, 256 * KIB, MIB))
    flavour = forced or random.choice(
        ("block", "block", "live", "live", "drop-oldest", "drop-newest", "keep-latest", "aged", "requests", "topics")
    )
    name = f"{number}-{flavour}"
    priority = random.choice(("high", "normal", "bulk"))
    up, down = random.choice(((True, False), (False, True), (True, True)))
    if flavour == "live":
        overflow = random.choice(("block", "drop-oldest"))
        return RouteKind(name, up, down, Terms(window, confirmed=False, overflow=overflow, priority=priority))
    if flavour == "aged":
        age_s = random.choice((0.2, 2.0))
        return RouteKind(name, up, down, Terms(window, max_age_s=age_s, priority=priority))
    if flavour == "requests":
        terms = Terms(window, resend_on_restart=False, priority=priority)
        return RouteKind(name, True, True, terms, keep_on_restart=random.random() < 0.5)
    if flavour == "topics":
        up = random.random() < 0.5
        return RouteKind(name, up, not up, Terms(window, overflow="drop-oldest", priority=priority), topics=True)
    return RouteKind(name, up, down, Terms(window, overflow=flavour, priority=priority))


def _spooled(world: World) -> RouteKind:
    random = world.random
    up = random.random() < 0.5
    age_s = random.choice((None, None, None, 0.5, 3.0))
    terms = Terms(random.choice((64 * KIB, 256 * KIB, MIB)), max_age_s=age_s)
    return RouteKind("0-spooled", up, not up, terms, spooled=True)


_bytes_stretch = outbound._stretch


def _stretch(segment: Any, start: int, stop: int) -> Any:
    """The segments of a simulation have no bytes to slice."""
    return (
        segment.stretch(start, stop) if isinstance(segment, (Segment, Body)) else _bytes_stretch(segment, start, stop)
    )


outbound._stretch = _stretch


def prepare(seed: int, listener: type[Listener] = Listener, *, spooled: bool = False) -> Run:
    world = World(seed)
    random = world.random
    place = Place(bad=random.choice((0.0, 0.3)), rate=random.choice((1e5, 1e6, 1e7, 1e9)))
    place.kind = listener
    kind = random.choice(SPOOLED_CLASSES if spooled else CLASSES)
    sides = ("a", "b") if random.random() < 0.2 else ("a",)
    kinds = [_route(world, number) for number in range(random.randint(1, 3))]
    if spooled:
        kinds[0] = _spooled(world)
    run = Run(seed, world, place, Ledger(disturbed=kind in ("restarts", "twins", "reload")), kind, sides, kinds)
    place.lossy = 0.05 if kind == "lossy" else 0.0
    place.was_lossy = kind == "lossy"
    place.listener = ListenHalf(world, sides, run.ledger, kinds, place)
    run.diallers = [DialHalf(world, side, run.ledger, kinds, place) for side in sides]
    if kind == "twins":
        world.after(2 * random.random(), _add_twin, run)
    for _ in range(random.randint(1, 8 if spooled else 5)):
        world.after(1 + 5 * random.random(), _fault, run)
    return run


# --- what goes wrong -------------------------------------------------------------------------------------------------


def _fault(run: Run) -> None:
    random = run.world.random
    if not run.halves():
        return
    kinds = ["cut", "cut", "cut", "stall", "still"]
    kinds += {"restarts": ["restart"] * 4, "reload": ["reload"] * 4, "goodbye": ["goodbye"] * 3}.get(run.kind, [])
    fault = random.choice(kinds)
    run.faults.append(f"{run.world.now:.2f} {fault}")
    if fault == "cut":
        how = random.choice(CUTS)
        for conn in _conns(run):
            if random.random() < 0.8:
                conn.cut(how)
    elif fault == "stall":
        seconds = random.choice((0.5, 3.0, 14.0))
        for conn in _conns(run):
            conn.stall(seconds * random.random())
    elif fault == "still":
        random.choice(run.halves()).stand_still(4 * random.random())
    elif fault == "restart":
        _restart(run, random.choice(run.halves()))
    elif fault == "reload":
        _reload(run)
    elif fault == "goodbye":
        _stop(run, random.choice(run.halves()))


def _conns(run: Run) -> list[Conn]:
    return [conn for half in run.diallers if half.alive for conn in half.conns.values()]


def _restart(run: Run, half: Half) -> None:
    """kill -9, and a new process after a while."""
    run.ledger.disturb(half.side, [kind.name for kind in run.kinds])
    if half in run.diallers and run.kinds[0].spooled and run.world.chance(0.5):
        for conn in half.conns.values():  # what is under way arrives while the next process greets
            conn.stall(0.6 * run.world.random.random())
            conn.lingers = True
        half.kill()
        run.world.after(0.0, _replace, run, half)
        return
    half.kill()
    for conn in _conns(run):
        if half is run.listener and run.world.chance(0.7):
            conn.cut("both")
    run.world.after(run.world.random.choice((0.0, 0.3, 2.0)), _replace, run, half)


def _replace(run: Run, half: Half) -> None:
    if isinstance(half, ListenHalf):
        run.place.listener = ListenHalf(run.world, run.sides, run.ledger, run.kinds, run.place)
        return
    run.diallers = [other for other in run.diallers if other is not half]
    run.diallers.append(DialHalf(run.world, half.side, run.ledger, run.kinds, run.place))


def _add_twin(run: Run) -> None:
    """A second process with the same side's key."""
    run.diallers.append(DialHalf(run.world, run.sides[0], run.ledger, run.kinds, run.place))


def _reload(run: Run) -> None:
    """One half takes a route away and has it again, at once or after a while."""
    random = run.world.random
    half = random.choice(run.halves())
    kind = random.choice(run.kinds)
    peer = random.choice(half.peers)
    if kind.name not in peer.channels:
        return
    run.ledger.disturb(half.side, [kind.name])
    half.remove(peer, kind.name)
    if random.random() < 0.5:
        half.add(peer, kind)
        _meet_again(half, peer)
        return
    _meet_again(half, peer)
    run.world.after(random.choice((0.05, 0.5, 3.0)), _add_again, half, peer, kind)


def _add_again(half: Half, peer: Peer, kind: RouteKind) -> None:
    if half.alive:
        half.add(peer, kind)
        _meet_again(half, peer)


def _meet_again(half: Half, peer: Peer) -> None:
    if isinstance(half, DialHalf):
        half.redial()
    elif isinstance(half, ListenHalf):
        half.redial(peer.side)


def _stop(run: Run, half: Half) -> None:
    """An orderly end: take nothing more in, drain for 2 s, say goodbye; a new process follows."""
    half.writing = False
    run.world.after(0.05, _stop_on, run, half, run.world.now + 2.0)


def _stop_on(run: Run, half: Half, until: float) -> None:
    if not half.alive:
        return
    drained = all(peer.is_open and peer.drained for peer in half.peers)
    if not drained and run.world.now < until:
        run.world.after(0.05, _stop_on, run, half, until)
        return
    run.ledger.disturb(half.side, [kind.name for kind in run.kinds])  # to the other half it is a new process
    half.goodbye()
    if drained:
        for stream in half.streams.values():
            if stream.lost > stream.counted and not isinstance(stream, SpooledStream):
                raise Broken(f"{stream.name}: drained, but {stream.lost - stream.counted} did not arrive")
    half.close_spools()
    half.kill()
    run.world.after(0.2, _replace, run, half)


# --- the run ----------------------------------------------------------------------------------------------------------


def play(seed: int, listener: type[Listener] = Listener, *, spooled: bool = False) -> Run:
    run = prepare(seed, listener, spooled=spooled)
    world = run.world
    world.run(until=7.0)
    world.run(until=world.now + 3.5)  # processes that are being replaced come back
    world.calm = True
    run.place.lossy = 0.0
    if run.kind == "twins":
        twins = [half for half in run.diallers if half.side == run.sides[0]]
        world.random.choice(twins).kill()
        run.diallers = [half for half in run.diallers if half.alive]
    for half in run.halves():
        half.go_on()
    calm_at = world.now
    while not _settled(run):
        if world.now > calm_at + CALM_S:
            raise Broken(f"no progress: {_state(run)}")
        world.run(until=world.now + 1.0)
    run.settled_s = world.now - calm_at
    run.ledger.audit()
    _audit_topics(run)
    return run


def _pairs(run: Run) -> list[tuple[DialHalf, Peer]]:
    return [(half, peer) for half, peer in product(run.diallers, run.listener.peers) if peer.side == half.side]


def _settled(run: Run) -> bool:
    return all(
        half.is_open and peer.is_open and peer.peer_session == half.peer.session
        and half.idle(half.peer) and run.listener.idle(peer)
        for half, peer in _pairs(run)
    )  # fmt: skip


def _state(run: Run) -> str:
    halves = [half for pair in _pairs(run) for half in pair]
    channels = [
        part
        for half, peer in _pairs(run)
        for p in (half.peer, peer)
        for channel in p.channels.values()
        for part in (channel.outbound, channel.inbound, channel.refused)
        if part
    ]
    return f"{halves}; {[half.dialler for half in run.diallers]}; {channels}"


def _audit_topics(run: Run) -> None:
    for half, peer in _pairs(run):
        for kind in run.kinds:
            here, there = half.peer.channels.get(kind.name), peer.channels.get(kind.name)
            if not kind.topics or here is None or there is None:
                continue
            wanted = here.wanted or there.wanted
            applied = half.applied.get((half.peer, kind.name), run.listener.applied.get((peer, kind.name)))
            if wanted is None or applied != wanted.topics:
                raise Broken(f"{kind.name}: wanted {wanted and wanted.topics}, the publisher's half has {applied}")


def describe(run: Run) -> str:
    routes = ", ".join(kind.name for kind in run.kinds)
    return f"{run.kind}, sides {run.sides}, routes {routes}; faults: {'; '.join(run.faults)}"


def replay(seed: int, listener: type[Listener] = Listener, *, spooled: bool = False) -> Run:
    """play, with the seed in the message of whatever goes wrong."""
    try:
        return play(seed, listener, spooled=spooled)
    except Exception as error:
        raise Broken(
            f"seed {seed}: {type(error).__name__}: {error}\n"
            f"again: .venv/bin/python -m tests.sim {'--spooled ' if spooled else ''}{seed}"
        ) from error
