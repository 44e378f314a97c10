"""The reactor's promises to the owner of a socket, on each loop, over real 0MQ sockets."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import zmq

from tests.loops import LOOPS, run_with_reactor, until
from tunnel import reactor as module
from tunnel.reactor import IO_THREADS, Reactor, new_loop, run

Socket = zmq.Socket[bytes]


@pytest.fixture(params=sorted(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def tick_s(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """No tick helps in these tests, except where one asks for it by `parametrize("tick_s", ..., indirect=True)`."""
    seconds = float(getattr(request, "param", 1000))
    monkeypatch.setattr(module, "EVENTS_TICK_S", seconds)
    return seconds


def pair(reactor: Reactor, *, hwm: int = 1000) -> tuple[Socket, Socket]:
    """Two joined PAIR sockets; reactor.close() closes them."""
    name = reactor.inproc_name("test")
    near, far = reactor.context.socket(zmq.PAIR), reactor.context.socket(zmq.PAIR)
    for socket in (near, far):
        socket.set_hwm(hwm)
        socket.setsockopt(zmq.LINGER, 0)
    near.bind(name)
    far.connect(name)
    return near, far


def test_uvloop_is_used_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    loop = new_loop()
    assert type(loop).__module__ == "uvloop"
    loop.close()


def test_run_gives_the_result() -> None:
    async def main() -> int:
        return 42

    assert run(main()) == 42


def test_context_has_a_thread_for_the_link(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        assert reactor.context.get(zmq.IO_THREADS) == IO_THREADS == 2

    run_with_reactor(body, loop)


def test_ready_once_a_turn_until_nothing_is_left(loop: str) -> None:
    """An owner that takes one message a call is called for each, and others get their turn in between."""

    async def body(reactor: Reactor) -> None:
        near, far = pair(reactor)
        order: list[str] = []

        def on_ready(events: int) -> None:
            assert events == zmq.POLLIN
            order.append(near.recv(zmq.DONTWAIT).decode())
            reactor.loop.call_soon(order.append, "other")

        for number in range(5):
            far.send(b"%d" % number)
        reactor.watch(near, on_ready)
        await until(lambda: len(order) == 10)
        assert [item for item in order if item != "other"] == ["0", "1", "2", "3", "4"]
        assert all("other" in order[order.index(str(n)) : order.index(str(n + 1))] for n in range(4))

    run_with_reactor(body, loop)


def test_what_arrives_later_wakes_at_once(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        near, far = pair(reactor)
        seen: list[bytes] = []
        reactor.watch(near, lambda _: seen.append(near.recv(zmq.DONTWAIT)))
        await asyncio.sleep(0.05)
        for number in range(20):
            far.send(b"x")
            await until(lambda number=number: len(seen) == number + 1)  # type: ignore[misc]

    run_with_reactor(body, loop)


def test_want_nothing_is_silent_and_idle_and_want_again_gives_what_waits(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        near, far = pair(reactor)
        calls: list[int] = []

        def on_ready(events: int) -> None:
            calls.append(events)
            near.recv(zmq.DONTWAIT)

        watch = reactor.watch(near, on_ready, 0)
        far.send(b"x")
        start = time.process_time()
        await asyncio.sleep(0.3)
        assert calls == []
        assert time.process_time() - start < 0.15
        watch.want(zmq.POLLIN)
        await until(lambda: calls == [zmq.POLLIN])

    run_with_reactor(body, loop)


def test_pollout_when_there_is_room_again(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        near, far = pair(reactor, hwm=1)
        while near.poll(0, zmq.POLLOUT):
            near.send(b"x", zmq.DONTWAIT)
        calls: list[int] = []

        def on_ready(events: int) -> None:
            calls.append(events)
            watch.want(0)

        watch = reactor.watch(near, on_ready, zmq.POLLOUT)
        await asyncio.sleep(0.05)
        assert calls == []
        while far.poll(0):
            far.recv()
        await until(lambda: calls == [zmq.POLLOUT])

    run_with_reactor(body, loop)


def consume_the_edge(near: Socket, far: Socket) -> None:
    """A message arrives and something else takes in the descriptor's announcement of it."""
    far.send(b"x")
    assert near.getsockopt(zmq.EVENTS)


