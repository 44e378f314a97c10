"""The three systems that are compared: each joins a client to a service, and says which processes stand between.

    ztunnel   client ─ device ══ one CURVE link ══ device ─ service
    proxies   client ─ zmq_proxy ══ a CURVE hop ══ zmq_proxy ─ service
    direct    client ══ CURVE ══ service

The link and the hop are dialled from the service's side, as through a firewall. Legs to client and service are plain
TCP on loopback.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import zmq

from benchmarks import natives
from benchmarks.process import Process, wait_for_socket
from demo.ports import free_ports

if TYPE_CHECKING:
    from tunnel.config.plan import Plan

Pattern = Literal["pipeline", "reqrep", "pubsub", "pair"]
Routes = Mapping[str, tuple[Pattern, str]]
"""Route name → pattern, and how the far half meets the service: `connect ENDPOINT` or `bind ENDPOINT`."""
ANY_PORT = "tcp://127.0.0.1:*"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Joined:
    """What stands between clients and services: per route the client's arguments, and the two halves' processes."""

    clients: dict[str, list[str]]
    halves: list[Process] = field(default_factory=list)


class System(Protocol):
    """One way to join clients to services."""

    name: str

    def service_arguments(self) -> list[str]:
        """Arguments for the program at the service's end."""

    def join(self, folder: Path, routes: Routes) -> AbstractContextManager[Joined]:
        """A context in which each route's client reaches its service's endpoint."""


def key_pair() -> tuple[str, str]:
    """A fresh CURVE pair: public, secret."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


class Direct:
    """(b): a CURVE socket at each end."""

    name = "direct"

    def __init__(self) -> None:
        self._server, self._client = key_pair(), key_pair()

    def service_arguments(self) -> list[str]:
        return [f"server_secret={self._server[1]}"]

    @contextmanager
    def join(self, folder: Path, routes: Routes) -> Iterator[Joined]:
        curve = [f"server_key={self._server[0]}", f"public={self._client[0]}", f"secret={self._client[1]}"]
        yield Joined({name: [f"connect={end.split()[1]}", *curve] for name, (_, end) in routes.items()})


class Proxies:
    """(a): two zmq_proxy in C, one pair of processes a route, CURVE on the hop between."""

    name = "proxies"

    def service_arguments(self) -> list[str]:
        return []

    @contextmanager
    def join(self, folder: Path, routes: Routes) -> Iterator[Joined]:
        with ExitStack() as stack:
            joined = Joined({}, [])
            for name, (pattern, end) in routes.items():
                near, far, entry = self._pair(folder, pattern, end)
                joined.halves.extend((stack.enter_context(near), stack.enter_context(far)))
                joined.clients[name] = [f"connect={entry}"]
            yield joined

    def _pair(self, folder: Path, pattern: Pattern, end: str) -> tuple[Process, Process, str]:
        server, client = key_pair(), key_pair()
        curve = [f"front_server_key={server[0]}", f"front_public={client[0]}", f"front_secret={client[1]}"]
        listening = [f"front_bind={ANY_PORT}", f"back_bind={ANY_PORT}", f"back_server_secret={server[1]}"]
        near = Process("near half", natives.command("half", f"pattern={pattern}", *listening), folder)
        entry = near.line("bound front_ ").split()[-1]
        hop = near.line("bound back_ ").split()[-1]
        dialling = [f"front_connect={hop}", *curve, f"back_{end.replace(' ', '=')}"]
        far = Process("far half", natives.command("half", f"pattern={pattern}", *dialling), folder)
        return near, far, entry


class Ztunnel:
    """Both halves as real device processes from one table: CURVE link, `confirmed`, defaults everywhere else."""

    name = "ztunnel"

    def __init__(self, sndbuf: str | None = None) -> None:
        self._sndbuf = sndbuf

    def service_arguments(self) -> list[str]:
        return []

    @contextmanager
    def join(self, folder: Path, routes: Routes) -> Iterator[Joined]:
        link, *entries = free_ports(1 + len(routes))
        address = f"tcp://127.0.0.1:{link}"
        lines = ["links:", f"  - listen: dmz {address}", f"    dial: plant {address}", "routes:"]
        if self._sndbuf:
            lines = ["defaults:", f"  sndbuf: {self._sndbuf}", *lines]
        clients = {}
        for entry, (name, (pattern, end)) in zip(entries, routes.items(), strict=True):
            lines += [
                f"  {name}:",
                f"    pattern: {pattern}",
                f"    from: dmz bind tcp://127.0.0.1:{entry}",
                f"    to: plant {end}",
                "    delivery: confirmed",
                *(["    max_age: never"] if pattern in ("reqrep", "pair") else []),
            ]
            clients[name] = [f"connect=tcp://127.0.0.1:{entry}"]
        with halves_of(folder / fresh_name(), lines) as halves:
            yield Joined(clients, halves)


def fresh_name() -> str:
    """A table's name that no other one has."""
    return f"bench-{os.getpid()}-{next(_numbers)}"


