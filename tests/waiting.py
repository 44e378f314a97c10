"""Waiting for a condition with a deadline, and ports that nobody holds: what every test with real processes needs.

No fixed sleeps and no fixed ports anywhere in the tests: `until(...)` polls, `free_port()` asks the kernel.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_ports = random.Random(os.getpid() * 1_000_003 + time.monotonic_ns())


def until(condition: Callable[[], T], within_s: float, what: str | Callable[[], object], every_s: float = 0.02) -> T:
    """Calls `condition` until it gives something true and returns that; fails with `what` after `within_s`.

    `what` may be a callable too: it is asked only at the end, so that it can tell the last state.
    """
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what() if callable(what) else what}; last: {value!r}")
        time.sleep(every_s)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port outside the kernel's ephemeral range that can be bound now (so no outgoing connection takes it)."""
    for _ in range(200):
        port = _ports.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port between 10000 and 32000")


def elapse(seconds: float) -> None:
    """Lets time pass where its length is itself what is tested (how long a cut lasts); never to wait for something."""
    time.sleep(seconds)
