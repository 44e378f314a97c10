"""A side whose link goes through a real sshd, under real supervision: its carrier is a process like any other."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Sshd
from tests.supervise.rig import Rig
from tests.waiting import until


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    with Sshd(tmp_path / "sshd") as running:
        yield running


@pytest.fixture
def carried(side: Rig, sshd: Sshd) -> Rig:
    """Both sides are up, and the link with them."""
    table = side.table.read_text()
    told = f"""\
    dial:
      side: plant
      address: ssh://{sshd.user}@127.0.0.1:{sshd.port}/127.0.0.1:{side.ports["link"]}
      ssh:
        identity: {sshd.identity}
        known_hosts: {sshd.known_hosts}
"""
    plain = f"    dial: plant tcp://127.0.0.1:{side.ports['link']}\n"
    assert plain in table
    side.table.write_text(table.replace(plain, told))
    for name in ("dmz", "plant"):
        side.up(name)
    until(lambda: link(side)["state"] == "up", 20, lambda: side.status("plant"))
    return side


def link(side: Rig) -> dict[str, object]:
    return dict(side.status("plant")["links"][0])


def test_a_killed_carrier_comes_back_and_the_device_is_untouched(carried: Rig) -> None:
    (carrier,) = carried.status("plant")["carriers"]
    assert (carrier["name"], carrier["state"], carrier["connections"]) == ("ssh-dmz", "up", 2)
    pids = {p["name"]: p["pid"] for p in carried.status("plant")["processes"]}
    os.kill(pids["ssh-dmz"], signal.SIGKILL)
    until(lambda: link(carried)["resumes"] == 1, 30, lambda: carried.status("plant"))
    now = {p["name"]: p for p in carried.status("plant")["processes"]}
    assert now["device"]["pid"] == pids["device"]
    assert now["ssh-dmz"]["pid"] not in (None, pids["ssh-dmz"])
    assert now["ssh-dmz"]["restarts"] == 1


def test_a_link_that_is_down_has_the_reason_of_its_carrier(carried: Rig, sshd: Sshd) -> None:
    sshd.stop()
    until(lambda: "no sshd listens there" in str(link(carried)["reason"]), 20, lambda: carried.status("plant"))
    shown = carried.run("status", carried.table, "--as", "plant").stdout
    assert f"link to dmz is down: connection refused by 127.0.0.1:{sshd.port}" in shown
    sshd.start()
    until(lambda: link(carried)["state"] == "up", 30, lambda: carried.status("plant"))
    until(lambda: not carried.status("plant")["degraded"], 10, lambda: carried.status("plant"))


def test_a_reload_restarts_the_carrier_that_changed_and_nothing_else(carried: Rig, sshd: Sshd) -> None:
    pids = {p["name"]: p["pid"] for p in carried.status("plant")["processes"]}
    text = carried.table.read_text()
    carried.table.write_text(text.replace("        identity:", "        agent: false\n        identity:"))
    done = carried.run("reload", carried.table, "--as", "plant")
    assert done.returncode == 0, done.stderr
    until(lambda: link(carried)["state"] == "up" and link(carried)["resumes"] == 1, 30, lambda: carried.status("plant"))
    now = {p["name"]: p["pid"] for p in carried.status("plant")["processes"]}
    assert now["ssh-dmz"] != pids["ssh-dmz"]
    assert now["device"] == pids["device"]


def test_down_leaves_no_socket_behind(carried: Rig) -> None:
    folder = next(carried.runtime.glob("demo.plant"))
    assert (folder / "ssh-dmz.link").exists()
    assert carried.run("down", carried.table, "--as", "plant").returncode == 0
    assert [path.name for path in folder.glob("ssh-dmz.*")] == []
