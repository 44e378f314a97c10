"""Bytes of a hostile peer against the pump: runs that are broken, spliced, cut off and lied about.

A bounded number of rounds by default; ZTUNNEL_FUZZ_S=600 goes on for ten minutes, ZTUNNEL_FUZZ_SEED repeats a failure.
What both pumps make of a run is held against the plainest reading of it (tests/pump/runs.py).
"""

from __future__ import annotations

import inspect
import os
import random
import re
import textwrap
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import zmq

from tests.pump.conftest import connected, implementations
from tests.pump.runs import at_borders, contents, decode, encode, joined, readable
from tunnel.limits import REFERENCE_BYTES
from tunnel.pump import BAD, DENY, DONE, RunError, twin, twin_runs

ROUNDS = 4000
SECONDS = float(os.environ.get("ZTUNNEL_FUZZ_S", "0"))
SEED = int(os.environ.get("ZTUNNEL_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 48)
LENGTHS = [0, 1, 3, 4, 5, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF_FFFF, 0x8000_0000, 0x8000_0001, 0xFFFF_FFFF]


def any_run(chosen: random.Random) -> bytes:
    """A sound run."""
    sizes = [0, 0, 1, 2, 5, 30, 300, REFERENCE_BYTES - 1, REFERENCE_BYTES + 1]
    weights = [5, 5, 5, 5, 5, 5, 2, 0.2, 0.2]
    return encode(
        [chosen.randbytes(size) for size in chosen.choices(sizes, weights, k=chosen.randrange(1, 6))]
        for _ in range(chosen.randrange(6))
    )


def flip(chosen: random.Random, run: bytearray) -> None:
    for _ in range(chosen.randrange(1, 5)):
        run[chosen.randrange(len(run))] ^= 1 << chosen.randrange(8)


def lie(chosen: random.Random, run: bytearray) -> None:
    place = chosen.randrange(len(run))
    run[place : place + 4] = chosen.choice(LENGTHS).to_bytes(4, "little")


def truncate(chosen: random.Random, run: bytearray) -> None:
    del run[chosen.randrange(len(run)) :]


def drop(chosen: random.Random, run: bytearray) -> None:
    place = chosen.randrange(len(run))
    del run[place : place + chosen.randrange(1, 9)]


def insert(chosen: random.Random, run: bytearray) -> None:
    place = chosen.randrange(len(run) + 1)
    run[place:place] = chosen.randbytes(chosen.randrange(1, 9))


def splice(chosen: random.Random, run: bytearray) -> None:
    run[chosen.randrange(len(run)) :] = any_run(chosen)


MUTATIONS: list[Callable[[random.Random, bytearray], None]] = [flip, lie, truncate, drop, insert, splice]


def a_case(chosen: random.Random) -> bytes:
    run = bytearray(any_run(chosen))
    for _ in range(chosen.randrange(4)):
        if run:
            chosen.choice(MUTATIONS)(chosen, run)
    return bytes(run)


def as_segments(pump: ModuleType, chosen: random.Random, run: bytes) -> list[object]:
    kinds = (bytes, bytearray, memoryview, pump.Chunk)
    cuts = [chosen.randrange(len(run) + 1) for _ in range(chosen.choice([0, 1, 2, 5, 20]))]
    return [chosen.choice(kinds)(part) for part in at_borders(run, cuts)]


class Target:
    """One pump with a pair of sockets and some topics."""

    def __init__(self, pump: ModuleType, push: zmq.Socket[bytes], pull: zmq.Socket[bytes]) -> None:
        self.pump, self.push, self.pull = pump, push, pull
        self.topics = pump.Topics()
        for side, prefix in ((0, b""), (1, b"\x00"), (2, bytes(200)), (DENY, b"\xff")):
            self.topics.add(side, prefix)

    def check(self, run: bytes, segments: list[object]) -> None:
        messages, stop = readable(run)
        self.check_feed(messages, stop, len(run), segments)
        self.check_reading(messages, stop, segments)
        self.check_sorting(messages, stop == len(run), segments)

    def check_feed(self, messages: list[list[bytes]], stop: int, size: int, segments: list[object]) -> None:
        fed = self.pump.feed(self.push, segments)
        assert (fed.messages, fed.position, fed.status) == (len(messages), stop, DONE if stop == size else BAD)
        got: list[list[bytes]] = []
        while len(got) < len(messages):
            drained = self.pump.drain(self.pull, 1 << 30)
            assert drained.pieces, f"only {len(got)} of {len(messages)} came"
            got += contents(drained.pieces)
        assert got == messages
        assert not self.pull.poll(0)

    def check_reading(self, messages: list[list[bytes]], stop: int, segments: list[object]) -> None:
        position = 0
        for message in messages:
            assert self.pump.first_frame(segments, position) == message[0]
            alone, position = self.pump.cut(segments, position)
            assert decode(joined(alone)) == [message]
        assert position == stop
        for function in (self.pump.cut, self.pump.first_frame):
            with pytest.raises(RunError):
                function(segments, stop)

    def check_sorting(self, messages: list[list[bytes]], sound: bool, segments: list[object]) -> None:
        if not sound:
            with pytest.raises(RunError):
                self.pump.keep_latest([segments])
            with pytest.raises(RunError):
                self.pump.split(segments, self.topics, 3)
            return
        newest = {message[0]: number for number, message in enumerate(messages)}
        kept = [message for number, message in enumerate(messages) if newest[message[0]] == number]
        assert contents(self.pump.keep_latest([segments])[0]) == kept
        allowed = [message for message in messages if not message[0].startswith(b"\xff")]
        for side, prefix in enumerate((b"", b"\x00", bytes(200))):
            wanted = [message for message in allowed if message[0].startswith(prefix)]
            assert contents(self.pump.split(segments, self.topics, 3)[side].pieces) == wanted


@pytest.mark.timeout(120 + 2 * SECONDS)
@pytest.mark.parametrize("pump", implementations(), ids=lambda module: module.__name__.rpartition(".")[2])
def test_hostile_runs(pump: ModuleType) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    target = Target(pump, *connected(context, "inproc", zmq.PUSH, zmq.PULL))
    started, rounds, broken = time.monotonic(), 0, 0
    try:
        while rounds < ROUNDS or time.monotonic() - started < SECONDS:
            chosen = random.Random(SEED + rounds)
            run = a_case(chosen)
            broken += readable(run)[1] < len(run)
            try:
                target.check(run, as_segments(pump, chosen, run))
            except BaseException:
                print(f"run again with ZTUNNEL_FUZZ_SEED={SEED + rounds}: {run[:200]!r}")
                raise
            rounds += 1
    finally:
        context.destroy(linger=0)
    assert ROUNDS / 10 < broken < rounds, "the mutations break some runs, and not all"


def test_control_a_pump_that_believes_lengths_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: the twin does not check whether a frame's length fits into the run."""
    source = inspect.getsource(twin_runs.Reader.message)
    broken, places = re.subn(r"if start \+ size > self\.size:", "if False:", textwrap.dedent(source))
    assert places == 1
    names: dict[str, Any] = dict(vars(twin_runs))
    exec(compile(broken, "planted", "exec", dont_inherit=False), names)
    monkeypatch.setattr(twin_runs.Reader, "message", names["message"])
    with pytest.raises((AssertionError, IndexError)):
        test_hostile_runs(twin)
