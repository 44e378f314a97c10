"""The SSH carrier as its own process, from a table: killed with SIGKILL it leaves no ssh, and its successor starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.servers import Sshd
from tests.tunnel_pair import ROOT, Tunnel
from tests.waiting import until
from tunnel.config import read_plan
from tunnel.control import ask
from tunnel.errors import NotRunningError


def write(tunnel: Tunnel, sshd: Sshd, backend: str) -> None:
    how = {"backend": backend, "identity": str(sshd.identity), "known_hosts": str(sshd.known_hosts), "agent": False}
    address = f"ssh://{sshd.user}@127.0.0.1:{sshd.port}/127.0.0.1:{tunnel.link_port}"
    tunnel.write(
        {"r": {"pattern": "pipeline", "from": f"dmz bind {tunnel.tcp()}", "to": f"plant bind {tunnel.tcp()}"}},
        links=[
            {
                "listen": f"dmz tcp://127.0.0.1:{tunnel.link_port}",
                "dial": {"side": "plant", "address": address, "ssh": how},
            }
        ],
    )


@pytest.fixture
def tunnel(tmp_path: Path) -> Iterator[Tunnel]:
    made = Tunnel(tmp_path)
    yield made
    made.close()


def start(tunnel: Tunnel, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tunnel.carriers.process", str(tunnel.table), "--as", "plant", "--carrier", name]
    return subprocess.Popen(command, cwd=ROOT, env=tunnel.environment)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_ssh(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "ssh"
    except OSError:
        return False


@pytest.mark.parametrize("backend", ["paramiko", "openssh"])
def test_killed_and_started_again_and_told_to_end(tmp_path: Path, tunnel: Tunnel, backend: str) -> None:
    with Sshd(tmp_path / "sshd") as sshd:
        write(tunnel, sshd, backend)
        folder = tunnel.runtime / "t.plant"
        with mock.patch.dict(os.environ, tunnel.environment):
            (carrier,) = read_plan(tunnel.table, "plant").carriers

        def status() -> dict[str, Any]:
            try:
                return ask(folder / f"{carrier.name}.sock", "status", timeout_s=5)
            except NotRunningError:
                return {}

        first = start(tunnel, carrier.name)
        try:
            until(lambda: status().get("state") == "up", 15, status)
            ssh = [pid for pid in children(first.pid) if is_ssh(pid)]
            assert len(ssh) == (1 if backend == "openssh" else 0)
            first.send_signal(signal.SIGKILL)
            first.wait()
            until(lambda: not any(map(is_ssh, ssh)), 5, "ssh ends with the process that started it")
        finally:
            first.kill()
        second = start(tunnel, carrier.name)
        try:
            tunnel.start()
            until(lambda: status().get("connections") == 2, 15, status)
            assert status()["scheme"] == "ssh"
            for device in tunnel.devices.values():
                device.stop()
            ask(folder / f"{carrier.name}.sock", "stop")
            assert second.wait(10) == 0
            assert not carrier.socket.exists()
        finally:
            second.kill()
