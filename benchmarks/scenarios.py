"""What is measured, as one visible list. A scenario measures one system once and returns named figures.

Figures: `rate` messages/s, `p50_us` and `p99_us` of a round trip, `cpu_s` CPU seconds of the halves per million
messages, `cpu_all_s` the same with client and service, `memory_mb` the larger half at its peak.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from benchmarks import natives
from benchmarks.process import MeasureError, Process
from benchmarks.systems import ANY_PORT, Joined, Pattern, Routes, System, Ztunnel
from demo.ports import free_ports

KIB, MIB = 1024, 1024 * 1024
Figures = dict[str, float]
T = TypeVar("T")


class Scenario(Protocol):
    """One measurement."""

    @property
    def name(self) -> str: ...

    def runs_on(self, system: System) -> bool:
        """Whether the measurement says anything about this system."""

    def run(self, system: System, folder: Path, seconds: float) -> Figures:
        """Measures once, with fresh processes, for about so many seconds."""


class Stage:
    """Starts the processes of one measurement and ends them all."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack

    def service(self, name: str, system: System, *arguments: str) -> tuple[Process, str]:
        """A program that binds, and how the far half meets it."""
        process = self.start(name, f"bind={ANY_PORT}", *system.service_arguments(), *arguments)
        return process, "connect " + process.line("bound ").split()[-1]

    def start(self, name: str, *arguments: str) -> Process:
        return self._stack.enter_context(Process(name, natives.command(name, *arguments), self.folder))

    def join(self, system: System, routes: Routes) -> Joined:
        return self.enter(system.join(self.folder, routes))

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Enter a context that is left when the stage is cleared."""
        return self._stack.enter_context(context)


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A stage that is cleared at the end."""
    with ExitStack() as stack:
        yield Stage(folder, stack)


def cpu(processes: Sequence[Process]) -> float:
    """CPU seconds of several processes so far."""
    return sum(process.cpu_s() for process in processes)


def peak_mb(halves: Sequence[Process]) -> Figures:
    """The larger half's memory; nothing where there are no halves."""
    return {"memory_mb": max(half.memory_mb(peak=True) for half in halves)} if halves else {}


@dataclass(frozen=True)
class Throughput:
    """PUSH → PULL as fast as it goes; every message is numbered and checked at the end of the path.

    `longer`: so many times the seconds asked for. A proxy's queue takes a thousand messages; of 1 MiB that is as much
    as crosses in a second, and it empties when the sender has stopped and left its CPU time to the rest. A short
    measurement is one of that queue, more than of the path.
    """

    name: str
    size: int
    longer: float = 1.0

    def runs_on(self, system: System) -> bool:
        return True

    def run(self, system: System, folder: Path, seconds: float) -> Figures:
        seconds *= self.longer
        with stage(folder) as on:
            receiver, tasks = on.service("receiver", system, f"size={self.size}")
            joined = on.join(system, {"tasks": ("pipeline", tasks)})
            sender = on.start("sender", *joined.clients["tasks"], f"size={self.size}", f"seconds={seconds}")
            receiver.line("probe")
            # The client and the service end by themselves, so they are weighed for as long as messages arrive.
            halves_before = cpu(joined.halves)
            sender.go()
            time.sleep(seconds * 0.5)
            ends_before, ends_from = cpu([sender, receiver]), time.monotonic()
            time.sleep(seconds * 0.4)
            ends_share = (cpu([sender, receiver]) - ends_before) / (time.monotonic() - ends_from)
            result = receiver.result(timeout_s=seconds + 60)
            halves = cpu(joined.halves) - halves_before
            if result["lost"] or result["repeated"] or result["damaged"]:
                raise MeasureError(f"{system.name}, {self.name}: messages were lost, repeated or damaged: {result}")
            millions = result["messages"] / 1e6
            figures = {"rate": (result["messages"] - 1) / result["seconds"], **peak_mb(joined.halves)}
            figures["cpu_all_s"] = (halves + ends_share * result["seconds"]) / millions
            if joined.halves:
                figures["cpu_s"] = halves / millions
            return figures


