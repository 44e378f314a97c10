"""The tcp-server bridge: lines of devices to a PULL, many connections, beside `socat` into a pyzmq loop.

    bridge     devices ─ bridges.process ─ PULL
    socat      devices ─ socat, which forks for each connection ─ a Python loop that cuts lines ─ PULL

The devices are one process that writes to all connections as fast as they take it; the PULL is this process.
"""

from __future__ import annotations

import json
import resource
import selectors
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import zmq

from benchmarks.process import MeasureError, Process, wait_for_port
from benchmarks.report import Target
from benchmarks.scenarios import Figures, Stage, stage
from benchmarks.streams import echoing
from benchmarks.systems import bridges_of, fresh_name
from demo.ports import free_ports
from tunnel import pump

NO_TUNNEL = (
    "links:",
    "  - listen: dmz tcp://127.0.0.1:1",
    "    dial: plant tcp://127.0.0.1:1",
    "routes:",
    "  none:",
    "    pattern: pipeline",
    "    from: dmz bind local",
    "    to: plant bind local",
)
"""A table must have them; no device runs."""
LINE = b"x" * 1023 + b"\n"
IDLE = 10_000
CONNECTS = 6000
WATCH_S = 5.0
BY_HAND = """\
import sys, zmq
push = zmq.Context().socket(zmq.PUSH)
push.connect("{sink}")
for line in sys.stdin.buffer:
    push.send(line[:-1])
"""
"""What a page of a handbook does with socat's EXEC, one process for each connection."""


