"""What only the TCP carrier has: addresses, socket options, and the reasons that a failed dial gives."""

from __future__ import annotations

import asyncio
import errno
import os
import socket as sockets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
import zmq

from tests.carriers.ends import DIALLER_KEYS, LISTENER_KEYS, Ends, run_within, until
from tests.relay import Relay
from tunnel.carriers import Lane, zmtp
from tunnel.carriers.zmtp import ZmtpDialled, ZmtpListener
from tunnel.config.plan import Allow, ListenPlan
from tunnel.limits import HUNG_UP_S, LINK_FRAME_BYTES, LINK_RCVHWM
from tunnel.monitor import MonitorEvent
from tunnel.reactor import LINK_AFFINITY

Body = Callable[[Ends], Awaitable[None]]


def over_tcp(body: Body) -> None:
    async def main() -> None:
        ends = Ends("tcp", "")
        try:
            await body(ends)
        finally:
            ends.close()

    run_within(main())


@pytest.mark.parametrize(
    ("listen", "dial"),
    [
        ("tcp://127.0.0.1:0", "127.0.0.1"),
        ("tcp://127.0.0.1:*", "127.0.0.1"),
        ("tcp://[::1]:0", "[::1]"),
        ("tcp://*:0", "127.0.0.1"),
        ("tcp://*:0", "[::1]"),
        ("tcp://lo:0", "127.0.0.1"),
        ("tcp://[::]:0", "[::1]"),
    ],
)
def test_addresses(listen: str, dial: str) -> None:
    async def body(ends: Ends) -> None:
        ends.address = listen
        port = ends.listen().status()["address"].rpartition(":")[2]
        ends.address = f"tcp://{dial}:{port}"
        await ends.pair()

    over_tcp(body)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp://192.0.2.77:9440", "does not have that address"),
        ("tcp://nope0:9440", "neither a numeric address nor an interface"),
    ],
)
def test_a_port_that_cannot_be_opened_is_told_and_tried_again(address: str, words: str) -> None:
    async def body(ends: Ends) -> None:
        ends.address = address
        status = ends.listen().status()
        assert status["state"] == "retrying"
        assert words in status["reason"]
        assert address in status["reason"]

    over_tcp(body)


@pytest.mark.parametrize("source", ["127.0.0.5", "::1", "[::1]"])
def test_dialling_from_a_source_address(source: str) -> None:
    async def body(ends: Ends) -> None:
        ends.address = "tcp://*:0"
        port = ends.listen(Allow(anyone=True)).status()["address"].rpartition(":")[2]
        ends.address = f"tcp://[::1]:{port}" if ":" in source else f"tcp://127.0.0.1:{port}"
        seen: list[str] = []
        assert isinstance(ends.listener, ZmtpListener)
        ends.listener._gate._on_admitted = seen.append
        _, spy = ends.dial(source=source)
        await until(lambda: spy.is_up)
        assert {address.removeprefix("::ffff:") for address in seen} == {source.strip("[]")}

    over_tcp(body)


def options(socket: zmq.Socket[bytes], names: Iterable[int]) -> dict[int, Any]:
    return {name: socket.getsockopt(name) for name in names}


def test_link_socket_options() -> None:
    both = {
        zmq.SNDHWM: 0,
        zmq.RCVHWM: LINK_RCVHWM,
        zmq.MAXMSGSIZE: LINK_FRAME_BYTES,
        zmq.HANDSHAKE_IVL: 5000,
        zmq.AFFINITY: LINK_AFFINITY,
        zmq.LINGER: 0,
        zmq.IPV6: 1,
        zmq.TCP_KEEPALIVE: 1,
        zmq.MECHANISM: zmq.CURVE,
    }

    async def body(ends: Ends) -> None:
        listener = ends.listen()
        dialled, _, _, _ = await ends.pair()
        assert isinstance(listener, ZmtpListener)
        assert isinstance(dialled, ZmtpDialled)
        at_listener = both | {
            zmq.CURVE_SERVER: 1,
            zmq.HEARTBEAT_IVL: 5000,
            zmq.HEARTBEAT_TIMEOUT: 120_000,
            zmq.TCP_MAXRT: 30_000,
            zmq.ZAP_DOMAIN: b"link:tcp://127.0.0.1:0",
            zmq.ZAP_ENFORCE_DOMAIN: 1,
        }
        assert options(listener._socket, at_listener) == at_listener
        at_dialler = both | {zmq.RECONNECT_IVL: 2**31 - 1, zmq.CONNECT_TIMEOUT: 5000}
        for lane in dialled._lanes.values():
            assert options(lane._socket, at_dialler) == at_dialler

    over_tcp(body)


