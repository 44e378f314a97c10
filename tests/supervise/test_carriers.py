"""Carriers in the status: real control sockets of made-up processes, and what their words do to a link's reason."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.supervise.test_status import LINK_DOWN, status
from tunnel.control import ControlServer
from tunnel.programs import PROGRAMS
from tunnel.supervise import beside, carriers
from tunnel.supervise.places import Running
from tunnel.supervise.up import is_ready

ADDRESS = "ssh://z@gate/127.0.0.1:9440"
ABOUT = {"scheme": "ssh", "role": "dial", "address": ADDRESS, "peers": ["plant"]}
TOLD = {
    **ABOUT,
    "name": "ssh-plant",
    "state": "retrying",
    "reason": "the host key of gate is not known",
    "connections": 0,
    "bytes_in": 0,
    "bytes_out": 0,
    "refused": {},
    "detail": {"backend": "paramiko"},
}


@contextmanager
def answering(path: Path, told: dict[str, Any]) -> Iterator[None]:
    """A process that says this of itself."""
    loop = asyncio.new_event_loop()
    server = ControlServer(path, {"status": lambda _: told})
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def running(tmp_path: Path) -> Running:
    listed = {
        "device": {"control": "device.sock", "about": {}},
        "ssh-plant": {"control": "ssh-plant.sock", "about": ABOUT},
        "https-plant": {"control": "https-plant.sock", "about": {**ABOUT, "scheme": "https", "address": "https://x/y"}},
        "bridge-scales": {"control": "bridge-1.sock", "about": {"bridge": "scales", "kind": "tcp-server"}},
    }
    (tmp_path / PROGRAMS).write_text(json.dumps(listed))
    return Running(tmp_path, "demo", "dmz", tmp_path / "demo.yaml", 1, 0.0)


def test_each_is_asked_and_one_that_does_not_answer_is_said_so(running: Running) -> None:
    with answering(running.folder / "ssh-plant.sock", TOLD):
        (ssh, https), (silent,) = beside.read(running, 2.0)
    assert ssh == TOLD
    assert (https["name"], https["state"], https["address"]) == ("https-plant", "silent", "https://x/y")
    assert "ztunnel logs https-plant" in https["reason"]
    assert (silent["name"], silent["kind"], silent["state"]) == ("scales", "tcp-server", "silent")
    assert (silent["frames_in"], silent["dropped"]) == (0, {})
    assert "ztunnel logs bridge-scales" in silent["reason"]


def test_nobody_is_asked_where_there_is_none(tmp_path: Path) -> None:
    assert beside.read(Running(tmp_path, "demo", "dmz", tmp_path / "demo.yaml", 1, 0.0), 2.0) == ([], [])


def test_the_link_has_its_carriers_reason_and_it_is_told_once() -> None:
    link = {**LINK_DOWN, "role": "dial", "address": ADDRESS}
    up = {**link, "state": "up", "reason": ""}
    other = {**link, "peer": "office"}
    carriers.explain([link, up, other], [TOLD])
    assert [link["reason"], up["reason"], other["reason"]] == [TOLD["reason"], "", LINK_DOWN["reason"]]
    now = status(links=[link], carriers=[TOLD])
    assert now["degraded"] == ["link to plant is down: the host key of gate is not known."]
    alone = status(carriers=[TOLD])
    assert alone["degraded"] == ["carrier ssh-plant is retrying: the host key of gate is not known."]


def test_a_port_on_this_box_must_be_open_and_one_at_a_sshd_need_not() -> None:
    shut = {**TOLD, "name": "http-listen", "scheme": "http", "role": "listen", "reason": "in use"}
    away = {**TOLD, "role": "listen"}
    assert not is_ready(status(carriers=[shut]))
    assert is_ready(status(carriers=[away]))
    assert is_ready(status(carriers=[{**shut, "state": "listening", "reason": ""}]))
