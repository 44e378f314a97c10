"""Local ends from open to close, with real sockets: binds that fail, names, peers, files, close."""

from __future__ import annotations

import asyncio
import os
import socket as sockets
import stat
from pathlib import Path

import pytest
import zmq

from tests.local.rig import Rig, route, tcp
from tests.waiting import free_port
from tunnel.config.plan import Allow
from tunnel.local import endpoint as endpoint_module


def state(end: object, which: int = 0) -> str:
    return str(end.status()[which]["state"])  # type: ignore[attr-defined]


async def test_a_bind_is_opened_and_its_peers_counted(r: Rig) -> None:
    address = tcp()
    end = await r.end(route("PULL", ("bind", address)), receiving=True)
    assert end.opened
    assert end.status() == [
        {"address": address, "method": "bind", "state": "bound", "peers": 0, "reason": "", "turned_away": 0}
    ]
    first, second = r.app(zmq.PUSH, connect=address), r.app(zmq.PUSH, connect=address)
    await r.peers(end, 2)
    first.send(b"x")
    await r.until(lambda: r.received == [[b"x"]], "the message")
    second.close()
    await r.peers(end, 1)


async def test_peers_are_right_after_many_reconnects(r: Rig) -> None:
    address = tcp()
    end = await r.end(route("PULL", ("bind", address)), receiving=True)
    good = r.app(zmq.PUSH, connect=address)
    for _ in range(20):
        wrong, right = r.app(zmq.PULL, connect=address), r.app(zmq.PUSH, connect=address)
        raw = sockets.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        await r.until(lambda: end.peers >= 2, end.status)
        wrong.close()
        right.close()
        raw.close()
    await r.peers(end, 1)
    good.send(b"still here")
    await r.until(lambda: r.received[-1:] == [[b"still here"]], end.status)


async def test_an_address_in_use_is_told_and_taken_when_it_is_free(r: Rig) -> None:
    address = tcp()
    holder = r.app(zmq.PULL, bind=address)
    end = await r.end(route("PULL", ("bind", address)), receiving=True)
    assert not end.opened
    assert state(end) == "down"
    assert "in use" in end.status()[0]["reason"]
    holder.close()
    await r.until(lambda: end.opened, end.status)
    assert end.status()[0]["reason"] == ""
    r.app(zmq.PUSH, connect=address).send(b"x")
    await r.until(lambda: r.received, "the message")


async def test_an_address_of_another_machine_is_told(r: Rig) -> None:
    end = await r.end(route("PULL", ("bind", "tcp://192.0.2.1:5555")))
    assert "no address of this machine" in end.status()[0]["reason"]
    assert state(end) == "down"


async def test_one_bad_address_does_not_hold_back_the_others(r: Rig) -> None:
    good = tcp()
    end = await r.end(route("PULL", ("bind", "tcp://192.0.2.1:5555"), ("bind", good)), receiving=True)
    assert not end.opened
    r.app(zmq.PUSH, connect=good).send(b"x")
    await r.until(lambda: r.received, "the message")
    assert [state(end, 0), state(end, 1)] == ["down", "bound"]


async def test_several_endpoints_of_both_kinds_and_transports(r: Rig, tmp_path: Path) -> None:
    one, two, three = tcp(), f"ipc://{tmp_path}/two", f"ipc://{tmp_path}/three"
    app = r.app(zmq.PUSH, bind=three)
    end = await r.end(route("PULL", ("bind", one), ("bind", two), ("connect", three)), receiving=True)
    apps = [r.app(zmq.PUSH, connect=one), r.app(zmq.PUSH, connect=two), app]
    await r.peers(end, 3)
    assert [row["peers"] for row in end.status()] == [1, 1, 1]
    for number, each in enumerate(apps):
        each.send(b"%d" % number)
    await r.until(lambda: len(r.received) == 3, "three messages")


async def test_a_connect_waits_for_its_application(r: Rig) -> None:
    address = tcp()
    end = await r.end(route("PUSH", ("connect", address)))
    assert end.opened
    assert not end.may_send
    await r.until(lambda: "Nobody answers" in end.status()[0]["reason"], end.status)
    assert state(end) == "retrying"
    app = r.app(zmq.PULL, bind=address)
    await r.peers(end, 1)
    assert end.may_send
    assert end.status()[0] == {
        "address": address, "method": "connect", "state": "connected", "peers": 1, "reason": "", "turned_away": 0,
    }  # fmt: skip
    app.close()
    await r.peers(end, 0)
    assert not end.may_send
    r.app(zmq.PULL, bind=address)
    await r.peers(end, 1)


