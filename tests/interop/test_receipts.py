"""Receipts end to end, where messages enter and where they leave: two devices, a giver, a taker, nothing killed."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.loops import run_with_reactor, until
from tests.receipts import NAME, Gives, Takes, desk, desk_says
from tests.tunnel_pair import Tunnel
from tests.waiting import until as until_now
from tunnel.control import ask
from tunnel.reactor import Reactor

MIB = 1 << 20


def pipeline(tunnel: Tunnel, to: str = "local", **more: Any) -> dict[str, Any]:
    """A route with a desk at both ends."""
    return {NAME: {"pattern": "pipeline", "from": "dmz bind local", "to": f"plant bind {to}"} | more}


def pubsub(far: str, **more: Any) -> dict[str, Any]:
    return {NAME: {"pattern": "pubsub", "from": "dmz bind local", "to": f"plant bind {far}"} | more}


def alone(tunnel: Tunnel, side: str) -> None:
    """Starts one side only; returns when its sockets are open."""
    device = tunnel.devices[side]
    device.start()
    until_now(lambda: (device.try_status() or {}).get("ready"), 20, f"{side} is ready")


@pytest.mark.parametrize("delivery", ["confirmed", "spooled", "live"])
def test_small_and_large_messages_cross_in_order_and_each_is_answered(tunnel: Tunnel, delivery: str) -> None:
    tunnel.write(pipeline(tunnel, delivery=delivery))
    tunnel.start()

    async def body(reactor: Reactor) -> None:
        gives, takes = Gives(reactor, tunnel), Takes(reactor, tunnel)
        gives.put(range(300), b"x" * 700)
        gives.put(range(300, 305), b"large" * (MIB // 2))
        gives.put(range(305, 400))
        await gives.all_taken()
        await takes.has(400)
        assert gives.taken == takes.got == list(range(400))
        assert takes.frames[302][1] == b"large" * (MIB // 2)
        assert len(set(takes.numbers)) == 400
        await desk_says(tunnel, "plant", takers=1, given=0, done=400, may_repeat=0)
        await desk_says(tunnel, "dmz", receipts_waiting=0, taken=400)
        tunnel.peers("dmz", NAME, 1)
        tunnel.peers("plant", NAME, 1)
        gives.giver.close()
        takes.taker.close()

    run_with_reactor(body)
    near, far = tunnel.route("dmz", NAME), tunnel.route("plant", NAME)
    assert near["messages_in"] == far["messages_out"] == 400
    assert near["bytes_in"] == far["bytes_out"]
    assert near["dropped"] == far["dropped"] == {}
    assert near["remote_applications"] <= 1


def test_the_desks_are_private(tunnel: Tunnel) -> None:
    tunnel.write(pipeline(tunnel))
    alone(tunnel, "dmz")
    path = Path(desk(tunnel, "dmz").removeprefix("ipc://"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_there_is_no_desk_where_there_is_no_private_socket(tunnel: Tunnel) -> None:
    tunnel.write(
        {NAME: {"pattern": "pipeline", "from": f"dmz bind {tunnel.tcp()}", "to": f"plant bind {tunnel.tcp()}"}}
    )
    alone(tunnel, "dmz")
    assert not Path(desk(tunnel, "dmz").removeprefix("ipc://")).exists()
    assert "desk" not in tunnel.route("dmz", NAME)


def test_a_message_that_is_too_large_is_refused_and_the_next_one_is_not(tunnel: Tunnel) -> None:
    tunnel.write(pipeline(tunnel, max_message="1MiB"))
    tunnel.start()

    async def body(reactor: Reactor) -> None:
        gives, takes = Gives(reactor, tunnel), Takes(reactor, tunnel)
        gives.put([1], bytes(2 * MIB))
        gives.put([2], bytes(200 * MIB))  # libzmq itself would end the connection over it, were it asked
        gives.put([3])
        await gives.all_taken()
        assert gives.taken == [3]
        assert sorted(gives.refused) == [1, 2]
        assert "takes 1048576 (max_message)" in gives.refused[1]
        await takes.has(1)
        assert takes.got == [3]

    run_with_reactor(body)
    assert tunnel.dropped("dmz", NAME) == {"too_large": 2}


def test_what_the_other_half_would_not_take_is_refused_once_they_have_met(tunnel: Tunnel) -> None:
    tunnel.write(pipeline(tunnel, max_message="1MiB"))
    strict = tunnel.table.read_text()
    tunnel.write(pipeline(tunnel, max_message="4MiB"))
    alone(tunnel, "dmz")
    tunnel.table.write_text(strict)

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, tunnel)
        gives.put([1], bytes(2 * MIB))
        gives.put([2])
        await desk_says(tunnel, "dmz", receipts_waiting=2)
        takes = Takes(reactor, tunnel)
        tunnel.devices["plant"].start()
        await gives.all_taken()
        await takes.has(1)
        assert (gives.taken, list(gives.refused), takes.got) == ([2], [1], [2])

    run_with_reactor(body)


def test_confirmed_receipts_come_when_the_other_half_has_delivered_and_not_before(tunnel: Tunnel) -> None:
    tunnel.write(pipeline(tunnel))
    alone(tunnel, "dmz")

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, tunnel)
        gives.put(range(50))
        await desk_says(tunnel, "dmz", receipts_waiting=50)
        assert not gives.taken
        tunnel.devices["plant"].start()
        takes = Takes(reactor, tunnel)
        takes.answers = False
        await takes.has(16)  # its credit
        assert not gives.taken, "what a taker was given is not delivered yet"
        for number in takes.numbers[:8]:
            takes.taker.done(number)
        takes.answers = True
        await takes.has(24)
        for number in takes.numbers[8:16]:
            takes.taker.done(number)
        await gives.all_taken()
        assert gives.taken == list(range(50))
        assert sorted(takes.got) == list(range(50))

    run_with_reactor(body)


def test_spooled_receipts_come_without_the_other_half(tunnel: Tunnel) -> None:
    tunnel.write(pipeline(tunnel, delivery="spooled"))
    alone(tunnel, "dmz")

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, tunnel)
        gives.put(range(200), b"x" * 1000)
        gives.put(range(200, 203), b"x" * 3 * MIB)
        await gives.all_taken()
        assert gives.taken == list(range(203))
        tunnel.devices["plant"].start()
        takes = Takes(reactor, tunnel)
        await takes.has(203)
        assert takes.got == list(range(203))

    run_with_reactor(body)
    assert tunnel.route("dmz", NAME)["spools"]["plant"]["durable_lag"] == 0


@pytest.mark.parametrize("delivery", ["confirmed", "spooled"])
def test_a_window_smaller_than_one_message(tunnel: Tunnel, delivery: str) -> None:
    tunnel.write(pipeline(tunnel, delivery=delivery, window="64KiB"))
    tunnel.start()

    async def body(reactor: Reactor) -> None:
        gives, takes = Gives(reactor, tunnel), Takes(reactor, tunnel)
        gives.put(range(8), b"x" * 3 * MIB)
        gives.put(range(8, 200), b"x" * 1000)
        await gives.all_taken()
        await takes.has(200)
        assert gives.taken == takes.got == list(range(200))
        assert all(len(frames[1]) == 3 * MIB for frames in takes.frames[:8])

    run_with_reactor(body)


def test_published_messages_are_taken_at_once_when_nobody_wants_them(tunnel: Tunnel) -> None:
    far = tunnel.tcp()
    tunnel.write(pubsub(far))
    tunnel.start()

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, tunnel)
        gives.put(range(5), topic=b"a")
        await gives.all_taken()
        sub = tunnel.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b"a"})
        await until(lambda: topics(tunnel) == 1, 15, lambda: topics(tunnel))
        gives.put(range(5, 10), topic=b"b")
        gives.put(range(10, 15), topic=b"a")
        await gives.all_taken()
        assert gives.taken == list(range(15))
        assert [sub.recv_multipart()[0] for _ in range(5)] == [b"a%d" % n for n in range(10, 15)]
        assert not sub.poll(100)

    run_with_reactor(body)


def topics(tunnel: Tunnel, side: int = 0) -> int:
    """Topics that the near half knows to be wanted there."""
    links = ask(tunnel.devices["dmz"].control, "probe", route=NAME, timeout_s=10)["links"]
    return int(links[side]["topics"])


def test_published_and_spooled_for_a_half_that_is_away(tunnel: Tunnel) -> None:
    far = tunnel.tcp()
    tunnel.write(pubsub(far, delivery="spooled", subscribe=[""]))
    alone(tunnel, "dmz")

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, tunnel)
        gives.put(range(20))
        await gives.all_taken()
        gives.giver.close()

    run_with_reactor(body)
    tunnel.devices["dmz"].stop()
    alone(tunnel, "plant")
    sub = tunnel.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b""})
    tunnel.peers("plant", NAME, 1)
    tunnel.devices["dmz"].start()
    assert [int(sub.recv_multipart()[0]) for _ in range(20)] == list(range(20))


def test_what_overflows_is_answered_too(tunnel: Tunnel) -> None:
    tunnel.write(pipeline(tunnel, overflow="drop-oldest", window="64KiB"))
    tunnel.start()

    async def body(reactor: Reactor) -> None:
        gives, takes = Gives(reactor, tunnel), Takes(reactor, tunnel)
        takes.answers = False
        gives.put(range(500), b"x" * 1000)
        await takes.has(16)
        await desk_says(tunnel, "dmz", receipts_waiting=500 - len(gives.taken))
        takes.answers = True
        for number in takes.numbers:
            takes.taker.done(number)
        await gives.all_taken()
        assert sorted(gives.taken) == list(range(500))
        lost = 500 - len(takes.got)
        assert 0 < lost == tunnel.dropped("dmz", NAME)["overflow"]

    run_with_reactor(body)


def test_a_taker_beside_a_pull_application(tunnel: Tunnel) -> None:
    """Everything goes to takers while there are any; without them to the application; nothing is lost or doubled."""
    tunnel.write(pipeline(tunnel))
    tunnel.start()
    private = f"ipc://{tunnel.runtime}/t.plant/{NAME}.ipc"

    async def body(reactor: Reactor) -> None:
        gives, takes = Gives(reactor, tunnel), Takes(reactor, tunnel)
        await desk_says(tunnel, "plant", takers=1)
        pull = tunnel.app(zmq.PULL, "connect", private)
        tunnel.peers("plant", NAME, 2)
        gives.put(range(100))
        await takes.has(100)
        takes.answers = False
        gives.put(range(100, 200))
        await takes.has(116)
        for number in takes.numbers[104:116]:
            takes.taker.done(number)
        await takes.has(128)
        held = set(takes.got[100:104]) | set(takes.got[116:])
        await desk_says(tunnel, "plant", done=112, given=16)
        takes.taker.close()
        at_pull = set()
        await until(lambda: at_pull.update(read(pull)) or len(at_pull) == 88, 15, lambda: len(at_pull))
        assert held <= at_pull, "what it had not answered"
        assert at_pull == set(range(100, 200)) - set(takes.got[104:116])
        await gives.all_taken()
        again = Takes(reactor, tunnel)
        await desk_says(tunnel, "plant", takers=1)
        gives.put(range(200, 300))
        await again.has(100)
        assert again.got == list(range(200, 300))
        assert not read(pull)
        gives.put([300])
        await gives.all_taken()
        again.taker.close()
        await desk_says(tunnel, "plant", takers=0)
        gives.put(range(301, 320))
        rest: list[int] = []
        await until(lambda: rest.extend(read(pull)) or len(rest) == 19, 15, lambda: rest)
        assert rest == list(range(301, 320))

    run_with_reactor(body)


def read(pull: zmq.Socket[bytes]) -> list[int]:
    """What is there now."""
    found = []
    while pull.poll(0):
        found.append(int(pull.recv_multipart()[0]))
    return found


def test_several_takers_share_and_one_that_goes_leaves_its_part_to_the_others(tunnel: Tunnel) -> None:
    tunnel.write(pipeline(tunnel))
    tunnel.start()

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, tunnel)
        one, two = Takes(reactor, tunnel), Takes(reactor, tunnel)
        await desk_says(tunnel, "plant", takers=2)
        one.answers = False
        gives.put(range(100))
        await until(lambda: len(one.frames) == 16 and len(two.frames) == 84, 15, lambda: (one.taker, two.taker))
        one.taker.close()
        await until(lambda: len(two.frames) == 100, 15, lambda: two.taker)
        assert sorted(two.got) == list(range(100))
        await gives.all_taken()
        await desk_says(tunnel, "plant", takers=1, may_repeat=16, again=0)

    run_with_reactor(body)


def test_a_stalled_taker_holds_the_giver_back_and_nobodys_memory_grows(tunnel: Tunnel) -> None:
    other = tunnel.tcp(), tunnel.tcp()
    busy = {"busy": {"pattern": "pipeline", "from": f"dmz bind {other[0]}", "to": f"plant bind {other[1]}"}}
    tunnel.write(pipeline(tunnel, window="1MiB") | busy)
    tunnel.start()

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, tunnel, most_bytes=8 * MIB)
        takes = Takes(reactor, tunnel, credit=1024)
        takes.answers = False
        await desk_says(tunnel, "plant", takers=1)
        before = [rss(tunnel, side) for side in tunnel.sides]
        puts = 0
        while gives.giver.has_room:
            gives.put([puts], bytes(50_000))
            puts += 1
        await takes.has(15)
        await until(lambda: len(takes.frames) < 40 < puts, 5)
        push = tunnel.app(zmq.PUSH, "connect", other[0])
        pull = tunnel.app(zmq.PULL, "connect", other[1])
        for number in range(2000):
            push.send(b"%d" % number)
        assert [int(pull.recv()) for _ in range(2000)] == list(range(2000)), "another route goes on"
        grown = [rss(tunnel, side) - was for side, was in zip(tunnel.sides, before, strict=True)]
        assert max(grown) < 20 * MIB, grown
        assert not gives.giver.has_room
        for number in [*takes.numbers]:
            takes.taker.done(number)
        takes.answers = True
        await gives.all_taken()
        assert takes.got == list(range(puts))

    run_with_reactor(body)


def rss(tunnel: Tunnel, side: str) -> int:
    process = tunnel.devices[side].process
    assert process is not None
    text = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")))


@pytest.mark.parametrize("delivery", ["confirmed", "spooled"])
@pytest.mark.parametrize("side", ["dmz", "plant"])
def test_orderly_restarts_lose_nothing(tunnel: Tunnel, side: str, delivery: str) -> None:
    tunnel.write(pipeline(tunnel, delivery=delivery))
    tunnel.start()

    async def body(reactor: Reactor) -> None:
        gives, takes = Gives(reactor, tunnel, most_bytes=MIB), Takes(reactor, tunnel)
        await desk_says(tunnel, "plant", takers=1)
        gives.put(range(1500), b"x" * 500)
        await takes.has(100)
        await reactor.loop.run_in_executor(None, tunnel.devices[side].stop)
        gives.put(range(1500, 2000), b"x" * 500)
        tunnel.devices[side].start()
        await gives.all_taken()
        await until(lambda: set(takes.got) == set(range(2000)), 30, lambda: takes.taker)
        assert sorted(gives.taken) == list(range(2000))
        assert len(takes.got) - 2000 <= gives.giver.repeated + 64

    run_with_reactor(body)


def test_a_reload_closes_and_opens_desks(tunnel: Tunnel) -> None:
    tunnel.write(pipeline(tunnel))
    tunnel.start()
    text = tunnel.table.read_text()

    async def body(reactor: Reactor) -> None:
        gives, takes = Gives(reactor, tunnel), Takes(reactor, tunnel)
        takes.answers = False
        gives.put(range(100))
        await takes.has(16)
        for turn, priority in enumerate(("bulk", "high"), 1):
            tunnel.table.write_text(text.replace("pattern: pipeline", f"pattern: pipeline\n    priority: {priority}"))
            for side in tunnel.sides:
                ask(tunnel.devices[side].control, "reload", timeout_s=10)
            await until(lambda turn=turn: gives.giver._line.connects > turn and gives.giver.up, 15)
        takes.answers = True
        for number in takes.numbers:
            takes.taker.done(number)
        await gives.all_taken()
        await until(lambda: set(takes.got) == set(range(100)), 15, lambda: takes.got)
        tunnel.table.write_text(text.replace("dmz bind local", f"dmz bind {tunnel.tcp()}"))
        ask(tunnel.devices["dmz"].control, "reload", timeout_s=10)
        await until(lambda: not gives.giver.up, 15)

    run_with_reactor(body)
    assert not Path(desk(tunnel, "dmz").removeprefix("ipc://")).exists()


def test_another_routes_reload_does_not_touch_a_desk(tunnel: Tunnel) -> None:
    tunnel.write(pipeline(tunnel))
    tunnel.start()

    async def body(reactor: Reactor) -> None:
        gives, takes = Gives(reactor, tunnel), Takes(reactor, tunnel)
        gives.put(range(10))
        await gives.all_taken()
        guest = {"guest": {"pattern": "pipeline", "from": "dmz bind local", "to": "plant bind local"}}
        tunnel.write(pipeline(tunnel) | guest)
        for side in tunnel.sides:
            ask(tunnel.devices[side].control, "reload", timeout_s=10)
        await until(lambda: Path(desk(tunnel, "dmz", "guest").removeprefix("ipc://")).exists(), 15)
        gives.put(range(10, 20))
        await gives.all_taken()
        assert takes.got == list(range(20))
        assert gives.giver._line.connects == takes.taker._line.connects == 1

    run_with_reactor(body)


def test_a_giver_that_goes_is_not_waited_for(tunnel: Tunnel) -> None:
    tunnel.write(pipeline(tunnel))
    alone(tunnel, "dmz")

    async def body(reactor: Reactor) -> None:
        first = Gives(reactor, tunnel)
        first.put(range(100))
        await desk_says(tunnel, "dmz", receipts_waiting=100)
        first.giver.close()
        second = Gives(reactor, tunnel)
        second.put(range(100, 110))
        await desk_says(tunnel, "dmz", receipts_waiting=110)
        tunnel.devices["plant"].start()
        takes = Takes(reactor, tunnel)
        await second.all_taken()
        await desk_says(tunnel, "dmz", receipts_waiting=0)
        tunnel.peers("dmz", NAME, 1)
        assert takes.got == list(range(110))
        assert second.taken == list(range(100, 110))

    run_with_reactor(body)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Tunnel]:
    made = Tunnel(tmp_path, ("dmz", "plant", "other"))
    try:
        yield made
    finally:
        made.close()


def test_tasks_are_shared_among_sides(three: Tunnel) -> None:
    three.write(
        {NAME: {"pattern": "pipeline", "from": "dmz bind local", "to": ["plant bind local", "other bind local"]}}
    )
    three.start()

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, three)
        one, two = Takes(reactor, three, "plant"), Takes(reactor, three, "other")
        gives.put(range(400), b"x" * 1000)
        await gives.all_taken()
        assert sorted(one.got + two.got) == list(range(400))
        assert len(one.got) > 50 < len(two.got)

    run_with_reactor(body)


def test_one_desk_gives_out_what_several_sides_send(three: Tunnel) -> None:
    three.write(
        {NAME: {"pattern": "pipeline", "from": ["plant bind local", "other bind local"], "to": "dmz bind local"}}
    )
    three.start()

    async def body(reactor: Reactor) -> None:
        one, two = Gives(reactor, three, "plant"), Gives(reactor, three, "other")
        takes = Takes(reactor, three, "dmz", credit=4)
        one.put(range(200))
        two.put(range(200, 400))
        await one.all_taken()
        await two.all_taken()
        await takes.has(400)
        assert [n for n in takes.got if n < 200] == list(range(200))
        assert [n for n in takes.got if n >= 200] == list(range(200, 400))

    run_with_reactor(body)


def test_a_published_message_is_taken_when_all_sides_that_want_it_have_it(three: Tunnel) -> None:
    near, far = three.tcp(), three.tcp()
    to = [f"plant bind {near}", f"other bind {far}"]
    three.write({NAME: {"pattern": "pubsub", "overflow": "block", "from": "dmz bind local", "to": to}})
    three.start()

    async def body(reactor: Reactor) -> None:
        gives = Gives(reactor, three)
        three.app(zmq.SUB, "connect", near, {zmq.SUBSCRIBE: b""})
        three.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b"b"})
        await until(lambda: topics(three) == 1 == topics(three, 1), 15)
        gives.put(range(3), topic=b"a")
        gives.put(range(3, 6), topic=b"b")
        await gives.all_taken()
        three.devices["other"].kill()
        gives.put(range(6, 9), topic=b"a")
        gives.put(range(9, 12), topic=b"b")
        await until(lambda: gives.taken == list(range(9)), 15, lambda: gives.taken)
        await desk_says(three, "dmz", receipts_waiting=3)
        three.devices["other"].start()
        await gives.all_taken()

    run_with_reactor(body)


def test_nonsense_at_a_desk_is_counted(tunnel: Tunnel) -> None:
    tunnel.write(pipeline(tunnel))
    tunnel.start()
    dealer = tunnel.app(zmq.DEALER, "connect", desk(tunnel, "dmz"))
    for word in ([b"put"], [b"put", b"12345678"], [b"put", b"1", b"x"], [b"take", b"\0\0\0\1"], [b""], [b"x"] * 100):
        dealer.send_multipart(word)
    tunnel.until_route("dmz", NAME, lambda route: route["dropped"].get("words") == 6)
    far = tunnel.app(zmq.DEALER, "connect", desk(tunnel, "plant"))
    for word in ([b"take", b"1"], [b"done", b"12345678"], [b"x"]):
        far.send_multipart(word)
        assert far.recv_multipart() == [b"anew"]
    far.send_multipart([b"take", b"\0\0\0\1"])
    far.send_multipart([b"done", b"12345678", b"x", b""])
    far.send_multipart([b"done"])
    far.send_multipart([b"x"])
    tunnel.until_route("plant", NAME, lambda route: route["dropped"].get("words") == 2)
    dealer.send_multipart([b"put", b"12345678", b"", b"x"])
    while (word := far.recv_multipart()) == [b"there"]:  # asked of whoever takes when somebody has come
        pass
    assert word[2:] == [b"", b"x"]
