"""docs/bridges.md is true: every kind, key, default, socket and counted word that there is, and no other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from bridges import process, tcp_client, tcp_server
from bridges.framing import make
from tests.config.tables import BASE, load
from tunnel.config import bridge_model, mail
from tunnel.config.bridge_model import CorrelateModel, KeepAliveModel, TcpClient, TcpServer
from tunnel.config.bridge_plan import TcpPlan, ZmqPlan
from tunnel.config.check_bridges import CLIENT_SOCKETS, SERVER_SOCKETS
from tunnel.config.model import Bridge, SpoolModel
from tunnel.config.render import duration_text, size_text
from tunnel.limits import (
    BRIDGE_CONNECT_S,
    BRIDGE_HELD_BYTES,
    BRIDGE_PIPELINE_MOST,
    BRIDGE_POOL,
    BRIDGE_READ_LEAST_BYTES,
    BRIDGE_REDIAL_MAX_S,
    BRIDGE_REDIAL_MIN_S,
    BRIDGE_REQUESTS,
    BRIDGE_STOP_S,
    SPOOL_BYTES,
    SPOOL_EXPIRE_S,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "bridges.md").read_text(encoding="utf-8")
KEYS, PROMISES, STATUS = (PAGE.split(head)[1].split("\n## ")[0] for head in ("## Keys", "## What `acc", "## Status"))


def rows(text: str, head: str) -> list[list[str]]:
    """Cells of the table that begins with this head."""
    table = text.split(f"{head} |", 1)[1].split("\n\n")[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def fields(model: type[Bridge]) -> set[str]:
    return set(model.model_fields)


@pytest.mark.parametrize(
    ("heading", "wanted"),
    [
        ("Both kinds:", fields(TcpServer) & fields(TcpClient)),
        ("tcp-server:", fields(TcpServer) - fields(TcpClient)),
        ("tcp-client:", fields(TcpClient) - fields(TcpServer)),
    ],
)
def test_every_key(heading: str, wanted: set[str]) -> None:
    told = [word for row in rows(KEYS.split(f"\n{heading}\n")[1], "| key | says | default") for word in words(row[0])]
    assert len(told) > 3
    assert sorted(told) == sorted(wanted)


def test_keys_of_keys() -> None:
    for model in (KeepAliveModel, CorrelateModel, SpoolModel):
        for name in model.model_fields:
            assert re.search(rf"[{{ ]{name}: ", KEYS), name


def test_defaults() -> None:
    plan = {field.name: field.default for field in dataclasses.fields(TcpPlan)}
    zmq = {field.name: field.default for field in dataclasses.fields(ZmqPlan)}
    wanted = {
        "hwm": str(zmq["hwm"]),
        "frame": f"`{make('line').kind}`",
        "meta": f"`{str(plan['meta']).lower()}`",
        "timeout": duration_text(plan["timeout_s"]),
        "pipeline": str(plan["pipeline"]),
        "queue": size_text(plan["queue_bytes"]),
        "keepalive": f"`{str(plan['keepalive']).lower()}`",
        "user_timeout": duration_text(plan["user_timeout_s"]),
        "connections": str(plan["connections"]),
        "to": f"`{plan['to']}`",
        "accept": f"`{plan['accept']}`",
        "spool": f"{size_text(SPOOL_BYTES)}, {duration_text(SPOOL_EXPIRE_S)}",
        "pool": str(plan["pool"]),
        "start": "`now`",
    }
    never = {"idle": plan["idle_s"], "lifetime": plan["lifetime_s"]}
    assert set(never.values()) == {None}
    told = {words(row[0])[0]: row[2] for row in re.findall(r"^\| (`.+?) \| (.+) \| (.+?) \|$", KEYS, re.MULTILINE)}
    assert {name: told[name] for name in (*wanted, *never)} == wanted | dict.fromkeys(never, "`never`")


def test_limits() -> None:
    flat = " ".join(PAGE.split())
    for sentence in (
        f"after pauses of {BRIDGE_REDIAL_MIN_S:g} s to {BRIDGE_REDIAL_MAX_S:g} s with jitter",
        f"a connect may take {BRIDGE_CONNECT_S:g} s",
        f"{BRIDGE_REQUESTS} requests of one bridge are under way",
        f"under way, at most {BRIDGE_PIPELINE_MOST};",
        f"connections, at most {BRIDGE_POOL} |",
        f"bring {BRIDGE_HELD_BYTES >> 20} MiB more at most, or {BRIDGE_READ_LEAST_BYTES >> 10} KiB each",
        f"what was taken, for {BRIDGE_STOP_S:g} s",
    ):
        assert sentence in flat


def test_the_one_table_of_kinds() -> None:
    told = {words(row[0])[0]: words(row[1])[0] for row in rows(PAGE, "| kind | file | is")}
    assert told == {kind: f"{module.replace('.', '/')}.py" for kind, (module, _) in process.KINDS.items()}
    assert set(told) == set(bridge_model.KINDS)


def test_modes_by_socket() -> None:
    told: dict[str, list[str]] = {}
    for kind, sockets, _ in rows(PAGE, "| kind | socket | means"):
        told.setdefault(kind, []).extend(words(sockets))
    assert {kind: sorted(sockets) for kind, sockets in told.items()} == {
        "tcp-server": sorted(tcp_server.MODES),
        "tcp-client": sorted(tcp_client.MODES),
    }
    assert set(SERVER_SOCKETS) == set(tcp_server.MODES)
    assert set(CLIENT_SOCKETS) == set(tcp_client.MODES)


def test_what_accept_promises_is_told_for_each() -> None:
    told = re.findall(r"^\| `(\w+)` \| ", PROMISES, re.MULTILINE)
    annotation = str(TcpServer.model_fields["accept"].annotation)
    assert told == re.findall(r"'(\w+)'", annotation)


MAIL = {ROOT / f"{module.replace('.', '/')}.py" for kind, (module, _) in process.KINDS.items() if kind in mail.MAIL}
"""What these count stands in docs/mail.md."""
SOURCE = "".join(path.read_text() for path in sorted((ROOT / "bridges").glob("*.py")) if path not in MAIL)
COUNTED = {
    "refused": {"limit", "per_address", "tls", "gone", "closing", *re.findall(r'refused\["(\w+)"\]', SOURCE)},
    "dropped": set(re.findall(r'dropped\["(\w+)"\]', SOURCE)),
    "ended": {"reset", "vanished", *re.findall(r'(?:close|abort)\("(\w+)"\)', SOURCE)},
}


@pytest.mark.parametrize("counter", COUNTED)
def test_every_word_that_is_counted(counter: str) -> None:
    told = [word for row in rows(STATUS, f"| `{counter}`") for word in words(row[0])]
    assert len(told) > 4
    assert sorted(told) == sorted(COUNTED[counter])


def test_the_example_is_right(tmp_path: Path) -> None:
    example = PAGE.split("```yaml\n")[1].split("```")[0]
    route = "  weights: {pattern: pipeline, from: plant bind local, to: dmz bind local}\n"
    table = load(tmp_path, BASE + route + example)
    assert (list(table.model.bridges), table.warnings) == (["scales"], ())
