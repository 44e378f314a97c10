"""Requests: envelopes, REQ's modes, clients that vanish, services that restart, sides that share the work."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
import zmq

from tests.tunnel_pair import Tunnel
from tests.waiting import until


class Echo:
    """A REP service: answers each request with `prefix` and the request, until closed."""

    def __init__(self, tunnel: Tunnel, method: str, address: str, prefix: bytes = b"") -> None:
        self.served: list[list[bytes]] = []
        self._prefix = prefix
        self._socket = tunnel.app(zmq.REP, method, address, {zmq.RCVTIMEO: 50})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                request = self._socket.recv_multipart()
            except zmq.Again:
                continue
            self.served.append(request)
            self._socket.send_multipart([self._prefix + request[0], *request[1:]])
        self._socket.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)


@pytest.fixture
def services() -> Iterator[list[Echo]]:
    made: list[Echo] = []
    yield made
    for service in made:
        service.close()


def orders(tunnel: Tunnel, *, near: str, far: str, **more: object) -> None:
    route = {"pattern": "reqrep", "from": f"dmz bind {near}", "to": f"plant connect {far}", "max_age": "never"}
    tunnel.write({"orders": route | more})
    tunnel.start()


def test_req_and_rep(tunnel: Tunnel, services: list[Echo]) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    orders(tunnel, near=near, far=far)
    services.append(Echo(tunnel, "bind", far))
    client = tunnel.app(zmq.REQ, "connect", near)
    for shape in ([b"x"], [b""], [b"", b""], [b"a", b"", b"b"], [b"y" * 1_000_000, b""]):
        client.send_multipart(shape)
        assert client.recv_multipart() == shape


@pytest.mark.parametrize("max_age", ["never", "5s"])
def test_round_trips_take_the_shortcut_and_are_counted(tunnel: Tunnel, services: list[Echo], max_age: str) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    orders(tunnel, near=near, far=far, max_age=max_age)
    services.append(Echo(tunnel, "bind", far))
    client = tunnel.app(zmq.REQ, "connect", near)
    for number in range(200):
        client.send(b"%d" % number)
        assert client.recv() == b"%d" % number
    for side in ("dmz", "plant"):
        route = tunnel.route(side, "orders")
        assert (route["messages_in"], route["messages_out"], route["dropped"]) == (200, 200, {})
        assert route["batches_ahead"] > 200, side
    until(
        lambda: not any(tunnel.route(side, "orders")["unacked_bytes"] for side in ("dmz", "plant")),
        5.0,
        lambda: [tunnel.route(side, "orders") for side in ("dmz", "plant")],
    )


def test_an_envelope_of_several_ids_and_a_service_that_is_a_router(tunnel: Tunnel) -> None:
    """REQ → ROUTER/DEALER broker → tunnel → ROUTER/DEALER broker → DEALER service that answers out of order."""
    near, far = tunnel.tcp(), tunnel.tcp()
    orders(tunnel, near=near, far=far)
    front = tunnel.ipc("front")
    broker_in, broker_out = tunnel.app(zmq.ROUTER, "bind", front), tunnel.app(zmq.DEALER, "connect", near)
    service = tunnel.app(zmq.ROUTER, "bind", far)
    clients = [tunnel.app(zmq.REQ, "connect", front) for _ in range(3)]
    for number, client in enumerate(clients):
        client.send_multipart([b"question", b"%d" % number])
        broker_out.send_multipart(broker_in.recv_multipart())
    requests = [service.recv_multipart() for _ in clients]
    for request in reversed(requests):
        cut = request.index(b"")
        assert cut >= 3  # our DEALER's id at the service, the near half's tag, the broker's id, REQ's id
        service.send_multipart([*request[: cut + 1], b"answer", request[-1]])
    for _ in clients:
        broker_in.send_multipart(broker_out.recv_multipart())
    for number, client in enumerate(clients):
        assert client.recv_multipart() == [b"answer", b"%d" % number]


def test_req_correlate_and_relaxed(tunnel: Tunnel, services: list[Echo]) -> None:
    """A REQ that asks again does not take the answer to its first question for the one to its second."""
    near, far = tunnel.tcp(), tunnel.tcp()
    orders(tunnel, near=near, far=far)
    client = tunnel.app(zmq.REQ, "connect", near, {zmq.REQ_CORRELATE: 1, zmq.REQ_RELAXED: 1})
    client.send(b"first")
    tunnel.until_route("dmz", "orders", lambda r: r["messages_in"] == 1)
    client.send(b"second")
    services.append(Echo(tunnel, "bind", far))
    assert client.recv() == b"second"
    assert [request[0] for request in services[0].served] == [b"first", b"second"]
    client.send(b"third")
    assert client.recv() == b"third"


def test_probe_router_is_not_a_request(tunnel: Tunnel, services: list[Echo]) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    orders(tunnel, near=near, far=far)
    services.append(Echo(tunnel, "bind", far))
    client = tunnel.app(zmq.REQ, "connect", near, {zmq.PROBE_ROUTER: 1})
    client.send(b"x")
    assert client.recv() == b"x"
    assert len(services[0].served) == 1
    assert tunnel.dropped("dmz", "orders").get("probe") == 1


def test_a_client_that_vanishes_is_counted_and_the_others_are_served(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    orders(tunnel, near=near, far=far)
    service = tunnel.app(zmq.REP, "bind", far)
    gone, stays = tunnel.app(zmq.REQ, "connect", near), tunnel.app(zmq.REQ, "connect", near)
    gone.send(b"gone")
    assert service.recv() == b"gone"
    gone.close()
    tunnel.peers("dmz", "orders", 1)
    service.send(b"too late")
    stays.send(b"stays")
    assert service.recv() == b"stays"
    service.send(b"answer")
    assert stays.recv() == b"answer"
    tunnel.until_route("dmz", "orders", lambda r: r["dropped"].get("unreachable") == 1)


def test_a_client_that_does_not_read_holds_nobody_else(tunnel: Tunnel, services: list[Echo]) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    orders(tunnel, near=near, far=far, window="1MiB")
    services.append(Echo(tunnel, "bind", far))
    deaf = tunnel.app(zmq.DEALER, "connect", near, {zmq.RCVHWM: 1, zmq.SNDTIMEO: 200})
    client = tunnel.app(zmq.REQ, "connect", near)
    for _ in range(150):
        try:
            deaf.send_multipart([b"", bytes(100_000)])
        except zmq.Again:
            break
    for number in range(20):
        client.send(b"%d" % number)
        assert client.recv() == b"%d" % number


def test_a_service_that_restarts(tunnel: Tunnel, services: list[Echo]) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    orders(tunnel, near=near, far=far)
    client = tunnel.app(zmq.REQ, "connect", near)
    for number in range(3):
        client.send(b"%d" % number)  # asked while nobody is there
        service = Echo(tunnel, "bind", far)
        services.append(service)
        assert client.recv() == b"%d" % number
        service.close()
        tunnel.peers("plant", "orders", 0)


def test_an_old_request_is_not_carried_out(tunnel: Tunnel, services: list[Echo]) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    orders(tunnel, near=near, far=far, max_age="1s")
    client = tunnel.app(zmq.DEALER, "connect", near)
    for number in range(5):
        client.send_multipart([b"", b"old %d" % number])
    tunnel.until_route("dmz", "orders", lambda r: r["messages_in"] == 5)
    with pytest.raises(AssertionError):
        until(lambda: False, 1.5, "the requests to grow old")
    services.append(Echo(tunnel, "bind", far))
    client.send_multipart([b"", b"new"])
    assert client.recv_multipart() == [b"", b"new"]
    assert services[0].served == [[b"new"]]
    expired = tunnel.dropped("dmz", "orders").get("expired", 0) + tunnel.dropped("plant", "orders").get("expired", 0)
    assert expired == 5


@pytest.mark.parametrize("method", ["bind", "connect"])
def test_several_services_share_the_work(tunnel: Tunnel, services: list[Echo], method: str) -> None:
    near, one, two = tunnel.tcp(), tunnel.tcp(), tunnel.tcp()
    end = {"side": "plant", ("connect" if method == "bind" else "bind"): [one, two]}
    tunnel.write({"orders": {"pattern": "reqrep", "from": f"dmz bind {near}", "to": end, "max_age": "never"}})
    tunnel.start()
    services += [Echo(tunnel, method, one, b"1"), Echo(tunnel, method, two, b"2")]
    tunnel.peers("plant", "orders", 2)
    client = tunnel.app(zmq.REQ, "connect", near)
    counts: Counter[bytes] = Counter()
    for _ in range(20):
        client.send(b"x")
        counts[client.recv()[:1]] += 1
    assert counts == {b"1": 10, b"2": 10}


def test_several_sides_share_the_work_and_a_dead_one_is_skipped(tmp_path: object, services: list[Echo]) -> None:
    tunnel = Tunnel(tmp_path, ("dmz", "plant-a", "plant-b"))  # type: ignore[arg-type]
    try:
        near, one, two = tunnel.tcp(), tunnel.tcp(), tunnel.tcp()
        to = [f"plant-a connect {one}", f"plant-b connect {two}"]
        tunnel.write({"orders": {"pattern": "reqrep", "from": f"dmz bind {near}", "to": to, "max_age": "never"}})
        tunnel.start()
        services += [Echo(tunnel, "bind", one, b"a"), Echo(tunnel, "bind", two, b"b")]
        tunnel.peers("plant-a", "orders", 1)
        tunnel.peers("plant-b", "orders", 1)
        client = tunnel.app(zmq.REQ, "connect", near)
        counts: Counter[bytes] = Counter()
        for _ in range(40):
            client.send(b"x")
            counts[client.recv()[:1]] += 1
        assert sum(counts.values()) == 40
        assert min(counts[b"a"], counts[b"b"]) >= 5, counts
        tunnel.devices["plant-a"].stop()
        until(
            lambda: {link["peer"]: link["state"] for link in tunnel.status("dmz")["links"]}["plant-a"] != "up",
            20,
            "the link of plant-a is down",
        )
        for number in range(10):
            client.send(b"%d" % number)
            assert client.recv() == b"b%d" % number
    finally:
        for service in services:
            service.close()
        tunnel.close()


def test_probe_router_is_no_request_for_several_sides_either(tmp_path: object) -> None:
    tunnel = Tunnel(tmp_path, ("dmz", "plant-a", "plant-b"))  # type: ignore[arg-type]
    try:
        near, one, two = tunnel.tcp(), tunnel.tcp(), tunnel.tcp()
        to = [f"plant-a connect {one}", f"plant-b connect {two}"]
        tunnel.write({"orders": {"pattern": "reqrep", "from": f"dmz bind {near}", "to": to, "max_age": "never"}})
        services = [tunnel.app(zmq.ROUTER, "bind", one), tunnel.app(zmq.ROUTER, "bind", two)]
        tunnel.start()
        tunnel.peers("plant-a", "orders", 1)
        tunnel.peers("plant-b", "orders", 1)
        clients = [tunnel.app(zmq.DEALER, "connect", near, {zmq.PROBE_ROUTER: 1}) for _ in range(4)]
        status = tunnel.until_route("dmz", "orders", lambda r: r["dropped"].get("probe", 0) + r["messages_in"] == 4)
        assert (status["messages_in"], status["dropped"]) == (0, {"probe": 4})
        for number, client in enumerate(clients):
            client.send_multipart([b"", b"%d" % number])
        asked: list[bytes] = []

        def all_asked() -> bool:
            for service in services:
                while service.poll(0):
                    asked.append(service.recv_multipart()[-1])
            return len(asked) >= 4

        until(all_asked, 15, lambda: asked)
        assert sorted(asked) == [b"0", b"1", b"2", b"3"]
        out = [tunnel.route(side, "orders")["messages_out"] for side in ("plant-a", "plant-b")]
        assert sum(out) == 4, out
    finally:
        tunnel.close()
