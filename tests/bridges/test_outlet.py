"""Outlet and ZmqSide: what waits for a 0MQ socket, who is told, and that no peer of a ROUTER waits for another."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import pytest
import zmq

from bridges.messages import run_of
from bridges.outlet import Outlet
from bridges.zmq_side import ZmqSide
from tests.bridges.rig import run
from tests.loops import LOOPS, until
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.config.plan import Endpoint
from tunnel.reactor import Reactor

both_loops = pytest.mark.parametrize("loop", LOOPS)


def fresh() -> str:
    return f"ipc://@zt-{uuid.uuid4().hex}"


def test_an_outlet_hands_over_tells_and_waits() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    push.sndhwm = pull.rcvhwm = 1
    pull.rcvtimeo = 10_000
    endpoint = "inproc://x"
    changes: list[bool] = []
    done: list[int] = []
    outlet = Outlet(push, lambda: changes.append(outlet.blocked))
    try:
        pull.bind(endpoint)
        push.connect(endpoint)
        outlet.put(run_of([b"0", b"1"]), lambda: done.append(0))
        assert (outlet.blocked, done, outlet.messages) == (False, [0], 2)
        outlet.put(run_of([b"2", b"3"]), lambda: done.append(1))
        outlet.put(run_of([b"4"]), lambda: done.append(2))
        assert (outlet.blocked, done, changes) == (True, [0], [True])
        got = []
        while len(got) < 5:
            got.append(pull.recv())
            push.getsockopt(zmq.EVENTS)
            outlet.on_writable()
        assert got == [b"0", b"1", b"2", b"3", b"4"]
        assert (outlet.blocked, done, changes, outlet.messages) == (False, [0, 1, 2], [True, False], 5)
    finally:
        context.destroy(linger=0)


def test_what_is_no_run_goes_nowhere_is_counted_and_not_told_as_done() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    done: list[int] = []
    try:
        pull.bind("inproc://x")
        push.connect("inproc://x")
        outlet = Outlet(push, lambda: None)
        outlet.put(run_of([b"good"]) + b"\xff\xff\xff\x7f", lambda: done.append(1))
        outlet.put(run_of([b"next"]), lambda: done.append(2))
        assert [pull.recv(), pull.recv()] == [b"good", b"next"]
        assert (outlet.malformed, done, outlet.blocked) == (1, [2], False)
    finally:
        context.destroy(linger=0)


def side_of(reactor: Reactor, kind: str, endpoint: str, heard: list[list[bytes]], method: str = "bind") -> ZmqSide:
    plan = ZmqPlan(kind, (Endpoint("bind" if method == "bind" else "connect", endpoint),), None, 2)
    return ZmqSide(reactor, plan, kind, 1000, heard.extend, lambda: None)


@both_loops
def test_a_peer_of_a_router_that_does_not_read_stops_no_other_and_burns_nothing(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        endpoint, heard = fresh(), list[list[bytes]]()
        side = side_of(reactor, "ROUTER", endpoint, heard)
        peers = {}
        for name in (b"deaf", b"good"):
            peer = reactor.context.socket(zmq.DEALER)
            peer.setsockopt(zmq.ROUTING_ID, name)
            peer.rcvhwm = 2
            peer.connect(endpoint)
            peer.send(b"hello")
            peers[name] = peer
        await until(lambda: len(heard) == 2)
        gone: list[bytes] = []
        deaf = side.lane(b"deaf", lambda: None, lambda: gone.append(b"deaf"))
        good = side.lane(b"good", lambda: None, lambda: gone.append(b"good"))
        count = 0
        while not deaf.blocked:
            deaf.put(run_of([[b"deaf", b"x" * 1000] for _ in range(100)]))
            count += 100
            await asyncio.sleep(0)
        good.put(run_of([[b"good", b"for you"]]))
        await until(lambda: peers[b"good"].poll(0))
        assert peers[b"good"].recv() == b"for you"
        assert side.blocked
        assert not good.blocked
        burnt = time.process_time()
        await asyncio.sleep(0.3)
        assert time.process_time() - burnt < 0.15, "it spins while one is full"
        for _ in range(count):
            await until(lambda: peers[b"deaf"].poll(0))
            peers[b"deaf"].recv()
        await until(lambda: not side.blocked)
        peers[b"good"].close(linger=0)

        def told() -> bool:
            good.put(run_of([[b"good", b"too late"]]))
            return gone == [b"good"]

        await until(told)
        assert side.unreachable >= 1
        side.forget(b"good")
        assert side.unreachable >= 1, "counted for good"
        side.close()
        peers[b"deaf"].close(linger=0)

    run(body, loop)


def test_a_message_that_is_too_large_is_counted() -> None:
    async def body(reactor: Reactor) -> None:
        endpoint, heard = fresh(), list[list[bytes]]()
        side = side_of(reactor, "PULL", endpoint, heard)
        push = reactor.context.socket(zmq.PUSH)
        push.connect(endpoint)
        for size in (10, 70_000, 20):
            push.send(b"x" * size)
        await until(lambda: len(heard) == 2)
        assert [len(message[0]) for message in heard] == [10, 20]
        assert side.too_large == 1
        side.close()
        push.close(linger=0)

    run(body)


def test_an_address_in_use_is_tried_again(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        other = reactor.context.socket(zmq.PULL)
        endpoint = f"tcp://127.0.0.1:{other.bind_to_random_port('tcp://127.0.0.1')}"
        side = side_of(reactor, "PUSH", endpoint, [])
        assert endpoint.removeprefix("tcp://") in side.reason
        other.close(linger=0)
        await until(lambda: not side.reason)
        side.close()

    run(body)


def test_not_reading_leaves_messages_where_they_are() -> None:
    async def body(reactor: Reactor) -> None:
        endpoint, heard = fresh(), list[list[bytes]]()
        side = side_of(reactor, "PULL", endpoint, heard)
        side.read(False)
        push = reactor.context.socket(zmq.PUSH)
        push.connect(endpoint)
        push.send(b"x")
        await until(lambda: side.socket.poll(0))
        await asyncio.sleep(0)
        assert heard == []
        side.read(True)
        await until(lambda: heard == [[b"x"]])
        side.close()
        push.close(linger=0)

    run(body)
