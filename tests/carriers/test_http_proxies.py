"""The HTTP carrier through real nginx, HAProxy and squid: let through, cut, buffered and refused, each in words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.carriers.certificates import Authority
from tests.carriers.ends import run_within, until
from tests.carriers.http_rig import Body, HttpRig
from tests.servers import Haproxy, Nginx, Server, Squid
from tests.waiting import free_port
from tunnel.carriers import Lane
from tunnel.carriers import http_dialler as dialling
from tunnel.carriers import http_reach as reach
from tunnel.config.plan import CarrierPlan, ProxyPlan, Secret, TlsPlan
from tunnel.limits import BATCH_BYTES, HTTP_WEBSOCKET_AGAIN_S


async def exchange(rig: HttpRig, count: int = 40) -> None:
    """Large and small frames both ways over a fresh pair, all there and in order."""
    dialled, spy, _, data = await rig.device.pair()
    rig.device.spy.received.clear()
    frames = [[b"%d" % n, bytes([n]) * (BATCH_BYTES if n % 4 == 0 else 10)] for n in range(count)]
    assert rig.device.listener is not None
    for frame in frames:
        dialled.send(Lane.DATA, frame)
        rig.device.listener.send(data, frame)
    await until(lambda: len(rig.device.spy.received) == len(spy.received) == count, 30)
    assert [parts for _, _, parts in rig.device.spy.received] == frames
    assert [parts for _, parts in spy.received] == frames
    assert spy.losses == []


@pytest.mark.parametrize("kind", [Nginx, Haproxy])
@pytest.mark.parametrize("secure", [False, True])
def test_websocket_comes_through(
    over: Callable[[Body], None], tmp_path: Path, kind: type[Server], secure: bool
) -> None:
    authority = Authority(tmp_path)
    files = authority.issue()

    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        server: Server
        if kind is Nginx:
            server = Nginx(tmp_path / "nginx", port, tls=files.pair if secure else None)
        else:
            pem = tmp_path / "both.pem"
            pem.write_text(files.cert.read_text() + files.key.read_text())
            server = Haproxy(tmp_path / "haproxy", port, pem=pem if secure else None)
        with server:
            address = f"http{'s' if secure else ''}://127.0.0.1:{server.port}/link"
            await rig.dial(address, TlsPlan(ca=authority.path) if secure else None)
            await exchange(rig)
            assert rig.dialler.status()["detail"]["mode"] == "websocket"

    over(body)


def test_long_poll_takes_over_where_a_proxy_buffers_and_stops_websocket_and_gives_way_again(
    over: Callable[[Body], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialling, "HTTP_WEBSOCKET_AGAIN_S", 0.3)

    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        with Nginx(tmp_path / "nginx", port, upgrade=False) as nginx:
            await rig.dial(f"http://127.0.0.1:{nginx.port}/link")
            await exchange(rig)
            detail = rig.dialler.status()["detail"]
            assert detail["mode"] == "long-poll"
            assert detail["why"] == "the WebSocket upgrade was answered 426 Upgrade Required"
            assert rig.listener.status()["detail"]["long_poll"] == 2
            nginx.upgrade = True
            nginx.restart()
            await until(lambda: rig.dialler.status()["detail"]["mode"] == "websocket", 10, rig.dialler.status)
            await until(lambda: rig.dialler.status()["connections"] == 0, 10, rig.dialler.status)
            await exchange(rig, 4)
            assert rig.dialler.status()["detail"]["mode"] == "websocket"

    over(body)


def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """After how long WebSocket is tried again, each time, as the dialling role asks its loop; seconds to come."""
    found: list[float] = []
    original = dialling.Dialler._try_later

    def noted(self: dialling.Dialler, why: Exception) -> None:
        original(self, why)
        assert self._again is not None
        found.append(self._again.when() - asyncio.get_running_loop().time())

    monkeypatch.setattr(dialling.Dialler, "_try_later", noted)
    return found


def test_after_a_slow_upgrade_websocket_is_tried_again_soon(
    over: Callable[[Body], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the patience is a tenth of a second or two; the HAProxy waits longer before it hands an upgrade on."""
    for name, value in (("UPGRADE_S", 0.2), ("HELLO_S", 0.1), ("SLOW_AGAIN_S", 0.25), ("WEBSOCKET_AGAIN_S", 0.8)):
        monkeypatch.setattr(dialling, f"HTTP_{name}", value)
    waited = pauses(monkeypatch)
    slow = "tcp-request inspect-delay 500ms\n tcp-request content accept if !{ req.hdr(Upgrade) -m found }\n"
    slow += " tcp-request content accept if WAIT_END"

    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        with Haproxy(tmp_path / "haproxy", port, rule=slow) as haproxy:
            await rig.dial(f"http://127.0.0.1:{haproxy.port}/link")
            await exchange(rig, 4)
            detail = rig.dialler.status()["detail"]
            assert detail["mode"] == "long-poll"
            assert detail["why"] == "the WebSocket upgrade was not answered within 0.2 s"
            await until(lambda: len(waited) >= 4, 10, lambda: waited)
            assert waited[:4] == pytest.approx([0.25, 0.5, 0.8, 0.8], abs=0.05)
            haproxy.rule = ""
            haproxy.restart()
            await until(lambda: rig.dialler.status()["detail"]["mode"] == "websocket", 10, rig.dialler.status)
            await until(lambda: rig.dialler.status()["connections"] == 0, 10, rig.dialler.status)
            await exchange(rig, 4)
            assert rig.dialler.status()["detail"]["mode"] == "websocket"

    over(body)


