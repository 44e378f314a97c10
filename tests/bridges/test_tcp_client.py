"""tcp-client: an old server as a 0MQ peer. Real sockets; the server, and the 0MQ application, are the test's."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import trustme
import zmq

from bridges import framing, line, serving
from bridges import tcp_client as clients
from bridges.tcp_client import MODES, TcpClient
from tests.loops import LOOPS, run_with_reactor, until
from tests.waiting import free_port
from tunnel.config.bridge_plan import BridgePlan, Correlation, TcpPlan, ZmqPlan
from tunnel.config.check_bridges import CLIENT_SOCKETS
from tunnel.config.plan import Endpoint, TlsPlan
from tunnel.log import Log
from tunnel.reactor import Reactor

PEERS = {"REP": zmq.DEALER, "PULL": zmq.PUSH, "SUB": zmq.PUB, "PUB": zmq.SUB, "PUSH": zmq.PULL, "DEALER": zmq.DEALER}
Talk = Callable[["Legacy", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Legacy:
    """The old server: `talk` runs for each connection."""

    def __init__(self, talk: Talk, context: ssl.SSLContext | None = None) -> None:
        self.talk = talk
        self.context = context
        self.accepted = 0
        self.heard = bytearray()
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.context)
        self.port = self._server.sockets[0].getsockname()[1]
        return f"tcp://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError):
            await self.talk(self, reader, writer)

    def hang_up(self) -> None:
        writers, self.writers = self.writers, []
        for writer in writers:
            writer.transport.abort()

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.hang_up()


async def shout(legacy: Legacy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Every line comes back in capitals."""
    while said := await reader.readline():
        legacy.heard += said
        writer.write(said.upper())


