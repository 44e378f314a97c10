"""Streams and carriers: bytes and 0MQ connections through a stream route, beside the same through `ssh -L`.

    stream     client ─ device ══ one CURVE link over TCP ══ device ─ service
    ssh -L     client ─ ssh ══ one SSH connection ══ sshd ─ service
    CURVE      client ─ a C program ══ 0MQ with CURVE ══ a C program ─ service: the floor, without any promise
    carriers   as stream, the link carried inside SSH (paramiko, openssh) or HTTP (websocket, long-poll)
    alone      client ─ the SSH carrier ══ sshd ─ service: the carrier's own part, without devices and without CURVE

Everything is on loopback, with a real sshd. The link is dialled from the service's side; ssh from the client's.
"""

from __future__ import annotations

import selectors
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks import nginx, sshd
from benchmarks.process import MeasureError, Process, wait_for_port
from benchmarks.report import Target
from benchmarks.scenarios import Figures, Stage, cpu, peak_mb, stage
from benchmarks.systems import ANY_PORT, Joined, carrier_of, fresh_name, halves_of, key_pair
from demo.ports import free_ports

GB = 1e9
MANY = 1000
FEW = "hwm=8"
"""Messages that wait in the floor's sockets: 2 MiB, as a fresh lane's credit."""
NO_ROUTE = ["routes:", "  none:", "    pattern: pipeline", "    from: dmz bind local", "    to: plant bind local"]


class StreamSystem(Protocol):
    """One way to join TCP clients to TCP services."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """As the report calls it."""

    def join(self, on: Stage, targets: Mapping[str, str]) -> Joined:
        """Each target's client arguments, and the processes between. `targets`: name → tcp://127.0.0.1:PORT."""


class SshForward:
    """The system's ssh and sshd, a local forward for each target, without compression."""

    name = title = "ssh -L"

    def join(self, on: Stage, targets: Mapping[str, str]) -> Joined:
        server = on.enter(sshd.running(on.folder))
        ports = free_ports(len(targets))
        forwards = [
            f"-L127.0.0.1:{port}:{to.removeprefix('tcp://')}" for port, to in zip(ports, targets.values(), strict=True)
        ]
        on.enter(Process("ssh", [*server.command, "-N", "-oExitOnForwardFailure=yes", *forwards], on.folder))
        for port in ports:
            wait_for_port(port)
        clients = {name: [f"connect=tcp://127.0.0.1:{port}"] for name, port in zip(targets, ports, strict=True)}
        return Joined(clients)  # sshd's part is done by a child of its own: neither is weighed


class Curve:
    """Two C programs with a CURVE hop between, one connection; what is beyond it, no tunnel over 0MQ can reach."""

    name = "curve"
    title = "CURVE alone"

    def join(self, on: Stage, targets: Mapping[str, str]) -> Joined:
        clients, halves = {}, []
        for name, to in targets.items():
            server, client = key_pair(), key_pair()
            curve = [f"server_key={server[0]}", f"public={client[0]}", f"secret={client[1]}"]
            near = on.start("bytes", f"bind={ANY_PORT}", f"server_secret={server[1]}", FEW)
            hop = near.line("bound ").split()[-1]
            clients[name] = [f"connect={near.line('listening ').split()[-1]}"]
            far = on.start("bytes", f"connect={hop}", f"target={to.rpartition(':')[2]}", FEW, *curve)
            halves += [near, far]
        return Joined(clients, halves)


@dataclass(frozen=True)
class CarrierAlone:
    """The SSH carrier's process, as the device meets it: a connection to its socket becomes one to the service."""

    name: str
    title: str
    backend: str

    def join(self, on: Stage, targets: Mapping[str, str]) -> Joined:
        ((name, to),) = targets.items()
        socket, carrier = on.enter(carrier_of(on.folder / fresh_name(), [*ssh_links(on, self.backend, to), *NO_ROUTE]))
        return Joined({name: [f"connect=ipc://{socket}"]}, [carrier])


