"""tcp-server as a process of its own, under what devices and applications do to it: its memory, its work, its end."""

from __future__ import annotations

import contextlib
import re
import socket as sockets
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import zmq

from tests.bridges.rig import BridgeProcess, process
from tests.streams import exactly
from tests.waiting import free_port, until

MIB = 1 << 20
GROWTH_MB = 40
"""A bridge grows by less than this, whatever is sent to it: reads, a batch, the 0MQ socket's queue, one queue."""


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def app_of(context: zmq.Context[zmq.Socket[bytes]], kind: int, **options: int) -> tuple[zmq.Socket[bytes], str]:
    app = context.socket(kind)
    app.rcvtimeo = app.sndtimeo = 20_000
    for name, value in options.items():
        setattr(app, name, value)
    return app, f"tcp://127.0.0.1:{app.bind_to_random_port('tcp://127.0.0.1')}"


def pour(client: sockets.socket, data: bytes, most: int) -> int:
    """Send the same again and again until nothing is taken for half a second, or `most` bytes are; how many were."""
    client.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError, ConnectionError):
        while sent < most:
            sent += client.send(memoryview(data)[sent % len(data) :])
    client.settimeout(20)
    return sent


def rest_of(lines: bytes, sent: int) -> bytes:
    """What is missing of the line of 1 KiB that was begun."""
    at = sent % len(lines)
    return lines[at : at + -sent % 1024]


def hung_up(client: sockets.socket) -> bool:
    with contextlib.suppress(ConnectionError):
        while client.recv(1 << 16):
            pass
    return True


def reset(client: sockets.socket) -> None:
    client.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("away", [True, False], ids=["away", "standing still"])
def test_an_application_that_takes_nothing_stops_the_reading(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]], away: bool
) -> None:
    """And when it takes again, every line comes, in order."""
    address = f"tcp://127.0.0.1:{free_port()}"
    app = context.socket(zmq.PULL)
    app.rcvtimeo, app.rcvhwm = 20_000, 10
    if not away:
        app.bind(address)
    with process(tmp_path, {"zmq": f"PUSH connect {address}"}) as bridge:
        before = bridge.rss_mb()
        clients = [bridge.dial() for _ in range(3)]
        lines = b"".join(b"%04d" % number + b"x" * 1019 + b"\n" for number in range(1024))
        sent = [pour(client, lines, 64 * MIB) for client in clients]
        assert max(sent) < 64 * MIB, "nothing held it"
        assert bridge.rss_mb() - before < GROWTH_MB
        assert bridge.status()["zmq"]["blocked"]
        assert bridge.status()["detail"]["held"] == 3
        began = bridge.cpu_s()
        threading.Event().wait(0.5)
        assert bridge.cpu_s() - began < 0.1, "waiting is not free"
        for client, count in zip(clients, sent, strict=True):
            threading.Thread(target=_end, args=(client, rest_of(lines, count))).start()
        if away:
            app.bind(address)
        expected = sum(-(-count // 1024) for count in sent)
        seen = [app.recv() for _ in range(expected)]
        assert {len(line) for line in seen} == {1023}
        until(lambda: not bridge.status()["connections"], 10, bridge.status)
        assert bridge.status()["zmq"]["messages_in"] == expected
        assert bridge.rss_mb() - before < GROWTH_MB


@pytest.mark.parametrize(
    ("zmq_socket", "kind", "more"),
    [
        ("PULL", zmq.PUSH, {"to": "all"}),
        ("PULL", zmq.PUSH, {"to": "one"}),
        ("SUB", zmq.PUB, {}),
    ],
    ids=["to all", "to one", "SUB"],
)
def test_a_device_that_never_reads(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]], zmq_socket: str, kind: int, more: dict[str, Any]
) -> None:
    app, address = app_of(context, kind, sndhwm=10)
    with process(tmp_path, {"zmq": f"{zmq_socket} connect {address}", **more}) as bridge:
        before = bridge.rss_mb()
        deaf = bridge.dial()
        until(lambda: bridge.status()["connections"] == 1, 10, bridge.status)
        body, sent = b"x" * 65_536, 0
        app.sndtimeo = 500
        deadline = time.monotonic() + 30
        with contextlib.suppress(zmq.Again):
            while (sent < 1500 or kind == zmq.PUB) and not bridge_slow(bridge, sent):
                assert time.monotonic() < deadline, bridge.status()
                publish(app, kind, body)
                sent += 1
        assert bridge.rss_mb() - before < GROWTH_MB
        dropped = bridge.status()["dropped"].get("slow", 0)
        assert (dropped > 0) is (more.get("to") != "one")
        if more.get("to") == "one":  # another takes over what waits
            other = bridge.dial()
            assert exactly(other, 65_537) == body + b"\n"
        else:
            other = bridge.dial()
            until(lambda: bridge.status()["connections"] == 2, 10, bridge.status)
            for _ in range(20 if kind == zmq.PUB else 1):
                publish(app, kind, b"for those who listen")
            with other.makefile("rb") as lines:  # after what was still on its way
                assert next(line for line in lines if line != body + b"\n") == b"for those who listen\n"
        deaf.close()


