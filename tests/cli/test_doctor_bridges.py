"""What doctor finds of bridges: ports that can be opened and that cannot, servers that are there, certificates."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridges.framing import make
from tests.carriers.certificates import Authority
from tests.supervise.rig import Rig, rig
from tests.waiting import free_port
from tunnel.cli.doctor_bridges import _connect, _listen, examine
from tunnel.cli.findings import Finding
from tunnel.config import load_table, plan_for
from tunnel.config.bridge_plan import BridgePlan, TcpPlan, ZmqPlan
from tunnel.config.plan import Plan

LINE = make("line")


def listen(folder: Path, address: str) -> Finding:
    tcp = TcpPlan(LINE, LINE, listen=(address,))
    return _listen("bridge old", BridgePlan("old", "tcp-server", ZmqPlan("PUSH", ()), tcp, folder), address)


def test_a_port_that_is_free_and_one_that_is_not(tmp_path: Path) -> None:
    assert listen(tmp_path, f"tcp://127.0.0.1:{free_port()}").state == "ok"
    assert listen(tmp_path, f"tcp://*:{free_port()}").state == "ok"
    with socket.create_server(("127.0.0.1", 0)) as other:
        found = listen(tmp_path, f"tcp://127.0.0.1:{other.getsockname()[1]}")
    assert (found.state, "is in use" in found.detail) == ("bad", True)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp://192.0.2.1:4001", "is no address of this machine"),
        ("tcp://nope0:4001", "neither a numeric address nor an interface"),
    ],
)
def test_an_address_of_another_machine(tmp_path: Path, address: str, words: str) -> None:
    found = listen(tmp_path, address)
    assert (found.state, words in found.detail) == ("bad", True)


def test_a_unix_socket(tmp_path: Path) -> None:
    assert listen(tmp_path, f"ipc://{tmp_path}/deep/er/a.sock").state == "ok"
    (tmp_path / "file").write_text("")
    assert listen(tmp_path, f"ipc://{tmp_path}/file/a.sock").state == "bad"


def test_a_server_that_is_there_and_one_that_is_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert _connect("bridge old", f"tcp://127.0.0.1:{server.getsockname()[1]}").state == "ok"
    gone = _connect("bridge old", f"tcp://127.0.0.1:{free_port()}")
    assert (gone.state, gone.remedy) == ("warn", "is it on, and the port right?")
    assert _connect("bridge old", "tcp://no-such.invalid:502").state == "bad"
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert _connect("bridge old", f"ipc://{path}").state == "warn"
        server.listen()
        assert _connect("bridge old", f"ipc://{path}").state == "ok"


BRIDGES = """\
bridges:
  scales:
    side: dmz
    kind: tcp-server
    listen: tcp://127.0.0.1:{port}
    zmq: PUSH connect tcp://127.0.0.1:{tasks}
{more}"""


@pytest.fixture
def bridged(tmp_path: Path) -> Iterator[Callable[[str], Rig]]:
    with rig(tmp_path) as here:
        here.ports["scales"] = free_port()

        def write(more: str = "") -> Rig:
            here.write_table(more=BRIDGES.format(port=here.ports["scales"], tasks=here.ports["tasks"], more=more))
            return here

        yield write


def test_what_is_held_by_the_bridge_itself_is_well(bridged: Callable[[str], Rig]) -> None:
    here = bridged("")

    def found() -> dict[str, Any]:
        done = here.run("doctor", here.table, "--as", "dmz", "--json")
        return next(dict(one) for one in json.loads(done.stdout) if one["what"] == "bridge scales")

    assert (found()["state"], "can be opened" in found()["detail"]) == ("ok", True)
    here.up()
    assert (found()["state"], "is held by this bridge" in found()["detail"]) == ("ok", True)


def test_its_certificates(bridged: Callable[[str], Rig]) -> None:
    here = bridged("    tls: {cert: server.pem, key: server.key, ca: ca.pem}\n")
    authority = Authority(here.folder)
    authority.issue().key.chmod(0o600)
    assert [finding.state for finding in examine(planned(here))] == ["ok", "ok", "ok"]
    authority.issue(expired=True).key.chmod(0o600)
    assert [finding.state for finding in examine(planned(here))] == ["ok", "bad", "ok"]


def planned(here: Rig) -> Plan:
    return plan_for(load_table(here.table), "dmz")
