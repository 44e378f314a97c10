"""Published messages: subscriptions cross as a set, unwanted topics do not cross, and nobody starves."""

from __future__ import annotations

import itertools
import time

import pytest
import zmq

from tests.tunnel_pair import Tunnel
from tests.waiting import until

_marks = itertools.count()


def ticks(tunnel: Tunnel, *, near: str, far: str, **more: object) -> None:
    """PUB applications bind at plant's `near`; SUB applications connect to dmz's `far`."""
    tunnel.write({"ticks": {"pattern": "pubsub", "from": f"plant connect {near}", "to": f"dmz bind {far}"} | more})
    tunnel.start()


def flowing(publisher: zmq.Socket[bytes], subscriber: zmq.Socket[bytes], topic: bytes) -> None:
    """Returns when `subscriber` gets what is published on `topic`, with nothing left over."""
    mark = b"%d" % next(_marks)
    until(lambda: publisher.send_multipart([topic, b"?" + mark]) or subscriber.poll(50), 15, f"{topic!r} flows")
    publisher.send_multipart([topic, mark])
    while subscriber.recv_multipart()[-1] != mark:
        pass


def test_only_what_somebody_wants_crosses(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    ticks(tunnel, near=near, far=far)
    publisher = tunnel.app(zmq.PUB, "bind", near, {zmq.SNDHWM: 0})
    subscriber = tunnel.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b"price."})
    flowing(publisher, subscriber, b"price.a")
    before = tunnel.route("plant", "ticks")
    for _ in range(1000):
        publisher.send_multipart([b"secret.x", b"y" * 1000])
    flowing(publisher, subscriber, b"price.b")
    after = tunnel.route("plant", "ticks")
    assert after["bytes_in"] - before["bytes_in"] < 100_000
    assert tunnel.route("dmz", "ticks")["bytes_out"] < 100_000

    subscriber.setsockopt(zmq.SUBSCRIBE, b"secret.")
    flowing(publisher, subscriber, b"secret.x")
    subscriber.setsockopt(zmq.UNSUBSCRIBE, b"price.")
    tunnel_quiet = tunnel.route("plant", "ticks")["messages_in"]
    until(lambda: _stopped(tunnel, publisher, b"price.z"), 15, "the unsubscription crosses")
    assert tunnel.route("plant", "ticks")["messages_in"] >= tunnel_quiet


def _stopped(tunnel: Tunnel, publisher: zmq.Socket[bytes], topic: bytes) -> bool:
    """Ten messages on `topic` in a row that did not enter the tunnel."""
    before = tunnel.route("plant", "ticks")["messages_in"]
    for _ in range(10):
        publisher.send_multipart([topic, b"x"])
    time.sleep(0.1)  # a poll interval of `until`, not a wait for something
    return bool(tunnel.route("plant", "ticks")["messages_in"] == before)


def test_many_topics_of_several_subscribers(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    ticks(tunnel, near=near, far=far)
    publisher = tunnel.app(zmq.XPUB, "bind", near, {zmq.SNDHWM: 0})
    subscribers = [tunnel.app(zmq.SUB, "connect", far, {zmq.SNDHWM: 0}) for _ in range(2)]
    for number in range(2000):
        subscribers[number % 2].setsockopt(zmq.SUBSCRIBE, b"topic-%05d/" % number)
    told = set()
    while len(told) < 2000:
        told.add(publisher.recv())
    assert told == {b"\1topic-%05d/" % number for number in range(2000)}
    for number in range(2000):
        publisher.send_multipart([b"topic-%05d/" % number, b"v"])
    for which, subscriber in enumerate(subscribers):
        got = [subscriber.recv_multipart()[0] for _ in range(1000)]
        assert got == [b"topic-%05d/" % number for number in range(2000) if number % 2 == which]


def test_subscribing_twice_and_leaving_once(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    ticks(tunnel, near=near, far=far)
    publisher = tunnel.app(zmq.PUB, "bind", near)
    one = tunnel.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b"t"})
    two = tunnel.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b"t"})
    flowing(publisher, one, b"t")
    flowing(publisher, two, b"t")
    one.close()
    tunnel.peers("dmz", "ticks", 1)
    flowing(publisher, two, b"t")


def test_topics_with_the_bytes_0_and_1_and_the_empty_topic(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    ticks(tunnel, near=near, far=far)
    publisher = tunnel.app(zmq.PUB, "bind", near)
    odd = tunnel.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b"\0\1"})
    everything = tunnel.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b""})
    flowing(publisher, odd, b"\0\1x")
    flowing(publisher, everything, b"\0\1x")
    publisher.send_multipart([b"", b"empty"])
    while everything.recv_multipart() != [b"", b"empty"]:
        pass
    while odd.poll(100):
        assert odd.recv_multipart()[0] == b"\0\1x"


