"""Monitor events over real connections: complete, in order, and never a reason for libzmq to stand still."""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections import Counter

import pytest
import zmq

from tests.loops import run_with_reactor, until
from tunnel.monitor import Monitor, MonitorEvent
from tunnel.reactor import Reactor

Socket = zmq.Socket[bytes]


def make(reactor: Reactor, kind: int) -> Socket:
    socket = reactor.context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    return socket


def kinds(events: list[MonitorEvent]) -> list[str]:
    return [str(event.kind.name) for event in events]


def test_events_of_both_ends_in_order() -> None:
    async def body(reactor: Reactor) -> None:
        listener, dialler = make(reactor, zmq.ROUTER), make(reactor, zmq.DEALER)
        at_listener: list[MonitorEvent] = []
        at_dialler: list[MonitorEvent] = []
        first, second = Monitor(reactor, listener, at_listener.append), Monitor(reactor, dialler, at_dialler.append)
        port = listener.bind_to_random_port("tcp://127.0.0.1")
        dialler.connect(f"tcp://127.0.0.1:{port}")
        await until(lambda: "HANDSHAKE_SUCCEEDED" in kinds(at_dialler))
        second.close()
        dialler.close()
        await until(lambda: "DISCONNECTED" in kinds(at_listener))
        assert kinds(at_dialler) == ["CONNECT_DELAYED", "CONNECTED", "HANDSHAKE_SUCCEEDED"]
        assert kinds(at_listener) == ["LISTENING", "ACCEPTED", "HANDSHAKE_SUCCEEDED", "DISCONNECTED"]
        assert {event.address for event in at_listener} == {f"tcp://127.0.0.1:{port}"}
        assert at_listener[1].value == at_listener[3].value > 0
        first.close()

    run_with_reactor(body)


def test_nothing_is_lost_and_nobody_waits_while_the_loop_is_busy() -> None:
    """More events than a socket's default high-water marks hold, and nobody reads them meanwhile."""
    count = 1200

    async def body(reactor: Reactor) -> None:
        listener, good = make(reactor, zmq.ROUTER), make(reactor, zmq.DEALER)
        events: list[MonitorEvent] = []
        monitor = Monitor(reactor, listener, events.append)
        port = listener.bind_to_random_port("tcp://127.0.0.1")
        good.connect(f"tcp://127.0.0.1:{port}")
        good.send(b"hello")
        assert listener.poll(5000)
        routing_id, _ = listener.recv_multipart()
        for _ in range(count):
            sockets.create_connection(("127.0.0.1", port), 10).close()
        listener.send_multipart([routing_id, b"still here"])
        assert good.poll(5000), "the I/O thread stands still"
        await until(lambda: Counter(kinds(events))["DISCONNECTED"] == count, 30)
        assert Counter(kinds(events))["ACCEPTED"] == count + 1
        monitor.close()

    run_with_reactor(body)


@pytest.mark.parametrize("monitor_first", [True, False])
def test_closing_in_either_order_leaks_nothing_and_stops_nobody(monitor_first: bool) -> None:
    async def body(reactor: Reactor) -> None:
        other, good = make(reactor, zmq.ROUTER), make(reactor, zmq.DEALER)
        good.connect(f"tcp://127.0.0.1:{other.bind_to_random_port('tcp://127.0.0.1')}")
        good.send(b"hello")
        await until(lambda: other.poll(0))
        routing_id, _ = other.recv_multipart()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            listener = make(reactor, zmq.ROUTER)
            events: list[MonitorEvent] = []
            monitor = Monitor(reactor, listener, events.append)
            port = listener.bind_to_random_port("tcp://127.0.0.1")
            strangers = [sockets.create_connection(("127.0.0.1", port), 10) for _ in range(3)]
            if monitor_first:
                monitor.close()
                listener.close()
            else:
                listener.close()
                monitor.close()
            seen = len(events)
            monitor.close()
            await asyncio.sleep(0)
            assert len(events) == seen
            for stranger in strangers:
                stranger.close()
        await until(lambda: repr(reactor) == "<Reactor watches=0>", what=lambda: reactor)
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)
        other.send_multipart([routing_id, b"still here"])
        await until(lambda: good.poll(0), what=lambda: "the I/O thread stands still")

    run_with_reactor(body)


def test_closing_inside_the_callback() -> None:
    async def body(reactor: Reactor) -> None:
        listener = make(reactor, zmq.ROUTER)
        events: list[MonitorEvent] = []

        def on_event(event: MonitorEvent) -> None:
            events.append(event)
            monitor.close()
            listener.close()

        monitor = Monitor(reactor, listener, on_event)
        port = listener.bind_to_random_port("tcp://127.0.0.1")
        sockets.create_connection(("127.0.0.1", port), 10).close()
        await until(lambda: events)
        await asyncio.sleep(0.05)
        assert kinds(events) == ["LISTENING"]
        assert repr(reactor) == "<Reactor watches=0>"

    run_with_reactor(body)


def test_a_closed_socket_ends_its_monitor() -> None:
    async def body(reactor: Reactor) -> None:
        listener = make(reactor, zmq.ROUTER)
        events: list[MonitorEvent] = []
        monitor = Monitor(reactor, listener, events.append)
        listener.bind_to_random_port("tcp://127.0.0.1")
        listener.close()
        await until(lambda: repr(monitor) == "<Monitor closed>")
        assert kinds(events) == ["LISTENING", "CLOSED"]
        assert repr(reactor) == "<Reactor watches=0>"

    run_with_reactor(body)
