"""A whole tunnel over every way that a link can travel, one body over all of them: two real halves, real applications.

Each way is set up once, and every test of it goes through the same two halves. All four patterns and a stream: messages
of every shape, large ones, a consumer that stands still, cuts under load, credentials that will not do. Three cuts each
here, twenty with FAULTS=full.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.apps import settled
from tests.faults.load import Conversation, Load, four_routes
from tests.faults.rig import FULL, QUICK
from tests.faults.ways import WAYS
from tests.interop.test_ways import SHAPES
from tests.streams import Service, connected, echo, exactly, to_the_end
from tests.waiting import until
from tunnel.control import ask
from tunnel.keys import write_pair
from tunnel.limits import MIB

CUTS = 20 if FULL else 3
UNDER_WAY_S = 0.005
"""Each way while cuts are made: so each of them takes something along."""
PATTERNS = ("orders", "ticks", "weights", "chat")
Socket = zmq.Socket[bytes]


def test_every_way_is_tried() -> None:
    assert list(WAYS) == [
        "memory",
        "tcp",
        "ipc",
        "ssh",
        "openssh",
        "reverse ssh",
        "reverse openssh",
        "http",
        "https behind nginx",
        "http behind haproxy",
        "https through squid",
        "long-poll",
    ]


class Whole:
    """A way that is up, and the streams through it: `echo` answers what it hears, `talk` is the load's."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.way = name, WAYS[name](folder)
        way = self.way
        self.echo = Service(echo)
        self.entry = way.tcp()
        self.talk = Conversation(way.tcp())
        way.write_routes(
            four_routes(way)
            + f"slow: {{pattern: pipeline, window: 1MiB, from: {{side: plant, bind: '{way.ipc('slow-in')}', hwm: 16}}, "
            f"to: {{side: dmz, bind: '{way.ipc('slow-out')}', hwm: 16}}}}\n"
            + f"bytes: {{pattern: stream, from: dmz bind {self.entry}, to: 'plant connect {self.echo.address}'}}\n"
            + f"talk: {self.talk.route()}\n"
        )

    def ends(self, route: str) -> tuple[Socket, Socket]:
        """(who sends, who receives) on a route, connected."""
        way = self.way
        sender, receiver = {
            "orders": ((zmq.REQ, "connect", "orders"), (zmq.REP, "bind", "service")),
            "ticks": ((zmq.PUB, "bind", "feed"), (zmq.SUB, "connect", "ticks")),
            "weights": ((zmq.PUSH, "connect", "weights"), (zmq.PULL, "connect", "workers")),
            "slow": ((zmq.PUSH, "connect", "slow-in"), (zmq.PULL, "connect", "slow-out")),
            "chat": ((zmq.PAIR, "connect", "chat-dmz"), (zmq.PAIR, "connect", "chat-plant")),
        }[route]
        options: dict[int, Any] = {zmq.SUBSCRIBE: b""} if route == "ticks" else {zmq.RCVHWM: 1}
        far = way.app(receiver[0], receiver[1], way.ipc(receiver[2]), options)
        near = way.app(sender[0], sender[1], way.ipc(sender[2]), {zmq.SNDHWM: 0 if route == "ticks" else 1})
        for side in way.sides:
            way.peers(side, route, 1)
        if route == "ticks":
            greet(near, far)
        return near, far

    def hang_up(self, route: str, *sockets: Socket) -> None:
        for each in sockets:
            each.close()
        for side in self.way.sides:
            self.way.peers(side, route, 0)

    def close(self) -> None:
        self.echo.close()
        self.talk.close()
        self.way.close()


def greet(publisher: Socket, subscriber: Socket) -> None:
    """Until the subscription has crossed: a PUB drops silently before."""
    while not subscriber.poll(20):
        publisher.send(b"ready?")
    publisher.send(b"go")
    while subscriber.recv() != b"go":
        pass


@pytest.fixture(scope="module", params=list(WAYS))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    made = Whole(request.param, tmp_path_factory.mktemp("way"))
    try:
        made.way.start(limits=QUICK)
        yield made
    finally:
        made.close()


CARRIED_BY: dict[str, tuple[str, str]] = {
    "ssh": ("plant", "paramiko"),
    "openssh": ("plant", "openssh"),
    "reverse ssh": ("dmz", "paramiko"),
    "reverse openssh": ("dmz", "openssh"),
    "http": ("plant", "websocket"),
    "https behind nginx": ("plant", "websocket"),
    "http behind haproxy": ("plant", "websocket"),
    "https through squid": ("plant", "websocket"),
    "long-poll": ("plant", "long-poll"),
}
"""Whose carrier says what it is, and what that is."""


