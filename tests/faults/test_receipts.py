"""kill -9 of whoever has a message between a giver and a taker: what was put arrives, `taken` is never said early."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.rig import FULL, QUICK, Rig
from tests.loops import run_with_reactor, until
from tests.receipts import NAME, Gives, TakerProcess, Takes, desk_says
from tests.waiting import until as until_now
from tunnel.reactor import Reactor

DELIVERIES = ("confirmed", "spooled")
KILLS = 20 if FULL else 3
MESSAGES = 400
"""Put between two kills."""


def route(rig: Rig, delivery: str, **more: str) -> None:
    lines = "".join(f"\n  {key}: {value}" for key, value in more.items())
    rig.write_routes(f"""
{NAME}:
  pattern: pipeline
  delivery: {delivery}
  from: dmz bind local
  to: plant bind local{lines}
""")


async def away(reactor: Reactor, blocking: Callable[[], object]) -> None:
    """Do what waits, while the loop runs on."""
    await reactor.loop.run_in_executor(None, blocking)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_cut_link(rig: Rig, delivery: str) -> None:
    """Confirmed: no receipt until it is back; spooled: at once. Nothing is lost or repeated, over more cuts as well."""
    route(rig, delivery)
    rig.start(limits=QUICK)

    async def body(reactor: Reactor) -> None:
        gives, takes = Gives(reactor, rig), Takes(reactor, rig)
        gives.put(range(100))
        await gives.all_taken()
        rig.relay.refuse()
        rig.relay.cut()
        await until(lambda: not rig.dmz.link_is("up"), 20)
        gives.put(range(100, 200), b"x" * 1000)
        if delivery == "confirmed":
            await desk_says(rig, "dmz", receipts_waiting=100)
            assert len(gives.taken) == 100
        else:
            await gives.all_taken()
        rig.relay.heal()
        await gives.all_taken()
        for cut in range(KILLS):
            gives.put(range(200 + cut * MESSAGES, 200 + (cut + 1) * MESSAGES), b"x" * 2000)
            await takes.has(200 + cut * MESSAGES + MESSAGES // 3)
            rig.relay.cut()
            await away(reactor, lambda: rig.link_up(20))
        total = 200 + KILLS * MESSAGES
        await gives.all_taken()
        await takes.has(total)
        assert gives.taken == takes.got == list(range(total))

    run_with_reactor(body, within_s=300)


def kill_near(rig: Rig, delivery: str, **how: list[str]) -> tuple[set[int], set[int]]:
    """Nobody takes, so receipts wait, or the link is cut; the near half dies again and again. (taken before a kill and
    not delivered yet; what never arrived)"""
    route(rig, delivery)
    rig.dmz.start(limits=QUICK, **how)
    until_now(lambda: (rig.dmz.try_status() or {}).get("ready"), 20, "dmz is ready")
    total = KILLS * MESSAGES
    early: set[int] = set()
    missing: set[int] = set()

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, rig)
        for kill in range(KILLS):
            gives.put(range(kill * MESSAGES, (kill + 1) * MESSAGES), b"x" * 100)
            if delivery == "confirmed":
                again = len(gives.taken) == 0  # (without the protection there is nothing to put again)
                await until(lambda: desk_has_read(rig, (kill * again + 1) * MESSAGES), 20)  # noqa: B023
            else:
                await until(lambda: len(gives.taken) > kill * MESSAGES + MESSAGES // 4, 20)  # noqa: B023
            await away(reactor, rig.dmz.kill)
            early.update(gives.taken)
            rig.dmz.start(limits=QUICK, **how)
        rig.plant.start(limits=QUICK)
        takes = Takes(reactor, rig)
        await gives.all_taken(60)
        await away(reactor, rig.up)
        await until(lambda: rig.dmz.route(NAME)["unacked_bytes"] == 0, 20)
        assert sorted(gives.taken) == list(range(total))
        if delivery == "spooled":
            await until(lambda: not rig.dmz.route(NAME)["spools"]["plant"]["units"], 20)
        missing.update(set(range(total)) - set(takes.got))

    run_with_reactor(body, within_s=300)
    return early, missing


def desk_has_read(rig: Rig, count: int) -> bool:
    status = rig.dmz.try_status()
    return bool(status) and status["routes"][NAME]["messages_in"] >= count


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_the_near_half_dies_between_put_and_taken(rig: Rig, delivery: str) -> None:
    early, missing = kill_near(rig, delivery)
    assert not missing
    assert bool(early) == (delivery == "spooled")


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_taken_said_too_early_loses_messages(rig: Rig, delivery: str) -> None:
    early, missing = kill_near(rig, delivery, without=["receipts"])
    assert early
    assert missing, "the control shows nothing"


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_taker_dies_before_done(rig: Rig, delivery: str) -> None:
    route(rig, delivery)
    rig.start(limits=QUICK)
    takers: list[TakerProcess] = []

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, rig)
        for kill in range(KILLS):
            gives.put(range(kill * MESSAGES, (kill + 1) * MESSAGES), b"x" * 3000)
            taker = TakerProcess(rig, rig.folder / f"taker-{kill}", keep=MESSAGES // 2)
            takers.append(taker)
            await until(lambda: len(takers[-1].got()) >= MESSAGES // 2 + 16, 20)  # its credit is used up
            taker.kill()
            await desk_says(rig, "plant", takers=0, given=0)
        takers.append(TakerProcess(rig, rig.folder / "last"))
        await gives.all_taken(60)
        await desk_says(rig, "plant", 60, given=0, again=0)
        await until(lambda: set(arrived(takers)) == set(range(KILLS * MESSAGES)), 60, lambda: arrived(takers))

    try:
        run_with_reactor(body, within_s=300)
    finally:
        for taker in takers:
            taker.kill()
    got = arrived(takers)
    repeated = sum(count - 1 for count in got.values())
    assert repeated == 16 * KILLS == rig.plant.route(NAME)["may_repeat"]


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_done_taken_for_granted_loses_messages(rig: Rig, delivery: str) -> None:
    """The control: a message that was given out counts as delivered."""
    route(rig, delivery)
    for half in rig.halves.values():
        half.start(limits=QUICK, without=["done"])
    rig.up()
    folder = rig.folder

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, rig)
        one = TakerProcess(rig, folder / "one", keep=0)
        gives.put(range(MESSAGES), b"x" * 3000)
        await until(lambda: len(one.got()) >= 16, 20)
        one.kill()
        await desk_says(rig, "plant", takers=0)
        takes = Takes(reactor, rig)
        await gives.all_taken()
        await desk_says(rig, "plant", given=0)
        assert len(set(takes.got)) < MESSAGES, "the control shows nothing"

    run_with_reactor(body, within_s=60)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_the_far_half_dies_with_a_taker_at_work(rig: Rig, delivery: str) -> None:
    route(rig, delivery)
    rig.start(limits=QUICK)
    total = KILLS * MESSAGES

    async def body(reactor: Reactor) -> None:
        gives, takes = Gives(reactor, rig), Takes(reactor, rig)
        for kill in range(KILLS):
            gives.put(range(kill * MESSAGES, (kill + 1) * MESSAGES), b"x" * 3000)
            await until(lambda: len(set(takes.got)) > kill * MESSAGES + MESSAGES // 3, 20)  # noqa: B023
            await away(reactor, rig.plant.kill)
            rig.plant.start(limits=QUICK)
        await gives.all_taken(60)
        await until(lambda: len(set(takes.got)) == total, 30, lambda: takes.taker)
        assert gives.taken == list(range(total))
        repeats = len(takes.got) - total
        assert repeats <= rig.dmz.route(NAME)["may_repeat"]
        if delivery == "spooled":
            assert not repeats, "numbers tell what the spool sends again, and the taker lives"

    run_with_reactor(body, within_s=300)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_everything_dies_under_load(rig: Rig, delivery: str) -> None:
    route(rig, delivery)
    rig.start(limits=QUICK)
    total = KILLS * MESSAGES
    takers: list[TakerProcess] = []

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, rig)
        for kill in range(KILLS):
            takers.append(TakerProcess(rig, rig.folder / f"taker-{kill}"))
            gives.put(range(kill * MESSAGES, (kill + 1) * MESSAGES), b"x" * 3000)
            await until(lambda: len(takers[-1].got()) > MESSAGES // 4, 30)
            victims = [takers[-1], rig.plant, rig.dmz]
            for victim in victims[kill % 3 :] + victims[: kill % 3]:
                await away(reactor, victim.kill)
            for half in rig.halves.values():
                half.start(limits=QUICK)
        takers.append(TakerProcess(rig, rig.folder / "last"))
        await gives.all_taken(60)
        await until(lambda: set(arrived(takers)) == set(range(total)), 60, lambda: arrived(takers))

    try:
        run_with_reactor(body, within_s=300)
    finally:
        for taker in takers:
            taker.kill()


def arrived(takers: list[TakerProcess]) -> Counter[int]:
    """How often each message came, to whichever taker."""
    return sum((taker.got() for taker in takers), start=Counter())
