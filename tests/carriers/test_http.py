"""The HTTP carrier end to end: both forms, TLS and its refusals, other paths, strangers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
import time
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from websockets.utils import accept_key

from tests.carriers.certificates import Authority
from tests.carriers.ends import until
from tests.carriers.http_rig import Body, HttpRig
from tunnel.carriers import Lane
from tunnel.carriers import http_dialler as dialling
from tunnel.carriers import http_listener as listening
from tunnel.carriers import http_sessions as sessions
from tunnel.carriers import http_websocket as websockets
from tunnel.carriers.http_message import answer
from tunnel.config.plan import Allow, TlsPlan


async def ask(port: int, raw: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """What is answered to these bytes, up to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(raw)
    said = bytearray()
    with contextlib.suppress(ConnectionError):
        while data := await asyncio.wait_for(reader.read(65536), 20):
            said += data
    writer.close()
    return bytes(said)


async def get(port: int, path: str) -> bytes:
    return await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def test_a_websocket_carries_both_lanes_and_status_says_so(over: Callable[[Body], None]) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        dialler = await rig.dial(f"http://127.0.0.1:{port}/link")
        assert dialler.status()["state"] == "connecting"
        _, _, control, _ = await rig.device.pair()
        status = dialler.status()
        assert (status["state"], status["reason"], status["connections"]) == ("up", "", 2)
        assert status["detail"]["mode"] == "websocket"
        assert rig.listener.status()["connections"] == 2
        assert status["bytes_in"] == rig.listener.status()["bytes_out"] > 0
        assert rig.device.listener is not None
        assert rig.device.listener.send(control, [b"down"])

    over(body)


def test_other_paths_and_health(over: Callable[[Body], None]) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        assert (await get(port, "/")).startswith(b"HTTP/1.1 404 ")
        assert (await get(port, "/link/more")).startswith(b"HTTP/1.1 404 ")
        assert (await get(port, "/link")).startswith(b"HTTP/1.1 426 ")
        assert (await get(port, "/link?s=short&up=0")).startswith(b"HTTP/1.1 404 ")
        assert (await get(port, "/healthz")).startswith(b"HTTP/1.1 200 ")
        assert rig.device.listener is not None
        rig.device.listener.close()
        await until(lambda: not (rig.folder / "l.sock").exists())
        assert (await get(port, "/healthz")).startswith(b"HTTP/1.1 503 ")
        assert (await get(port, "/healthz")).endswith(b"the device is not running\n")

    over(body)


def test_what_is_no_http_is_refused_and_counted(over: Callable[[Body], None]) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        for raw in (b"\x00\x01\x02\r\n\r\n", b"GET /link\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"):
            assert (await ask(port, raw)).startswith(b"HTTP/1.1 400 ")
        assert (await ask(port, b"GET / HTTP/1.1\r\nA: " + b"a" * 600_000)) in (
            b"",
            answer(400, {"Connection": "close"}),
        )
        refused = rig.listener.status()["refused"]
        assert refused["request"] == 4
        await rig.dial(f"http://127.0.0.1:{port}/link")
        await rig.device.pair()

    over(body)