def test_the_way_is_the_one_that_is_meant(whole: Whole) -> None:
    assert bool(whole.way.carriers) == (whole.name in CARRIED_BY)
    if whole.way.carriers:
        side, kind = CARRIED_BY[whole.name]
        detail = whole.way.carrier_status(side)["detail"]
        assert kind in (detail.get("backend"), detail.get("mode")), detail


@pytest.mark.parametrize("route", PATTERNS)
def test_every_shape_crosses(whole: Whole, route: str) -> None:
    """Requests and the first talk of a pair go from the dmz to the plant half, the others outwards; answers go back."""
    near, far = whole.ends(route)
    for what, frames in SHAPES.items():
        near.send_multipart(frames)
        assert far.recv_multipart() == frames, what
        if route in ("orders", "chat"):
            far.send_multipart(frames[::-1])
            assert near.recv_multipart() == frames[::-1], what
    if route != "orders":
        sender = threading.Thread(target=lambda: [near.send(b"%d" % number) for number in range(500)])
        sender.start()
        assert [int(far.recv()) for _ in range(500)] == list(range(500))
        sender.join()
    whole.hang_up(route, near, far)
    assert whole.way.both_dropped(route).total() == 0


def test_ten_mebibytes_go_both_ways_in_a_stream(whole: Whole) -> None:
    data = os.urandom(10 * MIB)
    with connected(whole.entry) as client:
        sender = threading.Thread(target=send_all_and_end, args=(client, data))
        sender.start()
        assert to_the_end(client) == data
        sender.join()


