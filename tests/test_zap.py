"""Gates over real sockets: who is let in, who is refused and counted, and that a refusal tells no secret."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from pathlib import Path

import pytest
import zmq

from tests.loops import run_with_reactor, until
from tunnel.config.plan import Allow, Secret
from tunnel.errors import LocalMisuseError
from tunnel.monitor import Monitor, MonitorEvent
from tunnel.reactor import Reactor
from tunnel.zap import Gate, Zap, may_connect

Socket = zmq.Socket[bytes]

SERVER = zmq.curve_keypair()
CLIENT = zmq.curve_keypair()
STRANGER = zmq.curve_keypair()
ANYONE = Allow(anyone=True)


def networks(*texts: str) -> Allow:
    return Allow(networks=tuple(ip_network(text) for text in texts))


@pytest.mark.parametrize(
    ("allow", "address", "let_in"),
    [
        (Allow(), "127.0.0.1", True),
        (Allow(), "127.9.9.9", True),
        (Allow(), "::1", True),
        (Allow(), "::ffff:127.0.0.1", True),
        (Allow(), "10.0.0.1", False),
        (Allow(), "::ffff:10.0.0.1", False),
        (Allow(), "2001:db8::1", False),
        (ANYONE, "203.0.113.9", True),
        (ANYONE, "2001:db8::1", True),
        (networks("10.0.0.0/8"), "10.1.2.3", True),
        (networks("10.0.0.0/8"), "::ffff:10.1.2.3", True),
        (networks("10.0.0.0/8"), "11.1.2.3", False),
        (networks("10.0.0.0/8"), "127.0.0.1", False),
        (networks("10.0.0.0/8"), "::1", False),
        (networks("10.0.0.0/8", "2001:db8::/32"), "2001:db8::5", True),
        (networks("0.0.0.0/0"), "2001:db8::5", False),
        (networks("fe80::/10"), "fe80::1%eth0", True),
        (networks("10.0.0.0/8"), "localhost:0:0:4711", True),
        (networks("10.0.0.0/8"), "", True),
        (ANYONE, "nonsense", False),
        (Allow(), "localhost.evil.example", False),
    ],
)
def test_addresses(allow: Allow, address: str, let_in: bool) -> None:
    assert may_connect(allow, address) is let_in


class Server:
    """A ROUTER behind a gate, on IPv4, on IPv6 dual stack and on a path."""

    def __init__(self, reactor: Reactor, gate: Gate, domain: str = "route:x", *, known: bool = True) -> None:
        self.reactor = reactor
        self.zap = Zap(reactor)
        if known:
            self.zap.add(domain, gate)
        self.socket = reactor.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.IPV6, 1)
        self.socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
        self.socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        if gate.mechanism == "CURVE":
            self.socket.setsockopt(zmq.CURVE_SERVER, 1)
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, SERVER[1])
        if gate.mechanism == "PLAIN":
            self.socket.setsockopt(zmq.PLAIN_SERVER, 1)
        self.port = self.socket.bind_to_random_port("tcp://*")

    async def connect(self, client: Socket, address: str = "") -> str:
        """ "up" or the name of the failure."""
        events: list[MonitorEvent] = []
        client.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.IPV6, 1)
        monitor = Monitor(self.reactor, client, events.append)
        client.connect(address or f"tcp://127.0.0.1:{self.port}")
        await until(lambda: any("HANDSHAKE" in str(event.kind.name) for event in events))
        monitor.close()
        outcome = next(str(event.kind.name) for event in events if "HANDSHAKE" in str(event.kind.name))
        return "up" if outcome == "HANDSHAKE_SUCCEEDED" else outcome

    def client(self) -> Socket:
        return self.reactor.context.socket(zmq.DEALER)

    def curve_client(self, keys: tuple[bytes, bytes]) -> Socket:
        client = self.client()
        client.setsockopt(zmq.CURVE_SERVERKEY, SERVER[0])
        client.setsockopt(zmq.CURVE_PUBLICKEY, keys[0])
        client.setsockopt(zmq.CURVE_SECRETKEY, keys[1])
        return client

    def plain_client(self, user: str, password: str) -> Socket:
        client = self.client()
        client.setsockopt(zmq.PLAIN_USERNAME, user.encode())
        client.setsockopt(zmq.PLAIN_PASSWORD, password.encode())
        return client


async def user_id_of(server: Server, client: Socket) -> str:
    client.send(b"hello")
    await until(lambda: server.socket.poll(0))
    frame = server.socket.recv_multipart(copy=False)[1]
    return str(frame.get("User-Id"))


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_null_by_address(host: str) -> None:
    async def body(reactor: Reactor) -> None:
        gate = Gate(Allow())
        server = Server(reactor, gate)
        assert await server.connect(server.client(), f"tcp://{host}:{server.port}") == "up"
        gate.allow = networks("10.0.0.0/8", "2001:db8::/32")
        assert await server.connect(server.client(), f"tcp://{host}:{server.port}") == "HANDSHAKE_FAILED_AUTH"
        assert (gate.admitted, gate.refused["address"]) == (1, 1)
        assert host.strip("[]") in gate.last_refusal
        assert "allow" in gate.last_refusal

    run_with_reactor(body)


def test_ipc_peers_pass_whatever_networks_are_allowed(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        gate = Gate(networks("10.0.0.0/8"))
        server = Server(reactor, gate)
        server.socket.bind(f"ipc://{tmp_path}/x")
        assert await server.connect(server.client(), f"ipc://{tmp_path}/x") == "up"

    run_with_reactor(body)


def test_curve_by_key() -> None:
    async def body(reactor: Reactor) -> None:
        admitted: list[str] = []
        gate = Gate(
            Allow(),
            who=lambda public: "plant" if public == CLIENT[0].decode() else None,
            on_admitted=admitted.append,
        )
        server = Server(reactor, gate)
        good = server.curve_client(CLIENT)
        assert await server.connect(good) == "up"
        assert await user_id_of(server, good) == "plant"
        assert admitted == ["::ffff:127.0.0.1"]
        assert await server.connect(server.curve_client(STRANGER)) == "HANDSHAKE_FAILED_AUTH"
        assert gate.refused == {"address": 0, "mechanism": 0, "key": 1, "password": 0}
        assert STRANGER[0].decode() in gate.last_refusal
        assert await server.connect(server.client()) != "up"
        assert await server.connect(server.plain_client("plant", "x")) != "up"
        assert gate.admitted == 1

    run_with_reactor(body)


def test_plain_by_password_and_no_password_is_told() -> None:
    async def body(reactor: Reactor) -> None:
        gate = Gate(Allow(), plain={"anna": Secret("geheim-1"), "bert": Secret("")})
        server = Server(reactor, gate)
        good = server.plain_client("anna", "geheim-1")
        assert await server.connect(good) == "up"
        assert await user_id_of(server, good) == "anna"
        for user, password in (("anna", "falsch-2"), ("anna", "geheim-1x"), ("nobody", "geheim-1"), ("bert", "x")):
            assert await server.connect(server.plain_client(user, password)) == "HANDSHAKE_FAILED_AUTH"
        assert gate.refused["password"] == 4
        told = f"{gate!r} {gate.last_refusal} {vars(gate)!r}"
        assert "geheim-1" not in told
        assert "falsch-2" not in told

    run_with_reactor(body)


def test_a_gate_with_a_mechanism_lets_null_in_never() -> None:
    """A socket that forgot its server option would speak NULL: its gate refuses all the same."""
    gate = Gate(ANYONE, who=lambda _: "x")
    assert gate.judge("127.0.0.1", "NULL", []).reason == "mechanism"
    assert gate.judge("127.0.0.1", "PLAIN", [b"a", b"b"]).reason == "mechanism"
    assert gate.judge("127.0.0.1", "GSSAPI", [b"a"]).reason == "mechanism"
    assert gate.judge("127.0.0.1", "CURVE", []).reason == "key"
    assert gate.judge("127.0.0.1", "CURVE", [b"short"]).reason == "key"
    assert gate.judge("127.0.0.1", "CURVE", [bytes(32)]).reason is None
    assert gate.refused == {"address": 0, "mechanism": 3, "key": 2, "password": 0}
    plain = Gate(ANYONE, plain={"": Secret("")})
    assert plain.judge("127.0.0.1", "PLAIN", [b"a"]).reason == "password"
    assert plain.judge("127.0.0.1", "PLAIN", [b"\xff", b"\xff"]).reason == "password"


def test_unknown_and_removed_domains_are_refused() -> None:
    async def body(reactor: Reactor) -> None:
        gate = Gate(ANYONE)
        server = Server(reactor, gate, known=False)
        assert await server.connect(server.client()) == "HANDSHAKE_FAILED_AUTH"
        server.zap.add("route:x", gate)
        assert await server.connect(server.client()) == "up"
        server.zap.remove("route:x")
        assert await server.connect(server.client()) == "HANDSHAKE_FAILED_AUTH"
        assert server.zap.unknown_domain == 2
        assert gate.admitted == 1

    run_with_reactor(body)


def test_domains_are_apart() -> None:
    async def body(reactor: Reactor) -> None:
        server = Server(reactor, Gate(networks("10.0.0.0/8")))
        server.zap.add("link:x", Gate(ANYONE))
        assert await server.connect(server.client()) == "HANDSHAKE_FAILED_AUTH"
        with pytest.raises(LocalMisuseError):
            server.zap.add("link:x", Gate(ANYONE))

    run_with_reactor(body)


def test_many_at_once() -> None:
    async def body(reactor: Reactor) -> None:
        gate = Gate(Allow())
        server = Server(reactor, gate)
        outcomes = await asyncio.gather(*(server.connect(server.client()) for _ in range(150)))
        assert outcomes == ["up"] * 150
        assert gate.admitted == 150

    run_with_reactor(body)


def test_a_gate_is_one_or_the_other() -> None:
    with pytest.raises(LocalMisuseError):
        Gate(ANYONE, plain={}, who=lambda _: None)
