"""The listener's guard: its filter on real sockets; a listener of 256 descriptors under 5,000 silent connections."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket as sockets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.carriers.ends import DIALLER_KEYS, LISTENER_KEYS, DialSpy, until
from tests.carriers.under_attack import Process, environment
from tests.loops import run_with_reactor
from tunnel.carriers import CARRIERS, Dialled, Lane
from tunnel.carriers.guard import _attach, drop_all, drop_all_but
from tunnel.carriers.tcp import open_port
from tunnel.limits import LISTEN_HANDSHAKES, LISTEN_KNOWN
from tunnel.reactor import Reactor

SILENT = 5000
LIMIT = 256
STRANGERS = [f"127.0.1.{n}" for n in range(1, 9)]


def can_connect(port: sockets.socket, source: str) -> bool:
    name = port.getsockname()
    to = ("::1" if ":" in source else "127.0.0.1", name[1])
    try:
        client = sockets.create_connection(to, 0.3, (source, 0))
    except TimeoutError:
        return False
    client.close()
    return True


@pytest.mark.parametrize(
    ("listen_on", "known", "passes", "dropped"),
    [
        ("tcp://127.0.0.1:0", [], [], ["127.0.0.1"]),
        ("tcp://127.0.0.1:0", ["127.0.0.1"], ["127.0.0.1"], ["127.0.0.2"]),
        ("tcp://127.0.0.1:0", ["10.0.0.1", "127.0.0.3", "::1"], ["127.0.0.3"], ["127.0.0.1", "127.0.0.10"]),
        ("tcp://*:0", ["::ffff:127.0.0.1"], ["127.0.0.1"], ["127.0.0.2", "::1"]),
        ("tcp://*:0", ["2001:db8::1", "::1"], ["::1"], ["127.0.0.1"]),
        ("tcp://*:0", ["::2", "fe80::1%lo", "1::1"], [], ["::1"]),
    ],
)
def test_the_filter_lets_in_whom_it_names(
    listen_on: str, known: list[str], passes: list[str], dropped: list[str]
) -> None:
    with contextlib.closing(open_port(listen_on)) as port:
        for source in (*passes, *dropped):
            if ":" not in source or sockets.has_ipv6:
                assert can_connect(port, source), f"{source} cannot connect even without a filter"
        _attach(port, drop_all_but(known) if known else drop_all())
        assert [can_connect(port, source) for source in passes] == [True] * len(passes)
        assert [can_connect(port, source) for source in dropped] == [False] * len(dropped)


def test_the_filter_for_as_many_addresses_as_are_kept() -> None:
    four = [f"10.0.{n}.1" for n in range(LISTEN_KNOWN - 1)]
    six = [f"2001:db8::{n + 1:x}" for n in range(LISTEN_KNOWN - 1)]
    with contextlib.closing(open_port("tcp://*:0")) as port:
        for others, mine in ((four, "127.0.0.1"), (six, "::1")):
            _attach(port, drop_all_but([*others, mine]))
            assert can_connect(port, mine)
            _attach(port, drop_all_but(others))
            assert not can_connect(port, mine)


def test_connections_accepted_under_the_filter_carry_everything() -> None:
    """An accepted connection inherits the filter: it must neither drop nor trim what its peer sends."""
    with contextlib.closing(open_port("tcp://127.0.0.1:0")) as port:
        _attach(port, drop_all_but(["127.0.0.1"]))
        with sockets.create_connection(port.getsockname(), 5) as client:
            port.setblocking(True)
            server, _ = port.accept()
            data = bytes(range(256)) * 4096
            server.setblocking(False)
            client.settimeout(5)
            received = bytearray()
            view = memoryview(data)
            deadline = time.monotonic() + 20
            while len(received) < len(data) and time.monotonic() < deadline:
                if view:
                    view = view[client.send(view[:200_000]) :]
                with contextlib.suppress(BlockingIOError):
                    received += server.recv(1 << 20)
            assert bytes(received) == data
            server.close()


def test_the_descriptor_limit_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300));"
        "from tunnel.carriers import raise_descriptor_limit;"
        "print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["300", "300", "300"]


class Attacked:
    """A listener's process, a good dialler that never stops asking it, and attackers on demand."""

    def __init__(self, reactor: Reactor, limit: int = LIMIT, *, guarded: bool = True) -> None:
        self.reactor = reactor
        self.child = Process(
            "listener", limit, *([] if guarded else ["without-guard"]), environment=environment(DIALLER_KEYS.public)
        )
        self.address = str(self.child.read()["address"])
        self.port = int(self.address.rpartition(":")[2])
        self.attackers: list[Process] = []
        self.dialled: list[Dialled] = []

    def attack(self, count: int, *sources: str) -> Process:
        attacker = Process("attacker", "127.0.0.1", self.port, count, *sources)
        attacker.read()
        self.attackers.append(attacker)
        return attacker

    def dial(self, source: str | None = None) -> tuple[Dialled, DialSpy]:
        spy = DialSpy()
        dialled = CARRIERS["tcp"].dial(self.reactor, self.address, DIALLER_KEYS, LISTENER_KEYS.public, source, spy)
        self.dialled.append(dialled)
        return dialled, spy

    async def get_in(self, source: str | None, within_s: float) -> None:
        """As a half does: dial again when lost."""
        deadline = time.monotonic() + within_s
        while True:
            assert time.monotonic() < deadline, f"{source} did not get in within {within_s} s"
            dialled, spy = self.dial(source)
            await until(lambda spy=spy: spy.is_up or spy.losses, 10)  # type: ignore[misc]
            if spy.is_up:
                return
            dialled.close()

    def close(self) -> None:
        for dialled in self.dialled:
            dialled.close()
        for process in (*self.attackers, self.child):
            process.close()