@dataclass(frozen=True)
class RoundTrip:
    """REQ → REP, one request after the other, 64 bytes."""

    name: str = "round trip"

    def runs_on(self, system: System) -> bool:
        return True

    def run(self, system: System, folder: Path, seconds: float) -> Figures:
        with stage(folder) as on:
            _, orders = on.service("replier", system)
            joined = on.join(system, {"orders": ("reqrep", orders)})
            requester = on.start("requester", *joined.clients["orders"], f"seconds={seconds}")
            requester.line("probe")
            before = cpu(joined.halves)
            requester.go()
            result = requester.result()
            figures = {"p50_us": result["p50_us"], "p99_us": result["p99_us"], **peak_mb(joined.halves)}
            if joined.halves:
                figures["cpu_s"] = (cpu(joined.halves) - before) / result["round_trips"] * 1e6
            return figures


@dataclass(frozen=True)
class Idle:
    """Four routes, a request pending and nobody there to answer it: what the halves burn, and how large they are.

    The far end of the requests is bound and nobody has connected to it: the case in which zmq_proxy spins.
    """

    name: str = "idle"
    watch_s: float = 5.0

    def runs_on(self, system: System) -> bool:
        return system.name != "direct"

    def run(self, system: System, folder: Path, seconds: float) -> Figures:
        nobody, nobody_else, nobody_either = (f"tcp://127.0.0.1:{port}" for port in free_ports(3))
        with stage(folder) as on:
            receiver, tasks = on.service("receiver", system)
            routes: dict[str, tuple[Pattern, str]] = {
                "orders": ("reqrep", f"bind {nobody}"),
                "tasks": ("pipeline", tasks),
            }
            if isinstance(system, Ztunnel):
                routes |= {"ticks": ("pubsub", f"connect {nobody_else}"), "chat": ("pair", f"connect {nobody_either}")}
            joined = on.join(system, routes)
            on.start("sender", *joined.clients["tasks"])
            receiver.line("probe")
            on.start("requester", *joined.clients["orders"])
            time.sleep(2)
            before, start = [half.cpu_s() for half in joined.halves], time.monotonic()
            time.sleep(self.watch_s)
            taken = time.monotonic() - start
            burnt = [(half.cpu_s() - then) / taken * 100 for half, then in zip(joined.halves, before, strict=True)]
            return {"cpu_percent": max(burnt), "memory_mb": max(half.memory_mb() for half in joined.halves)}


@dataclass(frozen=True)
class StoppedConsumer:
    """One route's consumer stands still under load (SIGSTOP): what the requests of another route notice of it."""

    name: str
    size: int

    def runs_on(self, system: System) -> bool:
        return isinstance(system, Ztunnel)

    def run(self, system: System, folder: Path, seconds: float) -> Figures:
        with stage(folder) as on:
            receiver, tasks = on.service("receiver", system, f"size={self.size}")
            _, orders = on.service("replier", system)
            joined = on.join(system, {"tasks": ("pipeline", tasks), "orders": ("reqrep", orders)})
            requester = on.start("requester", *joined.clients["orders"], f"seconds={seconds}")
            sender = on.start("sender", *joined.clients["tasks"], f"size={self.size}", "seconds=0")
            receiver.line("probe")
            requester.line("probe")
            requester.go()
            calm = requester.result()
            receiver.pause()
            sender.go()
            sender.wait_until_idle()
            requester.go()
            held = requester.result()
            return {
                "calm_p99_us": calm["p99_us"],
                "held_p99_us": held["p99_us"],
                "p99_ratio": held["p99_us"] / calm["p99_us"],
                **peak_mb(joined.halves),
            }


ALL: tuple[Scenario, ...] = (
    Throughput("throughput 64 B", 64),
    Throughput("throughput 1 KiB", KIB),
    Throughput("throughput 64 KiB", 64 * KIB),
    Throughput("throughput 1 MiB", MIB, longer=4.0),
    RoundTrip(),
    Idle(),
    StoppedConsumer("stopped consumer", KIB),
    StoppedConsumer("stopped consumer 64 KiB", 64 * KIB),
    StoppedConsumer("stopped consumer 1 MiB", MIB),
)
