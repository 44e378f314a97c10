"""Sentences and the firewall matrix."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.tables import BASE, load
from tunnel.config.describe import Call, Opening, bridge_sentence, ports, route_sentence


def test_a_sentence_a_route(tmp_path: Path) -> None:
    table = load(tmp_path, BASE)
    assert route_sentence(table, "ticks") == (
        "ticks: PUB applications at plant → SUB applications at dmz, confirmed, drop-oldest, dialled by plant"
    )
    assert route_sentence(table, "orders") == (
        "orders: REQ applications at dmz → REP applications at plant, "
        "confirmed, block, at most 5s old, dialled by plant"
    )


def test_sentences_of_the_other_patterns_and_of_several_sides(tmp_path: Path) -> None:
    text = BASE.replace(
        "links:", "  lab: {key: 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7'}\nlinks:\n  - {listen: lab, dial: dmz}"
    )
    table = load(
        tmp_path,
        text + "  work:\n    pattern: pipeline\n    from: dmz\n    to: [plant, lab]\n    delivery: live\n"
        "  chat:\n    pattern: pair\n    from: lab\n    to: dmz\n    max_age: 90s\n",
    )
    assert route_sentence(table, "work") == (
        "work: PUSH applications at dmz → PULL applications at plant and lab, live, block, dialled by dmz and plant"
    )
    assert route_sentence(table, "chat") == (
        "chat: PAIR applications at lab → PAIR applications at dmz, confirmed, block, at most 90s old, dialled by dmz"
    )


def test_ports(tmp_path: Path) -> None:
    text = BASE.replace("dmz tcp://127.0.0.1:9440", "dmz tcp://192.0.2.1:9440\n    allow: [198.51.100.7, 10.0.0.0/8]")
    text = text.replace(
        "from: dmz bind tcp://127.0.0.1:5555",
        "from: {side: dmz, bind: ['tcp://192.0.2.1:5555', ipc://a], plain: {users: {a: {env: A}}}}",
    )
    text = text.replace("to: plant connect tcp://127.0.0.1:6555", "to: plant")
    text = text.replace("to: dmz bind tcp://127.0.0.1:5556", "to: dmz bind tcp://*:5556\n    allow: any")
    found = ports(load(tmp_path, text))
    assert found.opens == (
        Opening("dmz", "tcp://192.0.2.1:9440", "link with plant", "198.51.100.7/32, 10.0.0.0/8", "CURVE key of plant"),
        Opening("dmz", "tcp://192.0.2.1:5555", "REQ applications of orders", "any", "PLAIN password"),
        Opening("dmz", "ipc://a", "REQ applications of orders", "this box", "PLAIN password"),
        Opening("dmz", "tcp://*:5556", "SUB applications of ticks", "any", ""),
    )
    assert found.calls == (
        Call("plant", "tcp://127.0.0.1:9440", "link with dmz"),
        Call("plant", "tcp://127.0.0.1:6556", "PUB application of ticks"),
    )
    assert found.untold == ("the end of orders at plant",)
    assert found.as_json()["opens"][0]["address"] == "tcp://192.0.2.1:9440"


def warnings(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "dmz.yaml"
    return [str(warning).removeprefix(f"{path}:") for warning in load(tmp_path, text).warnings]


def test_likely_mistakes_are_warnings(tmp_path: Path) -> None:
    assert warnings(tmp_path, BASE.replace("dial: plant tcp://127.0.0.1:9440", "dial: plant tcp://127.0.0.1:9441")) == [
        "12:11: links[0].dial: plant dials port 9441, but dmz listens at port 9440."
    ]
    assert warnings(tmp_path, BASE.replace("127.0.0.1:6556", "127.0.0.1:6555")) == [
        "24:11: routes.ticks.from: orders expects REP, DEALER or ROUTER applications at tcp://127.0.0.1:6555, "
        "this route PUB or XPUB; no application is both."
    ]
    looped = BASE.replace("to: dmz bind tcp://127.0.0.1:5556", "to: dmz connect tcp://127.0.0.1:5555")
    assert warnings(tmp_path, looped) == [
        "25:9: routes.ticks.to: dmz connects here to tcp://127.0.0.1:5555, which it binds itself for the route orders."
    ]


def test_a_table_without_routes_is_right_and_warned_of(tmp_path: Path) -> None:
    for end in ("", "routes:\n", "routes: {}\n"):
        told = warnings(tmp_path, BASE.split("routes:")[0] + end)
        assert len(told) == 1
        assert "the table has no routes, so nothing crosses yet." in told[0]


def test_services_of_one_kind_may_share_an_endpoint(tmp_path: Path) -> None:
    text = (
        BASE
        + "  more:\n    pattern: reqrep\n    from: dmz bind local\n"
        + "    to: plant connect tcp://127.0.0.1:6555\n    max_age: never\n"
    )
    assert warnings(tmp_path, text) == []


ROUTES = """\
  weights: {pattern: pipeline, from: plant bind local, to: dmz bind local}
  asked: {pattern: reqrep, from: dmz bind local, to: plant bind local, max_age: 5s}
