"""What doctor finds on the way to the peers: real ports, key files and certificates."""

from __future__ import annotations

import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from tests.waiting import until
from tunnel.cli.doctor_links import _carrier, reach
from tunnel.config.plan import CarrierPlan, ProxyPlan, SshPlan, TlsPlan


@pytest.fixture
def port() -> int:
    """Nobody listens there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def carrier(folder: Path, **more: object) -> CarrierPlan:
    plain = CarrierPlan("https-dmz", "https", "dial", "https://127.0.0.1:1/x", folder / "x.link", ("dmz",))
    return replace(plain, **more)  # type: ignore[arg-type]


def found(plan: CarrierPlan) -> list[tuple[str, str]]:
    return [(finding.state, finding.detail) for finding in _carrier(plan)]


def test_a_port_that_answers_and_one_that_does_not(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert reach("dial x", "here", "127.0.0.1", server.getsockname()[1]).state == "ok"
    assert until(lambda: reach("dial x", "there", "127.0.0.1", port).state == "warn", 5, "nobody answers")
    assert reach("dial x", "nowhere", "no-such-host.invalid", 1).state == "bad"


def test_an_ssh_key_that_is_not_there_or_not_private(tmp_path: Path, port: int) -> None:
    key = tmp_path / "id"
    ssh = SshPlan("z", "127.0.0.1", port, "127.0.0.1:9440", identity=(key,), known_hosts=(tmp_path / "known",))
    plan = carrier(tmp_path, scheme="ssh", ssh=ssh)
    assert [state for state, _ in found(plan)] == ["warn", "bad", "bad"]
    key.write_text("key")
    key.chmod(0o644)
    (tmp_path / "known").write_text("")
    assert [detail for _, detail in found(plan)][1:] == [f"others may read the SSH key {key}"]
    key.chmod(0o600)
    assert len(found(plan)) == 1


@pytest.mark.parametrize(("days", "state"), [(-1, "bad"), (3, "warn"), (300, "ok")])
def test_how_long_a_certificate_is_valid(tmp_path: Path, days: int, state: str) -> None:
    until_then = datetime.now(UTC) + timedelta(days=days, hours=1)
    made = trustme.CA().issue_cert("localhost", not_after=until_then, not_before=until_then - timedelta(days=400))
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    plan = carrier(tmp_path, role="listen", tls=TlsPlan(cert=tmp_path / "cert.pem"))
    assert [state for state, _ in found(plan)] == [state]


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    plan = carrier(tmp_path, role="listen", tls=TlsPlan(cert=tmp_path / "gone.pem", ca=tmp_path / "ca.pem"))
    assert [state for state, _ in found(plan)] == ["bad", "bad"]


def test_with_a_proxy_the_proxy_must_be_reached(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = ProxyPlan(f"http://127.0.0.1:{server.getsockname()[1]}")
        ((state, detail),) = found(carrier(tmp_path, proxy=proxy))
    assert (state, detail.split(" (")[0]) == ("ok", "the proxy")
