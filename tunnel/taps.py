"""Who looks at which route: a device's commands `tap-start`, `tap-poll` and `tap-stop` (tunnel/tap.py has the taps).

A reader that does not ask for TAP_LEASE_S is forgotten, and a tap without readers comes off its route: `ztunnel tap`
may be killed or stopped at any time.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tunnel.errors import UsageError
from tunnel.limits import TAP_FRAME_BYTES, TAP_FRAME_MOST_BYTES, TAP_LEASE_S, TAP_POLL_MESSAGES, TAP_READERS
from tunnel.log import Log
from tunnel.tap import DIRECTIONS, Direction, Tap


class Tappable(Protocol):
    """A pattern: it calls `tap.entered` and `tap.left` once a batch, while there is one."""

    tap: Tap | None


@dataclass(slots=True)
class _Reader:
    """Somebody who looks at one route."""

    route: str
    tap: Tap
    frame_bytes: int
    expires_at: float
    cursor: int
    told: dict[Direction, int] = field(default_factory=dict)
    """Messages that it was given, or was told that they were left out."""


class Taps:
    """The commands `tap-start`, `tap-poll` and `tap-stop` of one device. `find`: a route's pattern, if it is here."""

    def __init__(
        self,
        find: Callable[[str], Tappable | None],
        call_later: Callable[[float, Callable[[], object]], object],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._call_later = call_later
        self._now = now
        self._readers: dict[str, _Reader] = {}
        self._sweeping = False
        self._log = Log("tap")
        self.commands = {"tap-start": self.start, "tap-poll": self.poll, "tap-stop": self.stop}

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """{route, bytes} → {reader}. UsageError: no such route, or too many look already."""
        name, frame_bytes = request.get("route"), request.get("bytes", TAP_FRAME_BYTES)
        pattern = self._find(name) if isinstance(name, str) else None
        if pattern is None or not isinstance(name, str):
            raise UsageError(f"there is no route {name} here.")
        if type(frame_bytes) is not int or not 0 <= frame_bytes <= TAP_FRAME_MOST_BYTES:
            raise UsageError(f"a tap shows 0 to {TAP_FRAME_MOST_BYTES} bytes of a frame.")
        if len(self._readers) >= TAP_READERS:
            raise UsageError(f"{TAP_READERS} taps are open at this side already: end one of them.")
        if pattern.tap is None:
            pattern.tap = Tap(self._now)
        tap = pattern.tap
        reader = secrets.token_hex(8)
        self._readers[reader] = _Reader(
            name, tap, frame_bytes, self._now() + TAP_LEASE_S, tap.last, told=dict(tap.seen)
        )
        self._refit(name)
        self._log.info("opened", route=name, bytes=frame_bytes)
        self._sweep_later()
        return {"reader": reader}

    def poll(self, request: dict[str, Any]) -> dict[str, Any]:
        """{reader} → {messages, left_out: {in, out}, more}; {ended: true}: this reader is not known (any more)."""
        reader = self._readers.get(str(request.get("reader")))
        pattern = self._find(reader.route) if reader else None
        if reader is None or pattern is None or pattern.tap is not reader.tap:
            return {"ended": True}
        reader.expires_at = self._now() + TAP_LEASE_S
        fresh = [sample for sample in reader.tap.samples if sample.number > reader.cursor]
        given, kept = fresh[:TAP_POLL_MESSAGES], fresh[TAP_POLL_MESSAGES:]
        if given:
            reader.cursor = given[-1].number
        left_out: dict[Direction, int] = {}
        for direction in DIRECTIONS:
            gave = sum(sample.direction == direction for sample in given)
            waits = sum(sample.direction == direction for sample in kept)
            left_out[direction] = reader.tap.seen[direction] - reader.told[direction] - gave - waits
            reader.told[direction] += gave + left_out[direction]
        messages = [sample.told(reader.frame_bytes) for sample in given]
        return {"messages": messages, "left_out": left_out, "more": bool(kept)}

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        """{reader}: it looks no more."""
        self._forget(str(request.get("reader")))
        return {}

    def _forget(self, name: str) -> None:
        reader = self._readers.pop(name, None)
        if reader is not None:
            self._refit(reader.route)
            self._log.info("closed", route=reader.route)

    def _refit(self, route: str) -> None:
        """The tap keeps what the most curious reader wants, and comes off with the last."""
        pattern = self._find(route)
        if pattern is None or pattern.tap is None:
            return
        wanted = [reader.frame_bytes for reader in self._readers.values() if reader.tap is pattern.tap]
        if wanted:
            pattern.tap.frame_bytes = max(wanted)
        else:
            pattern.tap = None

    def _sweep_later(self) -> None:
        if not self._sweeping and self._readers:
            self._sweeping = True
            self._call_later(TAP_LEASE_S / 2, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        now = self._now()
        for name in [name for name, reader in self._readers.items() if reader.expires_at <= now]:
            self._forget(name)
        self._sweep_later()
