"""A reload touches what changed: other routes keep their sockets, their applications and every message."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from tests.tunnel_pair import Tunnel
from tests.waiting import until
from tunnel.control import ask
from tunnel.errors import UsageError

MESSAGES = 6000


def reload(tunnel: Tunnel, side: str, **args: bool) -> dict[str, object]:
    return ask(tunnel.runtime / f"{tunnel.name}.{side}" / "device.sock", "reload", timeout_s=10, **args)


def pipeline(near: str, far: str) -> dict[str, str]:
    return {"pattern": "pipeline", "from": f"dmz bind {near}", "to": f"plant bind {far}"}


@pytest.fixture
def stays(tunnel: Tunnel) -> dict[str, dict[str, str]]:
    return {"stays": pipeline(tunnel.ipc("near"), tunnel.ipc("far"))}


def test_routes_come_and_go_while_another_carries(tunnel: Tunnel, stays: dict[str, dict[str, str]]) -> None:
    guest = pipeline(tunnel.ipc("gn"), tunnel.ipc("gf"))
    tunnel.write(stays)
    tunnel.start()
    push = tunnel.app(zmq.PUSH, "connect", tunnel.ipc("near"))
    pull = tunnel.app(zmq.PULL, "connect", tunnel.ipc("far"))
    changes = push.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    tunnel.peers("dmz", "stays", 1)
    tunnel.peers("plant", "stays", 1)
    go_on = threading.Semaphore(MESSAGES // 6)

    def send() -> None:
        for number in range(MESSAGES):
            go_on.acquire()
            push.send(b"%d" % number)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    for step, routes in enumerate((stays | {"guest": guest}, stays, stays | {"guest": guest})):
        tunnel.write(routes)
        go_on.release(MESSAGES // 6)
        for side in ("dmz", "plant"):
            told = reload(tunnel, side)
            assert (told["added"], told["removed"]) == ((["guest"], []) if step != 1 else ([], ["guest"]))
        if step != 1:
            tunnel.until_route("dmz", "guest", lambda route: route["state"] == "ready")
    go_on.release(MESSAGES)
    assert [int(pull.recv()) for _ in range(MESSAGES)] == list(range(MESSAGES))
    assert tunnel.dropped("dmz", "stays") == tunnel.dropped("plant", "stays") == {}
    assert not changes.poll(0), f"the application lost its connection: {recv_monitor_message(changes)}"
    sender.join(5)
    knock = tunnel.app(zmq.PUSH, "connect", tunnel.ipc("gn"))
    answer = tunnel.app(zmq.PULL, "connect", tunnel.ipc("gf"))
    knock.send(b"the route that came last works")
    assert answer.recv() == b"the route that came last works"


def test_a_route_that_only_one_side_has_is_refused_in_words(tunnel: Tunnel, stays: dict[str, dict[str, str]]) -> None:
    tunnel.write(stays)
    tunnel.start()
    tunnel.write(stays | {"guest": pipeline(tunnel.ipc("gn"), tunnel.ipc("gf"))})
    reload(tunnel, "dmz")
    tunnel.until_route("dmz", "guest", lambda route: route["state"] == "refused")
    assert "plant has no route guest" in tunnel.route("dmz", "guest")["reason"]
    tunnel.until_route("dmz", "stays", lambda route: route["state"] == "ready")
    reload(tunnel, "plant")
    tunnel.until_route("dmz", "guest", lambda route: route["state"] == "ready")


def test_a_wrong_table_changes_nothing(tunnel: Tunnel, stays: dict[str, dict[str, str]]) -> None:
    tunnel.write(stays)
    tunnel.start()
    Path(tunnel.table).write_text("version: 1\nroutes: nonsense\n")
    with pytest.raises(UsageError, match=r"2:9"):
        reload(tunnel, "dmz")
    assert tunnel.route("dmz", "stays")["state"] == "ready"


def test_dry_run_says_what_would_change_and_changes_nothing(tunnel: Tunnel, stays: dict[str, dict[str, str]]) -> None:
    tunnel.write(stays)
    tunnel.start()
    tunnel.write(stays | {"guest": pipeline(tunnel.ipc("gn"), tunnel.ipc("gf"))})
    assert reload(tunnel, "dmz", dry_run=True)["added"] == ["guest"]
    until(lambda: list(tunnel.status("dmz")["routes"]) == ["stays"], 5, "the routes are as they were")


def test_a_key_taken_out_of_the_table_is_out(tunnel: Tunnel, stays: dict[str, dict[str, str]]) -> None:
    tunnel.write(stays)
    tunnel.start()
    text = Path(tunnel.table).read_text()
    other, _ = zmq.curve_keypair()
    plant = next(path for path in Path(tunnel.table).parent.rglob("plant.key"))
    public = plant.read_text()
    plant.write_text(public.replace(public.split('public-key = "')[1][:40], other.decode()))
    assert reload(tunnel, "dmz")["links"] is True
    until(lambda: tunnel.status("dmz")["links"][0]["state"] == "down", 20, "the link with the old key is ended")
    until(lambda: sum(tunnel.status("dmz")["ports"][0]["refused"].values()) > 0, 20, "the old key is refused")
    plant.write_text(public)
    assert Path(tunnel.table).read_text() == text
    reload(tunnel, "dmz")
    until(lambda: tunnel.status("dmz")["links"][0]["state"] == "up", 40, "the link is back")
