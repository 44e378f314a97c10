"""What a spool carries: 1 KiB messages into the file and out of it again, by one loop and the spool's own thread.

    python -m benchmarks.spool [--folder DIR] [--rounds 5] [--messages 200000]

Rows of one message, put one by one from the loop, and rows that are batches of 256 KiB; replay of both; and the time
from `put` to `on_durable` of a row that comes alone. The last line puts while the loop's thread is busy with Python
for 2.5 ms in every turn, as a loaded process is. Medians; the folder's file system is named, for it decides.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tunnel.limits import BATCH_BYTES, KIB, MIB
from tunnel.reactor import run
from tunnel.spool import Row, Spool

FRAME = KIB.to_bytes(4, "little") + os.urandom(KIB)
PER_BATCH = BATCH_BYTES // len(FRAME)


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


def median(folder: Path, rounds: int, once: Callable[[Path], Coroutine[Any, Any, tuple[float, float]]]) -> list[float]:
    results = []
    for _ in range(rounds):
        fresh = Path(tempfile.mkdtemp(dir=folder))
        try:
            results.append(run(once(fresh)))
        finally:
            shutil.rmtree(fresh)
    return [statistics.median(values) for values in zip(*results, strict=True)]


def file_system(folder: Path) -> str:
    """The type and the device of the mount that the folder is in, after /proc/mounts."""
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [(len(at), kind, device) for device, at, kind in mounts if folder.resolve().is_relative_to(at)]
    _, kind, device = max(inside)
    return f"{kind} on {device}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=200_000)
    given = parser.parse_args()
    print(f"{given.folder}: {file_system(given.folder)}; medians of {given.rounds}")
    p50, p99 = median(given.folder, given.rounds, lambda folder: alone(folder, 300))
    print(f"{'one row alone, put to durable':40} p50 {p50:.2f} ms   p99 {p99:.2f} ms")
    for name, per_row, busy_s in (
        ("1 KiB messages, a row each", 1, 0.0),
        ("1 KiB messages, 256 KiB a row", PER_BATCH, 0.0),
        ("1 KiB messages, a row each, busy loop", 1, 0.0025),
    ):
        into, out = median(
            given.folder,
            given.rounds,
            lambda folder, per_row=per_row, busy_s=busy_s: throughput(folder, per_row, given.messages, busy_s),  # type: ignore[misc]
        )
        print(f"{name:40} put {into:10,.0f}/s   replay {out:10,.0f}/s")


if __name__ == "__main__":
    main()