def test_strangers_are_bounded_and_timed_out(over: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HTTP_HANDSHAKES", 4)
    monkeypatch.setattr(listening, "HANDSHAKE_S", 0.5)

    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
        await until(lambda: rig.listener.status()["refused"].get("busy") == 2, 10, rig.listener.status)
        await until(lambda: rig.listener.status()["refused"].get("timeout") == 4, 10, rig.listener.status)
        await rig.dial(f"http://127.0.0.1:{port}/link")
        await rig.device.pair()
        assert rig.listener.status()["detail"]["strangers"] == 0
        for _, writer in silent:
            writer.close()

    over(body)


def test_allow_is_judged_before_a_word_is_read(over: Callable[[Body], None]) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen(allow=Allow(networks=(ip_network("192.0.2.0/24"),)))
        assert await get(port, "/healthz") == b""
        assert rig.listener.status()["refused"] == {"address": 1}
        assert "127.0.0.1 is not in allow" in rig.listener.status()["detail"]["last_refusal"]

    over(body)


def test_a_port_that_is_taken_is_said_and_opened_later(over: Callable[[Body], None]) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        first = rig.listener
        late = asyncio.create_task(rig.listen(address=f"http://127.0.0.1:{port}/link", device=False))
        await until(lambda: rig.listener is not first and "another program" in rig.listener.status()["reason"])
        assert rig.listener.status()["state"] == "retrying"
        await first.close()
        assert await late == port
        assert rig.listener.status()["reason"] == ""

    over(body)


def test_a_device_that_is_not_there_is_said_at_both_ends_and_no_reason_for_long_poll(
    over: Callable[[Body], None],
) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen(device=False)
        await rig.dial(f"http://127.0.0.1:{port}/link")
        assert await rig.refusal() == "the listener's device is not running"
        assert rig.dialler.status()["detail"]["mode"] == "websocket"

    over(body)


def test_nobody_answers(over: Callable[[Body], None]) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        await rig.listener.close()
        await rig.dial(f"http://127.0.0.1:{port}/link")
        assert "connection refused" in await rig.refusal()

    over(body)


def test_tls_by_a_ca_of_our_own_or_a_pin(over: Callable[[Body], None], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue()

    async def body(rig: HttpRig) -> None:
        port = await rig.listen("https", TlsPlan(files.cert, files.key))
        address = f"https://127.0.0.1:{port}/link"
        for tls in (TlsPlan(ca=authority.path), TlsPlan(pin=("00" * 32, files.pin))):
            dialler = await rig.dial(address, tls)
            await rig.device.pair()
            await dialler.close()
        await rig.dial(address, TlsPlan(pin=("00" * 32,)))
        assert files.pin in await rig.refusal()

    over(body)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("expired", "has expired"),
        ("wrong name", "another name than 127.0.0.1"),
        ("unknown CA", "a CA that is not trusted here"),
        ("no client certificate", "client certificate"),
        ("plain", "does not speak TLS"),
    ],
)
def test_tls_refusals_in_words(over: Callable[[Body], None], tmp_path: Path, what: str, reason: str) -> None:
    authority = Authority(tmp_path)
    other = Authority(tmp_path, "other")
    files = authority.issue(*(["dmz.example.com"] if what == "wrong name" else []), expired=what == "expired")

    async def body(rig: HttpRig) -> None:
        asked = authority.path if what == "no client certificate" else None
        plain = what == "plain"
        port = await rig.listen("http" if plain else "https", None if plain else TlsPlan(files.cert, files.key, asked))
        trusted = other if what == "unknown CA" else authority
        await rig.dial(f"https://127.0.0.1:{port}/link", TlsPlan(ca=trusted.path))
        assert reason in await rig.refusal()

    over(body)


