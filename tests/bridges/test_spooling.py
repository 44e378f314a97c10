"""accept: spooled: what a device was told is taken is answered for by an application, whatever dies in between."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from bridges import framing, spooling
from bridges.tcp_server import TcpServer
from tests.faults.rig import FULL
from tests.loops import run_with_reactor, until
from tests.streams import connected
from tests.tunnel_pair import ROOT, Tunnel
from tests.waiting import until as until_now
from tunnel.config.bridge_plan import BridgePlan, TcpPlan, ZmqPlan
from tunnel.config.plan import Endpoint, SpoolPlan
from tunnel.log import Log
from tunnel.reactor import Reactor

KILLS = 20 if FULL else 6


class World:
    """A bridge that spools, and the application (REP) that answers for what it gets."""

    def __init__(self, reactor: Reactor, folder: Path) -> None:
        self.reactor = reactor
        self.folder = folder
        self.application = reactor.context.socket(zmq.REP)
        self.application.bind("tcp://127.0.0.1:*")
        self.endpoint = self.application.last_endpoint.decode()
        self.bridge: TcpServer | None = None

    async def start(self, max_bytes: int = 1 << 30, **tcp: Any) -> TcpServer:
        lines = framing.make("line")
        spool = SpoolPlan(self.folder / "spool", max_bytes, None)
        plan = BridgePlan(
            "old",
            "tcp-server",
            ZmqPlan("REQ", (Endpoint("connect", self.endpoint),)),
            TcpPlan(lines, lines, listen=("tcp://127.0.0.1:0",), accept="spooled", ack=b"ok\n", spool=spool, **tcp),
            Path("/nowhere"),
        )
        self.bridge = TcpServer(plan, self.reactor, Log("old"))
        await self.bridge.start()
        await until(lambda: self.status()["state"] == "listening", 10, self.status)
        return self.bridge

    async def device(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self.bridge is not None
        (listener,) = self.bridge._listeners
        assert listener.port is not None
        return await asyncio.open_connection(*listener.port.getsockname())

    async def takes(self, *, answer: bool = True) -> list[bytes]:
        await until(lambda: self.application.poll(0), 20, self.status)
        message = list(self.application.recv_multipart())
        if answer:
            self.application.send(b"")
        return message

    async def leave(self) -> None:
        """The application ends, with all that it had not answered."""
        self.application.close(linger=0)

    async def come_back(self) -> None:
        self.application = self.reactor.context.socket(zmq.REP)
        await until(self._bound)

    def _bound(self) -> bool:
        try:
            self.application.bind(self.endpoint)
        except zmq.ZMQError:  # libzmq closes the one before when it gets to it
            return False
        return True

    def status(self) -> dict[str, Any]:
        assert self.bridge is not None
        return self.bridge.status()

    def rows(self) -> int:
        return int(self.status()["detail"]["spool"]["rows"])

    async def close(self) -> None:
        if self.bridge is not None:
            await self.bridge.close()
        self.application.close(linger=0)


def run(folder: Path, body: Callable[[World], Awaitable[None]]) -> None:
    async def main(reactor: Reactor) -> None:
        world = World(reactor, folder)
        try:
            await body(world)
        finally:
            await world.close()

    run_with_reactor(main)


def test_a_device_is_told_while_the_application_is_away_and_everything_is_answered_for(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.leave()
        await world.start(pipeline=5)
        reader, writer = await world.device()
        writer.writelines(b"%d\n" % number for number in range(300))
        assert await reader.readexactly(900) == b"ok\n" * 300
        assert world.rows() == 300
        await world.come_back()
        assert [await world.takes() for _ in range(300)] == [[b"%d" % number] for number in range(300)]
        await until(lambda: world.rows() == 0, 10, world.status)
        assert world.status()["detail"]["may_repeat"] == 0
        writer.close()

    run(tmp_path, body)


def test_what_lies_on_disk_is_asked_by_the_next_process(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        bridge = await world.start(meta=True, pipeline=1)
        reader, writer = await world.device()
        writer.write(b"first\nsecond\nthird\n")
        assert await reader.readexactly(9) == b"ok\n" * 3
        meta, frame = await world.takes()
        assert frame == b"first"
        await until(lambda: world.rows() == 2, 10, world.status)
        _, frame = await world.takes(answer=False)
        assert frame == b"second"
        await bridge.close()
        await world.leave()
        await world.come_back()
        await world.start(meta=True)
        told = [await world.takes() for _ in range(2)]
        assert [frame for _, frame in told] == [b"second", b"third"]
        identities = [json.loads(words)["id"] for words in (meta, told[0][0], told[1][0])]
        assert [identity.partition(".")[2] for identity in identities] == ["1", "2", "3"]
        assert len({identity.partition(".")[0] for identity in identities}) == 1
        assert json.loads(told[0][0])["peer"] == "127.0.0.1"
        writer.close()

    run(tmp_path, body)


def test_what_gets_no_receipt_is_asked_again_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "BRIDGE_TICK_S", 0.02)

    async def body(world: World) -> None:
        await world.start(timeout_s=0.2)
        _, writer = await world.device()
        writer.write(b"once or twice\n")
        assert await world.takes(answer=False) == [b"once or twice"]
        # a REP that forgets what it was asked: the application was started anew
        await world.leave()
        await world.come_back()
        assert await world.takes() == [b"once or twice"]
        await until(lambda: world.rows() == 0, 10, world.status)
        assert world.status()["detail"]["may_repeat"] >= 1
        writer.close()

    run(tmp_path, body)


def test_a_full_disk_quota_stops_reading_and_nothing_is_lost(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.leave()
        await world.start(max_bytes=1 << 20)
        reader, writer = await world.device()
        writer.transport.set_write_buffer_limits(high=0)
        sent = 0
        try:
            while sent < 100_000:
                writer.write(b"%06d%s\n" % (sent, b"x" * 1000))
                sent += 1
                await asyncio.wait_for(writer.drain(), 0.5)
        except TimeoutError:
            pass
        assert 500 < sent < 20_000  # the quota, and what the kernel holds
        assert not world.status()["detail"]["spool"]["has_room"]
        await world.come_back()
        heard = [await world.takes() for _ in range(sent)]
        assert [int(frame[:6]) for (frame,) in heard] == list(range(sent))
        assert await reader.readexactly(3 * sent) == b"ok\n" * sent
        writer.close()

    run(tmp_path, body)


# --- kill -9 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], dict[str, str], str, str]]:
    """A bridge's process: command, environment, address for devices, endpoint of the application."""
    tunnel = Tunnel(tmp_path)
    device, application = tunnel.tcp(), tunnel.tcp()
    tunnel.write(
        {"r": {"pattern": "pipeline", "from": "dmz bind local", "to": "plant bind local"}},
        bridges={
            "old": {
                "side": "plant",
                "kind": "tcp-server",
                "listen": device,
                "accept": "spooled",
                "ack": "ok\n",
                "meta": True,
                "timeout": "1s",
                "zmq": f"DEALER connect {application}",
            }
        },
    )
    environment = {**tunnel.environment, "ZTUNNEL_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-m", "bridges.process", str(tunnel.table), "--as", "plant", "--bridge", "old"]
    yield command, environment, device, application
    tunnel.close()