async def test_pollout_comes_only_when_there_is_somebody_to_send_to(r: Rig) -> None:
    """Otherwise the queue of a connect takes 64 messages that a wrong peer would cost us."""
    address = tcp()
    end = await r.end(route("PUSH", ("connect", address)))
    end.watch.want(zmq.POLLOUT)
    await r.until(lambda: state(end) == "retrying", end.status)
    assert r.ready == []
    r.app(zmq.PULL, bind=address)
    await r.until(lambda: r.ready, "POLLOUT")
    assert r.ready[0] == zmq.POLLOUT
    assert end.peers == 1


async def test_what_is_queued_survives_a_restart_of_the_service(r: Rig) -> None:
    address = tcp()
    app = r.app(zmq.PULL, bind=address)
    end = await r.end(route("PUSH", ("connect", address)))
    await r.peers(end, 1)
    app.close()
    await r.peers(end, 0)
    for number in range(10):
        end.socket.send(b"%d" % number, zmq.DONTWAIT)
    app = r.app(zmq.PULL, bind=address)
    assert [(await r.receive(app))[0] for _ in range(10)] == [b"%d" % number for number in range(10)]


async def test_a_name_is_looked_up_off_the_loop(r: Rig) -> None:
    port = free_port()
    app = r.app(zmq.PULL, bind=f"tcp://127.0.0.1:{port}")
    end = await r.end(route("PUSH", ("connect", f"tcp://localhost:{port}")))
    await r.peers(end, 1)
    assert end.status()[0]["address"] == f"tcp://localhost:{port}"
    end.socket.send(b"x")
    assert await r.receive(app) == [b"x"]