class BridgeSystem(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """As the report calls it."""

    def start(self, on: Stage, port: int, sink: str) -> Process:
        """Listening at this port; frames go to the PULL at `sink`."""


class Bridge:
    name = title = "bridge"

    def start(self, on: Stage, port: int, sink: str) -> Process:
        lines = [
            *NO_TUNNEL,
            "bridges:",
            "  b:",
            "    side: plant",
            "    kind: tcp-server",
            f"    listen: tcp://127.0.0.1:{port}",
            f"    zmq: PUSH connect {sink}",
            f"    connections: {IDLE + 100}",
        ]
        process = on.enter(bridges_of(on.folder / fresh_name(), lines))["b"]
        wait_for_port(port)
        return process


class Socat:
    name = title = "socat"

    def start(self, on: Stage, port: int, sink: str) -> Process:
        loop = on.folder / "by_hand.py"  # socat would take an address with colons for options of its own
        loop.write_text(BY_HAND.format(sink=sink))
        listen = f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=1024"
        process = on.enter(
            Process("socat", ["socat", "-u", "-b65536", listen, f"EXEC:{sys.executable} {loop}"], on.folder)
        )
        wait_for_port(port)
        return process


SYSTEMS: tuple[BridgeSystem, ...] = (Bridge(), *((Socat(),) if shutil.which("socat") else ()))


@contextmanager
def pulling() -> Iterator[tuple[zmq.Socket[bytes], str]]:
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.linger = 0
        yield pull, f"tcp://127.0.0.1:{pull.bind_to_random_port('tcp://127.0.0.1')}"


def take(pull: zmq.Socket[bytes]) -> int:
    return sum(piece.messages for piece in pump.drain(pull, 1 << 20).pieces)


@dataclass(frozen=True)
class Lines:
    """1 KiB lines from so many connections at once, as fast as they go; every line is counted at both ends."""

    name: str
    connections: int

    def runs_on(self, system: BridgeSystem) -> bool:
        return isinstance(system, Bridge) or self.connections == 1  # socat: a Python process for each connection

    def run(self, system: BridgeSystem, folder: Path, seconds: float) -> Figures:
        (port,) = free_ports(1)
        with stage(folder) as on, pulling() as (pull, sink):
            process = system.start(on, port, sink)
            command = [sys.executable, "-m", "benchmarks.bridges", str(port), str(self.connections), str(seconds)]
            source = on.enter(Process("devices", command, folder))
            source.line("connected")
            before = process.cpu_s()
            source.go()
            if not pull.poll(30_000):
                raise MeasureError(process.explain("handed nothing over"))
            began, got, last = time.monotonic(), 0, 0.0
            while pull.poll(1000):
                count = take(pull)
                got += count
                last = time.monotonic() if count else last
            sent = source.result()["lines"]
            if sent != got:
                raise MeasureError(f"{system.name}, {self.name}: {sent} lines went in, {got} came out")
            figures = {"rate": got / (last - began), "memory_mb": process.memory_mb(peak=True)}
            if isinstance(system, Bridge):
                figures["cpu_s"] = (process.cpu_s() - before) / got * 1e6
            return figures


@dataclass(frozen=True)
class Connects:
    """Devices that connect, say one line and go, one after the other: none may fail, and every line must come."""

    name: str = "bridge connects"

    def runs_on(self, system: BridgeSystem) -> bool:
        return isinstance(system, Bridge)

    def run(self, system: BridgeSystem, folder: Path, seconds: float) -> Figures:
        (port,) = free_ports(1)
        with stage(folder) as on, pulling() as (pull, sink):
            system.start(on, port, sink)
            began, got = time.monotonic(), 0
            for number in range(CONNECTS):
                with socket.create_connection(("127.0.0.1", port), 10) as device:
                    device.sendall(b"here\n")
                if number % 100 == 0:
                    got += take(pull)
            while got < CONNECTS:
                if not pull.poll(5000):
                    raise MeasureError(f"{system.name}: {CONNECTS} devices said a line, {got} lines came")
                got += take(pull)
            return {"opened_s": CONNECTS / (time.monotonic() - began)}


@dataclass(frozen=True)
class IdleConnections:
    """10,000 connections that say nothing: what each costs in memory, and what all of them cost in CPU time."""

    name: str = "bridge, 10,000 idle"

    def runs_on(self, system: BridgeSystem) -> bool:
        return isinstance(system, Bridge)

    def run(self, system: BridgeSystem, folder: Path, seconds: float) -> Figures:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if hard < IDLE + 200:
            raise MeasureError(f"{IDLE} connections need as many descriptors; the limit here is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        (port,) = free_ports(1)
        with stage(folder) as on, pulling() as (pull, sink), ExitStack() as held:
            process = system.start(on, port, sink)
            before = process.memory_mb()
            began = time.monotonic()
            devices = [held.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(IDLE)]
            opened_s = IDLE / (time.monotonic() - began)
            answer(devices[-1], pull)
            grown = process.memory_mb() - before
            process.wait_until_idle()
            cpu, began = process.cpu_s(), time.monotonic()
            time.sleep(WATCH_S)
            percent = (process.cpu_s() - cpu) / (time.monotonic() - began) * 100
            answer(devices[0], pull)
            return {"kb_each": grown * 1000 / IDLE, "cpu_percent": percent, "opened_s": opened_s}


@dataclass(frozen=True)
class Requests:
    """device ─ tcp-server ─ 0MQ ─ tcp-client ─ an echo: lines of 64 bytes, as many under way as both bridges let."""

    name: str = "bridges back to back"

    def runs_on(self, system: BridgeSystem) -> bool:
        return isinstance(system, Bridge)

    def run(self, system: BridgeSystem, folder: Path, seconds: float) -> Figures:
        port, between = free_ports(2)
        question = b"x" * 63 + b"\n"
        with stage(folder) as on:
            lines = [
                *NO_TUNNEL,
                "bridges:",
                "  asks:",
                "    side: plant",
                "    kind: tcp-server",
                f"    listen: tcp://127.0.0.1:{port}",
                f"    zmq: DEALER connect tcp://127.0.0.1:{between}",
                "  answers:",
                "    side: plant",
                "    kind: tcp-client",
                f"    connect: {on.enter(echoing())}",
                f"    zmq: REP bind tcp://127.0.0.1:{between}",
            ]
            on.enter(bridges_of(on.folder / fresh_name(), lines))
            wait_for_port(port)
            with socket.create_connection(("127.0.0.1", port), 10) as device:
                device.sendall(question)
                answers = device.makefile("rb")
                if answers.readline() != question:
                    raise MeasureError("a question was not answered")
                began, asked, got = time.monotonic(), 0, 0
                while time.monotonic() - began < seconds or got < asked:
                    if time.monotonic() - began < seconds and asked - got < 4096:
                        device.sendall(question * 256)
                        asked += 256
                    got += sum(answers.readline() == question for _ in range(min(256, asked - got)))
                return {"rate": got / (time.monotonic() - began)}


def answer(device: socket.socket, pull: zmq.Socket[bytes]) -> None:
    device.sendall(b"here\n")
    if not pull.poll(10_000) or pull.recv() != b"here":
        raise MeasureError("a connection was not served")


SCENARIOS = (
    Lines("bridge lines", 1),
    Lines("bridge lines, 100 connections", 100),
    Connects(),
    IdleConnections(),
    Requests(),
)
TARGETS = (
    Target("bridge lines", "1 KiB lines to PUSH, 1 connection", "rate", False, 150_000, at_least=True, ours="bridge"),
    Target(
        "bridge lines, 100 connections",
        "1 KiB lines to PUSH, 100 connections",
        "rate",
        False,
        120_000,  # the sum is within 20 % of what one connection must reach
        at_least=True,
        ours="bridge",
    ),
    Target("bridges back to back", "requests a second", "rate", False, 10_000, at_least=True, ours="bridge"),
    Target("bridge connects", "connects a second", "opened_s", False, 2000, at_least=True, ours="bridge"),
    Target("bridge, 10,000 idle", "10,000 idle, KB each", "kb_each", False, 32, ours="bridge"),
    Target("bridge, 10,000 idle", "10,000 idle, CPU %", "cpu_percent", False, 2, ours="bridge"),
)


def pour(port: int, count: int, seconds: float) -> int:
    """The devices' process: lines written."""
    data = LINE * 64
    with ExitStack() as held, selectors.DefaultSelector() as ready:
        left: dict[socket.socket, memoryview] = {}
        for _ in range(count):
            device = held.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            left[device] = memoryview(data)
            ready.register(device, selectors.EVENT_WRITE)
        print("connected", flush=True)
        sys.stdin.readline()
        for device in left:
            device.setblocking(False)
        end, sent = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            for key, _ in ready.select():
                device = key.fileobj
                assert isinstance(device, socket.socket)
                size = device.send(left[device])
                sent += size
                left[device] = left[device][size:] or memoryview(data)
        for device, rest in left.items():
            device.setblocking(True)
            whole = rest[: len(rest) % len(LINE)]
            device.sendall(whole)
            sent += len(whole)
    return sent // len(LINE)


if __name__ == "__main__":
    print(json.dumps({"lines": pour(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))}), flush=True)
