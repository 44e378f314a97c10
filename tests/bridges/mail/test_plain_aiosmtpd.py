"""What aiosmtpd does by itself, shown on the plain library, and on ours for the same bytes: why DATA, AUTH and the loop
over commands are made anew (bridges/mail/smtp_session.py). What a newer aiosmtpd mends turns one of these red.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP

from bridges.mail.inbox import Inbox
from tests.bridges.mail.rig import MAIL, Client, Rig, serving
from tests.bridges.mail.test_data import SMUGGLED
from tests.bridges.rig import run
from tests.loops import until
from tunnel.reactor import Reactor


class Handler:
    """What an application gives aiosmtpd: it keeps mails, slowly or not, or fails."""

    def __init__(self, delay: asyncio.Event | None = None, error: str = "") -> None:
        self.began = 0
        self.mails: list[bytes] = []
        self._delay = delay
        self._error = error

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.began += 1
        if self._error:
            raise RuntimeError(self._error)
        if self._delay is not None:
            await self._delay.wait()
        self.mails.append(envelope.content)
        return "250 ok"

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:
        if address == "closed@b.c":
            return "421 go away"
        envelope.rcpt_tos.append(address)
        return "250 ok"


@asynccontextmanager
async def plain(handler: Handler, **more: Any) -> AsyncIterator[tuple[Client, list[SMTP]]]:
    """The plain library, and a client that has said EHLO."""
    loop, made = asyncio.get_running_loop(), list[SMTP]()

    def factory() -> SMTP:
        made.append(SMTP(handler, loop=loop, **more))
        return made[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    client = Client(*await asyncio.open_connection(*server.sockets[0].getsockname()[:2]))
    client.banner = await client.reply()  # type: ignore[attr-defined]
    await client.ehlo()
    try:
        yield client, made
    finally:
        client.writer.transport.abort()
        server.close()


def on_both(folder: Path, library: Callable[[], Any], ours: Callable[[Rig], Any], **more: Any) -> None:
    async def main(reactor: Reactor) -> None:
        await library()
        async with serving(reactor, folder, **more) as rig:
            await ours(rig)

    run(main, "asyncio")  # the library's own loop


async def data(client: Client, said: bytes) -> None:
    await client.envelope()
    assert (await client.say("DATA")).startswith("354")
    client.write(said)
    await client.writer.drain()


def test_a_line_of_60_mb_is_buffered_whole(tmp_path: Path) -> None:
    async def flood(client: Client) -> None:
        await data(client, b"")
        for _ in range(60):
            client.write(b"x" * 1_000_000)
            await client.writer.drain()
        client.write(b"\r\n.\r\n")

    async def library() -> None:
        async with plain(Handler(), data_size_limit=1_000_000) as (client, made):
            held: list[int] = []
            reader = made[0]._reader
            read = reader.read

            async def watched(count: int = -1) -> bytes:
                held.append(sum(map(len, sys._getframe(1).f_locals["line_fragments"])))
                return await read(count)

            reader.read = watched  # type: ignore[method-assign]
            await flood(client)
            assert (await client.reply(60))[:1] == "5"
            assert max(held) > 50_000_000  # although a mail has 1,000,000 bytes at most

    async def ours(rig: Rig) -> None:
        client = await rig.dial()
        await flood(client)
        assert (await client.reply(60)).startswith("552 5.3.4")

    on_both(tmp_path, library, ours, max_bytes=1_000_000)


def test_the_text_of_an_exception_is_sent_as_a_permanent_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def library() -> None:
        async with plain(Handler(error="the secret is 1234")) as (client, _):
            await data(client, MAIL + b".\r\n")
            assert await client.reply() == "500 Error: (RuntimeError) the secret is 1234"

    async def broken(*_: Any) -> int:
        raise RuntimeError("the secret is 1234")

    async def ours(rig: Rig) -> None:
        monkeypatch.setattr(Inbox, "put", broken)
        client = await rig.dial()
        await data(client, MAIL + b".\r\n")
        reply = await client.reply()
        assert reply.startswith("451 4.3.0 local error")
        assert "1234" not in reply

    on_both(tmp_path, library, ours)


def test_half_close_after_the_dot_ends_the_hand_over(tmp_path: Path) -> None:
    async def library() -> None:
        handler = Handler(asyncio.Event())
        async with plain(handler) as (client, made):
            await data(client, MAIL + b".\r\n")
            await until(lambda: handler.began)
            client.writer.write_eof()
            task = made[0]._handler_coroutine
            assert task is not None
            await until(task.done)
            assert task.cancelled()
            assert not handler.mails

    async def ours(rig: Rig) -> None:
        client = await rig.dial()
        await data(client, MAIL + b".\r\n")
        client.writer.write_eof()
        assert (await client.reply()).startswith("250")
        assert len(await rig.mails()) == 1

    on_both(tmp_path, library, ours)


def test_a_slow_hand_over_is_cut_off_without_a_reply(tmp_path: Path) -> None:
    async def library() -> None:
        handler = Handler(asyncio.Event())
        async with plain(handler, timeout=0.3) as (client, _):
            await data(client, MAIL + b".\r\n")
            assert await client.reply() == ""  # closed, and nobody knows what became of the mail

    async def ours(rig: Rig) -> None:
        client = await rig.dial()
        await data(client, MAIL + b".\r\n")
        assert (await client.reply()).startswith("451 4.3.0")  # the application does not answer

    on_both(tmp_path, library, ours, socket="REQ", accept="acked", answer_s=0.3, command_s=60)


@pytest.mark.parametrize("bare", [b"a\nb\r\n", b"a\rb\r\n", *(b"a" + probe + b"b\r\n" for probe in SMUGGLED)])
def test_lone_cr_and_lf_go_on_to_others(tmp_path: Path, bare: bytes) -> None:
    async def library() -> None:
        handler = Handler()
        async with plain(handler) as (client, _):
            await data(client, b"Subject: x\r\n\r\n" + bare + b".\r\n")
            assert (await client.reply()).startswith("250")
            content = handler.mails[0].replace(b"\r\n", b"")
            assert b"\r" in content or b"\n" in content

    async def ours(rig: Rig) -> None:
        client = await rig.dial()
        await data(client, b"Subject: x\r\n\r\n" + bare + b".\r\n")
        assert (await client.reply()).startswith("550 5.5.2")
        assert rig.nothing_came()

    on_both(tmp_path, library, ours)


def test_a_returned_421_closes_nothing(tmp_path: Path) -> None:
    async def library() -> None:
        async with plain(Handler()) as (client, _):
            await client.envelope("MAIL FROM:<a@b.c>")
            assert (await client.say("RCPT TO:<closed@b.c>")).startswith("421")
            assert (await client.say("NOOP")).startswith("250")

    async def ours(rig: Rig) -> None:
        client = await rig.dial()
        assert (await client.say("GET /")).startswith("421")
        assert await client.closed()

    on_both(tmp_path, library, ours)


def test_the_banner_tells_the_version(tmp_path: Path) -> None:
    async def library() -> None:
        async with plain(Handler()) as (client, _):
            assert "Python SMTP 1." in client.banner  # type: ignore[attr-defined]

    async def ours(rig: Rig) -> None:
        client = await rig.dial(greeted=False)
        assert await client.reply() == "220 mail.test ESMTP"

    on_both(tmp_path, library, ours)


def test_any_number_of_connections(tmp_path: Path) -> None:
    async def library() -> None:
        async with plain(Handler()) as (first, made):
            port = first.writer.get_extra_info("peername")[1]
            more = [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(200)]
            for client in more:
                assert (await client.reply()).startswith("220")
            assert len(made) == 201
            for client in more:
                client.writer.transport.abort()

    async def ours(rig: Rig) -> None:
        clients = [await rig.dial(greeted=False) for _ in range(200)]
        greeted = [(await client.reply())[:3] for client in clients]
        assert (greeted.count("220"), greeted.count("421")) == (20, 180)

    on_both(tmp_path, library, ours)