def send_all_and_end(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def test_a_consumer_that_stands_still_holds_up_nobody_else(whole: Whole) -> None:
    """A PULL and a stream's client read nothing; then both find everything there, in order."""
    producer, consumer = whole.ends("slow")
    client, service = whole.ends("orders")
    produced: list[int] = []
    writer = threading.Thread(target=produce, args=(producer, produced))
    writer.start()
    with connected(whole.entry) as slow, connected(whole.entry) as quick:
        sent, size = write_until_it_stands(slow, produced)
        assert len(produced) < MANY
        for number in range(20):
            client.send(b"%d" % number)
            service.send(service.recv())
            assert client.recv() == b"%d" % number
            quick.sendall(b"q" * 10_000)
            assert exactly(quick, 10_000) == b"q" * 10_000
        slow.settimeout(20)
        slow.shutdown(socket.SHUT_WR)
        came = to_the_end(slow)
        assert (len(came), hashlib.sha256(came).digest()) == (size, sent)
    assert [int(consumer.recv_multipart()[0]) for _ in range(MANY)] == list(range(MANY))
    writer.join()
    whole.hang_up("slow", producer, consumer)
    whole.hang_up("orders", client, service)


MANY = 150
"""Messages of 50 KB: more than what the halves and the applications hold of `slow`."""


def produce(producer: Socket, produced: list[int]) -> None:
    for number in range(MANY):
        producer.send_multipart([b"%d" % number, bytes(50_000)])
        produced.append(number)


def write_until_it_stands(client: socket.socket, produced: list[int]) -> tuple[bytes, int]:
    """Until neither this client nor the producer can go on: (digest, size) of what the client has sent."""
    digest, size, chance = hashlib.sha256(), 0, random.Random(1)

    def go_on() -> int:
        nonlocal size
        with contextlib.suppress(BlockingIOError):
            while True:
                data = chance.randbytes(100_000)
                taken = client.send(data)
                digest.update(data[:taken])
                size += taken
        return size

    client.setblocking(False)
    settled(lambda: (len(produced), go_on()), 0.3, 30)
    return digest.digest(), size


def test_a_cut_in_the_middle_of_a_large_message(whole: Whole) -> None:
    """And in the middle of what a stream carries at the same time; whatever arrived of it before is not sent twice."""
    way = whole.way
    message, data = os.urandom(10 * MIB), os.urandom(4 * MIB)
    near, far = whole.ends("chat")
    way.relay.rate(20_000_000)  # over memory and ipc, which it is not in the way of, it may all be over before the cut
    with connected(whole.entry) as client:
        senders = [
            threading.Thread(target=near.send, args=(message,)),
            threading.Thread(target=send_all_and_end, args=(client, data)),
        ]
        for sender in senders:
            sender.start()
        until(lambda: all(way.dmz.route(name)["bytes_in"] for name in ("chat", "bytes")), 20, way.told)
        before = way.resumes()
        way.reset()
        assert far.recv() == message
        assert to_the_end(client) == data
        for sender in senders:
            sender.join()
    if way.cut_by(way.reset):
        way.carried_again(before)
    way.relay.rate(0)
    whole.hang_up("chat", near, far)


@pytest.mark.timeout(900)
def test_cuts_lose_repeat_and_reorder_nothing(whole: Whole) -> None:
    """Connections reset, carriers killed, servers restarted, in turn, under load. `-rP` shows the account."""
    way = whole.way
    way.delay(UNDER_WAY_S)
    load = Load(way, rate=400, talk=whole.talk)
    load.go()
    first, cuts = way.resumes(), way.cuts()
    for cut in itertools.islice(itertools.cycle(cuts), CUTS):
        before = way.resumes()
        cut()
        if way.cut_by(cut):
            way.carried_again(before)
        load.flows(30)
    assert way.resumes() - first >= CUTS // len(cuts)
    load.arrive()
    print(f"{CUTS} cuts, {way.resumes() - first} resumes. stream: {whole.talk.ends}")
    print(*(f"{name}: {verdict}" for name, verdict in load.account().items()), sep="\n")
    load.assert_clean()
    assert way.both_dropped().total() == 0, way.both_dropped()
    assert [half.route("talk")["ended"] for half in way.halves.values()] == [{}, {}]
    way.apps.close()
    for route in PATTERNS:
        for side in way.sides:
            way.peers(side, route, 0)


def test_without_replay_the_stream_shows_it(tmp_path: Path) -> None:
    """The control: what a cut takes along is missing in the conversation, and the messages miss it too."""
    whole = Whole("http", tmp_path)
    try:
        whole.way.start(limits=QUICK, without=["replay"])
        whole.way.delay(UNDER_WAY_S)
        load = Load(whole.way, rate=400, talk=whole.talk)
        load.go()
        for cut in whole.way.cuts() * 2:
            before = whole.way.resumes()
            cut()
            whole.way.carried_again(before)
        whole.talk.finish(1)
        assert whole.talk.faults, "the control shows nothing"
        load.finish(quiet_s=0.5)
        assert any(verdict.lost for verdict in load.messages().values())
    finally:
        whole.close()


def test_wrong_keys_bring_no_link_up_and_the_right_ones_do(whole: Whole) -> None:
    """The plant half comes with a key that the dmz's table does not know, then expects another one of the dmz half."""
    way = whole.way
    producer, consumer = whole.ends("weights")
    write_pair(way.folder / "keys", "other")
    for wrong, reason in (("plant", "refused by the listener"), ("dmz", "it does not hold the key")):
        way.rewrite(keys={wrong: "other"})
        ask(way.plant.control, "reload", timeout_s=10)
        producer.send(b"while refused")
        until(lambda: reason in way.plant.link()["reason"], 20, way.told)  # noqa: B023
        until(lambda: all(half.link_is("down") for half in way.halves.values()), 20, way.told)
        assert not consumer.poll(0)
    (port,) = way.dmz.status()["ports"]
    assert port["refused"]["key"] >= 1
    way.rewrite()
    ask(way.plant.control, "reload", timeout_s=10)
    way.link_up(20)
    assert [consumer.recv() for _ in range(2)] == [b"while refused"] * 2
    whole.hang_up("weights", producer, consumer)


def test_wrong_credentials_of_the_carrier_bring_no_link_up_and_say_why(whole: Whole) -> None:
    """ssh: a key that the account does not know, and a host key that nobody vouches for; https: an unknown CA."""
    way = whole.way
    secured = {"ssh": 2, "openssh": 2, "https": 1}
    assert len(way.link.wrong) == sum(secured.get(word, 0) for word in whole.name.split())
    for wrong in way.link.wrong:
        way.rewrite(wrong.link)
        way.restart_carriers([wrong.side])
        until(lambda: wrong.reason in way.carrier_status(wrong.side).get("reason", ""), 20, way.told)  # noqa: B023
        until(lambda: way.plant.link_is("down"), 20, way.told)  # who listens asks every 5 s whether anybody is there
    way.rewrite()
    way.restart_carriers({wrong.side for wrong in way.link.wrong})
    way.link_up(20)
