"""Fuzz target: bytes of anybody who can connect to a bridge, against every framing.

Streams of real frames, mutated, cut, glued; those that made the decoders walk a way through their code that no other
walked are kept and mutated further. Whatever comes: the same messages over any split, an error that is a FramingError
and says where, no memory beyond max_frame, and what was read can be written again and is read as the same.

    .venv/bin/python -m tests.fuzz.framings SECONDS [SEED]     runs until a stream fails, and names it
"""

from __future__ import annotations

import ast
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from bridges.framing import FramingError, make
from tests.bridges.framings import CASES, ENDLESS, OVERHEAD, cut, hear, name_of, single, writable

FOLDER = Path(__file__).parent.parent.parent / "bridges" / "framings"
MAX_FRAMES = (5, 9, 30, 300)
SPECIAL = b"\n\r\0aab\x02\x03\x10$<>[]^\\\x0b\x1c\xc0\xdb\xdc\xdd:, 019\x80\xff"
KEPT = 400
"""Streams kept for each variant of a kind."""

Way = tuple[str, int, int]
"""File, the line before, the line."""


class Ways:
    """Which ways through the framings' code were walked."""

    def __init__(self) -> None:
        self.all: set[Way] = set()
        self.fresh = False

    def walk(self, case: tuple[str, dict[str, Any]], max_frame: int, line: bytes, at: list[int]) -> bool:
        """Did this stream walk a new one?"""
        self.fresh = False
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            check(case, max_frame, line, at)
        finally:
            sys.settrace(before)
        return self.fresh

    def lines(self) -> set[tuple[str, int]]:
        return {(file, line) for file, _, line in self.all}

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        path = Path(frame.f_code.co_filename)
        if path.parent != FOLDER:
            return None
        last, name = frame.f_lineno, path.name

        def line(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal last
            way = (name, last, frame.f_lineno)
            last = frame.f_lineno
            if way not in self.all:
                self.all.add(way)
                self.fresh = True
            return line

        return line


def breaches() -> Iterator[tuple[str, int]]:
    """File and line of every place where a stream is found to be broken."""
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            if called in ("_breach", "_too_long", "_announced"):
                yield path.name, node.lineno


def check(case: tuple[str, dict[str, Any]], max_frame: int, line: bytes, at: list[int]) -> None:
    """One stream, as a whole and in pieces; raises when something is not as it must be."""
    kind, options = case
    framing = make(kind, max_frame=max_frame, **options)
    whole = hear(framing, [line])
    if kind in ENDLESS:
        messages = hear(framing, cut(line, at)).messages
        assert b"".join(map(bytes, messages)) == (line if whole.offset is None else b"")
        return
    for pieces in (cut(line, at), single(line)):
        heard = hear(framing, pieces)
        assert heard.same(whole), (heard, whole)
        assert heard.most_pending <= max_frame + OVERHEAD, heard
    for message in whole.messages:
        try:
            again = framing.encode(message)
        except FramingError:
            # A CR before the CR that was stripped; a last line without a delimiter.
            assert "strip_cr" in options or "open_end" in options, (case, message)
            continue
        assert hear(framing, [again]).messages == [message], (case, message)


def mutate(random: Random, line: bytes, others: list[bytes]) -> bytes:
    body = bytearray(line)
    for _ in range(random.choice((0, 1, 1, 2, 4))):
        spot = random.randrange(len(body) + 1)
        what = random.randrange(7)
        if what == 0 and body:
            body[spot % len(body)] = random.choice(SPECIAL)
        elif what == 1 and body:
            body[spot % len(body)] = (body[spot % len(body)] + random.choice((-1, 1))) % 256
        elif what == 2:
            del body[spot : spot + random.randint(1, 6)]
        elif what == 3:
            body[spot:spot] = bytes(random.choices(SPECIAL, k=random.randint(1, 6)))
        elif what == 4:
            body[spot:spot] = random.choice((random.randbytes(2), random.randbytes(40), b"\xff" * 11))
        elif what == 5:
            body += random.choice(others)
        else:
            del body[spot:]
    return bytes(body[:1000])


class Fuzz:
    """Goes on for ever, from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.ways = Ways()
        self.streams: list[list[bytes]] = [self._honest(case) for case in CASES]
        self.last: tuple[Any, ...] = ()
        """What `check` was called with."""

    def _honest(self, case: tuple[str, dict[str, Any]]) -> list[bytes]:
        kind, options = case
        bodies = [b"", b"x" * options.get("size", 3), b"hello", b"\x10\x03\xdb\xc0\r", b"a" * 29]
        framing = make(kind, max_frame=30, **options)
        frames = [framing.encode(message) for message in writable(kind, options, bodies, 30)]
        return [*frames, *(frame[:-1] for frame in frames), b"".join(frames)]

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        index = self.random.randrange(len(CASES))
        case, streams = CASES[index], self.streams[index]
        line = mutate(self.random, self.random.choice(streams), streams)
        # What must fit into max_frame, or the framing itself is refused.
        max_frame = max(self.random.choice(MAX_FRAMES), case[1].get("size", 1), 8 if "keep" in case[1] else 1)
        at = [self.random.randrange(len(line) + 1) for _ in range(self.random.randrange(6))]
        self.last = (case, max_frame, line, at)
        if self.ways.walk(*self.last) and len(streams) < KEPT:
            streams.append(line)


def main() -> None:
    end = time.monotonic() + float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.monotonic_ns() % 10**9
    fuzz, steps = Fuzz(seed), 0
    while time.monotonic() < end:
        try:
            fuzz.step()
        except BaseException:
            case, max_frame, line, at = fuzz.last
            print(f"seed {seed}, step {steps}: {name_of(case)}; again: check({case!r}, {max_frame}, {line!r}, {at})")
            raise
        steps += 1
    kept = sum(map(len, fuzz.streams))
    print(
        f"{steps} streams from seed {seed} were borne; {len(fuzz.ways.all)} ways through the code, {kept} streams kept"
    )


if __name__ == "__main__":
    main()