@dataclass(frozen=True)
class Tunnel:
    """Two devices and, where the link has one, its carriers' processes."""

    name: str
    title: str
    link: str

    def join(self, on: Stage, targets: Mapping[str, str]) -> Joined:
        home = on.folder / fresh_name()
        entries = dict(zip(targets, free_ports(len(targets)), strict=True))
        lines = [*self._links(on), "routes:"]
        for name, to in targets.items():
            lines += [f"  {name}:", "    pattern: stream", f"    from: dmz bind tcp://127.0.0.1:{entries[name]}"]
            lines += [f"    to: plant connect {to}", "    connections: 2000"]
        halves = on.enter(halves_of(home, lines))
        for port in entries.values():
            wait_for_port(port)
        return Joined({name: [f"connect=tcp://127.0.0.1:{port}"] for name, port in entries.items()}, halves)

    def _links(self, on: Stage) -> list[str]:
        (port,) = free_ports(1)
        if self.link in ("http", "long-poll"):
            dialled = on.enter(nginx.no_upgrades(on.folder, port)) if self.link == "long-poll" else port
            ends = f"  - listen: dmz http://127.0.0.1:{port}/link", f"    dial: plant http://127.0.0.1:{dialled}/link"
            return ["links:", *ends]
        listen = f"tcp://127.0.0.1:{port}"
        if self.link == "tcp":
            return ["links:", f"  - listen: dmz {listen}", f"    dial: plant {listen}"]
        return ssh_links(on, self.link, listen)


def ssh_links(on: Stage, backend: str, listen: str) -> list[str]:
    """A link to `listen` through a sshd of its own."""
    server = on.enter(sshd.running(on.folder))
    return [
        "links:",
        f"  - listen: dmz {listen}",
        "    dial:",
        "      side: plant",
        f"      address: ssh://{server.user}@127.0.0.1:{server.port}/{listen.removeprefix('tcp://')}",
        "      ssh:",
        f"        backend: {backend}",
        f"        identity: {server.identity}",
        f"        known_hosts: {server.known_hosts}",
    ]


SYSTEMS: tuple[StreamSystem, ...] = (
    Tunnel("stream", "stream", "tcp"),
    SshForward(),
    Curve(),
    CarrierAlone("paramiko alone", "paramiko alone", "paramiko"),
    CarrierAlone("openssh alone", "openssh alone", "openssh"),
    Tunnel("paramiko", "in SSH, paramiko", "paramiko"),
    Tunnel("openssh", "in SSH, openssh", "openssh"),
    Tunnel("websocket", "in HTTP, WebSocket", "http"),
    Tunnel("long-poll", "in HTTP, long-poll", "long-poll"),
)


@dataclass(frozen=True)
class Bulk:
    """Bytes one way, as fast as they go; every byte is counted at both ends."""

    name: str
    connections: int
    carriers: bool = False
    """On the carriers too."""

    def runs_on(self, system: StreamSystem) -> bool:
        return self.carriers or system.name in ("stream", "ssh -L")

    def run(self, system: StreamSystem, folder: Path, seconds: float) -> Figures:
        with stage(folder) as on:
            many = f"connections={self.connections}"
            sink = on.start("sink", many)
            joined = system.join(on, {"bulk": sink.line("bound ").split()[-1]})
            source = on.start("source", *joined.clients["bulk"], many, f"seconds={seconds}")
            sink.line("probe")
            before = cpu(joined.halves)
            source.go()
            came, sent = sink.result(seconds + 60), source.result(seconds + 60)
            if came["bytes"] != sent["bytes"]:
                raise MeasureError(
                    f"{system.name}, {self.name}: {sent['bytes']} bytes went in, {came['bytes']} came out"
                )
            figures = {"mb_s": came["bytes"] / came["seconds"] / 1e6, **peak_mb(joined.halves)}
            if joined.halves:
                figures["cpu_gb_s"] = (cpu(joined.halves) - before) / (came["bytes"] / GB)
            return figures


@dataclass(frozen=True)
class Messages:
    """PUSH → PULL, the 0MQ connection itself being carried."""

    name: str
    size: int

    def runs_on(self, system: StreamSystem) -> bool:
        return system.name in ("stream", "ssh -L", "curve")

    def run(self, system: StreamSystem, folder: Path, seconds: float) -> Figures:
        with stage(folder) as on:
            receiver = on.start("receiver", f"bind={ANY_PORT}", f"size={self.size}")
            joined = system.join(on, {"tasks": receiver.line("bound ").split()[-1]})
            sender = on.start("sender", *joined.clients["tasks"], f"size={self.size}", f"seconds={seconds}")
            receiver.line("probe")
            sender.go()
            result = receiver.result(seconds + 60)
            if result["lost"] or result["repeated"] or result["damaged"]:
                raise MeasureError(f"{system.name}, {self.name}: messages were lost, repeated or damaged: {result}")
            return {"rate": (result["messages"] - 1) / result["seconds"]}


@dataclass(frozen=True)
class RoundTrip:
    """REQ → REP, the 0MQ connection itself being carried."""

    name: str = "stream round trip"

    def runs_on(self, system: StreamSystem) -> bool:
        return system.name in ("stream", "ssh -L", "curve")

    def run(self, system: StreamSystem, folder: Path, seconds: float) -> Figures:
        with stage(folder) as on:
            replier = on.start("replier", f"bind={ANY_PORT}")
            joined = system.join(on, {"orders": replier.line("bound ").split()[-1]})
            requester = on.start("requester", *joined.clients["orders"], f"seconds={seconds}")
            requester.line("probe")
            requester.go()
            result = requester.result()
            return {"p50_us": result["p50_us"], "p99_us": result["p99_us"]}