async def listen(legacy: Legacy, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while said := await reader.read(65536):
        legacy.heard += said


async def note(legacy: Legacy, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """As `listen`, for several connections: line by line."""
    while said := await reader.readline():
        legacy.heard += said


class World:
    """A bridge, its server, and the 0MQ application."""

    def __init__(self, reactor: Reactor, kind: str) -> None:
        self.reactor = reactor
        self.kind = kind
        self.application = reactor.context.socket(PEERS[kind])
        if kind == "PUB":
            self.application.setsockopt(zmq.SUBSCRIBE, b"")
        self.application.bind("tcp://127.0.0.1:*")
        self.endpoint = self.application.last_endpoint.decode()
        self.bridge: TcpClient | None = None
        self.legacies: list[Legacy] = []

    async def legacy(self, talk: Talk, context: ssl.SSLContext | None = None) -> Legacy:
        made = Legacy(talk, context)
        await made.start()
        self.legacies.append(made)
        return made

    async def connect(self, *legacies: Legacy, frame: framing.Framing | None = None, **tcp: Any) -> TcpClient:
        reads = frame or framing.make("line")
        addresses = tuple(f"tcp://localhost:{legacy.port}" for legacy in legacies)
        method: Literal["bind", "connect"] = "connect"
        if tcp.pop("bind", False):
            method = "bind"
            self.application.close(linger=0)
            self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        plan = BridgePlan(
            "old",
            "tcp-client",
            ZmqPlan(self.kind, (Endpoint(method, self.endpoint),)),
            TcpPlan(reads, reads, connect=addresses, **tcp),
            Path("/nowhere"),
        )
        self.bridge = TcpClient(plan, self.reactor, Log("old"))
        await self.bridge.start()
        return self.bridge

    async def up(self, connections: int = 1) -> None:
        assert self.bridge is not None
        bridge = self.bridge
        await until(lambda: bridge.status()["connections"] == connections, 20, bridge.status)

    async def hears(self) -> list[bytes]:
        await until(lambda: self.application.poll(0), 20, self.status)
        return list(self.application.recv_multipart())

    def status(self) -> dict[str, Any]:
        assert self.bridge is not None
        return self.bridge.status()

    async def close(self) -> None:
        if self.bridge is not None:
            await self.bridge.close()
        for legacy in self.legacies:
            legacy.stop()
        self.application.close(linger=0)


Body = Callable[[World], Awaitable[None]]


def run(kind: str, body: Body, loop: str = "default") -> None:
    async def main(reactor: Reactor) -> None:
        world = World(reactor, kind)
        try:
            await body(world)
        finally:
            await world.close()

    run_with_reactor(main, loop)


def test_every_socket_of_the_check_has_a_mode() -> None:
    assert set(MODES) == set(CLIENT_SOCKETS) == set(PEERS)


@pytest.mark.parametrize("loop", LOOPS)
def test_requests_are_answered_each_by_its_reply(loop: str) -> None:
    async def body(world: World) -> None:
        await world.connect(await world.legacy(shout), pool=3)
        await world.up(3)
        for number in range(500):
            world.application.send_multipart([b"id%d" % number, b"", b"question %d" % number])
        replies = [await world.hears() for _ in range(500)]
        assert sorted(replies) == sorted([b"id%d" % n, b"", b"QUESTION %d" % n] for n in range(500))
        assert world.legacies[0].accepted == 3
        status = world.status()
        assert (status["frames_in"], status["frames_out"], status["dropped"]) == (500, 500, {})
        assert status["detail"]["under_way"] == status["detail"]["waiting"] == 0

    run("REP", body, loop)


def test_replies_out_of_order_are_told_apart_by_a_field() -> None:
    async def backwards(legacy: Legacy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = [await reader.readline() for _ in range(4)]
        writer.writelines(reversed([said.upper() for said in asked]))

    async def body(world: World) -> None:
        await world.connect(await world.legacy(backwards), correlate=Correlation(0, 2))
        for number in range(4):
            world.application.send_multipart([b"id%d" % number, b"", b"%02d question" % number])
        replies = [await world.hears() for _ in range(4)]
        assert replies == [[b"id%d" % n, b"", b"%02d QUESTION" % n] for n in (3, 2, 1, 0)]

    run("REP", body)


@pytest.mark.parametrize("reply", [b"ERR", None])
def test_a_server_that_does_not_answer_in_time(reply: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order nobody knows what comes later answers: the connection ends, and the next question has a new one."""
    monkeypatch.setattr(serving, "BRIDGE_TICK_S", 0.02)

    async def slow(legacy: Legacy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.readline():
            if said != b"forget it\n":
                writer.write(said.upper())

    async def body(world: World) -> None:
        await world.connect(await world.legacy(slow), timeout_s=0.3, timeout_reply=reply)
        await world.up()
        world.application.send_multipart([b"a", b"", b"forget it"])
        if reply is None:
            await until(lambda: world.status()["dropped"] == {"unanswered": 1}, 10, world.status)
        else:
            assert await world.hears() == [b"a", b"", reply]
        await until(lambda: world.legacies[0].accepted == 2, 10, world.status)
        world.application.send_multipart([b"b", b"", b"hello"])
        assert await world.hears() == [b"b", b"", b"HELLO"]
        assert world.status()["ended"] == {"timeout": 1}
        assert world.status()["detail"]["timeouts"] == 1

    run("REP", body)


def test_what_was_asked_of_a_server_that_hangs_up_is_not_asked_again() -> None:
    async def body(world: World) -> None:
        legacy = await world.legacy(listen)
        await world.connect(legacy, timeout_reply=b"gone")
        world.application.send_multipart([b"a", b"", b"do it once"])
        await until(lambda: legacy.heard)
        legacy.hang_up()
        assert await world.hears() == [b"a", b"", b"gone"]
        await world.up()
        assert legacy.heard == b"do it once\n"

    run("REP", body)


def test_requests_wait_for_a_server_that_is_away_and_no_longer_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "BRIDGE_TICK_S", 0.02)
    monkeypatch.setattr(line, "BRIDGE_REDIAL_MAX_S", 0.2)  # else the next attempt may come too late for the second

    async def body(world: World) -> None:
        legacy = await world.legacy(shout)
        legacy.stop()
        await world.connect(legacy, timeout_s=2.0, timeout_reply=b"late")
        world.application.send_multipart([b"a", b"", b"x"])
        assert await world.hears() == [b"a", b"", b"late"]
        assert "refused" in world.status()["reason"].lower()
        assert world.status()["state"] == "retrying"
        world.application.send_multipart([b"b", b"", b"y"])
        await legacy.start()
        assert await world.hears() == [b"b", b"", b"Y"]
        assert world.status()["state"] == "up"

    run("REP", body)


def test_a_client_that_does_not_take_its_replies_holds_up_nobody_else() -> None:
    async def body(world: World) -> None:
        await world.connect(await world.legacy(shout), bind=True)
        deaf, quick = (world.reactor.context.socket(zmq.DEALER) for _ in range(2))
        deaf.setsockopt(zmq.RCVHWM, 1)
        deaf.setsockopt(zmq.RCVBUF, 4096)
        try:
            for client in (deaf, quick):
                client.connect(world.endpoint)
            for number in range(3000):
                if deaf.poll(0, zmq.POLLOUT):
                    deaf.send_multipart([b"", b"%d" % number + b"x" * 1000])
                if number % 300 == 0:
                    quick.send_multipart([b"", b"%d" % number])
                    await until(lambda: quick.poll(0), 20, world.status)
                    assert quick.recv_multipart() == [b"", b"%d" % number]
            assert world.status()["zmq"]["blocked"]
        finally:
            deaf.close(linger=0)
            quick.close(linger=0)

    run("REP", body)


def test_messages_are_shared_out_and_wait_while_nobody_takes_them() -> None:
    async def body(world: World) -> None:
        first, second = await world.legacy(note), await world.legacy(note)
        first.stop()
        second.stop()
        await world.connect(first, second, pool=2)
        await until(lambda: world.application.poll(0, zmq.POLLOUT))
        for number in range(900):
            world.application.send(b"%d " % number + b"x" * 1000, zmq.DONTWAIT)
        await until(lambda: world.status()["detail"]["waiting"])
        assert world.status()["detail"]["waiting"] < 300  # one batch; the others wait at the sender
        await first.start()
        await second.start()
        await until(lambda: (first.heard + second.heard).count(b"\n") == 900, 30, world.status)
        heard = [int(said.split()[0]) for said in (first.heard + second.heard).splitlines()]
        assert sorted(heard) == list(range(900))
        assert world.status()["dropped"] == {}

    run("PULL", body)


def test_a_server_that_does_not_read_holds_up_the_sender_and_nothing_is_lost() -> None:
    gate = asyncio.Event()

    async def stubborn(legacy: Legacy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await listen(legacy, reader, writer)

    async def body(world: World) -> None:
        legacy = await world.legacy(stubborn)
        await world.connect(legacy, queue_bytes=65536)
        await world.up()
        sent = 0
        while world.application.poll(300, zmq.POLLOUT):
            world.application.send(b"%06d" % sent + b"x" * 9994)
            sent += 1
            await asyncio.sleep(0)
            assert sent < 20_000, "it took all that there was"
        gate.set()
        await until(lambda: legacy.heard.count(b"\n") == sent, 30, world.status)
        assert [int(said[:6]) for said in legacy.heard.split(b"\n")[:-1]] == list(range(sent))

    run("PULL", body)


def test_topics_stay_with_subscribers_and_frames_too_many_are_told() -> None:
    async def body(world: World) -> None:
        legacy = await world.legacy(listen)
        await world.connect(legacy)
        await world.up()
        while not legacy.heard:  # until the subscription is there
            world.application.send_multipart([b"topic", b"ready"])
            await asyncio.sleep(0.01)
        world.application.send_multipart([b"topic", b"a", b"b"])
        world.application.send_multipart([b"topic", b"a\nb"])
        world.application.send_multipart([b"topic", b"last"])
        await until(lambda: legacy.heard.endswith(b"last\n"), 10, world.status)
        assert set(bytes(legacy.heard).split()) == {b"ready", b"last"}
        assert world.status()["dropped"] == {"frames": 1, "framing": 1}

    run("SUB", body)


@pytest.mark.parametrize("kind", ["PUB", "PUSH", "DEALER"])
def test_what_the_server_says_becomes_messages(kind: str) -> None:
    subscribed = asyncio.Event()

    async def chatter(legacy: Legacy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = await reader.readline()
        while not subscribed.is_set():  # what a PUB sends before it knows of a SUB goes to nobody
            writer.write(b"early\n")
            await asyncio.sleep(0.01)
        for number in range(1000):
            writer.write(b"%s %d\n" % (greeting.strip(), number))
        await reader.read()

    async def body(world: World) -> None:
        topic = {"topic": b"scale"} if kind == "PUB" else {}
        head = [b"scale"] if kind == "PUB" else []
        await world.connect(await world.legacy(chatter), greeting=b"hi\n", **topic)
        assert await world.hears() == [*head, b"early"]
        subscribed.set()
        while (first := await world.hears()) == [*head, b"early"]:
            pass
        heard = [first, *[await world.hears() for _ in range(999)]]
        assert heard == [[*head, b"hi %d" % number] for number in range(1000)]

    run(kind, body)


def test_a_dealer_speaks_both_ways() -> None:
    async def body(world: World) -> None:
        await world.connect(await world.legacy(shout))
        world.application.send(b"one")
        assert await world.hears() == [b"ONE"]

    run("DEALER", body)


def test_lazy_connections_come_when_there_is_something_to_say_and_go_when_idle() -> None:
    async def body(world: World) -> None:
        legacy = await world.legacy(shout)
        bridge = await world.connect(legacy, lazy=True, idle_s=0.3)
        assert (bridge.status()["state"], legacy.accepted) == ("idle", 0)
        world.application.send_multipart([b"", b"x"])
        assert await world.hears() == [b"", b"X"]
        await until(lambda: bridge.status()["ended"] == {"idle": 1}, 10, bridge.status)
        await until(lambda: bridge.status()["state"] == "idle", 10, bridge.status)
        assert legacy.accepted == 1
        world.application.send_multipart([b"", b"y"])
        assert await world.hears() == [b"", b"Y"]
        assert legacy.accepted == 2

    run("REP", body)


def test_greeting_and_keep_alive() -> None:
    async def body(world: World) -> None:
        legacy = await world.legacy(listen)
        await world.connect(legacy, greeting=b"HELLO\r\n", keep_alive=(0.1, b"."))
        await until(lambda: legacy.heard.endswith(b"..."), 10, world.status)
        assert legacy.heard.startswith(b"HELLO\r\n.")

    run("PULL", body)


def test_pauses_between_attempts_grow_and_begin_anew_after_a_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(least: float, most: float) -> float:
        drawn.append((least, most))
        return 0.01

    monkeypatch.setattr(line.random, "uniform", uniform)
    monkeypatch.setattr(line, "BRIDGE_CALM_S", 0.1)

    async def body(world: World) -> None:
        legacy = await world.legacy(listen)
        legacy.stop()
        await world.connect(legacy)
        await until(lambda: len(drawn) >= 10, 10, world.status)
        assert [most for _, most in drawn[:10]] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
        await legacy.start()
        await world.up()
        await asyncio.sleep(0.15)  # what makes it a good one is its age
        drawn.clear()
        legacy.hang_up()
        await until(lambda: drawn)
        assert drawn[0] == (0.2, 0.2)

    run("PULL", body)


def test_a_server_that_breaks_the_framing_is_left() -> None:
    async def garbage(legacy: Legacy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"x" * 100)
        await reader.read()

    async def body(world: World) -> None:
        await world.connect(await world.legacy(garbage), frame=framing.make("line", max_frame=50), timeout_reply=b"bad")
        world.application.send_multipart([b"", b"x"])
        assert await world.hears() == [b"", b"bad"]
        assert world.status()["dropped"] == {"framing": 1}
        assert world.status()["ended"] == {"framing": 1}

    run("REP", body)


def test_tls_a_ca_of_our_own_and_who_it_does_not_know(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")

    async def unknown(world: World) -> None:
        bridge = await world.connect(await world.legacy(shout, context), tls=TlsPlan(ca=tmp_path / "other.pem"))
        await until(lambda: "TLS handshake failed" in bridge.status()["reason"], 10, bridge.status)

    async def known(world: World) -> None:
        await world.connect(await world.legacy(shout, context), tls=TlsPlan(ca=tmp_path / "ca.pem"))
        world.application.send_multipart([b"", b"secret"])
        assert await world.hears() == [b"", b"SECRET"]

    run("REP", unknown)
    run("REP", known)


def test_an_orderly_end_leaves_nothing_open() -> None:
    async def body(world: World) -> None:
        legacy = await world.legacy(listen)
        bridge = await world.connect(legacy, pool=4)
        await world.up(4)
        await bridge.close()
        await until(lambda: all(one.connection is None for one in bridge.lines), 10, bridge.lines)
        assert legacy.accepted == 4

    run("PULL", body)
    assert clients.MODES
