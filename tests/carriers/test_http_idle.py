"""Idle links behind proxies that cut what is silent for 10 s, with the real limits: real devices, carriers and servers.

Both forms through nginx and through HAProxy, all four at the same time, because what is tested here is the passing of
time. That these servers do cut is shown by test_http_proxies.py, within a second.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.servers import Haproxy, Nginx, Server
from tests.tunnel_pair import ROOT, Tunnel
from tests.waiting import free_port, until
from tunnel.config import read_plan
from tunnel.control import ask

CUT_S = 10
IDLE_S = 26
FORMS = {"a": "websocket", "b": "long-poll", "c": "websocket", "d": "long-poll"}
NO_UPGRADE = "http-request deny if { req.hdr(Upgrade) -m found }"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, Server]]:
    """side → what it dials through."""
    port = free_port()
    made: dict[str, Server] = {
        "a": Nginx(tmp_path / "nginx", port, cut_s=CUT_S),
        "b": Nginx(tmp_path / "nginx-plain", port, upgrade=False, cut_s=CUT_S),
        "c": Haproxy(tmp_path / "haproxy", port, cut_s=CUT_S),
        "d": Haproxy(tmp_path / "haproxy-plain", port, cut_s=CUT_S, rule=NO_UPGRADE),
    }
    try:
        for server in made.values():
            server.start()
        yield made
    finally:
        for server in made.values():
            server.stop()


@pytest.fixture
def tunnel(tmp_path: Path, servers: dict[str, Server]) -> Iterator[Tunnel]:
    """Four sides that dial the dmz, each through its server, and every carrier's process."""
    made = Tunnel(tmp_path, ("dmz", *FORMS))
    (port,) = {server.backend for server in servers.values()}  # type: ignore[attr-defined]
    made.write(
        {
            f"r-{side}": {"pattern": "pipeline", "from": f"{side} bind {made.tcp()}", "to": f"dmz bind {made.tcp()}"}
            for side in FORMS
        },
        links=[
            {
                "listen": f"dmz http://127.0.0.1:{port}/link",
                "dial": [
                    {"side": side, "address": f"http://127.0.0.1:{server.port}/link", "proxy": "none"}
                    for side, server in servers.items()
                ],
            }
        ],
    )
    running: list[subprocess.Popen[bytes]] = []
    try:
        with mock.patch.dict("os.environ", made.environment):
            for side in made.sides:
                (carrier,) = read_plan(made.table, side).carriers
                command = [sys.executable, "-m", "tunnel.carriers.process", str(made.table)]
                command += ["--as", side, "--carrier", carrier.name]
                running.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL))
        made.start()
        yield made
    finally:
        made.close()
        for process in running:
            process.terminate()
        for process in running:
            process.wait(20)


def links(tunnel: Tunnel) -> dict[tuple[str, str], tuple[str, int, int]]:
    """(side, peer) → state, resumes and redials."""
    return {
        (side, link["peer"]): (link["state"], link["resumes"], link["redials"])
        for side in tunnel.sides
        for link in tunnel.status(side)["links"]
    }


def carrier(tunnel: Tunnel, side: str) -> dict[str, Any]:
    (control,) = (tunnel.runtime / f"{tunnel.name}.{side}").glob("http-*.sock")
    return ask(control, "status", timeout_s=5)


def test_an_idle_link_stays_up(tunnel: Tunnel) -> None:
    before = links(tunnel)
    assert len(before) == 8
    assert {(state, resumes) for state, resumes, _ in before.values()} == {("up", 0)}
    for side, form in FORMS.items():
        assert carrier(tunnel, side)["detail"]["mode"] == form
    began = time.monotonic()

    def idled() -> bool:
        assert links(tunnel) == before
        return time.monotonic() - began > IDLE_S

    until(idled, IDLE_S + 10, "the time passes", every_s=0.5)
    for side in FORMS:
        told = carrier(tunnel, side)
        assert (told["state"], told["connections"], told["reason"]) == ("up", 2, "")
