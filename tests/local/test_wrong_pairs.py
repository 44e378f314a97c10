"""Swapped ends, foreign security, strangers: told in words, and good again as soon as the other side is mended.

Each test meets the real libzmq: where it gives up for ever (#4196) the end must connect anew by itself.
"""

from __future__ import annotations

import socket as sockets
import threading

import pytest
import zmq

from tests.local.rig import Rig, route, tcp
from tests.local.test_options import keys
from tunnel.config.plan import Curve, Plain, Secret
from tunnel.local import endpoint as endpoint_module
from tunnel.local import options
from tunnel.local.options import max_frame_bytes

WRONG = {"DEALER": zmq.PUSH, "PULL": zmq.PULL, "PUSH": zmq.PUSH, "XSUB": zmq.SUB, "XPUB": zmq.PUB, "PAIR": zmq.DEALER}
RIGHT = {"DEALER": zmq.REP, "PULL": zmq.PUSH, "PUSH": zmq.PULL, "XSUB": zmq.PUB, "XPUB": zmq.SUB, "PAIR": zmq.PAIR}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("transport", ["tcp", "ipc"])
async def test_a_connect_that_met_the_wrong_type_is_mended(r: Rig, kind: str, transport: str, tmp_path: object) -> None:
    address = tcp() if transport == "tcp" else f"ipc://{tmp_path}/s"
    wrong = r.app(WRONG[kind], bind=address)
    end = await r.end(route(kind, ("connect", address)))
    # now and then, over ipc mostly, the other side hangs up first: then libzmq does try again
    await r.until(lambda: "are the ends of the route swapped" in end.status()[0]["reason"], end.status)
    assert end.peers == 0
    assert end.status()[0]["state"] == "retrying"
    wrong.close()
    r.app(RIGHT[kind], bind=address)
    await r.peers(end, 1)


@pytest.mark.parametrize("kind", [*WRONG, "ROUTER"])
async def test_a_wrong_application_at_a_bind_is_told(r: Rig, kind: str) -> None:
    address = tcp()
    end = await r.end(route(kind, ("bind", address)))
    wrong = r.app(WRONG.get(kind, zmq.SUB), connect=address)
    await r.until(lambda: "are the ends of the route swapped" in end.status()[0]["reason"], end.status)
    assert end.status()[0]["state"] == "bound"
    wrong.close()
    right = r.app(RIGHT.get(kind, zmq.REQ), connect=address)
    await r.peers(end, 1)
    right.close()
    await r.peers(end, 0)