class Chatter:
    """A good dialler that sends one frame on each lane whenever the one before came back; the longest wait counts."""

    def __init__(self, attacked: Attacked) -> None:
        self.dialled, self.spy = attacked.dial()
        self.longest_s = 0.0
        self.echoes = 0

    async def run(self) -> None:
        await until(lambda: self.spy.is_up)
        while True:
            seen = len(self.spy.received)
            start = time.monotonic()
            for lane in Lane:
                assert self.dialled.send(lane, [b"are you there", bytes(1000)]), "the good dialler was cut off"
            await until(lambda seen=seen: len(self.spy.received) == seen + 2, 10)  # type: ignore[misc]
            self.longest_s = max(self.longest_s, time.monotonic() - start)
            self.echoes += 2
            await asyncio.sleep(0.02)


def runnable_s(pid: int) -> dict[str, float]:
    """Seconds that each thread ran or waited for a CPU: one that spins always does, on a busy machine too."""
    return {
        task.name: sum(map(int, (task / "schedstat").read_text().split()[:2])) / 1e9
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


async def measure(attacked: Attacked, chatter: Chatter, seconds: float) -> tuple[float, int]:
    """(share of the time in which the busiest thread of the listener had something to do, echoes) under attack."""
    pid = attacked.child.process.pid
    before, echoes, start = runnable_s(pid), chatter.echoes, time.monotonic()
    await asyncio.sleep(seconds)
    elapsed = time.monotonic() - start
    busiest = max(busy - before.get(thread, 0.0) for thread, busy in runnable_s(pid).items())
    return busiest / elapsed, chatter.echoes - echoes


@contextlib.asynccontextmanager
async def chatting(attacked: Attacked) -> AsyncIterator[Chatter]:
    chatter = Chatter(attacked)
    task = asyncio.ensure_future(chatter.run())
    try:
        await until(lambda: chatter.echoes >= 2 or task.done())
        yield chatter
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, AssertionError):
            await task


@pytest.mark.parametrize("sources", [STRANGERS, ["127.0.0.1"]], ids=["strangers", "from the good dialler's address"])
def test_few_descriptors_and_thousands_of_silent_connections(sources: list[str]) -> None:
    async def body(reactor: Reactor) -> None:
        attacked = Attacked(reactor)
        try:
            async with chatting(attacked) as chatter:
                attacker = attacked.attack(SILENT, *sources)
                await until(lambda: attacked.child.ask()["guard"]["lets_in"] != "open")
                share, echoes = await measure(attacked, chatter, 7)
                status = attacked.child.ask()
                print(f"busy={share:.3f} echoes={echoes} longest_s={chatter.longest_s:.3f} {status}")
                assert share < 0.4, f"a thread of the listener is busy {share:.0%} of the time: {status}"
                assert echoes > 20
                assert chatter.longest_s < 2
                assert status["connections"] < LIMIT
                if sources is STRANGERS:
                    # a dialler that proved its key from there before gets in though the attack goes on
                    # (a port that was shut ignores it for up to 5 s, which is one attempt; a busy machine costs more)
                    await attacked.get_in(None, 30)
                attacker.close()
                await attacked.get_in("127.0.0.77", 30)
                assert not chatter.spy.losses
            await until(lambda: attacked.child.ask()["guard"]["lets_in"] == "open", 20)
            status = attacked.child.ask()
            assert status["refused"]["timeout"] + status["refused"]["handshake"] > 50
        finally:
            attacked.close()

    run_with_reactor(body, within_s=100)


def test_control_without_the_guard_the_listener_spins() -> None:
    async def body(reactor: Reactor) -> None:
        attacked = Attacked(reactor, guarded=False)
        try:
            async with chatting(attacked) as chatter:
                attacked.attack(SILENT, *STRANGERS)
                await until(lambda: attacked.child.ask()["connections"] > 150)
                share, _ = await measure(attacked, chatter, 3)
                print(f"busy={share:.3f} longest_s={chatter.longest_s:.3f}")
                assert share > 0.9, f"only {share:.0%}: the test above proves nothing"
        finally:
            attacked.close()

    run_with_reactor(body)


def test_unfinished_handshakes_are_bounded_though_descriptors_are_not() -> None:
    async def body(reactor: Reactor) -> None:
        attacked = Attacked(reactor, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        try:
            async with chatting(attacked) as chatter:
                attacker = attacked.attack(SILENT, "127.0.0.1")
                most = 0
                deadline = time.monotonic() + 4
                while time.monotonic() < deadline:
                    status = attacked.child.ask()
                    most = max(most, status["connections"])
                    await asyncio.sleep(0.05)
                print(f"most={most} longest_s={chatter.longest_s:.3f} {status}")
                # what libzmq accepts before the loop looks comes on top
                assert LISTEN_HANDSHAKES < most < 2 * LISTEN_HANDSHAKES + SILENT / 5
                attacker.close()
                await attacked.get_in("127.0.0.77", 30)
                assert chatter.longest_s < 2
        finally:
            attacked.close()

    run_with_reactor(body)
