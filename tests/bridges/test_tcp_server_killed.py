"""kill -9 of a supervised tcp-server under load: it comes back, devices dial again, and what an `ack` was worth.

With `accept: queued` an ack says that the bridge's 0MQ socket has the frame: in its queue (`hwm` messages), in libzmq's
hands (one batch of its encoder, 8 KiB) or further on. A killed bridge takes along no more than that.
"""

from __future__ import annotations

import os
import signal
import socket as sockets
import threading
from pathlib import Path

import zmq

from tests.supervise.rig import Rig, rig
from tests.waiting import free_port, until

HWM = 8
SIZE = 100
MOST_LOST = HWM + 8192 // SIZE + 2
WINDOW = 50


class Device(threading.Thread):
    """Sends numbered lines, WINDOW ahead of the acks, over as many connections as it takes."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(daemon=True)
        self.label = name
        self.port = port
        self.acked = 0
        self.dials = 0
        self.stopped = False

    def run(self) -> None:
        while not self.stopped:
            try:
                with sockets.create_connection(("127.0.0.1", self.port), 5) as client:
                    self.dials += 1
                    self._talk(client)
            except OSError:
                threading.Event().wait(0.02)

    def _talk(self, client: sockets.socket) -> None:
        client.settimeout(20)
        sent = self.acked
        while not self.stopped:
            lines = [f"{self.label}:{n}".ljust(SIZE - 1) + "\n" for n in range(sent, self.acked + WINDOW)]
            client.sendall("".join(lines).encode())
            sent += len(lines)
            acks = client.recv(4096)
            if not acks:
                return
            self.acked += len(acks)


def test_killed_under_load_loses_no_more_than_its_socket_held(tmp_path: Path) -> None:
    with rig(tmp_path) as side:
        check(side)


def check(side: Rig) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    app = context.socket(zmq.PULL)
    app.linger, app.rcvhwm = 0, 1000
    port, at = free_port(), app.bind_to_random_port("tcp://127.0.0.1")
    bridge = f"""\
bridges:
  scales:
    side: dmz
    kind: tcp-server
    listen: tcp://127.0.0.1:{port}
    zmq: PUSH connect tcp://127.0.0.1:{at}
    hwm: {HWM}
    ack: "+"
"""
    side.write_table(more=bridge)
    side.up()
    name = "bridge-scales"
    came: dict[str, set[int]] = {}
    devices = [Device(f"d{number}", port) for number in range(3)]

    def take(most: int = 2000) -> int:
        for taken in range(most):
            try:
                label, _, number = app.recv(zmq.DONTWAIT).partition(b":")
            except zmq.Again:
                return taken
            came.setdefault(label.decode(), set()).add(int(number))
        return most

    def moved(by: int = 300) -> None:
        before = [device.acked for device in devices]

        def all_did() -> bool:
            take()
            return all(device.acked > was + by for device, was in zip(devices, before, strict=True))

        until(all_did, 20, lambda: [device.acked for device in devices], every_s=0.002)

    try:
        for device in devices:
            device.start()
        kills = 2
        for _ in range(kills):
            moved()
            os.kill(side.pid(name), signal.SIGKILL)
        moved()
        for device in devices:
            device.stopped = True
        for device in devices:
            while device.is_alive():
                take()
                device.join(0.01)
        until(lambda: not (take() or app.poll(200)), 10, "the rest")
        lost = {device.label: set(range(device.acked)) - came[device.label] for device in devices}
        assert sum(map(len, lost.values())) <= kills * MOST_LOST, lost
        assert all(device.dials > kills for device in devices), [device.dials for device in devices]
        log = (side.runtime / f"demo.dmz/log/{name}.log").read_text()
        assert "Traceback" not in log
        assert log.count("started") == kills + 1
    finally:
        for device in devices:
            device.stopped = True
        context.destroy(linger=0)
