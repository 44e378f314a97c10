"""Streams under load while the link is cut again and again: connections stay open, every byte arrives once, in order.

Limits of redialling and silence are shortened as in test_cuts.py; with FAULTS=full they are the real ones.
"""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.rig import Rig
from tests.faults.test_cuts import LIMITS, SOME_CUTS, TIMEOUT_S, cut_again_and_again, plan_of_cuts
from tests.streams import Service, connected, echo
from tests.waiting import until

CUTS = 20
CLIENTS = 4
PAUSE_S = 0.0005
"""Between two sends of a client: under load, but the test's own threads leave the halves a core."""


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service(echo)
    yield service
    service.close()


class Caller:
    """One connection to an echo: what it sends, and what comes back, as digests. Never closes before it is told to."""

    def __init__(self, entry: str, seed: int) -> None:
        self.sent = self.came = 0
        self.gone, self.got = hashlib.sha256(), hashlib.sha256()
        self.broken = ""
        self._random = random.Random(seed)
        self._socket = connected(entry)
        self._socket.settimeout(60)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        try:
            while not self._stop.wait(PAUSE_S):
                data = self._random.randbytes(self._random.choice((1, 100, 5_000, 60_000)))
                self.gone.update(data)
                self.sent += len(data)
                self._socket.sendall(data)
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.broken = f"sending: {error}"

    def _receive(self) -> None:
        try:
            while data := self._socket.recv(1 << 16):
                self.got.update(data)
                self.came += len(data)
        except OSError as error:
            self.broken = f"receiving: {error}"

    def stop(self, within_s: float) -> None:
        self._socket.settimeout(within_s)
        self._stop.set()

    def join(self, deadline: float) -> None:
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._socket.close()

    @property
    def clean(self) -> bool:
        return not self.broken and self.sent == self.came and self.gone.digest() == self.got.digest()

    def __repr__(self) -> str:
        return f"<Caller sent={self.sent} came={self.came} broken={self.broken!r}>"


def finish(callers: list[Caller], within_s: float = 60) -> None:
    """They send no more, and hear the rest; all by the same time."""
    deadline = time.monotonic() + within_s
    for caller in callers:
        caller.stop(within_s)
    for caller in callers:
        caller.join(deadline)


def started(rig: Rig, service: Service, **how: list[str]) -> list[Caller]:
    entry = rig.tcp()
    rig.write_routes(f"s: {{pattern: stream, from: dmz bind {entry}, to: 'plant connect {service.address}'}}")
    rig.start(limits=LIMITS, **how)
    return [Caller(entry, seed) for seed in range(CLIENTS)]


@pytest.mark.timeout(TIMEOUT_S)
def test_twenty_cuts_keep_connections_open_and_every_byte(rig: Rig, service: Service) -> None:
    cuts = plan_of_cuts(CUTS)
    assert len({cut.__name__ for cut in cuts}) == 8
    callers = started(rig, service)
    cut_again_and_again(rig, cuts)
    before = [caller.came for caller in callers]
    until(lambda: all(caller.came > was for caller, was in zip(callers, before, strict=True)), 20, lambda: str(callers))
    finish(callers)
    assert all(caller.clean for caller in callers), f"{callers}\n{rig.told()}"
    assert service.accepted == CLIENTS
    assert rig.plant.link()["resumes"] >= CUTS
    assert [half.route("s")["ended"] for half in rig.halves.values()] == [{}, {}]


def test_the_same_cuts_lose_bytes_without_replay(rig: Rig, service: Service) -> None:
    callers = started(rig, service, without=["replay"])
    cut_again_and_again(rig, SOME_CUTS)
    finish(callers, within_s=3)
    assert not all(caller.clean for caller in callers), "the control shows nothing"