def test_topics_that_the_table_allows_and_denies(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    topics = {"allow": ["price.", "status."], "deny": ["status.internal."]}
    ticks(tunnel, near=near, far=far, topics=topics)
    publisher = tunnel.app(zmq.PUB, "bind", near)
    subscriber = tunnel.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b""})
    flowing(publisher, subscriber, b"price.a")
    flowing(publisher, subscriber, b"status.b")
    for topic in (b"secret.a", b"status.internal.x", b"status.ok", b"price.z"):
        publisher.send_multipart([topic, b"v"])
    assert subscriber.recv_multipart()[0] == b"status.ok"
    assert subscriber.recv_multipart()[0] == b"price.z"
    tunnel.until_route("plant", "ticks", lambda r: r["dropped"].get("denied") == 1)


def test_a_standing_subscription_needs_no_subscriber(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    ticks(tunnel, near=near, far=far, subscribe=["always."])
    publisher = tunnel.app(zmq.XPUB, "bind", near)
    assert publisher.recv() == b"\1always."


def test_a_stalled_subscriber_beside_a_good_one(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    ticks(tunnel, near=near, far=far)
    publisher = tunnel.app(zmq.PUB, "bind", near, {zmq.SNDHWM: 0})
    good = tunnel.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b"t", zmq.RCVHWM: 0})
    stalled = tunnel.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b"t", zmq.RCVHWM: 1})
    flowing(publisher, good, b"t")
    flowing(publisher, stalled, b"t")
    while good.poll(100):
        good.recv()
    body = bytes(10_000)
    seen = 0
    deadline = time.monotonic() + 20
    number = 0
    # 20 MB and more: far over what the stalled one's queues and kernel buffers hold
    while seen < 2000 and time.monotonic() < deadline:
        publisher.send_multipart([b"t", b"%d" % number, body])
        number += 1
        while good.poll(2):
            good.recv()
            seen += 1
    assert seen >= 2000, f"the good subscriber got {seen} of {number}"
    tunnel.until_route("dmz", "ticks", lambda r: r["dropped"])


def test_keep_latest_keeps_the_newest_of_each_topic(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    route = {
        "pattern": "pipeline",
        "from": f"plant bind {near}",
        "to": f"dmz bind {far}",
        "overflow": "keep-latest",
        "window": "64KiB",
    }
    tunnel.write({"values": route})
    tunnel.start()
    source = tunnel.app(zmq.PUSH, "connect", near, {zmq.SNDHWM: 0})
    count, names = 20_000, 10
    for number in range(count):  # nobody takes them yet
        source.send_multipart([b"name-%d" % (number % names), b"%d" % number, bytes(200)])
    tunnel.until_route("plant", "values", lambda r: r["messages_in"] == count, within_s=30)
    sink = tunnel.app(zmq.PULL, "connect", far)
    last: dict[bytes, int] = {}
    got = 0
    while len(last) < names or min(last.values()) < count - names:
        name, value, _ = sink.recv_multipart()
        assert int(value) > last.get(name, -1), "in order for each name"
        last[name] = int(value)
        got += 1
    assert last == {b"name-%d" % (number % names): number for number in range(count - names, count)}
    dropped = tunnel.dropped("plant", "values")
    assert dropped == {"overflow": count - got}


@pytest.mark.parametrize("overflow", ["drop-oldest", "drop-newest"])
def test_overflow_is_counted_to_the_message(tunnel: Tunnel, overflow: str) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    route = {"pattern": "pipeline", "from": f"plant bind {near}", "to": f"dmz bind {far}"}
    tunnel.write({"tasks": route | {"overflow": overflow, "window": "64KiB"}})
    tunnel.start()
    source = tunnel.app(zmq.PUSH, "connect", near, {zmq.SNDHWM: 0})
    count = 5000
    for number in range(count):
        source.send_multipart([b"%d" % number, bytes(200)])
    tunnel.until_route("plant", "tasks", lambda r: r["messages_in"] == count, within_s=30)
    sink = tunnel.app(zmq.PULL, "connect", far)
    got = [int(sink.recv_multipart()[0])]
    while sink.poll(1500):
        got.append(int(sink.recv_multipart()[0]))
    assert got == sorted(got)
    assert len(got) + tunnel.dropped("plant", "tasks")["overflow"] == count
    assert (got[-1] == count - 1) == (overflow == "drop-oldest")
    assert got[0] == 0
