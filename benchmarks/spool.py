"""What a spool carries: 1 KiB messages into the file and out of it again, by one loop and the spool's own thread.

Rows of one message, put one by one from the loop, and rows that are batches of 256 KiB; replay of both; a loop whose
thread is busy with Python for 2.5 ms in every turn, as a loaded process is; and the time from `put` to `on_durable` of
a row that comes alone. On /var/tmp: its file system is named, for it decides.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Target
from benchmarks.scenarios import Figures
from tunnel.limits import BATCH_BYTES, KIB, MIB
from tunnel.reactor import run
from tunnel.spool import Row, Spool

FRAME = KIB.to_bytes(4, "little") + os.urandom(KIB)
PER_BATCH = BATCH_BYTES // len(FRAME)
FOLDER = Path("/var/tmp")
"""On disk, where /tmp may be memory."""
MESSAGES = 100_000
"""For each second that a measurement may take."""
ROWS_ALONE = 300


class Load:
    """Puts rows whenever there is room, a few hundred a turn, until `messages` are durable."""

    def __init__(self, folder: Path, per_row: int, messages: int, busy_s: float = 0.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.per_row = per_row
        self.rows = messages // per_row
        self.busy_s = busy_s
        self.body = FRAME * per_row
        self.done = asyncio.Event()
        self.spool = Spool(
            folder / "bench.spool",
            self.loop.call_soon_threadsafe,
            max_bytes=64 * 1024 * MIB,
            on_durable=self._durable,
            on_room=self._fill,
        )

    async def put_all(self) -> float:
        """Messages a second, from the first put to the last fsync."""
        began = time.perf_counter()
        self._fill()
        await self.done.wait()
        return self.rows * self.per_row / (time.perf_counter() - began)

    def _fill(self) -> None:
        spool, born = self.spool, time.time()
        for _ in range(256):
            if spool.next > self.rows or not spool.has_room:
                return
            spool.put((self.body,), self.per_row, born)
        until = time.perf_counter() + self.busy_s
        while time.perf_counter() < until:
            pass
        self.loop.call_soon(self._fill)

    def _durable(self, number: int) -> None:
        if number >= self.rows:
            self.done.set()

    async def replay(self) -> float:
        began, after, messages = time.perf_counter(), 0, 0
        while rows := await self._read(after):
            messages += sum(row.messages for row in rows)
            after = rows[-1].number
        return messages / (time.perf_counter() - began)

    async def _read(self, after: int) -> list[Row]:
        answer: asyncio.Future[list[Row]] = self.loop.create_future()
        self.spool.read(after, 4 * MIB, answer.set_result)
        return await answer


async def throughput(folder: Path, per_row: int, messages: int, busy_s: float = 0.0) -> tuple[float, float]:
    load = Load(folder, per_row, messages, busy_s)
    into = await load.put_all()
    out = await load.replay()
    load.spool.close()
    return into, out


async def alone(folder: Path, messages: int) -> tuple[float, float]:
    """Milliseconds from put to durable, median and 99th percentile."""
    load = Load(folder, 1, messages)
    took = []
    for number in range(1, messages + 1):
        load.rows = number
        load.done.clear()
        began = time.perf_counter()
        load.spool.put((load.body,), 1, time.time())
        await load.done.wait()
        took.append(1000 * (time.perf_counter() - began))
    load.spool.close()
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


def file_system(folder: Path) -> str:
    """The type and the device of the mount that the folder is in, after /proc/mounts."""
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [(len(at), kind, device) for device, at, kind in mounts if folder.resolve().is_relative_to(at)]
    _, kind, device = max(inside)
    return f"{kind} on {device}"


@dataclass(frozen=True)
class Disk:
    """The one system there is."""

    name: str = "spool"

    @property
    def title(self) -> str:
        return f"spool, {file_system(FOLDER)}"


@dataclass(frozen=True)
class Throughput:
    """Into the file, and out of it."""

    name: str
    per_row: int
    busy_s: float = 0.0

    def runs_on(self, _system: Disk) -> bool:
        return True

    def run(self, _system: Disk, _folder: Path, seconds: float) -> Figures:
        with tempfile.TemporaryDirectory(dir=FOLDER) as fresh:
            into, out = run(throughput(Path(fresh), self.per_row, int(MESSAGES * seconds), self.busy_s))
        return {"put_s": into, "replay_s": out}


@dataclass(frozen=True)
class Alone:
    """One row at a time."""

    name: str = "spool, one row alone"

    def runs_on(self, _system: Disk) -> bool:
        return True

    def run(self, _system: Disk, _folder: Path, _seconds: float) -> Figures:
        with tempfile.TemporaryDirectory(dir=FOLDER) as fresh:
            p50, p99 = run(alone(Path(fresh), ROWS_ALONE))
        return {"p50_us": 1000 * p50, "p99_us": 1000 * p99}


SYSTEMS = (Disk(),)
SCENARIOS = (
    Alone(),
    Throughput("spool, a row each", 1),
    Throughput("spool, 256 KiB a row", PER_BATCH),
    Throughput("spool, a row each, busy loop", 1, 0.0025),
)
TARGETS = (
    Target(
        "spool, a row each", "1 KiB messages a second into disk", "put_s", False, 50_000, at_least=True, ours="spool"
    ),
    Target("spool, a row each", "replayed a second", "replay_s", False, 100_000, at_least=True, ours="spool"),
)
