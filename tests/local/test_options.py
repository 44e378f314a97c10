"""The options of a local end, read back from real sockets."""

from __future__ import annotations

import pytest
import zmq
from zmq.utils import z85

from tests.local.rig import PATTERN, Rig, route, tcp
from tunnel import limits
from tunnel.config.plan import Curve, KeyPair, Plain, Secret
from tunnel.local import options

NOWHERE = "tcp://127.0.0.1:9"


def made(kind: str, **end: object) -> dict[str, object]:
    """Options of a socket of this type as set_up leaves it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(getattr(zmq, kind))
    try:
        options.set_up(socket, route(kind, ("connect", NOWHERE), **end))  # type: ignore[arg-type]
        names = [
            "SNDHWM", "RCVHWM", "LINGER", "MAXMSGSIZE", "HANDSHAKE_IVL", "CONNECT_TIMEOUT", "RECONNECT_IVL",
            "RECONNECT_IVL_MAX", "TCP_KEEPALIVE", "TCP_KEEPALIVE_IDLE", "TCP_KEEPALIVE_INTVL", "TCP_KEEPALIVE_CNT",
            "HEARTBEAT_IVL", "HEARTBEAT_TIMEOUT", "HEARTBEAT_TTL", "IMMEDIATE", "AFFINITY", "SNDBUF", "ROUTING_ID",
        ]  # fmt: skip
        return {name: socket.getsockopt(getattr(zmq, name)) for name in names}
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("kind", PATTERN)
def test_nothing_is_left_at_a_default_that_bites(kind: str) -> None:
    got = made(kind)
    assert got["LINGER"] == 0
    assert got["MAXMSGSIZE"] == limits.MAX_MESSAGE_BYTES
    assert options.max_frame_bytes(limits.MAX_MESSAGE_BYTES) == 2 * limits.MAX_MESSAGE_BYTES
    assert got["HANDSHAKE_IVL"] == 5000
    assert got["CONNECT_TIMEOUT"] == 5000
    assert (got["RECONNECT_IVL"], got["RECONNECT_IVL_MAX"]) == (100, 1000)
    assert (got["TCP_KEEPALIVE"], got["TCP_KEEPALIVE_IDLE"]) == (1, 15)
    assert (got["TCP_KEEPALIVE_INTVL"], got["TCP_KEEPALIVE_CNT"]) == (5, 3)
    assert got["HEARTBEAT_IVL"] == 0
    assert got["AFFINITY"] == 1
    assert got["IMMEDIATE"] == 0


@pytest.mark.parametrize(
    ("kind", "send", "receive"),
    [
        ("PUSH", limits.EXIT_HWM, limits.LOCAL_HWM),
        ("PULL", limits.EXIT_HWM, limits.LOCAL_HWM),
        ("DEALER", limits.EXIT_HWM, limits.LOCAL_HWM),
        ("ROUTER", limits.EXIT_HWM, limits.LOCAL_HWM),
        ("PAIR", limits.EXIT_HWM, limits.LOCAL_HWM),
        ("XPUB", limits.EXIT_HWM, limits.LOCAL_HWM),
        ("XSUB", 0, limits.LOCAL_HWM),
    ],
)
def test_high_water_marks(kind: str, send: int, receive: int) -> None:
    got = made(kind)
    assert (got["SNDHWM"], got["RCVHWM"]) == (send, receive)
    own = made(kind, hwm=10)
    assert (own["SNDHWM"], own["RCVHWM"]) == (0 if kind == "XSUB" else 10, 10)


def test_what_the_table_asks_for() -> None:
    got = made("DEALER", sndbuf=50_000, routing_id=b"plc-7", heartbeat_s=2.0, keepalive=False)
    assert got["SNDBUF"] == 50_000
    assert got["ROUTING_ID"] == b"plc-7"
    assert (got["HEARTBEAT_IVL"], got["HEARTBEAT_TIMEOUT"]) == (2000, 6000)
    assert got["HEARTBEAT_TTL"] == 0  # a peer would hang up on us while a large message holds our ping back
    assert got["TCP_KEEPALIVE"] == -1


@pytest.mark.parametrize(("kind", "immediate"), [("PUSH", 1), ("DEALER", 1), ("PULL", 0), ("XSUB", 0), ("ROUTER", 0)])
def test_immediate_only_for_senders_with_several_endpoints(kind: str, immediate: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(getattr(zmq, kind))
    options.set_up(socket, route(kind, ("connect", NOWHERE), ("connect", "tcp://127.0.0.1:10")))
    assert socket.getsockopt(zmq.IMMEDIATE) == immediate
    context.destroy(linger=0)


@pytest.mark.parametrize(
    ("address", "ipv6"), [("tcp://127.0.0.1:1", 0), ("tcp://[::1]:1", 1), ("tcp://*:1", 1), ("ipc:///x", 0)]
)
def test_ipv6_only_where_it_is_meant(address: str, ipv6: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PULL)
    for before in (options.before_bind, options.before_connect):
        socket.setsockopt(zmq.IPV6, 1 - ipv6)
        before(socket, route("PULL", ("bind", address)), address)
        assert socket.getsockopt(zmq.IPV6) == ipv6
    context.destroy(linger=0)


def fill(socket: zmq.Socket[bytes]) -> int:
    """Sends until the socket takes no more; how many it took."""
    for sent in range(10_000):
        try:
            socket.send(b"x" * 100_000, zmq.DONTWAIT)
        except zmq.Again:
            return sent
    return 10_000


async def test_a_full_xpub_says_so_instead_of_dropping(r: Rig) -> None:
    address = tcp()
    end = await r.end(route("XPUB", ("bind", address), hwm=5))
    app = r.app(zmq.XSUB, connect=address, options={zmq.RCVHWM: 1})
    app.send(b"\1")
    await r.peers(end, 1)
    await r.until(lambda: end.socket.poll(0), "the subscription")
    end.socket.recv()
    assert fill(end.socket) < 10_000


async def test_a_router_names_clients_that_are_gone(r: Rig) -> None:
    end = await r.end(route("ROUTER", ("bind", tcp())))
    with pytest.raises(zmq.ZMQError, match="unreachable"):
        end.socket.send_multipart([b"nobody", b"", b"x"], zmq.DONTWAIT)


@pytest.mark.parametrize("handover", [False, True])
async def test_handover_only_where_the_table_says_so(r: Rig, handover: bool) -> None:
    address = tcp()
    end = await r.end(route("ROUTER", ("bind", address), handover=handover), receiving=True)
    for text in (b"first", b"second"):
        app = r.app(zmq.DEALER, connect=address, options={zmq.ROUTING_ID: b"same"})
        app.send(text)
        if text == b"first":
            await r.until(lambda: len(r.received) == 1, "the first client's message")
    await r.peers(end, 2)
    if handover:
        await r.until(lambda: [b"same", b"second"] in r.received, "the second takes the first one's place")
    else:
        probe = r.app(zmq.DEALER, connect=address, options={zmq.ROUTING_ID: b"other"})
        probe.send(b"third")
        await r.until(lambda: [b"other", b"third"] in r.received, "a client with a name of its own")
        assert [b"same", b"second"] not in r.received


async def test_a_frame_that_no_route_carries_ends_the_connection_and_it_comes_back(r: Rig) -> None:
    """MAXMSGSIZE guards the memory; libzmq never reconnects after it (measured), so we do."""
    address = tcp()
    app = r.app(zmq.PUSH, bind=address)
    end = await r.end(route("PULL", ("connect", address), max_message=1000), receiving=True)
    await r.peers(end, 1)
    app.send(b"x" * 500_000)
    await r.until(lambda: r.received == [[b"x" * 500_000]], "far over max_message passes: the pump refuses it exactly")
    app.send(b"y" * (limits.MAX_MESSAGE_BYTES + 1))
    await r.until(lambda: "max_message" in end.status()[0]["reason"], end.status)
    await r.peers(end, 1)
    app.send(b"after")
    await r.until(lambda: r.received[-1] == [b"after"], "the route goes on")


def keys() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), Secret(secret.decode()))


def client_options(own: KeyPair, server: str) -> dict[int, object]:
    return {
        zmq.CURVE_PUBLICKEY: own.public.encode(),
        zmq.CURVE_SECRETKEY: own.secret.reveal().encode(),
        zmq.CURVE_SERVERKEY: server.encode(),
    }


@pytest.mark.parametrize("known", [True, False])
async def test_curve_at_a_bind(r: Rig, known: bool) -> None:
    server, client, stranger = keys(), keys(), keys()
    address = tcp()
    curve = Curve(own=server, clients=frozenset({client.public}))
    end = await r.end(route("PULL", ("bind", address), curve=curve), receiving=True)
    app = r.app(zmq.PUSH, options=client_options(client if known else stranger, server.public))
    app.connect(address)
    if known:
        app.send(b"hello")
        await r.until(lambda: r.received == [[b"hello"]], end.status)
    else:
        await r.until(lambda: end.status()[0]["turned_away"], end.status)
        assert stranger.public in end.status()[0]["reason"]
        assert end.peers == 0


async def test_curve_at_a_bind_for_any_key(r: Rig) -> None:
    server = keys()
    address = tcp()
    await r.end(route("PULL", ("bind", address), curve=Curve(own=server)), receiving=True)
    app = r.app(zmq.PUSH, options=client_options(keys(), server.public))
    app.connect(address)
    app.send(b"hello")
    await r.until(lambda: r.received == [[b"hello"]], "the message")


async def test_curve_at_a_connect(r: Rig) -> None:
    server, own = keys(), keys()
    address = tcp()
    app = r.app(
        zmq.PUSH, options={zmq.CURVE_SERVER: 1, zmq.CURVE_SECRETKEY: z85.decode(server.secret.reveal().encode())}
    )
    app.bind(address)
    curve = Curve(own=own, server=server.public)
    end = await r.end(route("PULL", ("connect", address), curve=curve), receiving=True)
    app.send(b"hello")
    await r.until(lambda: r.received == [[b"hello"]], end.status)


@pytest.mark.parametrize("password", ["right", "wrong"])
async def test_plain_at_a_bind(r: Rig, password: str) -> None:
    address = tcp()
    plain = Plain({"user": Secret("right")})
    end = await r.end(route("PULL", ("bind", address), plain=plain), receiving=True)
    app = r.app(zmq.PUSH, options={zmq.PLAIN_USERNAME: b"user", zmq.PLAIN_PASSWORD: password.encode()})
    app.connect(address)
    if password == "right":
        app.send(b"hello")
        await r.until(lambda: r.received == [[b"hello"]], end.status)
    else:
        await r.until(lambda: end.status()[0]["turned_away"], end.status)
        assert "password" in end.status()[0]["reason"]
        assert "wrong" not in end.status()[0]["reason"].replace("wrong password", "")


async def test_plain_at_a_connect_and_an_end_that_does_both(r: Rig) -> None:
    """One socket binds as the PLAIN server and connects as the client of another of the same kind."""
    plain = Plain({"user": Secret("right")})
    there, here = tcp(), tcp()
    far = await r.end(route("PULL", ("bind", there), name="far", plain=plain), receiving=True)
    near = await r.end(route("PUSH", ("bind", here), ("connect", there), name="near", plain=plain))
    await r.peers(far, 1)
    await r.peers(near, 1)
    app = r.app(zmq.PULL, options={zmq.PLAIN_USERNAME: b"user", zmq.PLAIN_PASSWORD: b"right"})
    app.connect(here)
    await r.peers(near, 2)
    near.socket.send(b"1")
    near.socket.send(b"2")
    await r.until(lambda: r.received, "one message at the bound end")
    assert len(await r.receive(app)) == 1


async def test_an_end_without_security_that_does_both(r: Rig) -> None:
    there, here = tcp(), tcp()
    app = r.app(zmq.PUSH, bind=there)
    end = await r.end(route("PULL", ("bind", here), ("connect", there)), receiving=True)
    other = r.app(zmq.PUSH, connect=here)
    await r.peers(end, 2)
    app.send(b"there")
    other.send(b"here")
    await r.until(lambda: sorted(r.received) == [[b"here"], [b"there"]], end.status)
