"""Givers and takers at a tunnel's desks, for tests: in this process on a loop, and a taker as a process to be killed.

    python -m tests.receipts ENDPOINT JOURNAL [--keep N]

writes a line a message into JOURNAL (`got NUMBER FRAME`, its first frame in ASCII), fsyncs, then says `done`. `--keep`:
only the first N are answered, so that what it has beyond dies with it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from bridges.receipts import Giver, Taker
from tests.loops import until
from tests.tunnel_pair import ROOT, Tunnel
from tunnel import places
from tunnel.reactor import Reactor, run

NAME = "mail"


def desk(tunnel: Tunnel, side: str, route: str = NAME) -> str:
    """The endpoint of a route's desk."""
    return f"ipc://{places.receipts_path(tunnel.runtime / f'{tunnel.name}.{side}', route)}"


class Gives:
    """A giver that notes its answers."""

    def __init__(self, reactor: Reactor, tunnel: Tunnel, side: str = "dmz", most_bytes: int = 1 << 30) -> None:
        self.giver = Giver(reactor, desk(tunnel, side), most_bytes=most_bytes)
        self.taken: list[int] = []
        self.refused: dict[int, str] = {}

    def put(self, numbers: Iterable[int], body: bytes = b"", topic: bytes = b"") -> None:
        """[topic and number, body] each."""
        for number in numbers:
            self.giver.put(number, [topic + b"%d" % number, body], lambda why, number=number: self._answer(number, why))

    def _answer(self, number: int, why: str | None) -> None:
        assert number not in self.refused
        if why is None:
            self.taken.append(number)
        else:
            self.refused[number] = why

    async def all_taken(self, within_s: float = 30) -> None:
        await until(lambda: not self.giver.waiting, within_s, lambda: self.giver)


async def desk_says(tunnel: Tunnel, side: str, within_s: float = 15, **wanted: int) -> None:
    """Waits until the desk's status has these values."""

    def told() -> dict[str, object]:
        status = tunnel.devices[side].try_status()
        return dict(status["routes"][NAME].get("desk", {})) if status and NAME in status["routes"] else {}

    await until(lambda: wanted.items() <= told().items(), within_s, lambda: f"{side}: {told()}, wanted {wanted}")


class Takes:
    """A taker that notes what it gets. `answers`: it says done at once."""

    def __init__(self, reactor: Reactor, tunnel: Tunnel, side: str = "plant", credit: int = 16) -> None:
        self.answers = True
        self.numbers: list[int] = []
        self.frames: list[list[bytes]] = []
        self.taker = Taker(reactor, desk(tunnel, side), self._on_message, credit)

    def _on_message(self, number: int, frames: list[bytes]) -> None:
        self.numbers.append(number)
        self.frames.append(frames)
        if self.answers:
            self.taker.done(number)

    @property
    def got(self) -> list[int]:
        return [int(frames[0]) for frames in self.frames]

    async def has(self, count: int, within_s: float = 30) -> None:
        await until(lambda: len(self.frames) >= count, within_s, lambda: f"{len(self.frames)} of {count}: {self.taker}")


class TakerProcess:
    """See the module."""

    def __init__(self, tunnel: Tunnel, journal: Path, keep: int | None = None) -> None:
        self.journal = journal
        command = [sys.executable, "-m", "tests.receipts", desk(tunnel, "plant"), str(journal)]
        if keep is not None:
            command += ["--keep", str(keep)]
        self._process = subprocess.Popen(command, cwd=ROOT)

    def got(self) -> Counter[int]:
        """How often each message came, by what its first frame says."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return Counter(int(line.split()[2]) for line in lines if line.count(" ") == 2)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("journal", type=Path)
    parser.add_argument("--keep", type=int)
    arguments = parser.parse_args()

    async def serve() -> None:
        journal = os.open(arguments.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        left = [arguments.keep]

        def on_message(number: int, frames: list[bytes]) -> None:
            os.write(journal, b"got %d %s\n" % (number, frames[0]))
            os.fsync(journal)
            if left[0] is not None:
                left[0] -= 1
            if left[0] is None or left[0] >= 0:
                taker.done(number)

        taker = Taker(Reactor(asyncio.get_running_loop()), arguments.endpoint, on_message)
        await asyncio.Event().wait()

    run(serve())


Body = Callable[[Reactor], object]

if __name__ == "__main__":
    main()
