"""0MQ of every pattern through a stream route, CURVE from end to end: unmodified pyzmq at both ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from tests.tunnel_pair import Tunnel
from tests.waiting import until

PARTS = [b"topic", b"", bytes(range(256)) * 400]
Socket = zmq.Socket[bytes]
SERVER, CLIENT = zmq.curve_keypair(), zmq.curve_keypair()


class Through(Tunnel):
    """Its route `s` leads to whatever binds `target`."""

    entry = target = ""


@pytest.fixture(scope="module")
def tunnel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Through]:
    made = Through(tmp_path_factory.mktemp("t"))
    try:
        made.entry, made.target = made.tcp(), made.tcp()
        made.write({"s": {"pattern": "stream", "from": f"dmz bind {made.entry}", "to": f"plant connect {made.target}"}})
        made.start()
        yield made
    finally:
        made.close()


def ends(tunnel: Through, serving: int, asking: int) -> tuple[Socket, Socket]:
    """(who binds behind the stream, who connects before it), with CURVE between the two."""
    bound = tunnel.app(
        serving,
        "bind",
        tunnel.target,
        {zmq.CURVE_SERVER: 1, zmq.CURVE_PUBLICKEY: SERVER[0], zmq.CURVE_SECRETKEY: SERVER[1]},
    )
    keys = {zmq.CURVE_SERVERKEY: SERVER[0], zmq.CURVE_PUBLICKEY: CLIENT[0], zmq.CURVE_SECRETKEY: CLIENT[1]}
    more: dict[int, object] = {zmq.SUBSCRIBE: b""} if asking == zmq.SUB else {}
    return bound, tunnel.app(asking, "connect", tunnel.entry, keys | more)


def close(*sockets: Socket) -> None:
    for socket in sockets:
        socket.close(0)


@pytest.mark.parametrize(
    ("serving", "asking"),
    [(zmq.REP, zmq.REQ), (zmq.ROUTER, zmq.DEALER), (zmq.PAIR, zmq.PAIR), (zmq.DEALER, zmq.DEALER)],
    ids=["REP-REQ", "ROUTER-DEALER", "PAIR", "DEALER-DEALER"],
)
def test_questions_and_answers(tunnel: Through, serving: int, asking: int) -> None:
    bound, client = ends(tunnel, serving, asking)
    for _ in range(20):
        client.send_multipart(PARTS)
        heard = bound.recv_multipart()
        assert heard[-3:] == PARTS
        bound.send_multipart(heard)
        assert client.recv_multipart() == PARTS
    close(bound, client)


@pytest.mark.parametrize(("serving", "asking"), [(zmq.PULL, zmq.PUSH), (zmq.PUSH, zmq.PULL)], ids=["in", "out"])
def test_tasks(tunnel: Through, serving: int, asking: int) -> None:
    bound, client = ends(tunnel, serving, asking)
    giver, taker = (client, bound) if asking == zmq.PUSH else (bound, client)
    for at in range(500):
        giver.send_multipart([b"%d" % at, *PARTS[1:2]])
        assert taker.recv_multipart() == [b"%d" % at, b""]
    close(bound, client)


@pytest.mark.parametrize(
    ("serving", "asking"), [(zmq.PUB, zmq.SUB), (zmq.XPUB, zmq.XSUB)], ids=["PUB-SUB", "XPUB-XSUB"]
)
def test_published_messages(tunnel: Through, serving: int, asking: int) -> None:
    bound, client = ends(tunnel, serving, asking)
    if asking == zmq.XSUB:
        client.send(b"\x01topic")

    def heard() -> list[bytes]:
        bound.send_multipart(PARTS)
        return client.recv_multipart() if client.poll(20) else []

    assert until(heard, 10, "the subscription is through") == PARTS
    close(bound, client)


def test_a_wrong_server_key_is_refused_by_the_service_itself(tunnel: Through) -> None:
    bound, client = ends(tunnel, zmq.PULL, zmq.PUSH)
    keys = {zmq.CURVE_SERVERKEY: zmq.curve_keypair()[0], zmq.CURVE_PUBLICKEY: CLIENT[0], zmq.CURVE_SECRETKEY: CLIENT[1]}
    stranger = tunnel.app(zmq.PUSH, "connect", tunnel.entry, keys | {zmq.SNDHWM: 1, zmq.IMMEDIATE: 1})
    stranger.setsockopt(zmq.SNDTIMEO, 1000)
    with pytest.raises(zmq.Again):
        stranger.send(b"not for anybody")
    client.send(b"mine")
    assert bound.recv() == b"mine"
    close(bound, client, stranger)
