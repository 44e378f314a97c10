"""swaks, as a person would use it, against an smtp-server that runs as a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.bridges.mail.test_smtp_server import Pki
from tests.bridges.rig import BridgeProcess, process
from tests.servers import program
from tests.waiting import free_port


class World:
    """A PULL application, the bridge before it, and swaks."""

    def __init__(self, bridge: BridgeProcess, application: zmq.Socket[bytes]) -> None:
        self.bridge = bridge
        self._application = application

    def swaks(self, *words: str) -> tuple[int, str]:
        """Its exit code (swaks(1)) and all it said."""
        command = [program("swaks"), "--server", f"127.0.0.1:{self.bridge.port}", "--timeout", "20", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def mail(self) -> tuple[dict[str, object], bytes]:
        _topic, meta, raw = self._application.recv_multipart()
        return json.loads(meta), raw


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    pki = Pki(tmp_path)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    application = context.socket(zmq.PULL)
    application.setsockopt(zmq.RCVTIMEO, 20_000)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    application.bind(endpoint)
    told = {
        "kind": "smtp-server",
        "zmq": f"PUSH connect {endpoint}",
        "hostname": "mail.test",
        "tls": {"cert": str(pki.plan.cert), "key": str(pki.plan.key)},
        "users": str(pki.users),
        "max_message": "1MiB",
        "recipients": {"ups": {"match": "ups@*"}},
    }
    with process(tmp_path, told) as bridge:
        yield World(bridge, application)
    context.destroy(linger=0)


def test_swaks_delivers(world: World) -> None:
    code, said = world.swaks("--to", "ups+west@example.com", "--from", "a@example.com", "--header", "X-Test: yes")
    assert code == 0, said
    assert "<-  250 2.0.0 " in said
    meta, raw = world.mail()
    assert (meta["from"], meta["to"], meta["tag"]) == ("a@example.com", ["ups+west@example.com"], "west")
    assert b"X-Test: yes\r\n" in raw


def test_swaks_delivers_over_tls_with_a_login(world: World) -> None:
    login = ("--to", "ups@b.c", "--tls", "--auth-user", "ann")
    for mechanism in ("PLAIN", "LOGIN"):
        code, said = world.swaks(*login, "--auth", mechanism, "--auth-password", "right")
        assert code == 0, said
        meta, _ = world.mail()
        assert meta["user"] == "ann"
        assert str(meta["tls"]).startswith("TLSv1.")
    code, said = world.swaks(*login, "--auth", "PLAIN", "--auth-password", "wrong")
    assert code == 28, said
    assert "535 5.7.8" in said
    assert "right" not in world.bridge.log.read_text()


def test_swaks_is_refused(world: World, tmp_path: Path) -> None:
    code, said = world.swaks("--to", "nobody@b.c")
    assert (code, "550 5.1.1" in said) == (24, True), said
    large = tmp_path / "large"
    large.write_bytes(b"x" * 70 + b"\n" + b"y" * 2_000_000)
    code, said = world.swaks("--to", "ups@b.c", "--attach", f"@{large}")
    assert code == 26, said
    assert "552 5.3.4" in said