async def test_a_name_that_does_not_resolve_is_told_and_tried_again(r: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tcp()
    answers: list[tuple[str, ...] | None] = [None, None, (address,)]

    async def resolve(endpoint: str) -> tuple[str, ...]:
        answer = answers.pop(0)
        if answer is None:
            raise endpoint_module.LocalError("The host name far.example could not be resolved.")
        return answer

    monkeypatch.setattr(endpoint_module, "resolve", resolve)
    r.app(zmq.PULL, bind=address)
    end = await r.end(route("PUSH", ("connect", "tcp://far.example:5")))
    await r.until(lambda: "could not be resolved" in end.status()[0]["reason"], end.status)
    await r.peers(end, 1)
    assert answers == []


async def test_a_name_that_moved_is_followed(r: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """libzmq would keep to the first number for ever; so would it with a name, having looked it up on every thread."""
    old, new = tcp(), tcp()
    now = [old]

    async def resolve(_endpoint: str) -> tuple[str, ...]:
        return (now[0],)

    monkeypatch.setattr(endpoint_module, "resolve", resolve)
    app = r.app(zmq.PULL, bind=old)
    end = await r.end(route("PUSH", ("connect", "tcp://service.example:5")))
    await r.peers(end, 1)
    now[0] = new
    app.close()
    r.app(zmq.PULL, bind=new)
    await r.peers(end, 0)
    await r.peers(end, 1)


async def test_a_name_with_several_numbers_tries_them_in_turn(r: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, alive = tcp(), tcp()

    async def resolve(_endpoint: str) -> tuple[str, ...]:
        return dead, alive

    monkeypatch.setattr(endpoint_module, "resolve", resolve)
    r.app(zmq.PULL, bind=alive)
    end = await r.end(route("PUSH", ("connect", "tcp://service.example:5")))
    await r.peers(end, 1)


async def test_a_bind_to_an_interface_or_to_all(r: Rig) -> None:
    port = free_port()
    end = await r.end(route("PULL", ("bind", f"tcp://lo:{port}")), receiving=True)
    assert end.opened, end.status()
    r.app(zmq.PUSH, connect=f"tcp://127.0.0.1:{port}").send(b"x")
    await r.peers(end, 1)
    port = free_port()
    every = await r.end(route("PULL", ("bind", f"tcp://*:{port}"), name="every"), receiving=True)
    r.app(zmq.PUSH, connect=f"tcp://127.0.0.1:{port}").send(b"y")
    await r.peers(every, 1)


async def test_who_may_connect(r: Rig) -> None:
    """Loopback alone without `allow`; what `allow` leaves out is refused, told and counted."""
    from ipaddress import ip_network

    address = tcp()
    allow = Allow(networks=(ip_network("192.0.2.0/24"),))
    end = await r.end(route("PULL", ("bind", address), allow=allow), receiving=True)
    r.app(zmq.PUSH, connect=address)
    await r.until(lambda: end.status()[0]["turned_away"] == 1, end.status)
    assert "127.0.0.1 is not among the addresses" in end.status()[0]["reason"]
    assert end.peers == 0


async def test_ipc_mode_and_file(r: Rig, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "s"
    end = await r.end(route("PULL", ("bind", f"ipc://{path}"), mode=0o660, group=str(os.getgid())), receiving=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    r.app(zmq.PUSH, connect=f"ipc://{path}").send(b"x")
    await r.until(lambda: r.received, "the message")
    assert end.peers == 1
    await end.close()
    assert not path.exists()


async def test_a_private_folder_is_closed_to_others(r: Rig, tmp_path: Path) -> None:
    private = tmp_path / "run"
    await r.end(route("PULL", ("bind", f"ipc://{private}/local/s")), private_dir=private)
    assert stat.S_IMODE((private / "local").stat().st_mode) == 0o700


async def test_an_ipc_address_in_use_is_taken_when_it_is_free(r: Rig, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/s"
    holder = r.app(zmq.PULL, bind=address)
    end = await r.end(route("PULL", ("bind", address)), receiving=True)
    assert "in use" in end.status()[0]["reason"]
    holder.close()
    await r.until(lambda: end.opened, end.status)


async def test_a_group_that_does_not_exist_leaves_nothing_open(r: Rig, tmp_path: Path) -> None:
    end = await r.end(route("PULL", ("bind", f"ipc://{tmp_path}/s"), group="nobody-has-this"))
    assert "no group nobody-has-this" in end.status()[0]["reason"]
    assert not (tmp_path / "s").exists()


async def test_a_mode_that_cannot_be_set_leaves_nothing_open(
    r: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.chmod

    def refuse(path: str, mode: int) -> None:
        if str(path).endswith("/s"):
            raise PermissionError(1, "Operation not permitted")
        real(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr("tunnel.local.ipc.os.chmod", refuse)
        end = await r.end(route("PULL", ("bind", f"ipc://{tmp_path}/s"), mode=0o660), receiving=True)
        assert "could not be given its mode" in end.status()[0]["reason"]
        assert not (tmp_path / "s").exists()
    await r.until(lambda: end.opened, end.status)
    r.app(zmq.PUSH, connect=f"ipc://{tmp_path}/s").send(b"x")
    await r.until(lambda: r.received, "the message")


async def test_an_address_can_be_bound_again_after_close(r: Rig, tmp_path: Path) -> None:
    for address in (tcp(), f"ipc://{tmp_path}/s"):
        for _ in range(5):
            end = await r.end(route("PULL", ("bind", address)))
            assert end.opened, end.status()
            r.app(zmq.PUSH, connect=address)
            await r.peers(end, 1)
            await end.close()


async def test_close_gives_what_is_queued_its_linger(r: Rig) -> None:
    address = tcp()
    end = await r.end(route("PUSH", ("bind", address)))
    app = r.app(zmq.PULL, connect=address, options={zmq.RCVHWM: 1})
    await r.peers(end, 1)
    sent = 0
    for _ in range(40):
        try:
            end.socket.send(b"x" * 100_000, zmq.DONTWAIT)
        except zmq.Again:
            break
        sent += 1
    await end.close(linger_s=5.0)
    got = 0
    while got < sent:
        await r.receive(app)
        got += 1
    assert sent == 40


async def test_close_stops_every_try(r: Rig) -> None:
    end = await r.end(route("PUSH", ("connect", tcp()), ("bind", "tcp://192.0.2.1:5555")))
    await r.until(lambda: state(end) == "retrying", end.status)
    await end.close()
    assert not end.has_socket
    r.ready.clear()
    await asyncio.sleep(0.5)  # longer than the first pauses: a timer left over would act on the closed socket
    assert r.ready == []
    await end.close()


async def test_the_owner_s_wish_is_kept(r: Rig) -> None:
    address = tcp()
    end = await r.end(route("PULL", ("bind", address)))
    app = r.app(zmq.PUSH, connect=address)
    await r.peers(end, 1)
    app.send(b"x")
    await r.until(lambda: end.has_unread, "the message is here")
    assert r.ready == []
    end.watch.want(zmq.POLLIN)
    await r.until(lambda: r.ready, "POLLIN")