def test_every_attempt_has_fresh_routing_ids() -> None:
    ids = {zmtp._fresh_routing_id() for _ in range(5000)}
    assert len(ids) == 5000
    assert all(len(one) == 16 and one[0] for one in ids)


async def reason_of(ends: Ends, serve: Callable[[sockets.socket], None]) -> str:
    """Dial a plain TCP server that does `serve` with each connection; the first lane's reason."""
    server = sockets.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    kept: list[sockets.socket] = []

    async def accept() -> None:
        while True:
            connection, _ = await ends.reactor.loop.sock_accept(server)
            kept.append(connection)
            serve(connection)

    task = asyncio.ensure_future(accept())
    ends.address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    _, spy = ends.dial()
    await until(lambda: spy.losses, 15)
    assert spy.ups == []
    task.cancel()
    for sock in (server, *kept):
        sock.close()
    return spy.losses[0][1]


def test_reasons_of_a_failed_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmtp, "HANDSHAKE_S", 1.0)

    async def body(ends: Ends) -> None:
        http = await reason_of(ends, lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        assert http == "what listens there does not speak 0MQ, so it is no ztunnel listener"
        closing = await reason_of(ends, lambda connection: connection.close())
        assert "hung up during the handshake" in closing
        silent = await reason_of(ends, lambda connection: None)
        assert silent == "the listener did not answer the handshake within 1 s" or "did not finish" in silent
        null = ends.reactor.context.socket(zmq.ROUTER)
        ends.address = f"tcp://127.0.0.1:{null.bind_to_random_port('tcp://127.0.0.1')}"
        _, spy = ends.dial()
        await until(lambda: spy.losses)
        # which end hangs up first is a race: both know from the greetings that it cannot work
        assert "does not speak CURVE" in spy.losses[0][1] or "hung up" in spy.losses[0][1]

    over_tcp(body)


def test_no_answer_at_all_ends_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full accept queue answers no SYN, as a firewall that drops."""
    monkeypatch.setattr(zmtp, "HANDSHAKE_S", 0.5)

    async def body(ends: Ends) -> None:
        with sockets.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            filling = []
            for _ in range(4):
                sock = sockets.socket()
                sock.setblocking(False)
                assert sock.connect_ex(deaf.getsockname()) in (0, errno.EINPROGRESS)
                filling.append(sock)
            ends.address = f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
            _, spy = ends.dial()
            await until(lambda: len(spy.losses) == 2, 5)
            assert spy.ups == []
            for sock in filling:
                sock.close()

    over_tcp(body)


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_a_cut_on_the_way_is_seen_at_both_ends_at_once(how: str) -> None:
    async def body(ends: Ends) -> None:
        listener = ends.listen()
        with Relay(("127.0.0.1", int(ends.address.rpartition(":")[2]))) as relay:
            ends.address = relay.address
            _, spy, control, data = await ends.pair()
            relay.cut(how)
            await until(lambda: len(spy.losses) == 2, 2)
            assert all("closed" in reason for _, reason in spy.losses)
            await until(lambda: listener.status()["connections"] == 0, 2)
            assert not listener.send(control, [b"x"])
            assert not listener.send(data, [b"x"])
            await ends.pair()

    over_tcp(body)


def test_connections_whose_dialler_is_gone_without_a_word_are_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmtp, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(zmtp, "HEARTBEAT_TIMEOUT_S", 0.6)

    async def body(ends: Ends) -> None:
        listener = ends.listen()
        with Relay(("127.0.0.1", int(ends.address.rpartition(":")[2]))) as relay:
            ends.address = relay.address
            _, spy, control, _ = await ends.pair()
            await asyncio.sleep(1.2)
            assert listener.status()["connections"] == 2, "reaped though it answers"
            relay.half_open("client")
            await until(lambda: len(spy.losses) == 2, 2)
            await until(lambda: listener.status()["connections"] == 0, 5)
            assert not listener.send(control, [b"x"])

    over_tcp(body)


def test_control_without_heartbeats_nobody_reaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmtp, "HEARTBEAT_S", 0)

    async def body(ends: Ends) -> None:
        listener = ends.listen()
        with Relay(("127.0.0.1", int(ends.address.rpartition(":")[2]))) as relay:
            ends.address = relay.address
            _, spy, control, _ = await ends.pair()
            relay.half_open("client")
            await until(lambda: len(spy.losses) == 2, 2)
            await asyncio.sleep(1.5)
            assert listener.status()["connections"] == 2
            assert listener.send(control, [b"x"])

    over_tcp(body)


def test_nothing_is_left_open() -> None:
    async def body(ends: Ends) -> None:
        ends.listen()
        await ends.pair()

        def descriptors() -> int:
            return len(os.listdir("/proc/self/fd"))

        before = descriptors()
        for _ in range(10):
            dialled, _, _, _ = await ends.pair()
            dialled.close()
        for _ in range(10):
            plan = ListenPlan("tcp://127.0.0.2:0", ("plant",))
            ends.carrier.listen(ends.reactor, ends.zap, plan, LISTENER_KEYS, ends.who, ends.spy).close()
        await until(lambda: descriptors() <= before + 1, what=descriptors)

    over_tcp(body)


def test_no_secret_in_any_repr() -> None:
    async def body(ends: Ends) -> None:
        listener = ends.listen()
        dialled, _, _, _ = await ends.pair()
        told = f"{listener!r} {dialled!r} {listener.status()!r} {ends.zap!r} {DIALLER_KEYS!r}"
        assert "UP" in repr(dialled).upper()
        for keys in (LISTENER_KEYS, DIALLER_KEYS):
            assert keys.secret.reveal() not in told

    over_tcp(body)


def test_sending_on_each_lane_after_a_loss_is_refused() -> None:
    async def body(ends: Ends) -> None:
        listener = ends.listen()
        dialled, spy, _, _ = await ends.pair()
        listener.close()
        await until(lambda: len(spy.losses) == 2)
        assert [dialled.send(lane, [b"x"]) for lane in Lane] == [False, False]

    over_tcp(body)


@pytest.mark.parametrize("retried", [True, False], ids=["CONNECT_RETRIED follows", "nothing follows"])
def test_frames_handed_over_after_disconnected_was_told_arrive_before_the_loss(retried: bool) -> None:
    """As libzmq does it, but slowly: DISCONNECTED, the frames that it decoded last, then (or never) CONNECT_RETRIED."""

    async def body(ends: Ends) -> None:
        listener = ends.listen()
        dialled, spy, control, _ = await ends.pair()
        assert isinstance(dialled, ZmtpDialled)
        lane = dialled._lanes[Lane.CONTROL]
        told = asyncio.get_running_loop().time()
        lane._on_event(MonitorEvent(zmq.Event.DISCONNECTED, 9, ends.address))
        assert not dialled.send(Lane.CONTROL, [b"in vain"])
        for number in range(3):
            listener.send(control, [b"%d" % number])
        await until(lambda: len(spy.received) == 3)
        assert spy.losses == []
        if retried:
            lane._on_event(MonitorEvent(zmq.Event.CONNECT_RETRIED, 2**31 - 1, ends.address))
            assert len(spy.losses) == 1
        else:
            await until(lambda: spy.losses)
            assert asyncio.get_running_loop().time() - told >= 0.9 * HUNG_UP_S
        assert [lane for lane, _ in spy.losses] == [Lane.CONTROL]
        assert all(parts != [b"in vain"] for _, _, parts in ends.spy.received)

    over_tcp(body)


def test_a_second_try_that_libzmq_tells_of_before_any_hanging_up_is_nothing() -> None:
    async def body(ends: Ends) -> None:
        ends.listen()
        dialled, spy, _, _ = await ends.pair()
        assert isinstance(dialled, ZmtpDialled)
        dialled._lanes[Lane.CONTROL]._on_event(MonitorEvent(zmq.Event.CONNECT_RETRIED, 1, ends.address))
        assert dialled.send(Lane.CONTROL, [b"still here"])
        await until(lambda: ends.spy.received[-1][2] == [b"still here"])
        assert spy.losses == []

    over_tcp(body)