@pytest.mark.timeout(300)
def test_kill_9_under_load_loses_nothing_that_was_acknowledged(
    spooled: tuple[list[str], dict[str, str], str, str],
) -> None:
    command, environment, address, endpoint = spooled
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    application = context.socket(zmq.ROUTER)
    application.bind(endpoint)
    came: list[tuple[str, int]] = []

    def answer() -> None:
        while application.poll(0):
            route, number, empty, meta, frame = application.recv_multipart()
            came.append((json.loads(meta)["id"], int(frame)))
            application.send_multipart([route, number, empty, b""])

    acknowledged = 0
    try:
        for kill in itertools.count():
            process = subprocess.Popen(command, cwd=ROOT, env=environment)
            try:
                until_now(lambda: can_connect(address), 20, "the bridge does not listen")
                with connected(address) as device:
                    device.settimeout(0.05)
                    sent, deadline, told = acknowledged, time.monotonic() + 0.5, b""
                    while time.monotonic() < deadline:
                        device.sendall(b"".join(b"%d\n" % n for n in range(sent, sent + 50)))
                        sent += 50
                        told += received(device)
                        answer()
                    acknowledged += told.count(b"ok\n")
                    if kill == KILLS:
                        break
            finally:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        try:
            until_now(lambda: answer() or {n for _, n in came} >= set(range(acknowledged)), 30, lambda: missing(came))
        finally:
            process.kill()
            process.wait()
    finally:
        context.destroy(linger=0)
    assert acknowledged > 500
    # what comes twice (it was under way, or answered for a moment before) bears the same id, and so can be told
    by_identity: dict[str, set[int]] = {}
    for identity, number in came:
        by_identity.setdefault(identity, set()).add(number)
    assert all(len(numbers) == 1 for numbers in by_identity.values())


def can_connect(address: str) -> bool:
    try:
        connected(address).close()
    except OSError:
        return False
    return True


def received(device: Any) -> bytes:
    try:
        return bytes(device.recv(1 << 20))
    except TimeoutError:
        return b""


def missing(came: list[tuple[str, int]]) -> str:
    return f"{len(came)} came, the highest is {max((n for _, n in came), default=None)}"
