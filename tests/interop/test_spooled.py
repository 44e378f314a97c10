"""Spooled routes end to end: what was taken outlives the process, and reaches the other side once and in order."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.tunnel_pair import Tunnel
from tests.waiting import until
from tunnel.control import ask
from tunnel.errors import UsageError


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Tunnel]:
    made = Tunnel(tmp_path, ("dmz", "plant-a", "plant-b"))
    try:
        yield made
    finally:
        made.close()


def tasks(tunnel: Tunnel, **more: Any) -> tuple[str, str]:
    near, far = tunnel.tcp(), tunnel.tcp()
    route = {"pattern": "pipeline", "delivery": "spooled", "from": f"dmz bind {near}", "to": f"plant bind {far}"}
    tunnel.write({"tasks": route | more})
    return near, far


def ready(tunnel: Tunnel, side: str, really: bool = True) -> None:
    """One side answers, and its sockets and spools are open (or not)."""
    device = tunnel.devices[side]
    until(lambda: (device.try_status() or {}).get("ready") is really, 15, f"{side} answers")


def spool(tunnel: Tunnel, peer: str = "plant") -> dict[str, Any]:
    return dict(tunnel.route("dmz", "tasks")["spools"][peer])


def all_on_disk(tunnel: Tunnel, messages: int) -> None:
    until(lambda: spool(tunnel)["messages"] == messages, 15, lambda: spool(tunnel))


def send(tunnel: Tunnel, near: str, numbers: range, body: bytes = b"") -> None:
    source = tunnel.app(zmq.PUSH, "connect", near, {zmq.SNDHWM: 0, zmq.LINGER: 15_000})
    for number in numbers:
        source.send_multipart([b"%d" % number, body])
    source.close()


def receive(sink: zmq.Socket[bytes], count: int) -> list[int]:
    return [int(sink.recv_multipart()[0]) for _ in range(count)]


def empty(tunnel: Tunnel, peer: str = "plant") -> None:
    until(lambda: not spool(tunnel, peer)["units"] and not spool(tunnel, peer)["rows"], 15, lambda: spool(tunnel, peer))


def test_small_and_large_messages_cross_and_leave_nothing_on_disk(tunnel: Tunnel) -> None:
    near, far = tasks(tunnel)
    tunnel.start()
    sink = tunnel.app(zmq.PULL, "connect", far)
    send(tunnel, near, range(1000))
    assert receive(sink, 1000) == list(range(1000))
    large = [bytes([n]) * (3 << 20) for n in range(5)]
    source = tunnel.app(zmq.PUSH, "connect", near)
    for body in large:
        source.send_multipart([b"large", body])
    for body in large:
        assert sink.recv_multipart()[1] == body
    empty(tunnel)
    route = tunnel.route("dmz", "tasks")
    assert (route["state"], route["reason"], route["dropped"], route["may_repeat"]) == ("ready", "", {}, 0)


@pytest.mark.parametrize("orderly", [True, False])
def test_what_is_on_disk_outlives_the_process(tunnel: Tunnel, orderly: bool) -> None:
    near, far = tasks(tunnel)
    dmz = tunnel.devices["dmz"]
    dmz.start()
    ready(tunnel, "dmz")
    send(tunnel, near, range(5000), bytes(2000))
    all_on_disk(tunnel, 5000)
    if orderly:
        assert dmz.stop() == 0
    else:
        dmz.kill()
    tunnel.start()
    sink = tunnel.app(zmq.PULL, "connect", far)
    assert receive(sink, 5000) == list(range(5000))
    assert not sink.poll(300)
    empty(tunnel)


def test_a_new_process_of_the_near_half_repeats_nothing(tunnel: Tunnel) -> None:
    near, far = tasks(tunnel, window="64KiB")
    tunnel.start()
    send(tunnel, near, range(3000), bytes(2000))
    all_on_disk(tunnel, 3000)  # nobody takes them; some wait at plant
    dmz = tunnel.devices["dmz"]
    dmz.kill()
    dmz.start()
    tunnel.up()
    sink = tunnel.app(zmq.PULL, "connect", far)
    assert receive(sink, 3000) == list(range(3000))
    assert not sink.poll(300)
    empty(tunnel)
    assert tunnel.route("dmz", "tasks")["may_repeat"] == 0


def test_a_new_process_of_the_far_half_gets_again_what_was_not_delivered(tunnel: Tunnel) -> None:
    near, far = tasks(tunnel)
    tunnel.start()
    send(tunnel, near, range(3000), bytes(2000))
    all_on_disk(tunnel, 3000)
    plant = tunnel.devices["plant"]
    plant.kill()
    plant.start()
    tunnel.up()
    sink = tunnel.app(zmq.PULL, "connect", far)
    assert receive(sink, 3000) == list(range(3000))
    assert 0 < tunnel.route("dmz", "tasks")["may_repeat"] <= 3000


def test_a_full_spool_stops_reading_and_says_so(tunnel: Tunnel) -> None:
    near, far = tasks(tunnel, spool={"max": "1MiB"}, window="64KiB")
    tunnel.start()
    source = tunnel.app(zmq.PUSH, "connect", near, {zmq.SNDHWM: 10, zmq.SNDTIMEO: 500, zmq.SNDBUF: 4096})
    sent = 0
    try:
        while sent < 20_000:
            source.send_multipart([b"%d" % sent, bytes(2000)])
            sent += 1
    except zmq.Again:
        pass
    assert sent < 20_000
    route = tunnel.until_route("dmz", "tasks", lambda route: route["state"] == "degraded")
    assert "is full" in route["reason"]
    sink = tunnel.app(zmq.PULL, "connect", far)
    assert receive(sink, sent) == list(range(sent))
    tunnel.until_route("dmz", "tasks", lambda route: route["state"] == "ready")


def test_what_lay_too_long_is_dropped_and_counted(tunnel: Tunnel) -> None:
    near, far = tasks(tunnel, max_age="1s")
    dmz = tunnel.devices["dmz"]
    dmz.start()
    ready(tunnel, "dmz")
    send(tunnel, near, range(100))
    all_on_disk(tunnel, 100)
    time.sleep(1.2)
    tunnel.devices["plant"].start()
    tunnel.up()
    sink = tunnel.app(zmq.PULL, "connect", far)
    send(tunnel, near, range(100, 200))
    assert receive(sink, 100) == list(range(100, 200))
    empty(tunnel)
    assert tunnel.dropped("dmz", "tasks")["expired"] >= 100


def test_a_spool_that_another_process_holds_is_waited_for(tunnel: Tunnel) -> None:
    near, far = tasks(tunnel)
    path = tunnel.folder / "state" / "t.dmz" / "spool" / "tasks" / "plant.db"
    path.parent.mkdir(parents=True)
    with path.with_name("plant.db.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        tunnel.start(wait=False)
        ready(tunnel, "dmz", False)
        tunnel.until_route("dmz", "tasks", lambda route: route["state"] == "down" and "plant.db" in route["reason"])
    tunnel.up(20)
    sink = tunnel.app(zmq.PULL, "connect", far)
    send(tunnel, near, range(10))
    assert receive(sink, 10) == list(range(10))


def test_published_messages_wait_for_a_subscriber_half_that_is_away(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    route = {"pattern": "pubsub", "delivery": "spooled", "subscribe": [""]}
    tunnel.write({"tasks": {**route, "from": f"dmz bind {near}", "to": f"plant bind {far}"}})
    dmz = tunnel.devices["dmz"]
    dmz.start()
    ready(tunnel, "dmz")
    feed = tunnel.app(zmq.XPUB, "connect", near, {zmq.SNDHWM: 0})
    assert feed.recv() == b"\1"
    for number in range(500):
        feed.send_multipart([b"%d" % number, b"x"])
    all_on_disk(tunnel, 500)
    dmz.kill()
    sub = tunnel.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b"", zmq.RCVHWM: 0})
    tunnel.devices["plant"].start()
    ready(tunnel, "plant")
    tunnel.peers("plant", "tasks", 1)
    dmz.start()
    tunnel.up()
    assert receive(sub, 500) == list(range(500))
    empty(tunnel)


def test_each_side_has_a_spool_of_its_own_and_one_that_is_away_stops_nobody(three: Tunnel) -> None:
    near, one, two = three.tcp(), three.tcp(), three.tcp()
    to = [f"plant-a bind {one}", f"plant-b bind {two}"]
    three.write({"tasks": {"pattern": "pipeline", "delivery": "spooled", "from": f"dmz bind {near}", "to": to}})
    three.devices["dmz"].start()
    ready(three, "dmz")
    send(three, near, range(1000), bytes(1000))
    three.until_route("dmz", "tasks", lambda route: sum(one["messages"] for one in route["spools"].values()) == 1000)
    for side in ("plant-a", "plant-b"):
        three.devices[side].start()
    three.up()
    got: list[int] = []
    sinks = [three.app(zmq.PULL, "connect", one), three.app(zmq.PULL, "connect", two)]

    def all_there() -> bool:
        for sink in sinks:
            while sink.poll(0):
                got.append(int(sink.recv_multipart()[0]))
        return len(got) >= 1000

    until(all_there, 20, lambda: len(got))
    assert sorted(got) == list(range(1000))


def test_a_route_that_leaves_the_table_and_comes_again_has_its_spool(tunnel: Tunnel) -> None:
    near, far = tasks(tunnel)
    tunnel.start()
    send(tunnel, near, range(200), bytes(100))
    all_on_disk(tunnel, 200)
    text = tunnel.table.read_text()
    for priority in ("bulk", "normal"):
        tunnel.table.write_text(text.replace("delivery: spooled", f"delivery: spooled\n    priority: {priority}"))
        reload(tunnel, "dmz")
    tunnel.up()
    sink = tunnel.app(zmq.PULL, "connect", far)
    assert receive(sink, 200) == list(range(200))
    assert not sink.poll(300)
    empty(tunnel)


def reload(tunnel: Tunnel, side: str) -> None:
    ask(tunnel.devices[side].control, "reload", timeout_s=10)


def test_an_operator_looks_and_drops(tunnel: Tunnel) -> None:
    near, far = tasks(tunnel, window="4KiB")
    dmz = tunnel.devices["dmz"]
    dmz.start()
    ready(tunnel, "dmz")
    for number in range(5):
        send(tunnel, near, range(number, number + 1), b"body")
        all_on_disk(tunnel, number + 1)
    rows = ask(dmz.control, "spool-list", route="tasks")["rows"]
    assert [row["messages"] for row in rows] == [1] * 5
    assert ask(dmz.control, "spool-list", route="tasks", after=rows[2]["number"], limit=1)["full"]
    shown = ask(dmz.control, "spool-show", route="tasks", number=rows[3]["number"])["shown"]
    assert shown[0]["frames"] == [[1, b"3".hex()], [4, b"body".hex()]]
    assert ask(dmz.control, "spool-drop", route="tasks", numbers=[rows[1]["number"]])["dropped"] == 1
    assert ask(dmz.control, "spool-drop", route="tasks", all=True, older_than_s=3600)["dropped"] == 0
    assert ask(dmz.control, "spool-flush", route="tasks")["durable"] == rows[4]["number"]
    for wrong in ({"do": "spool-drop", "route": "tasks"}, {"do": "spool-list", "route": "other"}):
        with pytest.raises(UsageError):
            ask(dmz.control, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no row"):
        ask(dmz.control, "spool-show", route="tasks", number=rows[1]["number"])
    tunnel.devices["plant"].start()
    tunnel.up()
    sink = tunnel.app(zmq.PULL, "connect", far)
    assert receive(sink, 4) == [0, 2, 3, 4]
    empty(tunnel)
    assert tunnel.dropped("dmz", "tasks") == {"by_operator": 1}
