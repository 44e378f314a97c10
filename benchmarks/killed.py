"""What dies with a consumer, and with the far half, in messages: `.venv/bin/python -m benchmarks.killed`.

The worst case of each: a PULL application stands still until every buffer on the way is full, then it (or the far
half's device) is killed with SIGKILL. Messages are numbered, so what is missing or comes twice afterwards is exact.
Prints a markdown table for docs/guarantees.md.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import zmq

from benchmarks.process import Process
from benchmarks.systems import Ztunnel
from demo.ports import free_ports

SIZES = (64, 2048, 102_400)
QUIET_S = 3.0
"""A sender that could send nothing for this long is blocked; a consumer that got nothing has everything."""


def consume(address: str, told: Connection, hwm: int) -> None:
    """A PULL application: tells every number that it got."""
    socket = zmq.Context().socket(zmq.PULL)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.connect(address)
    for _ in itertools.count():
        told.send_bytes(socket.recv()[:8])


@contextmanager
def consumer(address: str, hwm: int) -> Iterator[tuple[multiprocessing.Process, list[int]]]:
    """A consumer process, and the numbers that it has told so far."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=consume, args=(address, theirs, hwm), daemon=True)
    process.start()
    theirs.close()
    got: list[int] = []

    def listen() -> None:
        try:
            while True:
                got.append(int.from_bytes(ours.recv_bytes(), "little"))
        except EOFError:
            return

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield process, got
    finally:
        process.kill()
        process.join()


class Sender:
    """Numbered messages until it is told to stop; `sent` stands still when everything on the way is full."""

    def __init__(self, address: str, size: int) -> None:
        self.sent = 0
        self._stop = False
        self._thread = threading.Thread(target=self._run, args=(address, size), daemon=True)
        self._thread.start()

    def _run(self, address: str, size: int) -> None:
        socket = zmq.Context.instance().socket(zmq.PUSH)
        socket.setsockopt(zmq.SNDHWM, 10)
        socket.setsockopt(zmq.SNDTIMEO, 100)
        socket.connect(address)
        filling = bytes(size - 8)
        while not self._stop:
            try:
                socket.send(self.sent.to_bytes(8, "little") + filling)
                self.sent += 1
            except zmq.Again:
                continue
        socket.close(linger=30_000)

    def stop(self) -> None:
        self._stop = True
        self._thread.join()


def settled(read: Any) -> None:
    """Wait until `read()` has not changed for QUIET_S."""
    last, since = read(), time.monotonic()
    while time.monotonic() - since < QUIET_S:
        time.sleep(0.05)
        now = read()
        if now != last:
            last, since = now, time.monotonic()


def measure(victim: str, size: int, sndbuf: str | None, folder: Path) -> tuple[int, int]:
    """(lost, repeated) of one kill."""
    (port,) = free_ports(1)
    exit_end = f"tcp://127.0.0.1:{port}"
    with Ztunnel(sndbuf).join(folder, {"tasks": ("pipeline", f"bind {exit_end}")}) as joined:
        far: Process = joined.halves[1]
        with consumer(exit_end, hwm=1) as (process, got):
            sender = Sender(joined.clients["tasks"][0].removeprefix("connect="), size)
            while len(got) < 100:
                time.sleep(0.01)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
            settled(lambda: sender.sent)
            if victim == "consumer":
                process.kill()
                process.join()
                with consumer(exit_end, hwm=1000) as (_, heirs):
                    sender.stop()
                    settled(lambda: len(heirs))
                    numbers = got + heirs
            else:
                far.end()
                replacement = far.again()
                os.kill(process.pid, signal.SIGCONT)
                sender.stop()
                settled(lambda: len(got))
                numbers = list(got)
                replacement.end(gently_s=8.0)
    lost = sender.sent - len(set(numbers))
    return lost, len(numbers) - len(set(numbers))


def main() -> None:
    print("| killed | message | `sndbuf` | lost | repeated |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="ztunnel-killed-") as folder:
        for victim, sndbuf, size in itertools.product(("consumer", "far half"), (None, "128KiB"), SIZES):
            lost, repeated = measure(victim, size, sndbuf, Path(folder))
            print(f"| {victim} | {size:,} B | {sndbuf or 'default'} | {lost:,} | {repeated:,} |", flush=True)


if __name__ == "__main__":
    main()