"""
DEVICES = "listen: [tcp://127.0.0.1:4001, tcp://127.0.0.1:4002]"
DIAL = "devices that dial tcp://127.0.0.1:4001 or tcp://127.0.0.1:4002"
SERVER = "connect: [tcp://10.0.0.7:502, tcp://10.0.0.8:502]"
DIALLED = "the server at tcp://10.0.0.7:502 or tcp://10.0.0.8:502"
SENTENCES = [
    ("server", "PUSH connect route:weights", "", f"{DIAL} → PUSH to route weights, framing line, at plant"),
    ("server", "PUB bind ipc://a", "frame: mllp", f"{DIAL} → PUB at ipc://a, framing mllp, at plant"),
    ("server", "SUB connect tcp://h:1", "", f"SUB at tcp://h:1 → all {DIAL}, framing line, at plant"),
    (
        "server",
        "PULL connect route:weights",
        "to: one",
        f"PULL of route weights → one of the {DIAL}, framing line, at dmz",
    ),
    (
        "server",
        "DEALER connect route:asked",
        "frame: mllp, frame_out: line, accept: acked, ack: x",
        f"requests of {DIAL} → DEALER to route asked, framing mllp (out: line), told when it was answered, at dmz",
    ),
    (
        "server",
        "PUSH connect route:weights",
        "ack: x, tls: {cert: a, key: b}",
        f"{DIAL} → PUSH to route weights, framing line, TLS, told when it is handed to 0MQ, at plant",
    ),
    ("server", "ROUTER bind ipc://a", "", f"{DIAL} ↔ ROUTER at ipc://a, framing line, at plant"),
    (
        "client",
        "REP connect route:asked",
        "frame: {kind: length, width: 2}",
        f"REP of route asked → requests to {DIALLED}, framing length, at plant",
    ),
    (
        "client",
        "SUB connect tcp://h:1 tcp://h:2",
        "",
        f"SUB at tcp://h:1 and tcp://h:2 → {DIALLED}, framing line, at plant",
    ),
    (
        "client",
        "PUSH connect route:weights",
        "",
        f"{DIALLED} → PUSH to route weights, framing line, at plant",
    ),
    (
        "client",
        "DEALER bind ipc://a",
        "",
        f"DEALER at ipc://a ↔ {DIALLED}, framing line, at plant",
    ),
]


@pytest.mark.parametrize(("kind", "zmq", "more", "sentence"), SENTENCES)
def test_a_sentence_a_bridge(tmp_path: Path, kind: str, zmq: str, more: str, sentence: str) -> None:
    tcp = DEVICES if kind == "server" else SERVER
    side = sentence.rpartition(" at ")[2]
    said = f"{{kind: tcp-{kind}, side: {side}, {tcp}, zmq: {zmq}{', ' if more else ''}{more}}}"
    table = load(tmp_path, f"{BASE}{ROUTES}bridges:\n  old: {said}\n")
    assert bridge_sentence(table, "old") == f"old: {sentence}"


def test_ports_of_bridges(tmp_path: Path) -> None:
    bridges = """\
bridges:
  open:
    side: plant
    kind: tcp-server
    listen: [tcp://10.0.0.1:4001, ipc://a]
    allow: 10.0.0.0/24
    zmq: PUSH bind tcp://127.0.0.1:4003
    tls: {cert: a, key: b, ca: c}
  defaulted: {side: plant, kind: tcp-server, listen: 'tcp://10.0.0.1:4002', zmq: PUSH connect tcp://10.0.0.9:1}
  near: {side: dmz, kind: tcp-server, listen: 'tcp://127.0.0.1:4004', zmq: PUSH connect route:weights}
  plc: {side: plant, kind: tcp-client, connect: 'tcp://10.0.0.7:502', zmq: REP connect route:asked}
"""
    weights = ROUTES.replace("from: plant bind local, to: dmz", "from: dmz bind local, to: plant")
    found = ports(load(tmp_path, BASE.replace("links:", "defaults: {allow: 10.9.0.0/16}\nlinks:") + weights + bridges))
    assert found.opens[-5:] == (
        Opening("plant", "tcp://10.0.0.1:4001", "devices of open", "10.0.0.0/24", "TLS certificate"),
        Opening("plant", "ipc://a", "devices of open", "this box", "TLS certificate"),
        Opening("plant", "tcp://127.0.0.1:4003", "0MQ applications of open", "this box", ""),
        Opening("plant", "tcp://10.0.0.1:4002", "devices of defaulted", "10.9.0.0/16", ""),
        Opening("dmz", "tcp://127.0.0.1:4004", "devices of near", "this box", ""),
    )
    assert found.calls[-2:] == (
        Call("plant", "tcp://10.0.0.9:1", "0MQ application of defaulted"),
        Call("plant", "tcp://10.0.0.7:502", "server of plc"),
    )
