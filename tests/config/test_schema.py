"""The JSON schema lets through what the loader lets through, and knows wrong shapes and words from right ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridges.framing import OPTIONS
from tests.config.tables import BASE
from tests.config.wrong_tables import WRONG
from tunnel.config.bridge_model import KINDS as KINDS_OF_BRIDGE
from tunnel.config.nodes import Map, Node, Scalar, compose
from tunnel.config.schema import table_schema

SCHEMA = table_schema()
CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
KINDS: dict[str, Any] = {"string": str, "object": dict, "array": list, "boolean": bool, "integer": int, "number": float}
KNOWN = {
    *("$schema", "$defs", "title", "description", "default", "examples", "type", "anyOf", "$ref", "const", "enum"),
    *("properties", "required", "additionalProperties", "items", "minimum", "maximum", "not"),
}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """The few words of JSON Schema that the schema uses."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        return fits(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")])
    if "anyOf" in schema and not any(fits(value, item) for item in schema["anyOf"]):
        return False
    if "not" in schema and fits(value, schema["not"]):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "type" in schema and not (
        isinstance(value, KINDS[schema["type"]]) and (schema["type"] == "boolean") >= isinstance(value, bool)
    ):
        return False
    if isinstance(value, list):
        return all(fits(item, schema.get("items", {})) for item in value)
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return False
    return not isinstance(value, dict) or fits_object(value, schema)


def fits_object(value: dict[str, Any], schema: dict[str, Any]) -> bool:
    if not set(schema.get("required", ())) <= set(value):
        return False
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, item in value.items():
        below = properties.get(key, more)
        if below is False or (isinstance(below, dict) and not fits(item, below)):
            return False
    return True


def plain(node: Node | None) -> Any:
    assert node is not None
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Map):
        return {key: plain(entry.node) for key, entry in node.entries.items()}
    return [plain(item) for item in node.items]


def read(text: str) -> Any:
    return plain(compose(text, "t", []))


def bridged(lines: str, kind: str = "tcp-server", zmq: str = "PUSH connect tcp://127.0.0.1:1") -> Any:
    tcp = "listen: 'tcp://127.0.0.1:1'" if kind == "tcp-server" else "connect: 'tcp://127.0.0.1:1'"
    return read(
        f"{BASE}bridges:\n  old: {{side: dmz, kind: {kind}, {tcp}, zmq: '{zmq}'{', ' if lines else ''}{lines}}}\n"
    )


RIGHT = [
    ("tcp-server", ""),
    ("tcp-server", "frame: line, allow: any, connections: 5, takeover: newest, per_address: 1, to: all"),
    ("tcp-server", "frame: {max_frame: 1KiB}, frame_out: {kind: slip, lead: false}, tls: {cert: a, key: b}"),
    ("tcp-server", "frame: {kind: length, width: varint, adjust: -3}, accept: acked, ack: x, nak: y, idle: never"),
    ("tcp-client", "frame: {kind: idle, pause: 50ms}, pool: 3, start: lazy, on_connect: hi, keepalive: false"),
    ("tcp-client", "correlate: {offset: 0, length: 2}, keep_alive: {every: 30s, send: x}, timeout: 5s, pipeline: 9"),
]
BAD = [
    ("tcp-server", "conections: 5"),
    ("tcp-server", "pool: 3"),
    ("tcp-server", "accept: perhaps"),
    ("tcp-server", "frame: lnie"),
    ("tcp-server", "frame: {kind: fixed}"),
    ("tcp-server", "frame: {kind: line, width: 2}"),
    ("tcp-server", "frame: {width: 2}"),
    ("tcp-server", "frame: {kind: length, width: 3}"),
    ("tcp-server", "frame: {kind: length, header: -1}"),
    ("tcp-server", "frame: {kind: idle, pause: 5}"),
    ("tcp-server", "frame: {made: 1}"),
    ("tcp-client", "listen: 'tcp://127.0.0.1:1'"),
    ("tcp-client", "pool: 0"),
    ("tcp-client", "correlate: {offset: 0}"),
    ("tcp-clent", ""),
]


@pytest.mark.parametrize(("kind", "lines"), RIGHT)
def test_bridges_fit(kind: str, lines: str) -> None:
    assert fits(bridged(lines, kind), SCHEMA)


@pytest.mark.parametrize(("kind", "lines"), BAD)
def test_wrong_bridges_do_not_fit(kind: str, lines: str) -> None:
    assert not fits(bridged(lines, kind), SCHEMA)


def test_every_kind_of_bridge_and_framing_is_in_it() -> None:
    assert KINDS_OF_BRIDGE
    found = {SCHEMA["$defs"][model.__name__]["properties"]["kind"]["const"] for model in KINDS_OF_BRIDGE.values()}
    assert found == set(KINDS_OF_BRIDGE)
    of_framing = SCHEMA["$defs"]["FrameModel"]["anyOf"][1:]
    told = {each["properties"]["kind"]["const"]: set(each["properties"]) for each in of_framing}
    assert told == {kind: {"kind", "max_frame", *options} for kind, options in OPTIONS.items()}


def test_it_is_json_and_says_what_it_is() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["title"] == "ztunnel route table"
    assert set(SCHEMA["required"]) == {"version", "sides", "links"}
    assert '"null"' not in json.dumps(SCHEMA)


@pytest.mark.parametrize("path", CONFIGS, ids=[path.name for path in CONFIGS])
def test_tables_to_start_from_fit(path: Path) -> None:
    assert fits(read(path.read_text()), SCHEMA)


def test_the_long_forms_fit() -> None:
    long = BASE.replace(
        "from: dmz bind tcp://127.0.0.1:5555", "from: [{side: dmz, bind: [ipc://a], hwm: 5, mode: '0660', allow: any}]"
    )
    link = """dial: {side: plant, address: ['https://dmz/l', 'ssh://me@dmz/9440'], tls: {pin: [a], ca: b},
      ssh: {identity: id, agent: false, backend: openssh}, proxy: {url: 'http://p:1', username: a}}"""
    carried = BASE.replace("dial: plant tcp://127.0.0.1:9440", link)
    assert fits(read(BASE), SCHEMA)
    assert fits(read(long), SCHEMA)
    assert carried != BASE
    assert fits(read(carried), SCHEMA)
    assert fits(read(carried.replace("{url: 'http://p:1', username: a}", "none")), SCHEMA)


@pytest.mark.parametrize(
    "name",
    [
        "version 2",
        "an unknown key at the top",
        "an unknown default",
        "no sides",
        "no links",
        "without pattern",
        "an unknown pattern",
        "an unknown delivery",
        "an unknown key",
        "hwm of nothing",
        "hwm as text",
        "window without unit",
        "a side without key",
        "curve without own",
        "a secret of an unknown kind",
        "an unknown backend",
        "agent: no",
        "an unknown key in tls",
        "tls that is a word",
        "a proxy without url",
        "a key of ssh outside its group",
        "a stream without connections",
        "a stream's misspelt key",
        "sides that are a list",
    ],
)
def test_wrong_shapes_and_words_do_not_fit(name: str) -> None:
    wrong = next(wrong for wrong in WRONG if wrong.name == name)
    assert not fits(read(wrong.text), SCHEMA)
