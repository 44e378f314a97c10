"""Consumers that stand still or die: each holds up its own route only, and loses no more than the guarantees say."""

from __future__ import annotations

import statistics

import pytest

from tests.apps import App, settled
from tests.faults.load import Load, four_routes
from tests.faults.rig import Half, Rig
from tests.journal import compare
from tests.waiting import elapse, until
from tunnel.control import ask
from tunnel.errors import NotRunningError
from tunnel.limits import EXIT_HWM, MIB, WINDOW_BYTES

UNIX_BUFFERS_BYTES = 2 * 212_992
"""What the kernel takes in for a unix socket whose reader sleeps (net.core.wmem_default and its peer's)."""


def pipeline(rig: Rig) -> str:
    return f"""
weights:
  pattern: pipeline
  from: plant bind {rig.ipc("weights")}
  to: dmz bind {rig.ipc("workers")}
"""


def stalled(app: App, within_s: float = 30) -> None:
    """Waits until a sender cannot send any more: every buffer on the way is full."""
    settled(app.sent, 1.5, within_s)


@pytest.mark.parametrize("exit_hwm", [None, 1000])
def test_killed_consumer_takes_no_more_along_than_its_exit_queue(rig: Rig, exit_hwm: int | None) -> None:
    """With a high-water mark of 1000 at the exit (the control) more is lost than the figure allows."""
    size = 4096
    figure = EXIT_HWM + UNIX_BUFFERS_BYTES // size + 16
    rig.write_routes(pipeline(rig))
    rig.start(limits=[f"EXIT_HWM={exit_hwm}"] if exit_hwm else [])
    push = rig.apps.start("push", f"connect {rig.ipc('weights')}", name="p", rate=4000, size=size, started=True)
    victim = rig.apps.start("pull", f"connect {rig.ipc('workers')}", name="victim")
    until(lambda: victim.received() > 100, 20, "the consumer consumes")
    victim.suspend()
    stalled(push)
    victim.kill()
    push.stop()
    heir = rig.apps.start("pull", f"connect {rig.ipc('workers')}", name="heir")
    settled(heir.received, 2, 30)
    got = {"p": victim.journal.of("R")["p"] + heir.journal.of("R").get("p", [])}
    verdict = compare(push.journal.of("S"), got)
    assert verdict.received > 1000
    assert verdict.faults[1:] == (0, 0, 0), verdict
    if exit_hwm:
        assert len(verdict.lost) > figure, f"the control shows nothing: {verdict}"
    else:
        assert len(verdict.lost) <= figure, verdict


def feed_two_subscribers(rig: Rig, **how: list[str]) -> tuple[App, App]:
    """A publisher and two subscribers, one of which sleeps from now on. Gives the publisher and the good one."""
    rig.write_routes(f"""
ticks:
  pattern: pubsub
  from: plant connect {rig.ipc("feed")}
  to: dmz bind {rig.ipc("ticks")}
""")
    rig.start(**how)
    feed = rig.apps.start(
        "pub", f"bind {rig.ipc('feed')}", topics=["t"], rate=700, size=2048, options={"SNDHWM": 0}, name="feed"
    )
    good = rig.apps.start("sub", f"connect {rig.ipc('ticks')}", topics=["t"], name="good")
    sleeper = rig.apps.start("sub", f"connect {rig.ipc('ticks')}", topics=["t"], name="sleeper", options={"RCVHWM": 1})
    until(lambda: good.journal.count("H") and sleeper.journal.count("H"), 20, "both hear the greetings")
    sleeper.suspend()
    feed.go()
    return feed, good


def test_stalled_subscriber_beside_a_good_one(rig: Rig) -> None:
    feed, good = feed_two_subscribers(rig)
    until(lambda: rig.dmz.dropped("ticks").total() > 0, 30, "the stalled one's losses are counted")
    then = good.received()
    until(lambda: good.received() > then + 2000, 10, "the good one keeps receiving")
    feed.stop()
    settled(good.received, 2, 20)
    verdict = compare(feed.journal.of("S"), good.journal.of("R"))
    assert verdict.faults[1:] == (0, 0, 0), verdict
    assert len(verdict.lost) <= rig.both_dropped("ticks").total(), f"{verdict}; counted {rig.both_dropped('ticks')}"
    assert len(verdict.lost) <= verdict.sent // 10, f"a stalled neighbour cost the good one too much: {verdict}"