def test_a_server_name_other_than_the_address(over: Callable[[Body], None], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("dmz.example.com")

    async def body(rig: HttpRig) -> None:
        port = await rig.listen("https", TlsPlan(files.cert, files.key))
        await rig.dial(f"https://127.0.0.1:{port}/link", TlsPlan(ca=authority.path, server_name="dmz.example.com"))
        await rig.device.pair()

    over(body)


def test_client_certificates(over: Callable[[Body], None], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue(), authority.issue("plant", file="client")

    async def body(rig: HttpRig) -> None:
        port = await rig.listen("https", TlsPlan(server.cert, server.key, authority.path))
        await rig.dial(f"https://127.0.0.1:{port}/link", TlsPlan(client.cert, client.key, authority.path))
        await rig.device.pair()

    over(body)


def test_a_renewed_certificate_is_used_and_a_broken_one_is_not(over: Callable[[Body], None], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue()
    first = files.pin

    async def shown(port: int) -> str:
        dialler = await rig_.dial(f"https://127.0.0.1:{port}/link", TlsPlan(pin=("00" * 32,)))
        reason = await rig_.refusal()
        await dialler.close()
        return reason

    async def body(rig: HttpRig) -> None:
        nonlocal rig_
        rig_ = rig
        port = await rig.listen("https", TlsPlan(files.cert, files.key))
        assert first in await shown(port)
        authority.issue()
        assert files.pin != first
        assert files.pin in await shown(port)
        good = files.pin
        files.cert.write_text("no certificate")
        os.utime(files.cert, ns=(time.time_ns(), time.time_ns()))
        assert good in await shown(port)
        assert str(files.cert) in rig.listener.status()["reason"]

    rig_: HttpRig
    over(body)


def test_a_reader_that_stands_still_stops_the_writer_and_loses_nothing(over: Callable[[Body], None]) -> None:
    """Both forms, by a plain socket behind the carrier: what it has not read is bounded."""

    async def body(rig: HttpRig) -> None:
        port = await rig.listen(device=False)
        gone = asyncio.Event()
        arrived = asyncio.Queue[asyncio.StreamReader]()
        server = await asyncio.start_unix_server(
            lambda reader, writer: arrived.put_nowait(reader), rig.folder / "l.sock", limit=65536
        )
        await rig.dial(f"http://127.0.0.1:{port}/link")
        for mode in ("websocket", "long-poll"):
            rig.dialler._role._no_websocket = "said by the test" if mode == "long-poll" else ""  # type: ignore[union-attr]
            _, writer = await asyncio.open_unix_connection(rig.folder / "d.sock")
            writer.transport.set_write_buffer_limits(high=0)
            written = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    writer.write(bytes([written // 100_000 % 251]) * 100_000)
                    written += 100_000
                    await asyncio.wait_for(writer.drain(), 1)
            assert written < 24_000_000, mode
            reader = await arrived.get()
            writer.write_eof()
            got = bytearray()
            while data := await reader.read(1_000_000):
                got += data
            assert len(got) == written
            assert all(got[n] == n // 100_000 % 251 for n in range(0, written, 50_000))
            writer.close()
        gone.set()
        server.close()

    over(body)


def test_the_end_of_one_direction_leaves_the_other_open(over: Callable[[Body], None]) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen(device=False)

        async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read() + b" and back")
            writer.close()

        server = await asyncio.start_unix_server(answer_at_the_end, rig.folder / "l.sock")
        await rig.dial(f"http://127.0.0.1:{port}/link")
        for mode in ("", "long-poll, says the test"):
            rig.dialler._role._no_websocket = mode  # type: ignore[union-attr]
            reader, writer = await asyncio.open_unix_connection(rig.folder / "d.sock")
            writer.write(b"there")
            writer.write_eof()
            assert await reader.read() == b"there and back"
            writer.close()
        await until(lambda: rig.listener.status()["connections"] == rig.dialler.status()["connections"] == 0)
        server.close()

    over(body)


def test_a_link_that_the_dialler_drops_is_dropped_at_the_listener(over: Callable[[Body], None]) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        for mode in ("", "long-poll, says the test"):
            await rig.dial(f"http://127.0.0.1:{port}/link")
            rig.dialler._role._no_websocket = mode  # type: ignore[union-attr]
            _, spy, *_ = await rig.device.pair()
            await rig.dialler.close()
            await until(lambda: rig.listener.status()["connections"] == 0, 10, rig.listener.status)
            await until(lambda spy=spy: len(spy.losses) == 2)  # type: ignore[misc]
            assert not (rig.folder / "d.sock").exists()
            assert Lane.DATA in dict(spy.losses)

    over(body)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("silent", "was not answered within"), ("mute", "nothing comes through it"), ("wrong", "no ztunnel listener")],
)
def test_a_websocket_that_does_not_come_through_though_nobody_says_so(
    over: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch, behaviour: str, reason: str
) -> None:
    """Something on the way that lets requests through and swallows WebSockets."""
    monkeypatch.setattr(dialling, "HTTP_UPGRADE_S", 1.0)
    monkeypatch.setattr(websockets, "HTTP_HELLO_S", 0.5)

    async def body(rig: HttpRig) -> None:
        port = await rig.listen()

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            first = await reader.readuntil(b"\r\n\r\n")
            if b"Upgrade" in first:
                key = re.search(rb"Sec-WebSocket-Key: (\S+)", first)
                assert key is not None
                headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
                said = answer(101, {**headers, "Sec-WebSocket-Accept": accept_key(key[1].decode())})
                writer.write({"silent": b"", "mute": said, "wrong": said + b"\x81\x05hello"}[behaviour])
                await reader.read()
            else:
                up, down = await asyncio.open_connection("127.0.0.1", port)
                down.write(first)
                await asyncio.gather(shovel(reader, down), shovel(up, writer))
            writer.close()

        server = await asyncio.start_server(between, "127.0.0.1", 0)
        await rig.dial(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/link")
        await rig.device.pair()
        detail = rig.dialler.status()["detail"]
        assert detail["mode"] == "long-poll"
        assert reason in detail["why"]
        await rig.dialler.close()
        await rig.listener.close()
        server.close()

    over(body)


async def shovel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def test_repeated_long_poll_requests_repeat_nothing(over: Callable[[Body], None]) -> None:
    async def body(rig: HttpRig) -> None:
        port = await rig.listen(device=False)
        arrived = asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()
        server = await asyncio.start_unix_server(lambda r, w: arrived.put_nowait((r, w)), rig.folder / "l.sock")

        async def send(method: str, query: str, data: bytes = b"") -> tuple[int, bytes]:
            head = f"{method} /link?s={'ab' * 16}{query} HTTP/1.1\r\nConnection: close\r\nContent-Length: {len(data)}"
            said = await ask(port, f"{head}\r\n\r\n".encode() + data)
            return int(said.split(b" ")[1]), said.partition(b"\r\n\r\n")[2]

        assert (await send("POST", "&up=1", b"x"))[0] == 410
        for _ in range(2):
            assert (await send("POST", "&up=0"))[0] == 204
        reader, writer = await arrived.get()
        for _ in range(3):
            assert (await send("POST", "&up=1", b"one."))[0] == 204
        for _ in range(2):
            assert (await send("POST", "&up=2", b"two."))[0] == 204
        assert (await send("POST", "&up=1", b"one."))[0] == 204
        assert (await send("POST", "&up=4", b"four"))[0] == 409
        assert (await send("POST", "&up=3", b""))[0] == 409
        assert (await send("POST", "&up=3", b"x" * 300_000))[0] == 400
        assert (await send("POST", "&end=2"))[0] == 204
        assert await reader.read() == b"one.two."
        writer.write(b"down")
        for _ in range(2):
            assert await send("GET", "&down=0") == (200, b"down")
        writer.write(b"more")
        assert await send("GET", "&down=1") == (200, b"more")
        assert (await send("GET", "&down=0"))[0] == 409
        assert (await send("GET", "&down=7"))[0] == 409
        assert (await send("PUT", "&down=1"))[0] == 409
        assert (await send("DELETE", ""))[0] == 204
        assert (await send("GET", "&down=2"))[0] in (409, 410)
        assert arrived.empty()
        server.close()

    over(body)


def test_long_poll_sessions_are_bounded_and_end_by_themselves(
    over: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "HTTP_SESSIONS", 2)
    monkeypatch.setattr(sessions, "HTTP_SESSION_S", 0.3)

    async def body(rig: HttpRig) -> None:
        port = await rig.listen()
        for n, status in enumerate((b"204", b"204", b"503")):
            request = f"POST /link?s={n:032x}&up=0 HTTP/1.1\r\nConnection: close\r\n\r\n"
            assert (await ask(port, request.encode())).split(b" ")[1] == status
        await until(lambda: rig.listener.status()["detail"]["long_poll"] == 0, 10)
        await until(lambda: rig.listener.status()["connections"] == 0, 10)

    over(body)
