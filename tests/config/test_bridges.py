"""What a table says of bridges, and what their processes are told: nothing said, everything said, and who may dial."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridges.framing import make
from tests.config.tables import BASE, with_keys
from tunnel.config import load_table, plan_for
from tunnel.config.bridge_plan import BridgePlan, Correlation, TcpPlan, ZmqPlan
from tunnel.config.plan import Allow, Endpoint

ROUTES = """\
  weights: {pattern: pipeline, from: plant bind local, to: dmz bind local}
  asked: {pattern: reqrep, from: dmz bind local, to: plant bind local, max_age: 5s}
"""


@pytest.fixture(autouse=True)
def _runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", "/run/zt-test")


def plan_of(folder: Path, lines: str, *, side: str = "plant", defaults: str = "") -> BridgePlan:
    body = "".join(f"    {line}\n" for line in lines.splitlines())
    text = f"{BASE}{ROUTES}{defaults}bridges:\n  old:\n    side: {side}\n{body}"
    (plan,) = plan_for(load_table(with_keys(folder, text)), side).bridges
    return plan


def test_a_server_of_which_little_is_said(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "kind: tcp-server\nlisten: tcp://127.0.0.1:4001\nzmq: PUSH connect route:weights")
    private, desk = (f"ipc:///run/zt-test/dmz.plant/weights.{end}" for end in ("ipc", "desk"))
    assert plan.zmq == ZmqPlan("PUSH", (Endpoint("connect", private),), "weights", receipts=desk)
    assert plan.own == TcpPlan(make("line"), make("line"), listen=("tcp://127.0.0.1:4001",))
    assert (plan.process, plan.kind) == ("bridge-old", "tcp-server")


def test_a_server_of_which_everything_is_said(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        """\
kind: tcp-server
listen: [tcp://10.0.0.1:4001, ipc://a.sock]
allow: 10.0.0.0/24
zmq: DEALER connect route:asked
hwm: 9
frame: {kind: length, width: 2, max_frame: 1KiB}
frame_out: slip
meta: true
timeout: 1500ms
pipeline: 5
queue: 64KiB
keepalive: false
user_timeout: 9s
idle: 1m
lifetime: never
connections: 4
per_address: 2
takeover: newest
accept: acked
ack: hex:06
nak: "no\\n"
""",
        side="dmz",
    )
    assert plan.zmq.hwm == 9
    assert plan.own == TcpPlan(
        make("length", width=2, max_frame=1024),
        make("slip"),
        listen=("tcp://10.0.0.1:4001", plan.own.listen[1]),
        allow=Allow(False, plan.own.allow.networks),
        meta=True,
        timeout_s=1.5,
        pipeline=5,
        queue_bytes=65_536,
        keepalive=False,
        user_timeout_s=9,
        idle_s=60,
        connections=4,
        per_address=2,
        takeover=True,
        accept="acked",
        ack=b"\x06",
        nak=b"no\n",
    )
    assert [str(network) for network in plan.own.allow.networks] == ["10.0.0.0/24"]
    assert plan.own.listen[1].endswith("/a.sock")


def test_a_client_of_which_everything_is_said(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        """\
kind: tcp-client
connect: [tcp://10.0.0.7:502, tcp://plc.example.com:502]
zmq: REP connect route:asked
frame: {kind: length, width: 2, offset: 4, keep: true}
pool: 3
start: lazy
on_connect: "HELLO\\r\\n"
keep_alive: {every: 30s, send: hex:00}
correlate: {offset: 0, length: 2}
timeout_reply: hex:ff
tls: {server_name: plc}
""",
    )
    framing = make("length", width=2, offset=4, keep=True)
    assert plan.own == TcpPlan(
        framing,
        framing,
        connect=("tcp://10.0.0.7:502", "tcp://plc.example.com:502"),
        tls=plan.own.tls,
        timeout_reply=b"\xff",
        pool=3,
        lazy=True,
        greeting=b"HELLO\r\n",
        keep_alive=(30, b"\0"),
        correlate=Correlation(0, 2),
    )
    assert plan.own.tls is not None
    assert plan.own.tls.server_name == "plc"


def test_a_pub_and_a_sub(tmp_path: Path) -> None:
    listen = "kind: tcp-server\nlisten: tcp://127.0.0.1:4001\n"
    assert plan_of(tmp_path, listen + "zmq: PUB bind ipc://a\ntopic_until: ' '").own.topic_until == b" "
    assert plan_of(tmp_path, listen + "zmq: PUB bind ipc://a\ntopic: hex:00").own.topic == b"\0"
    told = plan_of(tmp_path, listen + "zmq: SUB connect tcp://h:1\nsubscribe: [a, hex:ff]\nto: one")
    assert (told.zmq.subscribe, told.own.to) == ((b"a", b"\xff"), "one")


def test_a_req_has_one_question_of_a_device_under_way(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "kind: tcp-server\nlisten: tcp://127.0.0.1:4001\nzmq: REQ connect route:asked", side="dmz")
    assert plan.own.pipeline == 1


@pytest.mark.parametrize(
    ("listen", "allow", "networks"),
    [
        ("tcp://127.0.0.1:4001", "", []),
        ("tcp://10.0.0.1:4001", "", ["10.9.0.0/16"]),
        ("[tcp://127.0.0.1:4001, tcp://10.0.0.1:4001]", "", ["10.9.0.0/16"]),
        ("tcp://10.0.0.1:4001", "allow: 10.0.0.7", ["10.0.0.7/32"]),
        ("tcp://127.0.0.1:4001", "allow: 127.0.0.2", ["127.0.0.2/32"]),
    ],
)
def test_whom_a_server_lets_in(tmp_path: Path, listen: str, allow: str, networks: list[str]) -> None:
    lines = f"kind: tcp-server\nlisten: {listen}\nzmq: PUSH connect route:weights\n{allow}"
    plan = plan_of(tmp_path, lines, defaults="defaults: {allow: 10.9.0.0/16}\n")
    assert [str(network) for network in plan.own.allow.networks] == networks
    assert not plan.own.allow.anyone


def test_the_bridges_of_other_sides_are_not_run(tmp_path: Path) -> None:
    lines = "kind: tcp-server\nlisten: tcp://127.0.0.1:4001\nzmq: PUSH connect route:weights"
    plan_of(tmp_path, lines)
    assert plan_for(load_table(tmp_path / "dmz.yaml"), "dmz").bridges == ()
