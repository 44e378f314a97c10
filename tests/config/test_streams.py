"""Stream routes: what is planned, told and rendered."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.tables import BASE, with_keys
from tunnel.config import load_table, plan_for, read_plan
from tunnel.config.describe import Call, Opening, ports, route_sentence
from tunnel.config.plan import Endpoint, Plan, StreamPlan
from tunnel.config.render import render

ROUTE = """\
  web:
    pattern: stream
    from: {side: dmz, bind: ['tcp://192.0.2.1:80', 'unix:///run/web.sock'], mode: '0660', keepalive: false}
    to: {side: plant, connect: ['tcp://10.0.0.5:80', 'unix:///run/web'], proxy_protocol: true}
    allow: 10.0.0.0/8
    connections: 5
    idle: 1h
    connect: 3s
    window: 1MiB
    priority: bulk
"""
DEFAULTS = """\
defaults:
  delivery: live
  overflow: drop-oldest
  max_age: 5s
  max_message: 1KiB
  on_restart: resend
  hwm: 5
  sndbuf: 64KiB
  heartbeat: 5s
  window: 2MiB
"""


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", "/run/zt-test")


def plan(folder: Path, text: str, side: str) -> Plan:
    return read_plan(with_keys(folder, text), side)


def test_where_clients_connect(tmp_path: Path) -> None:
    route = plan(tmp_path, BASE + ROUTE, "dmz").routes[-1]
    assert (route.pattern, route.where, route.end.socket) == ("stream", "from", "TCP")
    assert route.end.endpoints == (Endpoint("bind", "tcp://192.0.2.1:80"), Endpoint("bind", "ipc:///run/web.sock"))
    assert (route.end.mode, route.end.keepalive, str(route.end.allow.networks[0])) == (0o660, False, "10.0.0.0/8")
    assert route.stream == StreamPlan(connections=5, idle_s=3600.0, connect_s=3.0, proxy_protocol=False)
    assert (route.window_bytes, route.priority) == (1 << 20, "bulk")


def test_where_connections_end(tmp_path: Path) -> None:
    route = plan(tmp_path, BASE + ROUTE, "plant").routes[-1]
    assert route.end.endpoints == (Endpoint("connect", "tcp://10.0.0.5:80"), Endpoint("connect", "ipc:///run/web"))
    assert route.stream == StreamPlan(connections=5, idle_s=3600.0, connect_s=3.0, proxy_protocol=True)


def test_what_defaults_say_of_messages_is_left_aside(tmp_path: Path) -> None:
    text = DEFAULTS + BASE + "  web:\n    pattern: stream\n    from: dmz bind tcp://127.0.0.1:80\n    to: plant\n"
    orders, ticks, web = plan(tmp_path, text, "dmz").routes
    assert (web.delivery, web.overflow, web.max_age_s, web.on_restart) == ("confirmed", "block", None, "drop")
    assert (web.end.hwm, web.end.sndbuf, web.end.heartbeat_s, web.window_bytes) == (None, None, None, 2 << 20)
    assert web.stream == StreamPlan()
    assert (orders.stream, orders.delivery, ticks.stream) == (None, "live", None)


def test_idle_for_ever(tmp_path: Path) -> None:
    route = plan(tmp_path, BASE + ROUTE.replace("idle: 1h", "idle: never"), "dmz").routes[-1]
    assert route.stream is not None
    assert route.stream.idle_s is None


@pytest.mark.parametrize("side", ["dmz", "plant"])
def test_rendered_it_is_the_same(tmp_path: Path, side: str) -> None:
    table = load_table(with_keys(tmp_path, BASE + ROUTE))
    text = render(table, side)
    (tmp_path / "rendered.yaml").write_text(text)
    assert plan_for(load_table(tmp_path / "rendered.yaml"), side).routes == plan_for(table, side).routes
    assert ("10.0.0.5" in text) is (side == "plant")
    assert ("192.0.2.1" in text) is (side == "dmz")


def test_in_a_sentence(tmp_path: Path) -> None:
    table = load_table(with_keys(tmp_path, BASE + ROUTE))
    assert (
        route_sentence(table, "web") == "web: TCP clients at dmz → 10.0.0.5:80 or /run/web at plant, dialled by plant"
    )
    unix = "  a:\n    pattern: stream\n    from: dmz bind ipc://a\n    to: plant\n"
    table = load_table(with_keys(tmp_path, BASE + unix))
    assert route_sentence(table, "a") == "a: unix socket clients at dmz → a service at plant, dialled by plant"


def test_ports(tmp_path: Path) -> None:
    found = ports(load_table(with_keys(tmp_path, BASE + ROUTE)))
    assert Opening("dmz", "tcp://192.0.2.1:80", "clients of web", "10.0.0.0/8", "") in found.opens
    assert Opening("dmz", "unix:///run/web.sock", "clients of web", "this box", "") in found.opens
    assert Call("plant", "tcp://10.0.0.5:80", "service of web") in found.calls


def warnings(folder: Path, text: str) -> list[str]:
    return [warning.sentence for warning in load_table(with_keys(folder, text)).warnings]


def test_a_stream_may_reach_what_another_route_talks_to(tmp_path: Path) -> None:
    assert warnings(tmp_path, BASE + ROUTE.replace("tcp://10.0.0.5:80", "tcp://127.0.0.1:6555")) == []


def test_a_stream_into_itself_is_warned_of(tmp_path: Path) -> None:
    text = BASE + ROUTE.replace("tcp://10.0.0.5:80", "tcp://127.0.0.1:7000")
    text += "  back:\n    pattern: stream\n    from: plant bind tcp://127.0.0.1:7000\n    to: dmz\n"
    assert warnings(tmp_path, text) == [
        "plant connects here to tcp://127.0.0.1:7000, which it binds itself for the route back."
    ]


@pytest.mark.parametrize(
    ("listen", "dial", "told"),
    [
        ("tcp://127.0.0.1:9440", "ssh://me@dmz/127.0.0.1:9440", ""),
        ("tcp://127.0.0.1:9440", "ssh://me@dmz/127.0.0.1:9441", "plant dials port 9441"),
        ("tcp://127.0.0.1:9440", "ssh://me@dmz/run/zt/l", "plant dials ssh://me@dmz/run/zt/l, but dmz listens at tcp"),
        ("ipc:///run/zt/l", "ssh://me@dmz/run/zt/l", ""),
        ("ssh://me@gate/9440", "tcp://gate:9440", ""),
        ("http://127.0.0.1:8080/l", "https://dmz/l", ""),
        ("tcp://127.0.0.1:9440", "https://dmz/l", "a link inside HTTP needs an http:// or https:// address at both"),
        ("http://127.0.0.1:8080/l", "tcp://dmz:8080", "a link inside HTTP needs"),
        ("http://127.0.0.1:8080/l", "ssh://me@dmz/8080", "a link inside HTTP needs"),
    ],
)
def test_ends_that_do_not_meet_are_warned_of(tmp_path: Path, listen: str, dial: str, told: str) -> None:
    text = BASE.replace("dmz tcp://127.0.0.1:9440", f"dmz {listen}")
    text = text.replace("plant tcp://127.0.0.1:9440", f"plant {dial}")
    found = warnings(tmp_path, text)
    assert len(found) == bool(told)
    assert all(told in warning for warning in found)
