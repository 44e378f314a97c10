"""More than two sides: tasks are shared out, published messages go where they are wanted, from wherever they come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.tunnel_pair import Tunnel
from tests.waiting import until


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Tunnel]:
    made = Tunnel(tmp_path, ("dmz", "plant-a", "plant-b"))
    try:
        yield made
    finally:
        made.close()


def test_tasks_are_shared_out_and_all_arrive_once(three: Tunnel) -> None:
    near, one, two = three.tcp(), three.tcp(), three.tcp()
    to = [f"plant-a bind {one}", f"plant-b bind {two}"]
    three.write({"tasks": {"pattern": "pipeline", "from": f"dmz bind {near}", "to": to}})
    three.start()
    source = three.app(zmq.PUSH, "connect", near, {zmq.SNDHWM: 0})
    sinks = [three.app(zmq.PULL, "connect", one), three.app(zmq.PULL, "connect", two)]
    count = 3000
    for number in range(count):
        source.send_multipart([b"%d" % number, b"", b"tail"])
    got: list[list[int]] = [[], []]

    def all_there() -> bool:
        for which, sink in enumerate(sinks):
            while sink.poll(0):
                number, empty, tail = sink.recv_multipart()
                assert (empty, tail) == (b"", b"tail")
                got[which].append(int(number))
        return sum(map(len, got)) >= count

    until(all_there, 30, lambda: [len(part) for part in got])
    assert sorted(got[0] + got[1]) == list(range(count))
    assert all(part == sorted(part) for part in got)
    assert min(map(len, got)) > count // 10, [len(part) for part in got]


def test_a_side_whose_consumer_stands_still_does_not_stop_the_other(three: Tunnel) -> None:
    near, one, two = three.tcp(), three.tcp(), three.tcp()
    to = [f"plant-a bind {one}", f"plant-b bind {two}"]
    three.write({"tasks": {"pattern": "pipeline", "from": f"dmz bind {near}", "to": to, "window": "64KiB"}})
    three.start()
    source = three.app(zmq.PUSH, "connect", near, {zmq.SNDHWM: 100})
    sink = three.app(zmq.PULL, "connect", two)  # nobody at plant-a
    got = 0
    for number in range(3000):
        source.send_multipart([b"%d" % number, bytes(1000)])
        while sink.poll(0):
            sink.recv_multipart()
            got += 1
    while sink.poll(2000):
        sink.recv_multipart()
        got += 1
    held = three.route("dmz", "tasks")["unacked_bytes"]
    assert got > 2500
    assert 0 < held <= 64 * 1024 + 256 * 1024 + 4096  # plant-a's window, and the batch that overshot it


def test_published_messages_go_to_the_sides_that_want_them(three: Tunnel) -> None:
    near, one, two = three.tcp(), three.tcp(), three.tcp()
    to = [f"plant-a bind {one}", f"plant-b bind {two}"]
    three.write({"ticks": {"pattern": "pubsub", "from": f"dmz bind {near}", "to": to}})
    three.start()
    publisher = three.app(zmq.PUB, "connect", near)
    a = three.app(zmq.SUB, "connect", one, {zmq.SUBSCRIBE: b"a."})
    b = three.app(zmq.SUB, "connect", two, {zmq.SUBSCRIBE: b"b."})
    for subscriber, topic in ((a, b"a.1"), (b, b"b.1")):
        until(lambda s=subscriber, t=topic: publisher.send(t) or s.poll(50), 15, f"{topic!r} flows")
    before = {side: three.route(side, "ticks")["messages_out"] for side in ("plant-a", "plant-b")}
    for _ in range(200):
        publisher.send(b"a.2")
    until(lambda: a.recv() == b"a.2", 15, "plant-a has them")
    three.until_route("plant-a", "ticks", lambda r: r["messages_out"] == before["plant-a"] + 200)
    assert three.route("plant-b", "ticks")["messages_out"] == before["plant-b"]


def test_feeds_of_several_sides_come_together(three: Tunnel) -> None:
    one, two, far = three.tcp(), three.tcp(), three.tcp()
    ends = [f"plant-a bind {one}", f"plant-b bind {two}"]
    three.write({"alarms": {"pattern": "pubsub", "from": ends, "to": f"dmz bind {far}"}})
    three.start()
    subscriber = three.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b""})
    publishers = [three.app(zmq.PUB, "connect", one), three.app(zmq.PUB, "connect", two)]
    seen: set[bytes] = set()

    def both() -> bool:
        for number, publisher in enumerate(publishers):
            publisher.send(b"from %d" % number)
        while subscriber.poll(20):
            seen.add(subscriber.recv())
        return len(seen) == 2

    until(both, 15, lambda: seen)