def test_stalled_subscriber_starves_the_good_one_when_never_dropped(rig: Rig) -> None:
    _, good = feed_two_subscribers(rig, limits=["XPUB_STALL_S=1e9"])
    settled(good.received, 4, 40)
    assert rig.dmz.dropped("ticks").total() == 0


def asked_in_time(half: Half) -> bool:
    try:
        return bool(ask(half.control, "status", timeout_s=1.0)["routes"])
    except NotRunningError:
        return False


def block_everything(rig: Rig, **how: list[str]) -> Load:
    """Every consumer sleeps, every sender sends until nothing moves."""
    rig.write_routes(four_routes(rig).replace("delivery: confirmed", "delivery: confirmed\n  window: 256KiB"))
    rig.start(**how)
    load = Load(rig, rate=4000)
    load.go()
    for consumer in (load.worker, load.subscriber, load.service, load.inner, load.outer):
        consumer.suspend()
    return load


def test_status_answers_within_a_second_when_every_route_is_blocked(rig: Rig) -> None:
    load = block_everything(rig)
    settled(load.producer.sent, 1.5, 40)
    for _ in range(10):
        assert asked_in_time(rig.dmz), rig.dmz.log_text()[-2000:]
        assert asked_in_time(rig.plant), rig.plant.log_text()[-2000:]
    unacked = {name: route["unacked_bytes"] for name, route in rig.plant.status()["routes"].items()}
    assert unacked["weights"] >= 128 * 1024, f"not blocked at all: {unacked}"


def test_status_does_not_answer_when_a_send_waits(rig: Rig) -> None:
    block_everything(rig, without=["nonblocking"])
    until(lambda: not (asked_in_time(rig.dmz) and asked_in_time(rig.plant)), 30, "a blocked send stops the status")


def p99_us(app: App, after: int) -> float:
    """The 99th percentile of the round trips noted after the first `after`."""
    trips = app.journal.of("L")["c.0"][after:]
    return statistics.quantiles(trips, n=100)[98]


def round_trips(client: App, count: int, within_s: float) -> float:
    """p99 of the next `count` round trips, in µs."""
    before = client.journal.count("L")
    until(lambda: client.journal.count("L") >= before + count, within_s, f"{count} more round trips")
    return p99_us(client, before)


def stop_a_consumer(rig: Rig, **how: list[str]) -> tuple[App, App]:
    """Requests on one route, a flood into a sleeping consumer on another. Gives the client and the flooding one."""
    rig.write_routes(f"""
orders:
  pattern: reqrep
  from: dmz bind {rig.ipc("orders")}
  to: plant connect {rig.ipc("service")}
  max_age: never
{pipeline(rig)}""")
    rig.start(**how)
    rig.apps.start("rep", f"bind {rig.ipc('service')}")
    client = rig.apps.start("req", f"connect {rig.ipc('orders')}", name="c", rate=400, started=True)
    push = rig.apps.start("push", f"connect {rig.ipc('weights')}", name="p", rate=3000, size=8192)
    worker = rig.apps.start("pull", f"connect {rig.ipc('workers')}")
    rig.apps.opened()
    push.go()
    until(lambda: worker.received() > 100, 20, "tasks flow")
    push.stop()
    return client, push


@pytest.mark.serial
def test_stopped_consumer_holds_its_own_route_only(rig: Rig) -> None:
    client, push = stop_a_consumer(rig)
    undisturbed = round_trips(client, 1500, 30)
    rig.apps.all[-1].suspend()
    push.go()
    stalled(push)
    blocked = round_trips(client, 1500, 30)
    assert blocked <= 2 * undisturbed + 2000, f"p99 {undisturbed:.0f} µs undisturbed, {blocked:.0f} µs beside a block"
    for half in rig.halves.values():
        assert half.rss_bytes() < 2 * WINDOW_BYTES + 80 * MIB
    unacked = rig.plant.route("weights")["unacked_bytes"]
    assert unacked >= WINDOW_BYTES // 2, f"the route was not blocked: {unacked}"


def test_stopped_consumer_holds_everything_when_credit_waits_for_delivery(rig: Rig) -> None:
    """The control: the lane's bytes are acknowledged when delivered, not when received."""
    client, push = stop_a_consumer(rig, without=["received"])
    round_trips(client, 100, 30)
    rig.apps.all[-1].suspend()
    push.go()
    stalled(push)
    before = client.received()
    elapse(3)
    assert client.received() <= before + 5, "the other route went on"