class _Table:
    """A table with its keys; `lines`: links and routes. The processes of its sides."""

    def __init__(self, home: Path, lines: list[str], stack: ExitStack) -> None:
        from tunnel.keys import write_pair

        for side in ("dmz", "plant"):
            write_pair(home / "keys", side)
        sides = ["sides:", "  dmz:", "    key: keys/dmz.key", "  plant:", "    key: keys/plant.key"]
        self._home, self._stack = home, stack
        self._path = home / "bench.yaml"
        self._path.write_text("\n".join(["version: 1", f"name: {home.name}", *sides, *lines]) + "\n")

    def plan(self, side: str) -> Plan:
        from tunnel.config import read_plan

        plan = read_plan(self._path, side)
        self._stack.callback(shutil.rmtree, plan.runtime_dir, ignore_errors=True)
        return plan

    def device(self, side: str) -> Process:
        return self._start(f"{side} half", side, "tunnel.device")

    def carrier(self, side: str, name: str) -> Process:
        return self._start(name, side, "tunnel.carriers.process", "--carrier", name)

    def bridge(self, side: str, name: str) -> Process:
        return self._start(name, side, "bridges.process", "--bridge", name)

    def _start(self, name: str, side: str, module: str, *more: str) -> Process:
        command = [sys.executable, "-m", module, str(self._path), "--as", side, *more]
        process = Process(name, command, self._home, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        self._stack.callback(process.end, gently_s=8.0)
        return process


@contextmanager
def halves_of(home: Path, lines: list[str]) -> Iterator[list[Process]]:
    """The devices of the sides dmz and plant, and their carriers where links have some; `lines`: links and routes."""
    with ExitStack() as stack:
        table, halves = _Table(home, lines, stack), []
        for side in ("dmz", "plant"):
            plan = table.plan(side)
            halves.append(table.device(side))
            halves += [table.carrier(side, carrier.name) for carrier in plan.carriers]
        yield halves


@contextmanager
def carrier_of(home: Path, lines: list[str]) -> Iterator[tuple[Path, Process]]:
    """The one carrier of the side plant, without a device: the socket that it takes connections at, and it."""
    with ExitStack() as stack:
        table = _Table(home, lines, stack)
        plan = table.plan("plant")
        (carrier,) = plan.carriers
        carrier.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        process = table.carrier("plant", carrier.name)
        wait_for_socket(carrier.socket)
        yield carrier.socket, process


@contextmanager
def bridges_of(home: Path, lines: list[str]) -> Iterator[dict[str, Process]]:
    """The bridges of the side plant, by name, without a device."""
    with ExitStack() as stack:
        table = _Table(home, lines, stack)
        yield {bridge.name: table.bridge("plant", bridge.name) for bridge in table.plan("plant").bridges}


ALL: tuple[System, ...] = (Ztunnel(), Proxies(), Direct())