def test_after_a_refusal_websocket_is_tried_again_late(
    over: Callable[[Body], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = pauses(monkeypatch)

    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        with Haproxy(tmp_path / "haproxy", port, rule="http-request deny if { req.hdr(Upgrade) -m found }") as haproxy:
            await rig.dial(f"http://127.0.0.1:{haproxy.port}/link")
            await exchange(rig, 4)
            assert rig.dialler.status()["detail"]["mode"] == "long-poll"
            assert waited == pytest.approx([HTTP_WEBSOCKET_AGAIN_S], abs=1)

    over(body)


def test_a_websocket_that_comes_and_goes_is_tried_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came back a moment ago and is slow again does not begin with the shortest pause: each return is a cut."""
    waited = pauses(monkeypatch)

    async def body() -> None:
        plan = CarrierPlan("http-d", "http", "dial", "http://127.0.0.1:1/link", Path("/nowhere"), ("dmz",))
        dialler = dialling.Dialler(plan)
        for came_back_at in (float("-inf"), time.monotonic(), time.monotonic(), time.monotonic() - 301):
            dialler._no_websocket, dialler._came_back_at = "", came_back_at
            dialler._fall_back(dialling.SlowUpgradeError("slow"))
        await dialler.close()

    run_within(body())
    assert waited == pytest.approx([15, 30, 60, 15], abs=1)


def test_long_poll_survives_the_proxy_s_restart(over: Callable[[Body], None], tmp_path: Path) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        with Nginx(tmp_path / "nginx", port, upgrade=False) as nginx:
            await rig.dial(f"http://127.0.0.1:{nginx.port}/link")
            dialled, spy, _, data = await rig.device.pair()
            rig.device.spy.received.clear()
            assert rig.device.listener is not None
            for round_ in range(5):
                for n in range(20):
                    dialled.send(Lane.DATA, [b"%d" % (20 * round_ + n), bytes(50_000)])
                    rig.device.listener.send(data, [b"%d" % (20 * round_ + n), bytes(50_000)])
                nginx.restart()
            await until(lambda: len(rig.device.spy.received) == len(spy.received) == 100, 20, rig.dialler.status)
            assert [int(parts[0]) for _, _, parts in rig.device.spy.received] == list(range(100))
            assert [int(parts[0]) for _, parts in spy.received] == list(range(100))
            assert spy.losses == []

    over(body)


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_proxy_that_buffers_all_it_can(over: Callable[[Body], None], tmp_path: Path, upgrade: bool) -> None:
    """Whole requests before the first byte of them goes on, on disk where they are large; answers as it likes."""

    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        switched = 'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";' if upgrade else ""
        location = (
            f"proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1; {switched} proxy_buffering on; "
            "proxy_buffer_size 4k; proxy_buffers 2 4k; proxy_busy_buffers_size 4k; "
            "proxy_request_buffering on; client_body_buffer_size 4k;"
        )
        with Nginx(tmp_path / "nginx", port, location=location) as nginx:
            await rig.dial(f"http://127.0.0.1:{nginx.port}/link")
            await exchange(rig)
            assert rig.dialler.status()["detail"]["mode"] == ("websocket" if upgrade else "long-poll")
            buffered = "a client request body is buffered to a temporary file" in nginx.tail()
            assert buffered != upgrade

    over(body)


@pytest.mark.parametrize("kind", [Nginx, Haproxy])
@pytest.mark.parametrize("form", ["websocket", "long-poll"])
def test_a_proxy_that_cuts_silent_connections(
    over: Callable[[Body], None], tmp_path: Path, form: str, kind: type[Nginx] | type[Haproxy]
) -> None:
    """What speaks more often than it cuts goes on; the link does (PING_IDLE_S), and so does this."""

    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        with kind(tmp_path / "proxy", port, cut_s=1) as proxy:
            await rig.dial(f"http://127.0.0.1:{proxy.port}/link")
            rig.dialler._role._no_websocket = "says the test" if form == "long-poll" else ""  # type: ignore[union-attr]
            rig.device.spy.echo = False
            dialled, spy, *_ = await rig.device.pair()
            rig.device.spy.echo = True
            began, sent = time.monotonic(), 0
            while time.monotonic() - began < 2:
                for lane in Lane:
                    dialled.send(lane, [b"ping"])
                sent += 1
                await until(lambda: len(spy.received) == 2 * sent, 10)  # noqa: B023
                silent = time.monotonic()
                await until(lambda: time.monotonic() - silent > 0.4)  # noqa: B023
            assert spy.losses == []
            if form == "websocket":
                await until(lambda: len(spy.losses) == 2, 10)
                await until(lambda: "closed" in rig.dialler.status()["reason"], 10, rig.dialler.status)

    over(body)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("http-request return status 200 content-type text/html string hello", "200 OK (HTML)"),
        ("http-request deny deny_status 403", "403 Forbidden (HTML)"),
        ("http-request deny deny_status 400", "400 Bad request (HTML)"),
        ("http-request deny deny_status 502", "502 Bad Gateway (HTML)"),
    ],
)
def test_what_answers_something_else_altogether(
    over: Callable[[Body], None], tmp_path: Path, rule: str, reason: str
) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        with Haproxy(tmp_path / "haproxy", port, rule=rule) as haproxy:
            await rig.dial(f"http://127.0.0.1:{haproxy.port}/link")
            said = await rig.refusal()
            assert reason in said
            assert "long-poll" in said
            assert rig.dialler.status()["detail"]["mode"] == "websocket"

    over(body)


def test_a_listener_that_is_away_behind_its_proxy(over: Callable[[Body], None], tmp_path: Path) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        with Nginx(tmp_path / "nginx", port) as nginx:
            await rig.listener.close()
            await rig.dial(f"http://127.0.0.1:{nginx.port}/link")
            assert "502 Bad Gateway" in await rig.refusal()
            await rig.listen(address=f"http://127.0.0.1:{port}/link", device=False)
            await exchange(rig, 4)

    over(body)


def test_through_squid_with_and_without_a_password(over: Callable[[Body], None], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue()

    async def body(rig: HttpRig) -> None:
        port = await rig.listen("https", TlsPlan(files.cert, files.key))
        address, tls = f"https://127.0.0.1:{port}/link", TlsPlan(ca=authority.path)
        with Squid(tmp_path / "open") as squid:
            dialler = await rig.dial(address, tls, ProxyPlan(f"http://127.0.0.1:{squid.port}"))
            await exchange(rig)
            assert dialler.status()["detail"]["proxy"] == f"http://127.0.0.1:{squid.port}"
            await dialler.close()
        with Squid(tmp_path / "closed", user="plant", password="horse") as squid:
            url = f"http://127.0.0.1:{squid.port}"
            for proxy, reason in (
                (ProxyPlan(url), "it wants a user name and a password"),
                (ProxyPlan(url, "plant", Secret("donkey")), "does not accept this user name and password"),
            ):
                dialler = await rig.dial(address, tls, proxy)
                said = await rig.refusal()
                assert "407 Proxy Authentication Required" in said
                assert reason in said
                assert "donkey" not in said
                await dialler.close()
            await rig.dial(address, tls, ProxyPlan(url, "plant", Secret("horse")))
            await exchange(rig, 4)

    over(body)


def test_what_squid_refuses_and_cannot_reach(over: Callable[[Body], None], tmp_path: Path) -> None:
    async def body(rig: HttpRig) -> None:
        nobody = free_port()
        with Squid(tmp_path / "deny", deny=True) as squid:
            dialler = await rig.dial(
                f"https://127.0.0.1:{nobody}/link", proxy=ProxyPlan(f"http://127.0.0.1:{squid.port}")
            )
            said = await rig.refusal()
            assert "403 Forbidden" in said
            assert "it does not let us go there" in said
            await dialler.close()
        with Squid(tmp_path / "open") as squid:
            dialler = await rig.dial(
                f"https://127.0.0.1:{nobody}/link", proxy=ProxyPlan(f"http://127.0.0.1:{squid.port}")
            )
            assert "it cannot reach that address" in await rig.refusal()
            await dialler.close()
        await rig.dial(f"https://127.0.0.1:{nobody}/link", proxy=ProxyPlan(f"http://127.0.0.1:{squid.port}"))
        assert f"the proxy http://127.0.0.1:{squid.port}: 127.0.0.1:{squid.port}: connection refused" in (
            await rig.refusal()
        )

    over(body)


@pytest.mark.parametrize(
    ("environment", "address", "proxy"),
    [
        ({"https_proxy": "http://proxy:3128"}, "https://dmz.example.com/link", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://u:p%40@proxy:3128"}, "https://dmz.example.com/link", "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128"}, "http://dmz.example.com/link", None),
        ({"http_proxy": "proxy:3128"}, "http://dmz.example.com/link", "http://proxy:3128"),
        ({"https_proxy": "http://proxy:1", "no_proxy": "example.com"}, "https://dmz.example.com/link", None),
        ({"https_proxy": "http://proxy:1", "no_proxy": "*"}, "https://dmz.example.com/link", None),
        ({"all_proxy": "http://proxy:1"}, "https://dmz.example.com/link", "http://proxy:1"),
        ({}, "https://dmz.example.com/link", None),
    ],
)
def test_the_environment_s_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], address: str, proxy: str | None
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    plan = CarrierPlan("https-d", "https", "dial", address, tmp_path / "s", ("dmz",))
    found = reach.Reach(plan).proxy()
    assert (found and found.url) == proxy
    if found is not None and "u:p" in str(environment):
        assert found.username == "u"
        assert found.password is not None
        assert found.password.reveal() == "p@"
    forbidden = CarrierPlan("https-d", "https", "dial", address, tmp_path / "s", ("dmz",), proxy=ProxyPlan(""))
    assert reach.Reach(forbidden).proxy() is None
