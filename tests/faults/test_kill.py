"""kill -9 of one half: the other's applications keep their connections, the routes come back."""

from __future__ import annotations

import pytest

from tests.apps import App, settled
from tests.faults.load import Load, four_routes
from tests.faults.rig import QUICK, SIDES, Rig
from tests.journal import Verdict
from tests.waiting import until
from tunnel.limits import EXIT_HWM

BROKEN = {"DISCONNECTED", "CONNECT_RETRIED"}
ENTRY_QUEUE = 3000
"""Messages that two high-water marks of 1,000 and the kernel's buffers hold before a half's entry, at most."""


def broken(apps: list[App]) -> dict[str, list[str]]:
    """Which applications saw their connection break, and how."""
    seen = {app.options.name: sorted(BROKEN & set(app.journal.of("E"))) for app in apps}
    return {name: events for name, events in seen.items() if events}


def kill_one_half(rig: Rig, side: str, **how: list[str]) -> Load:
    """Load, kill -9, wait till the other notices, start again, load goes on."""
    rig.write_routes(four_routes(rig))
    limits = [*QUICK, "PING_IDLE_S=0.5", "SILENCE_S=1.5"]
    rig.start(limits=limits, **how)
    load = Load(rig, monitor=True, timeout_s=6)
    load.go()
    victim = rig.halves[side]
    survivor = rig.plant if victim is rig.dmz else rig.dmz
    victim.kill()
    until(lambda: not survivor.link_is("up"), 10, "the other half noticed")
    victim.start(limits=limits, **how)
    rig.up()
    load.flows(30)
    return load


@pytest.mark.parametrize("side", SIDES)
def test_a_killed_half_comes_back_and_the_other_keeps_its_connections(rig: Rig, side: str) -> None:
    load = kill_one_half(rig, side)
    other = load.plant if side == "dmz" else load.dmz
    assert broken(load.dmz if side == "dmz" else load.plant), "the killed half's own applications saw it"
    assert not broken(other)
    load.finish(quiet_s=2)
    account = load.messages()
    counted = {name: rig.both_dropped(name).total() for name in ("weights", "ticks", "chat")}
    repeats = {name: may_repeat(rig, name) for name in ("weights", "ticks", "chat")}
    for stream, verdict in account.items():
        route = stream.split()[0]
        assert not verdict.alien, verdict
        assert len(verdict.repeated) <= repeats[route], f"{stream}: {verdict}; said to repeat at most {repeats}"
        if (stream, side) == ("ticks", "dmz"):
            assert one_gap(verdict), f"more than what was published while nobody was subscribed: {verdict}"
        else:
            assert len(verdict.lost) <= counted[route] + held(stream, side), f"{stream}: {verdict}; counted {counted}"
        assert not verdict.reordered, f"{stream}: {verdict}"
    for client in (load.clients, load.crowd):
        requests = load.requests(client)
        assert not requests.mistaken
        assert not requests.carried_out_twice


def held(stream: str, side: str) -> int:
    """What the killed half may have held: at the sender's side its entry queue, at the receiver's its exit's."""
    outwards = stream in ("ticks", "weights", "chat outwards")
    return ENTRY_QUEUE if (side == "plant") == outwards else EXIT_HWM + 2 * 64


def one_gap(verdict: Verdict) -> bool:
    """Per topic nothing but one stretch is missing: a subscriber that has to subscribe anew misses what came before."""
    seqs: dict[str, list[int]] = {}
    for topic, seq in verdict.lost:
        seqs.setdefault(topic, []).append(seq)
    return all(max(lost) - min(lost) + 1 == len(lost) for lost in seqs.values())


def may_repeat(rig: Rig, route: str) -> int:
    return sum(int(half.route(route).get("may_repeat", 0)) for half in rig.halves.values())


def test_applications_lose_their_connections_when_local_sockets_follow_the_link(rig: Rig) -> None:
    load = kill_one_half(rig, "dmz", without=["local_sockets"])
    assert broken(load.plant), "the control shows nothing"


TOPICS = [f"topic-{number:04d}." for number in range(2000)]


def subscribe_to_everything(rig: Rig, **how: list[str]) -> tuple[App, App]:
    """2,000 subscriptions at dmz, a publisher of as many topics behind plant."""
    rig.write_routes(f"""
ticks:
  pattern: pubsub
  from: plant connect {rig.ipc("feed")}
  to: dmz bind {rig.ipc("ticks")}
  overflow: block
""")
    rig.start(limits=QUICK, **how)
    unlimited = {"SNDHWM": 0, "RCVHWM": 0}
    feed = rig.apps.start("pub", f"bind {rig.ipc('feed')}", topics=TOPICS, rate=4000, options=unlimited)
    sub = rig.apps.start("sub", f"connect {rig.ipc('ticks')}", topics=TOPICS, options=unlimited)
    rig.apps.opened()
    return feed, sub


def heard(sub: App, greetings: int) -> int:
    """Topics that were greeted at least so often."""
    return sum(len(seqs) >= greetings for seqs in sub.journal.of("H").values())


def all_alive(rig: Rig, sub: App, within_s: float) -> None:
    """Every topic is heard three times more than the most heard one was: twice may have been under way already."""
    goal = max((len(seqs) for seqs in sub.journal.of("H").values()), default=0) + 3
    until(lambda: heard(sub, goal) == len(TOPICS), within_s, lambda: f"{heard(sub, goal)} alive; {rig.told()}")


def test_2000_subscriptions_over_a_cut_and_restarts_of_either_half(rig: Rig) -> None:
    _, sub = subscribe_to_everything(rig)
    until(lambda: heard(sub, 1) == len(TOPICS), 30, lambda: f"all heard at first: {heard(sub, 1)}")
    rig.relay.cut()
    until(lambda: rig.plant.link()["resumes"] == 1, 20, "the link resumes")
    all_alive(rig, sub, 20)
    for half in (rig.plant, rig.dmz):
        half.kill()
        half.start(limits=QUICK)
        rig.up()
        all_alive(rig, sub, 30)
    assert len(sub.journal.of("H")) == len(TOPICS)


@pytest.mark.parametrize("without", ["unlimited_subscriptions", "set_on_link_up"])
def test_subscriptions_die_without_the_protection(rig: Rig, without: str) -> None:
    _, sub = subscribe_to_everything(rig, without=[without])
    settled(lambda: heard(sub, 1), 3, 30)
    rig.plant.kill()
    rig.plant.start(limits=QUICK, without=[without])
    rig.up()
    most = max((len(seqs) for seqs in sub.journal.of("H").values()), default=0)
    settled(lambda: heard(sub, most + 3), 3, 30)
    assert heard(sub, most + 3) < len(TOPICS), "the control shows nothing"
