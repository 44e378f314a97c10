"""Taps on real devices: every pattern, both halves, and a data path that does not care."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.tunnel_pair import Tunnel
from tests.waiting import until
from tunnel.control import ask
from tunnel.limits import TAP_LEASE_S


class Look:
    """A reader of one side's tap, as `ztunnel tap` is one."""

    def __init__(self, tunnel: Tunnel, side: str, route: str, frame_bytes: int = 128) -> None:
        self.control = tunnel.devices[side].control
        self.reader = ask(self.control, "tap-start", 5, route=route, bytes=frame_bytes)["reader"]
        self.messages: list[dict[str, Any]] = []
        self.left_out = 0

    def poll(self) -> None:
        more = True
        while more:
            answer = ask(self.control, "tap-poll", 5, reader=self.reader)
            assert "ended" not in answer
            self.messages += answer["messages"]
            self.left_out += sum(answer["left_out"].values())
            more = answer["more"]

    def until(self, count: int) -> list[tuple[str, str, list[bytes]]]:
        """Waits for so many messages: (direction, peer, frames) of each."""

        def enough() -> bool:
            self.poll()
            return len(self.messages) >= count

        until(enough, 10, lambda: f"{count} messages; there are {self.messages}")
        return [(m["direction"], m["peer"], frames_of(m)) for m in self.messages]


def frames_of(message: dict[str, Any]) -> list[bytes]:
    assert [size for size, _ in message["frames"]] == [len(bytes.fromhex(first)) for _, first in message["frames"]]
    return [bytes.fromhex(first) for _, first in message["frames"]]


def looks(tunnel: Tunnel, route: str) -> tuple[Look, Look]:
    return Look(tunnel, "dmz", route), Look(tunnel, "plant", route)


def seen(look: Look, messages: Iterable[list[bytes]], direction: str, peer: str) -> bool:
    wanted = [(direction, peer, message) for message in messages]
    return look.until(len(wanted)) == wanted


