"""A legacy device, a bridge that spools, both halves and an application: killed one by one and all at once, under load.

Whatever the device was told is taken reaches the application, at the far side of the link.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from tests.faults.rig import FULL
from tests.streams import connected
from tests.tunnel_pair import ROOT, Tunnel
from tests.waiting import until

KILLS = 20 if FULL else 6


class Chain:
    """device ─ bridge ─ plant half ══ dmz half ─ application."""

    def __init__(self, folder: Path) -> None:
        self.tunnel = Tunnel(folder)
        self.entry, self.service = self.tunnel.tcp(), self.tunnel.tcp()
        self.tunnel.write(
            {
                "readings": {
                    "pattern": "reqrep",
                    "from": "plant bind local",
                    "to": f"dmz bind {self.service}",
                    "max_age": "never",
                }
            },
            bridges={
                "scales": {
                    "side": "plant",
                    "kind": "tcp-server",
                    "listen": self.entry,
                    "accept": "spooled",
                    "ack": "ok\n",
                    "timeout": "1s",
                    "zmq": "DEALER connect route:readings",
                }
            },
        )
        self.log = folder / "bridge.log"
        self.bridge: subprocess.Popen[bytes] | None = None

    def start_bridge(self) -> None:
        command = [sys.executable, "-m", "bridges.process", str(self.tunnel.table), "--as", "plant"]
        with self.log.open("ab") as log:
            self.bridge = subprocess.Popen(
                [*command, "--bridge", "scales"], cwd=ROOT, env=self.tunnel.environment, stdout=log, stderr=log
            )

    def kill_bridge(self) -> None:
        assert self.bridge is not None
        self.bridge.kill()
        self.bridge.wait()

    def kill(self, bridge: bool, *sides: str) -> None:
        """These die at the same moment, and are started again."""
        if bridge:
            self.kill_bridge()
        for side in sides:
            self.tunnel.devices[side].kill()
        if bridge:
            self.start_bridge()
        for side in sides:
            self.tunnel.devices[side].start()

    def close(self) -> None:
        if self.bridge is not None:
            self.kill_bridge()
        self.tunnel.close()


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    chain = Chain(tmp_path)
    yield chain
    chain.close()


class Service:
    """The application: a REP that notes what it is asked."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.came: list[int] = []
        self._context, self._address = context, address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._context.socket(zmq.REP) as socket:
            socket.linger = 0
            socket.connect(self._address)
            while not self._stop.is_set():
                if socket.poll(50):
                    self.came.append(int(socket.recv()))
                    socket.send(b"")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class Device:
    """The legacy client: numbered lines, each told once; after a broken connection it goes on behind the last ack."""

    def __init__(self, address: str) -> None:
        self.acknowledged = 0
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError), connected(self._address) as socket:
                socket.settimeout(2)
                answers = socket.makefile("rb")
                while not self._stop.is_set():
                    first = self.acknowledged
                    socket.sendall(b"".join(b"%d\n" % number for number in range(first, first + 20)))
                    for _ in range(20):
                        if answers.readline() != b"ok\n":
                            raise ConnectionError
                        self.acknowledged += 1
                    time.sleep(0.005)  # a device that weighs, and not a flood
            time.sleep(0.05)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.timeout(600)
def test_what_a_device_was_told_is_taken_reaches_the_other_side(chain: Chain) -> None:
    chain.tunnel.start()
    chain.start_bridge()
    service, device = Service(chain.tunnel.context, chain.service), Device(chain.entry)
    ways: list[Callable[[], None]] = [
        lambda: chain.kill(True),
        lambda: chain.kill(False, "plant"),
        lambda: chain.kill(False, "dmz"),
        lambda: chain.kill(True, "plant"),
        lambda: chain.kill(True, "plant", "dmz"),
    ]
    try:
        for kill, _ in zip(itertools.cycle(ways), range(KILLS), strict=False):
            told, taken = device.acknowledged, len(service.came)
            until(lambda: device.acknowledged > told + 40 and len(service.came) > taken, 40, "nothing moves")  # noqa: B023
            kill()
        told, taken = device.acknowledged, len(service.came)
        until(lambda: device.acknowledged > told + 40 and len(service.came) > taken, 40, "nothing moves at the end")
        device.stop()
        until(
            lambda: set(service.came) >= set(range(device.acknowledged)),
            60,
            lambda: f"lost: {sorted(set(range(device.acknowledged)) - set(service.came))[:20]}",
        )
    finally:
        device.stop()
        service.stop()
    assert device.acknowledged > 40 * KILLS
    assert "Traceback" not in chain.log.read_text()