async def test_control_without_a_remake_the_connect_stays_dead(r: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protection taken out: libzmq alone never comes back."""
    stuck: list[bool] = []
    monkeypatch.setattr(endpoint_module.ConnectEndpoint, "_look_if_stuck", lambda e: stuck.append(e.watch.stuck))
    address = tcp()
    wrong = r.app(zmq.PUSH, bind=address)
    end = await r.end(route("PUSH", ("connect", address)))
    await r.until(lambda: any(stuck), end.status)
    wrong.close()
    r.app(zmq.PULL, bind=address)
    with pytest.raises(AssertionError, match="1 peers"):
        await r.until(lambda: end.peers == 1, "1 peers", within_s=2.0)


async def test_plain_zmq_never_retries(r: Rig) -> None:
    """What libzmq 4.3.5 does by itself, which is why all this is here: if this fails, much of it can go."""
    address = tcp()
    wrong = r.app(zmq.PUSH, bind=address)
    lonely = r.app(zmq.PUSH, options={zmq.IMMEDIATE: 1})
    monitor = lonely.get_monitor_socket()
    lonely.connect(address)
    await r.until(lambda: _parted_silently(monitor), "the wrong pair to part")
    wrong.close()
    right = r.app(zmq.PULL, bind=address)
    with pytest.raises(AssertionError):
        await r.until(lambda: _saw(monitor, zmq.Event.HANDSHAKE_SUCCEEDED), "it connects", within_s=1.5)
    lonely.disable_monitor()
    right.close()


def _parted_silently(monitor: zmq.Socket[bytes]) -> bool:
    """DISCONNECTED and nothing before it. (When the other side hangs up first there is a reason, and a next try.)"""
    silent = True
    while monitor.poll(100):
        kind = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
        if kind == zmq.Event.DISCONNECTED and silent:
            return True
        silent = kind != zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    return False


def _saw(monitor: zmq.Socket[bytes], wanted: zmq.Event) -> bool:
    while monitor.poll(0):
        if int.from_bytes(monitor.recv_multipart()[0][:2], "little") == wanted:
            return True
    return False


async def test_no_security_where_curve_is_wanted(r: Rig) -> None:
    address = tcp()
    server = keys()
    secured = r.app(zmq.PULL, options={zmq.CURVE_SERVER: 1, zmq.CURVE_SECRETKEY: server.secret.reveal().encode()})
    secured.bind(address)
    end = await r.end(route("PUSH", ("connect", address)))
    await r.until(lambda: "another security than ours" in end.status()[0]["reason"], end.status)
    secured.close()
    r.app(zmq.PULL, bind=address)
    await r.peers(end, 1)


async def test_curve_where_there_is_none(r: Rig) -> None:
    address = tcp()
    r.app(zmq.PULL, bind=address)
    end = await r.end(route("PUSH", ("connect", address), curve=Curve(own=keys(), server=keys().public)))
    await r.until(lambda: "another security than ours" in end.status()[0]["reason"], end.status)


async def test_a_wrong_server_key(r: Rig) -> None:
    address = tcp()
    server = keys()
    app = r.app(zmq.PULL, options={zmq.CURVE_SERVER: 1, zmq.CURVE_SECRETKEY: server.secret.reveal().encode()})
    app.bind(address)
    end = await r.end(route("PUSH", ("connect", address), curve=Curve(own=keys(), server=keys().public)))
    await r.until(lambda: "is `server` its public key" in end.status()[0]["reason"], end.status)


async def test_an_application_that_refuses_us_and_then_lets_us_in(r: Rig) -> None:
    """After a ZAP refusal libzmq never tries again."""
    address = tcp()
    plain = Plain({"user": Secret("wrong")})
    far = await r.end(route("PULL", ("bind", address), name="far", plain=Plain({"user": Secret("right")})))
    end = await r.end(route("PUSH", ("connect", address), name="near", plain=plain))
    await r.until(lambda: "refuses us" in end.status()[0]["reason"], end.status)
    assert "password" in far.status()[0]["reason"]
    await far.close()
    again = await r.end(route("PULL", ("bind", address), name="again", plain=plain))
    await r.peers(again, 1)


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_something_that_is_no_zmq(r: Rig, greeting: bytes) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def serve() -> None:
            server.settimeout(0.2)
            while not stop.is_set():
                try:
                    client, _ = server.accept()
                except TimeoutError:
                    continue
                client.sendall(greeting)
                client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            end = await r.end(route("PUSH", ("connect", f"tcp://127.0.0.1:{server.getsockname()[1]}")))
            await r.until(lambda: "prove to be a PULL socket" in end.status()[0]["reason"], end.status)
        finally:
            stop.set()
            thread.join()


async def test_something_silent(r: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "HANDSHAKE_S", 1.0)
    with sockets.create_server(("127.0.0.1", 0)) as server:
        end = await r.end(route("PUSH", ("connect", f"tcp://127.0.0.1:{server.getsockname()[1]}")))
        await r.until(lambda: "did not speak 0MQ in time" in end.status()[0]["reason"], end.status, within_s=10)
        assert end.peers == 0


async def test_what_is_unread_outlives_the_remake(r: Rig) -> None:
    """A producer that sends good messages and then one that breaks the connection: the good ones are read first."""
    address = tcp()
    app = r.app(zmq.PUSH, bind=address)
    end = await r.end(route("PULL", ("connect", address), max_message=1000))
    await r.peers(end, 1)
    for number in range(50):
        app.send(b"%d" % number)
    app.send(bytes(max_frame_bytes(1000) + 1))
    await r.until(lambda: "max_message" in end.status()[0]["reason"], end.status)
    with pytest.raises(AssertionError):
        await r.until(lambda: end.peers, "no remake while messages are unread", within_s=0.8)
    got = []
    while end.has_unread:
        got.append(end.socket.recv())
    assert got == [b"%d" % number for number in range(50)]
    await r.peers(end, 1)