def publish(app: zmq.Socket[bytes], kind: int, body: bytes) -> None:
    app.send(body)
    if kind == zmq.PUB:  # which does not wait for anybody: it would drop all of a burst
        time.sleep(0.002)


def bridge_slow(bridge: BridgeProcess, sent: int) -> bool:
    return sent % 50 == 0 and bool(bridge.status()["dropped"].get("slow"))


@pytest.mark.parametrize("zmq_socket", ["PUSH", "DEALER"])
def test_a_device_that_sends_and_never_reads_its_answers(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]], zmq_socket: str
) -> None:
    """Acks of a PUSH, replies of a DEALER: it is not read any more; when it reads, it gets them all."""
    app, address = app_of(context, zmq.PULL if zmq_socket == "PUSH" else zmq.ROUTER)
    stopped = threading.Event()
    reply = b"r" * 4000

    def serve() -> None:
        poller = zmq.Poller()
        poller.register(app, zmq.POLLIN)
        while not stopped.is_set():
            if poller.poll(50):
                message = app.recv_multipart()
                if zmq_socket == "DEALER":
                    app.send_multipart([*message[:-1], reply])

    bridge_table: dict[str, Any] = {"zmq": f"{zmq_socket} connect {address}", "queue": "256KiB"}
    if zmq_socket == "PUSH":
        bridge_table["ack"] = reply.decode()
    expect = len(reply) + (zmq_socket == "DEALER")
    line = b"q" * 999 + b"\n"
    serving = threading.Thread(target=serve)
    serving.start()
    try:
        with process(tmp_path, bridge_table) as bridge:
            before = bridge.rss_mb()
            client = bridge.dial()
            client.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 65_536)
            sent = pour(client, line * 64, 64 * MIB)
            assert sent < 64 * MIB
            assert bridge.rss_mb() - before < GROWTH_MB
            threading.Thread(target=_end, args=(client, line[sent % len(line) :] if sent % len(line) else b"")).start()
            got = sum(len(data) for data in iter(lambda: client.recv(1 << 20), b""))
            assert got == -(-sent // len(line)) * expect
            assert bridge.rss_mb() - before < GROWTH_MB
    finally:
        stopped.set()
        serving.join()


def _end(client: sockets.socket, rest: bytes) -> None:
    client.sendall(rest)
    client.shutdown(sockets.SHUT_WR)


def test_frames_without_end_resets_and_garbage(tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """A good device is served all the while."""
    app, address = app_of(context, zmq.PULL)
    with process(
        tmp_path, {"zmq": f"PUSH connect {address}", "frame": {"kind": "line", "max_frame": "64KiB"}}
    ) as bridge:
        good = bridge.dial()
        before = bridge.rss_mb()
        for number in range(20):
            endless, short = bridge.dial(), bridge.dial()
            pour(endless, b"x" * 65_536, MIB)
            assert hung_up(endless)
            short.sendall(b"half a fra")
            reset(short)
            good.sendall(b"%d\n" % number)
            assert app.recv() == b"%d" % number
        slow = bridge.dial()
        for byte in b"slowly":
            slow.sendall(bytes([byte]))
            good.sendall(b"quickly\n")
            assert app.recv() == b"quickly"
        slow.sendall(b"\n")
        assert app.recv() == b"slowly"
        until(lambda: bridge.status()["connections"] == 2, 10, bridge.status)
        status = bridge.status()
        assert status["ended"]["framing"] == 20
        assert status["dropped"]["framing"] == 20
        assert "max_frame" in status["reason"]
        assert 1 <= bridge.log.read_text().count(" framing ") < 20
        assert bridge.rss_mb() - before < GROWTH_MB


def test_noise_at_the_door_of_tls(tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(tmp_path / "k.pem"))
    (tmp_path / "k.pem").chmod(0o600)
    (tmp_path / "c.pem").write_bytes(certificate.cert_chain_pems[0].bytes())
    _, address = app_of(context, zmq.PULL)
    tls = {"cert": "c.pem", "key": "k.pem"}
    with process(tmp_path, {"zmq": f"PUSH connect {address}", "tls": tls}) as bridge:
        for noise in (
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
            b"\x16\x03\x01\x00\x05hello",
        ):
            client = bridge.dial()
            with contextlib.suppress(ConnectionError):
                client.sendall(noise)
            client.close()
            client = bridge.dial()
            with contextlib.suppress(ConnectionError):
                client.sendall(noise)
            reset(client)
        until(lambda: bridge.status()["refused"].get("tls") == 8, 10, bridge.status)
        assert bridge.status()["connections"] == 0


def test_five_hundred_at_once(tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    app, address = app_of(context, zmq.PULL)
    with process(tmp_path, {"zmq": f"PUSH connect {address}"}) as bridge:
        clients = []
        for _ in range(500):
            client = sockets.socket()
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", bridge.port))
            clients.append(client)
        for number, client in enumerate(clients):
            client.settimeout(20)
            until(lambda client=client: not client.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR), 10, "connected")
            client.sendall(b"%d\n" % number)
        assert sorted(int(app.recv()) for _ in clients) == list(range(500))
        status = bridge.status()
        assert (status["connections"], status["refused"], status["ended"]) == (500, {}, {})
        for client in clients:
            client.close()
        until(lambda: not bridge.status()["connections"], 10, bridge.status)


def test_out_of_descriptors_and_back(tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """It waits, without a busy loop, and says why; with descriptors again it is back within 5 s."""
    app, address = app_of(context, zmq.PULL)
    with process(tmp_path, {"zmq": f"PUSH connect {address}"}, limit=64) as bridge:
        held = Path(f"/proc/{bridge.process.pid}/fd")
        clients = [bridge.dial() for _ in range(100)]
        until(lambda: len(list(held.iterdir())) >= 63, 10, "out of descriptors")
        burnt, began = bridge.cpu_s(), time.monotonic()
        clients[0].sendall(b"served all the while\n")
        assert app.recv() == b"served all the while"
        threading.Event().wait(max(0.0, 1.0 - (time.monotonic() - began)))
        assert bridge.cpu_s() - burnt < 0.25
        for client in clients[:-1]:
            client.close()
        began = time.monotonic()
        clients[-1].sendall(b"the last\n")
        assert app.recv() == b"the last"
        assert time.monotonic() - began < 5
        status = until(lambda: one_left(bridge), 5, "one connection")
        assert status["reason"] == ""
        assert status["detail"]["no_descriptors"] >= 1


def one_left(bridge: BridgeProcess) -> dict[str, Any] | None:
    status = bridge.status()
    return status if status["connections"] == 1 and not status["reason"] else None


def test_the_process_raises_its_own_limit(tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    _, address = app_of(context, zmq.PULL)
    with process(tmp_path, {"zmq": f"PUSH connect {address}"}) as bridge:
        limits = Path(f"/proc/{bridge.process.pid}/limits").read_text()
        found = re.search(r"Max open files +(\d+) +(\d+)", limits)
        assert found is not None
        assert found[1] == found[2]


def test_an_address_that_somebody_else_has_is_waited_for(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """The bridge's own bind: said in `status`, tried again, no traceback."""
    app, address = app_of(context, zmq.PULL)
    with process(tmp_path, {"zmq": f"PUSH bind {address}"}, waits=False) as bridge:
        status = until(lambda: bridge.try_status(), 20, bridge.log.read_text)
        assert status["state"] == "retrying"
        assert address.removeprefix("tcp://") in status["reason"]
        app.close(linger=0)
        until(lambda: bridge.status()["state"] == "listening", 10, bridge.status)


def test_term_hands_over_what_was_taken_and_acks_exactly_that(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    app, address = app_of(context, zmq.PULL, rcvhwm=100_000)
    with process(tmp_path, {"zmq": f"PUSH connect {address}", "ack": "+"}) as bridge:
        client = bridge.dial()
        acks: list[int] = []

        def count() -> None:
            with contextlib.suppress(ConnectionError):
                while data := client.recv(1 << 16):
                    acks.append(len(data))

        def talk() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client.sendall(b"line\n" * 100)

        threads = [threading.Thread(target=one, daemon=True) for one in (count, talk)]
        for thread in threads:
            thread.start()
        until(lambda: sum(acks) > 1000, 10, lambda: sum(acks))
        got = [0]

        def take() -> None:
            app.rcvtimeo = 1000
            with contextlib.suppress(zmq.Again):
                while True:
                    app.recv()
                    got[0] += 1

        taking = threading.Thread(target=take)
        taking.start()
        assert bridge.stop() == 0
        for thread in (*threads, taking):
            thread.join(10)
        assert sum(acks) <= got[0], "told, and not handed over"
        assert got[0] - sum(acks) < 60_000, "handed over, and not told"
        with pytest.raises(ConnectionError):
            bridge.dial()
        assert "left-behind" not in bridge.log.read_text()
