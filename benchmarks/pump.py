"""What the pump alone carries, compiled and pure: PUSH → PULL → drain → feed → PUSH → PULL in one process.

    python benchmarks/pump.py [--seconds 0.5]

For each transport and message size: millions of messages a second through drain alone (reading as fast as the transport
brings them), feed alone, and both. Each figure is the median of rounds of at most 16 MiB.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from types import ModuleType

import zmq

from tunnel.limits import BATCH_BYTES
from tunnel.pump import Chunk, Piece, Segment, twin

SIZES = [64, 1024, 65536, 1 << 20]
MAX_MESSAGE = 1 << 30
Socket = zmq.Socket[bytes]
ROUND_BYTES = 16 << 20
LEAST_ROUNDS = 5


def pumps() -> list[ModuleType]:
    try:
        return [importlib.import_module("tunnel.pump._pump"), twin]
    except ImportError as error:
        print(f"only the pure pump: {error}")
        return [twin]


def connected(context: zmq.Context[Socket], transport: str, name: str) -> tuple[Socket, Socket]:
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    pull.hwm = push.hwm = 0
    pull.bind("tcp://127.0.0.1:*" if transport == "tcp" else f"inproc://{name}")
    push.connect(str(pull.get_string(zmq.LAST_ENDPOINT)))
    return push, pull


def fill(push: Socket, size: int, messages: int) -> None:
    """Queue so many messages, by the fastest pump there is."""
    fastest = pumps()[0]
    frame = size.to_bytes(4, "little") + bytes(size)
    per_run = max(1, min(messages, BATCH_BYTES // len(frame)))
    run = (Chunk(frame * per_run),)
    while messages > 0:
        messages -= fastest.feed(push, run, max_messages=min(per_run, messages)).messages


def drain(pump: ModuleType, pull: Socket, messages: int) -> list[Piece]:
    pieces: list[Piece] = []
    while messages > 0:
        drained = pump.drain(pull, MAX_MESSAGE)
        if not drained.pieces:
            pull.poll(1000)
        messages -= sum(piece.messages for piece in drained.pieces)
        pieces += drained.pieces
    return pieces


def feed(pump: ModuleType, push: Socket, pieces: list[Piece]) -> None:
    waiting: list[Segment] = []
    for piece in pieces:
        waiting += piece.segments
        if not piece.more:
            pump.feed(push, waiting)
            waiting = []


def measure(pump: ModuleType, transport: str, size: int, seconds: float) -> list[float]:
    """Messages a second through drain, feed, and both: medians over rounds that together take so long."""
    context: zmq.Context[Socket] = zmq.Context()
    messages = max(8, min(100_000, ROUND_BYTES // size))
    rounds: list[tuple[float, float, float]] = []
    try:
        near, far = connected(context, transport, "near"), connected(context, transport, "far")
        deadline = time.perf_counter() + seconds
        while len(rounds) < LEAST_ROUNDS or time.perf_counter() < deadline:
            fill(near[0], size, messages)
            started = time.perf_counter()
            pieces = drain(pump, near[1], messages)
            drained = time.perf_counter()
            feed(pump, far[0], pieces)
            fed = time.perf_counter()
            rounds.append((messages / (drained - started), messages / (fed - drained), messages / (fed - started)))
            del pieces
            drain(pumps()[0], far[1], messages)
    finally:
        context.destroy(linger=0)
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=0.5, help="how long each line takes, about")
    seconds: float = arguments.parse_args().seconds
    print(f"{'pump':8}{'transport':>10}{'bytes':>9}{'drain':>12}{'feed':>12}{'both':>12}   million messages/s")
    for pump in pumps():
        name = pump.__name__.rpartition(".")[2].lstrip("_")
        for transport in ("inproc", "tcp"):
            for size in SIZES:
                rates = measure(pump, transport, size, seconds)
                print(f"{name:8}{transport:>10}{size:>9}" + "".join(f"{rate / 1e6:12.4f}" for rate in rates))


if __name__ == "__main__":
    main()
