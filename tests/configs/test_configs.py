"""Every table that ships is right, for every side, and does in words what its comments say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tunnel.config import Table, load_table, plan_for
from tunnel.config.describe import bridge_sentence, ports, route_sentence
from tunnel.config.render import render
from tunnel.config.template import sides_for, table_text
from tunnel.errors import TableError
from tunnel.keys import write_pair

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
SIDES = ("dmz", "plant", "plant-a", "plant-b", "office")
CARRIED = {
    "over-ssh.yaml": (("plant", "ssh", "dial"),),
    "reverse-over-ssh.yaml": (("plant", "ssh", "listen"), ("office", "ssh", "dial")),
    "over-https.yaml": (("dmz", "http", "listen"), ("plant", "https", "dial")),
    "through-proxy.yaml": (("dmz", "http", "listen"), ("plant", "https", "dial")),
}
"""Tables with carriers of their own process: (side, scheme, role) of each."""
BRIDGED = {
    "scale.yaml": "scales: devices that dial tcp://10.0.0.1:4001 → PUSH to route weights, framing line, at plant",
    "hl7.yaml": "analysers: requests of devices that dial tcp://10.0.0.1:2575 → REQ to route results, framing mllp, "
    "told when it was answered, at plant",
    "plc.yaml": "plc: REP of route registers → requests to the server at tcp://10.0.0.7:502, framing length, at plant",
    "displays.yaml": "boards: SUB of route departures → all devices that dial tcp://10.0.0.1:4100, framing line, "
    "at plant",
    "service.yaml": "desk: requests of devices that dial tcp://192.0.2.10:7000 → DEALER to route stock, framing line, "
    "at dmz",
    "alarms.yaml": "alarms: mail for ups@*, printer@* or scan?@* → PUB to route alarms; it comes to tcp://10.0.0.1:25, "
    "and its sender is told when it is on disk, at plant",
    "reports.yaml": "post: REP of route reports → mail by tcp://10.0.0.25:587, to *@example.com, JSON by a template, "
    "at plant",
    "notify.yaml": "events: SUB of route events → mail by tcp://10.0.0.25:25, to *@example.com, JSON by a template, "
    "at dmz",
    "mail-relay.yaml": "incoming: mail for *@example.com → PUSH to route mail; it comes to tcp://10.0.0.1:25, and its "
    "sender is told when it is on disk, at plant; outgoing: PULL of route mail → mail by tcp://192.0.2.25:587, to "
    "*@example.com, at dmz",
    "tickets.yaml": "tickets: mail in INBOX of tickets@plant.example.com at tcp://10.0.0.25:993 → PUSH to route "
    "tickets, then moved to Done, at plant",
}
"""Tables with a bridge, and what it is in words."""
CREDENTIALS = {"ztunnel.tickets": "secret\n"}
"""What systemd would load for them."""


def credentials(folder: Path) -> str:
    """CREDENTIALS_DIRECTORY."""
    folder.mkdir()
    for name, text in CREDENTIALS.items():
        (folder / name).write_text(text)
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", "/run/zt-test")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", credentials(tmp_path / "credentials"))
    for side in SIDES:
        write_pair(tmp_path / "keys", side)
    for path in CONFIGS:
        shutil.copy(path, tmp_path)
    return tmp_path


def test_there_are_tables() -> None:
    names = {path.name for path in CONFIGS}
    assert {"demo.yaml", "minimal.yaml", "dmz.yaml", "plants.yaml", *CARRIED, *BRIDGED, "stream.yaml"} <= names


@pytest.mark.parametrize("name", [path.name for path in CONFIGS])
def test_right_for_every_side(folder: Path, name: str) -> None:
    table = load_table(folder / name)
    assert table.warnings == ()
    assert table.routes
    for side in table.sides:
        plan = plan_for(table, side)
        assert plan.routes
        assert plan.listens or plan.dials
        (folder / "rendered.yaml").write_text(render(table, side))
        again = plan_for(load_table(folder / "rendered.yaml"), side)
        assert (again.routes, again.carriers, again.bridges) == (plan.routes, plan.carriers, plan.bridges)


@pytest.mark.parametrize("name", CARRIED)
def test_carriers(folder: Path, name: str) -> None:
    table = load_table(folder / name)
    found = [(side, carrier.scheme, carrier.role) for side in table.sides for carrier in plan_for(table, side).carriers]
    assert found == list(CARRIED[name])


def test_every_table_with_a_bridge_is_known(folder: Path) -> None:
    assert {path.name for path in CONFIGS if load_table(folder / path.name).model.bridges} == set(BRIDGED)


@pytest.mark.parametrize("name", BRIDGED)
def test_bridges(folder: Path, name: str) -> None:
    table = load_table(folder / name)
    assert "; ".join(bridge_sentence(table, bridge) for bridge in table.model.bridges) == BRIDGED[name]


def test_streams(folder: Path) -> None:
    table = load_table(folder / "stream.yaml")
    assert {route.pattern for route in table.routes.values()} == {"stream"}
    assert sentence(table, "web") == "web: TCP clients at dmz → 127.0.0.1:6080 at plant, dialled by plant"


@pytest.mark.parametrize("name", [path.name for path in CONFIGS if path.name != "reverse-over-ssh.yaml"])
def test_the_inside_dials_out(folder: Path, name: str) -> None:
    table = load_table(folder / name)
    assert {link.listen.side for link in table.links} == {"dmz"}
    assert all(sentence(table, route).rpartition("dialled by ")[2].startswith("plant") for route in table.routes)


def sentence(table: Table, route: str) -> str:
    return route_sentence(table, route)


@pytest.mark.parametrize("name", ["demo.yaml", "dmz.yaml"])
def test_all_four_patterns(folder: Path, name: str) -> None:
    table = load_table(folder / name)
    assert {route.pattern for route in table.routes.values()} == {"reqrep", "pubsub", "pipeline", "pair"}


def test_the_demo_stays_on_loopback_and_no_port_is_used_twice(folder: Path) -> None:
    found = ports(load_table(folder / "demo.yaml"))
    addresses = [opening.address for opening in found.opens] + [call.to for call in found.calls]
    assert all(address.startswith("tcp://127.0.0.1:") for address in addresses)
    assert all(opening.let_in == "this box" for opening in found.opens)
    assert len({opening.address for opening in found.opens}) == len(found.opens)


@pytest.mark.parametrize("name", ["minimal.yaml", "demo.yaml"])
def test_it_is_not_open_when_it_is_moved_off_loopback(folder: Path, name: str) -> None:
    path = folder / name
    path.write_text(path.read_text().replace("127.0.0.1", "192.0.2.10"))
    with pytest.raises(TableError, match="nothing says by whom"):
        load_table(path)


@pytest.mark.parametrize("side", [None, "dmz", "plant", "hall-7"])
def test_the_table_that_init_writes(folder: Path, side: str | None) -> None:
    names = sides_for(side)
    assert len(set(names)) == 2
    assert side is None or side in names
    if "hall-7" in names:
        write_pair(folder / "keys", "hall-7")
    path = folder / "ztunnel.yaml"
    path.write_text(table_text(*names))
    table = load_table(path)
    assert (table.sides, table.warnings) == (names, ())
    # with its commented routes taken in, it is right too
    text = "\n".join(uncommented(table_text(*names)))
    path.write_text(text)
    assert len(load_table(path).routes) == 4


def uncommented(text: str) -> list[str]:
    """The table with its commented routes taken in (the commented addresses of links stay out)."""
    lines, in_routes = [], False
    for line in text.splitlines():
        in_routes = in_routes or line.startswith("routes:")
        lines.append(line.replace("  # ", "  ", 1) if in_routes and line.startswith("  # ") else line)
    return lines
