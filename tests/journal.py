"""What a counting application sent or received, on disk, and the checkers that compare two such records exactly.

An application appends one line per message, so that the record of a killed one is complete up to its death. Lines are
`KIND KEY SEQ`: S handed to its socket, R received, W a reply to another request, T no reply in time, E a socket event
(the key is its name). Keys name a stream with an order of its own: a sender, a topic, a client.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Streams = Mapping[str, Sequence[int]]


class Writer:
    """Appends lines, in one write a turn of the application."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lines: list[str] = []

    def note(self, kind: str, key: str, seq: int) -> None:
        self._lines.append(f"{kind} {key} {seq}\n")

    def flush(self) -> None:
        if self._lines:
            os.write(self._fd, "".join(self._lines).encode())
            self._lines.clear()


class Journal:
    """Reads such a record while it grows. `of(kind)` gives, per key, the numbers in the order they were written."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._read = dict.fromkeys(paths, 0)
        self._lines: dict[str, dict[str, list[int]]] = {}

    def of(self, kind: str) -> dict[str, list[int]]:
        self._refresh()
        return self._lines.get(kind, {})

    def count(self, kind: str) -> int:
        return sum(map(len, self.of(kind).values()))

    def _refresh(self) -> None:
        for path in self._paths:
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(self._read[path])
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] += len(whole)
            for line in whole.decode().splitlines():
                kind, key, seq = line.split(" ")
                self._lines.setdefault(kind, defaultdict(list))[key].append(int(seq))


@dataclass
class Verdict:
    """How a record of receptions differs from the record of what was sent: `(key, seq)` each."""

    sent: int = 0
    received: int = 0
    lost: list[tuple[str, int]] = field(default_factory=list)
    repeated: list[tuple[str, int]] = field(default_factory=list)
    reordered: list[tuple[str, int]] = field(default_factory=list)
    """Arrived for the first time, but after a later one of the same key."""
    alien: list[tuple[str, int]] = field(default_factory=list)
    """Received but never sent."""

    @property
    def faults(self) -> tuple[int, int, int, int]:
        """(lost, repeated, reordered, alien)"""
        return len(self.lost), len(self.repeated), len(self.reordered), len(self.alien)

    @property
    def clean(self) -> bool:
        return self.faults == (0, 0, 0, 0)

    def __str__(self) -> str:
        told = tell(self, "lost", "repeated", "reordered", "alien")
        return f"{self.sent} sent, {self.received} received: {told}"


def compare(sent: Streams, received: Streams) -> Verdict:
    """One receiver of everything: what was lost, repeated and reordered, per key."""
    verdict = Verdict(sent=sum(map(len, sent.values())), received=sum(map(len, received.values())))
    for key in sorted({*sent, *received}):
        _compare_one(key, sent.get(key, ()), received.get(key, ()), verdict)
    return verdict


def _compare_one(key: str, sent: Sequence[int], received: Sequence[int], verdict: Verdict) -> None:
    there, seen, newest = set(sent), set[int](), -1
    for seq in received:
        if seq not in there:
            verdict.alien.append((key, seq))
        elif seq in seen:
            verdict.repeated.append((key, seq))
        elif seq < newest:
            verdict.reordered.append((key, seq))
        seen.add(seq)
        newest = max(newest, seq)
    verdict.lost.extend((key, seq) for seq in sorted(there - seen))


def compare_shared(sent: Streams, receivers: Iterable[Streams]) -> Verdict:
    """Several receivers that share the messages: none lost or repeated over all, each one's share in order."""
    shares = [dict(share) for share in receivers]
    merged: dict[str, list[int]] = defaultdict(list)
    for share in shares:
        for key, seqs in share.items():
            merged[key].extend(seqs)
    verdict = compare(sent, {key: sorted(seqs) for key, seqs in merged.items()})
    for share in shares:
        verdict.reordered.extend(compare({key: share[key] for key in share}, share).reordered)
    return verdict


@dataclass
class Requests:
    """What became of requests, seen from both ends."""

    asked: int
    unanswered: list[tuple[str, int]]
    """No reply arrived."""
    mistaken: list[tuple[str, int]]
    """A reply arrived that answers another request than the one that waited."""
    carried_out_twice: list[tuple[str, int]]
    out_of_order: list[tuple[str, int]]

    @property
    def faults(self) -> tuple[int, int, int, int]:
        """(unanswered, mistaken, carried out twice, out of order)"""
        return len(self.unanswered), len(self.mistaken), len(self.carried_out_twice), len(self.out_of_order)

    @property
    def clean(self) -> bool:
        return self.faults == (0, 0, 0, 0)

    def __str__(self) -> str:
        told = tell(self, "unanswered", "mistaken", "carried_out_twice", "out_of_order")
        return f"{self.asked} asked: {told}"


def compare_requests(client: Journal, service: Journal) -> Requests:
    """Every request answered by its own reply, carried out once, in the order of each client.

    The service may serve other clients too.
    """
    replies = compare(client.of("S"), client.of("R"))
    carried_out = compare(client.of("S"), {key: seqs for key, seqs in service.of("R").items() if key in client.of("S")})
    mistaken = [(key, seq) for key, seqs in client.of("W").items() for seq in seqs]
    return Requests(
        asked=replies.sent,
        unanswered=replies.lost,
        mistaken=mistaken + replies.alien + replies.repeated,
        carried_out_twice=carried_out.repeated,
        out_of_order=carried_out.reordered,
    )


def tell(record: object, *names: str) -> str:
    """`2 lost (a 3-4), 0 repeated`"""
    return ", ".join(f"{len(getattr(record, name))} {name} {spans(getattr(record, name))}".rstrip() for name in names)


def spans(faults: Sequence[tuple[str, int]], most: int = 6) -> str:
    """`(a 3-7, a 9, b 1)`: the faulty numbers, shortened, for the message of a failed test."""
    runs: list[tuple[str, int, int]] = []
    for key, seq in faults:
        if runs and runs[-1][0] == key and runs[-1][2] == seq - 1:
            runs[-1] = (key, runs[-1][1], seq)
        else:
            runs.append((key, seq, seq))
    told = [f"{key} {first}" if first == last else f"{key} {first}-{last}" for key, first, last in runs[:most]]
    if len(runs) > most:
        told.append("...")
    return "(" + ", ".join(told) + ")" if told else ""