def test_tasks(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    tunnel.write({"tasks": {"pattern": "pipeline", "from": f"dmz bind {near}", "to": f"plant bind {far}"}})
    tunnel.start()
    push, pull = tunnel.app(zmq.PUSH, "connect", near), tunnel.app(zmq.PULL, "connect", far)
    dmz, plant = looks(tunnel, "tasks")
    began = time.time()
    tasks = [[b"one"], [b"", b"two", b""], ["drei €".encode(), bytes(range(64))]]
    for task in tasks:
        push.send_multipart(task)
        assert pull.recv_multipart() == task
    assert seen(dmz, tasks, "in", "plant")
    assert seen(plant, tasks, "out", "dmz")
    assert all(began - 1 < m["time"] < time.time() + 1 and m["whole"] and m["certain"] for m in dmz.messages)


def test_requests_and_replies(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    route = {"pattern": "reqrep", "from": f"dmz bind {near}", "to": f"plant bind {far}", "max_age": "never"}
    tunnel.write({"orders": route})
    tunnel.start()
    client = tunnel.app(zmq.DEALER, "connect", near, {zmq.ROUTING_ID: b"client"})
    service = tunnel.app(zmq.REP, "connect", far)
    dmz, plant = looks(tunnel, "orders")
    client.send_multipart([b"", b"question"])
    assert service.recv() == b"question"
    service.send(b"answer")
    assert client.recv_multipart() == [b"", b"answer"]
    request, reply = [b"client", b"", b"question"], [b"client", b"", b"answer"]
    assert dmz.until(2) == [("in", "plant", request), ("out", "plant", reply)]
    assert plant.until(2) == [("out", "dmz", request), ("in", "dmz", reply)], "no tag of ours is shown"


def test_published_messages(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    tunnel.write({"ticks": {"pattern": "pubsub", "from": f"plant bind {near}", "to": f"dmz bind {far}"}})
    tunnel.start()
    pub, sub = tunnel.app(zmq.XPUB, "connect", near), tunnel.app(zmq.SUB, "connect", far)
    sub.setsockopt(zmq.SUBSCRIBE, b"a")
    assert pub.recv() == b"\1a"
    dmz, plant = looks(tunnel, "ticks")
    for message in ([b"b", b"unwanted"], [b"a1", b"wanted"]):
        pub.send_multipart(message)
    assert sub.recv_multipart() == [b"a1", b"wanted"]
    assert seen(dmz, [[b"a1", b"wanted"]], "out", "plant")
    assert seen(plant, [[b"a1", b"wanted"]], "in", "dmz")


def test_a_pair(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    route = {"pattern": "pair", "from": f"dmz bind {near}", "to": f"plant bind {far}", "max_age": "never"}
    tunnel.write({"talk": route})
    tunnel.start()
    a, b = tunnel.app(zmq.PAIR, "connect", near), tunnel.app(zmq.PAIR, "connect", far)
    dmz, plant = looks(tunnel, "talk")
    a.send(b"hello")
    assert b.recv() == b"hello"
    b.send(b"hello yourself")
    assert a.recv() == b"hello yourself"
    assert dmz.until(2) == [("in", "plant", [b"hello"]), ("out", "plant", [b"hello yourself"])]
    assert plant.until(2) == [("out", "dmz", [b"hello"]), ("in", "dmz", [b"hello yourself"])]


def test_several_sides_are_told_apart(tmp_path: Path) -> None:
    tunnel = Tunnel(tmp_path, ("dmz", "one", "two"))
    try:
        near = tunnel.tcp()
        ends = [tunnel.tcp(), tunnel.tcp()]
        to = [f"one bind {ends[0]}", f"two bind {ends[1]}"]
        tunnel.write(
            {
                "tasks": {"pattern": "pipeline", "from": f"dmz bind {near}", "to": to},
                "news": {
                    "pattern": "pubsub",
                    "from": f"dmz bind {tunnel.tcp()}",
                    "to": ["one bind local", "two bind local"],
                },
            }
        )
        tunnel.start()
        pulls = [tunnel.app(zmq.PULL, "connect", end) for end in ends]
        push = tunnel.app(zmq.PUSH, "connect", near)
        look = Look(tunnel, "dmz", "tasks")
        for number in range(10):
            push.send(b"%d" % number)
        told = look.until(10)
        shares: dict[bytes, list[list[bytes]]] = {
            side: [frames for _, peer, frames in told if peer == side.decode()] for side in (b"one", b"two")
        }
        for pull, share in zip(pulls, shares.values(), strict=True):
            assert [pull.recv_multipart() for _ in share] == share
        assert all(shares.values())
    finally:
        tunnel.close()


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "standing still"])
def test_a_flood_is_neither_slowed_nor_kept(tunnel: Tunnel, *, reads: bool) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    tunnel.write({"tasks": {"pattern": "pipeline", "from": f"dmz bind {near}", "to": f"plant bind {far}"}})
    tunnel.start()
    push, pull = tunnel.app(zmq.PUSH, "connect", near), tunnel.app(zmq.PULL, "connect", far)
    dmz, plant = looks(tunnel, "tasks")
    count, got = 20_000, 0
    for number in range(count):
        push.send_multipart([b"%d" % number, b"x" * 100])
        while number - got > 500 or (number == count - 1 and got < count):
            assert pull.recv_multipart()[0] == b"%d" % got
            got += 1
            if reads and got % 1000 == 0:
                dmz.poll()
                plant.poll()
    for look in (dmz, plant) if reads else ():
        look.poll()
        assert 0 < len(look.messages) < count / 2
        assert len(look.messages) + look.left_out == count
        numbers = [int(frames_of(message)[0]) for message in look.messages]
        assert numbers == sorted(set(numbers))


def test_nobody_asks_so_the_tap_comes_off(tunnel: Tunnel) -> None:
    tunnel.write({"tasks": {"pattern": "pipeline", "from": "dmz bind local", "to": "plant bind local"}})
    tunnel.start()
    look = Look(tunnel, "dmz", "tasks")
    log = tunnel.devices["dmz"].log
    assert "tap opened route=tasks" in log.read_text()
    until(lambda: "tap closed route=tasks" in log.read_text(), 3 * TAP_LEASE_S, "the tap came off")
    assert ask(look.control, "tap-poll", 5, reader=look.reader) == {"ok": True, "ended": True}