@dataclass(frozen=True)
class Many:
    """A thousand connections at a time: opened one after the other, each answered, then all still served."""

    name: str = "1,000 connections"

    def runs_on(self, system: StreamSystem) -> bool:
        return system.name == "stream"

    def run(self, system: StreamSystem, folder: Path, seconds: float) -> Figures:
        with stage(folder) as on:
            target = on.enter(echoing())
            joined = system.join(on, {"echo": target})
            port = int(joined.clients["echo"][0].rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), 10) as first:
                answer(first)
            before = [half.memory_mb() for half in joined.halves]
            began = time.monotonic()
            clients = [on.enter(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(MANY)]
            for client in clients:
                client.sendall(b"?")
            for client in clients:
                if client.recv(1) != b"?":
                    raise MeasureError(f"{system.name}: a connection was not served")
            opened_s = time.monotonic() - began
            for client in clients:
                answer(client)
            grown = [half.memory_mb() - was for half, was in zip(joined.halves, before, strict=True)]
            return {"opened_s": MANY / opened_s, "kb_each": max(grown) * 1000 / MANY}


SCENARIOS = (
    Bulk("stream bulk", 1, carriers=True),
    Bulk("stream bulk, 8 connections", 8),
    Messages("0MQ in a stream, 64 B", 64),
    Messages("0MQ in a stream, 1 KiB", 1024),
    RoundTrip(),
    Many(),
)


def against_ssh(
    scenario: str, says: str, figure: str, must: float, *, ours: str = "stream", at_least: bool = True
) -> Target:
    return Target(scenario, f"{says} / ssh -L", figure, True, must, at_least=at_least, ours=ours, base="ssh -L")


TARGETS = (
    against_ssh("stream bulk", "bulk, 1 connection, stream", "mb_s", 1.1),
    against_ssh("stream bulk, 8 connections", "bulk, 8 connections, stream", "mb_s", 1.1),
    against_ssh("0MQ in a stream, 64 B", "PUSH to PULL 64 B, stream", "rate", 0.6),
    against_ssh("0MQ in a stream, 1 KiB", "PUSH to PULL 1 KiB, stream", "rate", 1.2),
    against_ssh("stream round trip", "round trip p50, stream", "p50_us", 2.0, at_least=False),
    Target("1,000 connections", "connections opened a second", "opened_s", False, 500, at_least=True, ours="stream"),
    Target("1,000 connections", "KB resident each, at a half", "kb_each", False, 64, ours="stream"),
    against_ssh("stream bulk", "bulk, the SSH carrier, paramiko", "mb_s", 0.5, ours="paramiko alone"),
    against_ssh("stream bulk", "bulk, the SSH carrier, openssh", "mb_s", 0.9, ours="openssh alone"),
    Target(
        "stream bulk",
        "bulk, link in a WebSocket / over TCP",
        "mb_s",
        True,
        0.6,
        at_least=True,
        ours="websocket",
        base="stream",
    ),
)


def answer(client: socket.socket) -> None:
    """One byte there and back."""
    client.sendall(b"?")
    if client.recv(1) != b"?":
        raise MeasureError("a connection was not served")


@contextmanager
def echoing() -> Iterator[str]:
    """A service that sends back what it gets, on as many connections as there are; gives its address."""
    port = socket.create_server(("127.0.0.1", 0), backlog=1024)
    stop, stopped = socket.socketpair()
    with ExitStack() as stack, selectors.DefaultSelector() as ready:
        for own in (port, stop, stopped):
            stack.enter_context(own)
        ready.register(port, selectors.EVENT_READ)
        ready.register(stopped, selectors.EVENT_READ)

        def serve() -> None:
            while True:
                for key, _ in ready.select():
                    if key.fileobj is stopped:
                        return
                    if key.fileobj is port:
                        ready.register(stack.enter_context(port.accept()[0]), selectors.EVENT_READ)
                        continue
                    assert isinstance(key.fileobj, socket.socket)
                    data = key.fileobj.recv(4096)
                    if data:
                        key.fileobj.sendall(data)
                    else:
                        ready.unregister(key.fileobj)
                        key.fileobj.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{port.getsockname()[1]}"
        finally:
            stop.close()
            thread.join()


def missing() -> str:
    """Why the streams cannot be measured here, or nothing."""
    return "" if shutil.which("ssh") and sshd.program() else "sshd is not installed (apt-get install openssh-server)"