def test_poke_finds_an_edge_that_was_consumed(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        near, far = pair(reactor)
        seen: list[bytes] = []
        watch = reactor.watch(near, lambda _: seen.append(near.recv(zmq.DONTWAIT)))
        await asyncio.sleep(0.05)
        consume_the_edge(near, far)
        watch.poke()
        watch.poke()
        await asyncio.sleep(0)
        await until(lambda: seen == [b"x"])

    run_with_reactor(body, loop)


@pytest.mark.parametrize("tick_s", [1.5], indirect=True)
def test_the_tick_finds_a_missed_edge(loop: str, tick_s: float) -> None:
    """The control of the test above: without poke it takes the tick, but it is found."""

    async def body(reactor: Reactor) -> None:
        near, far = pair(reactor)
        seen: list[bytes] = []
        reactor.watch(near, lambda _: seen.append(near.recv(zmq.DONTWAIT)))
        await asyncio.sleep(0.05)
        consume_the_edge(near, far)
        await asyncio.sleep(tick_s / 10)
        assert seen == []
        await until(lambda: seen == [b"x"])

    run_with_reactor(body, loop)


def test_who_took_everything_says_so_and_misses_nothing(loop: str) -> None:
    """True spares the reading of EVENTS, but not when the owner sent meanwhile: that may take an edge."""

    async def body(reactor: Reactor) -> None:
        near, far = pair(reactor)
        seen: list[bytes] = []

        def on_ready(_: int) -> bool:
            while True:
                try:
                    seen.append(near.recv(zmq.DONTWAIT))
                except zmq.Again:
                    break
            if len(seen) == 2:
                consume_the_edge(near, far)  # as a send in the callback may
                watch.poke()
            return True

        watch = reactor.watch(near, on_ready)
        for number in range(2):
            far.send(b"%d" % number)
        await until(lambda: seen == [b"0", b"1", b"x"])
        for number in range(100):
            far.send(b"more")
            await until(lambda number=number: len(seen) == 4 + number)  # type: ignore[misc]

    run_with_reactor(body, loop)


def test_edges_are_told_to_an_owner_that_waits_for_nothing(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        near, far = pair(reactor)
        edges: list[str] = []
        watch = reactor.watch(near, lambda _: None, 0)
        watch.on_edge = lambda: edges.append("edge")
        await asyncio.sleep(0.05)
        edges.clear()
        far.send(b"x")
        await until(lambda: edges)
        await asyncio.sleep(0.1)
        assert len(edges) <= 2

    run_with_reactor(body, loop)


def test_no_callback_after_close_not_even_a_queued_one(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        near, far = pair(reactor)
        far.send(b"x")
        calls: list[int] = []
        watch = reactor.watch(near, calls.append)
        watch.poke()
        watch.close()
        watch.poke()
        watch.want(zmq.POLLIN | zmq.POLLOUT)
        await asyncio.sleep(0.05)
        assert calls == []
        assert repr(reactor) == "<Reactor watches=0>"

    run_with_reactor(body, loop)


def test_closing_inside_the_callback(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        near, far = pair(reactor)
        calls: list[int] = []

        def on_ready(events: int) -> None:
            calls.append(events)
            watch.close()
            near.close()

        far.send(b"x")
        far.send(b"y")
        watch = reactor.watch(near, on_ready)
        await until(lambda: calls)
        await asyncio.sleep(0.05)
        assert calls == [zmq.POLLIN]

    run_with_reactor(body, loop)


@pytest.mark.parametrize("tick_s", [0.5], indirect=True)
def test_an_exception_is_reported_and_tried_again_by_the_tick_not_at_once(loop: str, tick_s: float) -> None:
    async def body(reactor: Reactor) -> None:
        near, far = pair(reactor)
        reported: list[dict[str, Any]] = []
        reactor.loop.set_exception_handler(lambda _, context: reported.append(context))
        calls: list[int] = []

        def on_ready(events: int) -> None:
            calls.append(events)
            if len(calls) < 4:
                raise ValueError("a bug")
            near.recv(zmq.DONTWAIT)

        far.send(b"x")
        reactor.watch(near, on_ready)
        start = time.monotonic()
        await until(lambda: len(calls) == 4)
        assert time.monotonic() - start > tick_s  # two calls at first: the watch's own look, and the descriptor
        assert [str(context["exception"]) for context in reported] == ["a bug"] * 3

    run_with_reactor(body, loop)


def test_call_later_and_cancel(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        rang: list[str] = []
        start = reactor.now()
        reactor.call_later(0.05, lambda: rang.append("a"))
        reactor.call_later(0.02, lambda: rang.append("never")).cancel()
        await until(lambda: rang)
        assert rang == ["a"]
        assert reactor.now() - start >= 0.045

    run_with_reactor(body, loop)


def test_close_ends_everything_though_sockets_are_open(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        near, _ = pair(reactor)
        reactor.watch(near, lambda _: None)
        reactor.close()
        assert reactor.context.closed
        assert near.closed

    run_with_reactor(body, loop)
