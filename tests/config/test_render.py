"""A rendered table loads again and gives its side the same plan, and does not tell what concerns others only."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.carriers.certificates import Authority
from tests.config.tables import BASE, PLANT_KEY, with_keys, write
from tunnel.config import load_table, plan_for
from tunnel.config.plan import Plan
from tunnel.config.render import render
from tunnel.errors import KeyFileError
from tunnel.keys import write_pair

RICH = """\
version: 1
session: 900MiB
ipc_dir: sockets
defaults:
  allow: [10.20.0.0/16]
  window: 2MiB
  max_age: 90s
  hwm: 50
  heartbeat: 1500ms
  keepalive: false
include: more/*.yaml
sides:
  dmz:
    key: [keys/dmz.key, keys/dmz-old.key]
  plant:
    key: 'KEY_OF_PLANT'
    secret: {file: keys/plant.key_secret}
links:
  - listen:
      side: dmz
      address: tcp://192.0.2.10:9440
      allow: [198.51.100.7]
    dial:
      side: plant
      address: [tcp://dmz.example.com:9440, 'tcp://[2001:db8::1]:9440']
      source: 10.0.0.9
  - listen: plant ipc://link.sock
    dial: lab ipc://link.sock
routes:
  orders:
    pattern: reqrep
    from:
      side: dmz
      bind: [tcp://192.0.2.10:5555, ipc://orders.sock]
      handover: true
      mode: "0660"
      curve: {own: keys/orders.key_secret, clients: clients}
    to:
      side: plant
      connect: tcp://10.0.0.5:5555
      routing_id: hex:ff00
      plain: {username: 'a${b'-}, password: {env: ZT_PASSWORD}}
    max_message: 1537B
    on_restart: resend
  ticks:
    pattern: pubsub
    from: plant connect tcp://10.0.0.6:5556
    to: dmz bind tcp://192.0.2.10:5556
    allow: any
    delivery: live
    overflow: keep-latest
    priority: high
    topics: {allow: ['', 'hex:00ff', '0660', 'yes', "tab\\there"], deny: ['- x: y', '$${HOME}']}
    subscribe: ['#1', ' ']
  secret-work:
    pattern: pipeline
    delivery: spooled
    spool: {max: 512MiB, expire: never}
    from: plant bind local
    to: lab bind tcp://127.0.0.1:7777
bridges:
  scales:
    side: plant
    kind: tcp-server
    listen: [tcp://10.0.0.1:4001, ipc://scales.sock]
    zmq: PUSH connect route:secret-work
    tls: {cert: certs/server.pem, key: certs/server.key, ca: certs/ca.pem}
    frame: {kind: stx-etx, start: '0660', end: hex:0d0a, max_frame: 64KiB}
    frame_out: line
    ack: "\\x06$${HOME}\\r"
    connections: 12
    idle: never
    hwm: 7
  desk:
    side: dmz
    kind: tcp-server
    listen: tcp://127.0.0.1:4002
    zmq: DEALER connect tcp://127.0.0.1:4003
    timeout: 1500ms
    timeout_reply: 'no'
""".replace("'a${b'-}", "ann")
MORE = """\
sides:
  lab: {key: lab.key}
bridges:
  plc:
    side: lab
    kind: tcp-client
    connect: tcp://${ZT_PLC}:502
    zmq: REP bind ipc://plc.sock
    tls: {ca: ca.pem}
    frame: {kind: length, width: 2, offset: 4, keep: true}
    correlate: {offset: 0, length: 2}
    keep_alive: {every: 30s, send: hex:00}
routes:
  chat:
    pattern: pair
    from: lab connect tcp://10.9.9.9:1
    to: plant bind ipc://chat
    max_age: never
"""


@pytest.fixture
def rich(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZT_PASSWORD", "hunter2")
    monkeypatch.setenv("ZT_PLC", "10.9.9.8")
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", "/run/zt-test")
    for name in ("dmz", "dmz-old", "plant", "orders"):
        write_pair(tmp_path / "keys", name)
    write_pair(tmp_path / "more", "lab")
    write_pair(tmp_path / "clients", "ann")
    (tmp_path / "certs").mkdir()
    Authority(tmp_path / "certs").issue().key.chmod(0o600)
    Authority(tmp_path / "more")
    public = load_public(tmp_path / "keys" / "plant.key")
    write(tmp_path, MORE, "more/lab.yaml")
    return write(tmp_path, RICH.replace("KEY_OF_PLANT", public), "rich.yaml")


def load_public(path: Path) -> str:
    from tunnel.keys import read_public

    return read_public(path)


def plan_of(path: Path, side: str) -> Plan:
    return dataclasses.replace(plan_for(load_table(path), side), table=Path(), warnings=())


@pytest.mark.parametrize("side", ["dmz", "plant", "lab"])
def test_the_same_plan(rich: Path, side: str) -> None:
    rendered = write(rich.parent, render(load_table(rich), side), "rendered.yaml")
    assert plan_of(rendered, side) == plan_of(rich, side)


@pytest.mark.parametrize("side", ["dmz", "plant", "lab"])
def test_rendering_twice_changes_nothing(rich: Path, side: str) -> None:
    once = render(load_table(rich), side)
    again = render(load_table(write(rich.parent, once, "rendered.yaml")), side)
    assert again == once


def test_what_dmz_is_not_told(rich: Path) -> None:
    text = render(load_table(rich), "dmz")
    away = ("10.0.0.", "10.9.9.", "dmz.example.com", "secret-work", "chat", "lab", "ZT_PASSWORD", "ann", "local")
    for word in (*away, "scales", "plc", "certs"):
        assert word not in text.partition("version:")[2], word


def test_what_plant_is_not_told(rich: Path) -> None:
    text = render(load_table(rich), "plant")
    for word in ("192.0.2.", "198.51.100.", "orders.key_secret", "hunter2", "rich", "desk", "plc"):
        assert word not in text.partition("session:")[2], word


def test_bridges_of_the_side_alone_and_whole(rich: Path) -> None:
    def found(side: str) -> dict[str, Any]:
        bridges: dict[str, Any] = yaml.safe_load(render(load_table(rich), side))["bridges"]
        return bridges

    assert found("plant")["scales"]["allow"] == "10.20.0.0/16"
    assert found("plant")["scales"]["tls"]["cert"] == "certs/server.pem"
    assert set(found("plant")) == {"scales"}
    assert "allow" not in found("dmz")["desk"]
    assert found("lab")["plc"]["tls"] == {"ca": "more/ca.pem"}
    assert found("lab")["plc"]["connect"] == "tcp://10.9.9.8:502"
    for side, name in (("plant", "scales"), ("dmz", "desk"), ("lab", "plc")):
        (bridge,) = plan_of(rich, side).bridges
        assert bridge.name == name


def test_the_others_have_bare_ends_and_written_keys(tmp_path: Path) -> None:
    path = with_keys(tmp_path)
    rendered = render(load_table(path), "dmz")
    assert "to: plant\n" in rendered
    assert "dial: plant\n" in rendered
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "keys").mkdir(parents=True)
    for name in ("dmz.key", "dmz.key_secret"):
        (tmp_path / "keys" / name).rename(elsewhere / "keys" / name)
    (tmp_path / "keys" / "plant.key").unlink()
    table = load_table(write(elsewhere, rendered))
    assert plan_for(table, "dmz").side == "dmz"
    with pytest.raises(KeyFileError):
        plan_for(table, "plant")


def test_a_key_with_a_dollar_and_a_brace(tmp_path: Path) -> None:
    table = load_table(write(tmp_path, BASE.replace(PLANT_KEY, "0${00" * 8)))
    again = load_table(write(tmp_path, render(table, "dmz")))
    assert again.keys["plant"] == table.keys["plant"]
