"""smtp-client and a real server: Postfix gets every mail whole, once, and nothing that looks like two."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridges.mail.fill import Filling
from tests.bridges.mail_rig import RAW, sending
from tests.bridges.mail_sink import Sink
from tests.bridges.rig import run
from tests.servers import Postfix
from tunnel.config.mail.smtp_client_plan import TemplatePlan
from tunnel.reactor import Reactor

SECOND = b"MAIL FROM:<evil@example.com>{e}RCPT TO:<victim@example.com>{e}DATA{e}Subject: smuggled{e}{e}second{e}"
SHAPES = {
    "LF . LF": b"\n.\n",
    "LF . CRLF": b"\n.\r\n",
    "CR . CR": b"\r.\r",
    "CR . CRLF": b"\r.\r\n",
    "CRLF . LF": b"\r\n.\n",
    "CRLF . CR": b"\r\n.\r",
    "CRLF NUL . CRLF": b"\r\n\0.\r\n",
    "CRLF . CRLF": b"\r\n.\r\n",
}
"""What some server or other has taken for the end of a mail."""


@pytest.fixture(scope="module")
def postfix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postfix]:
    with Postfix(tmp_path_factory.mktemp("postfix")) as server:
        yield server


def as_delivered(raw: bytes) -> bytes:
    return raw.replace(b"\r\n", b"\n")


def test_byte_for_byte(tmp_path: Path, postfix: Postfix) -> None:
    before = len(postfix.mails())
    raw = RAW + b".\r\n..\r\n.dot\r\n" + (b"y" * 900 + b"\r\n") * 2000 + "Grüße\r\n".encode() + b"\r\n\r\n"

    async def body(reactor: Reactor) -> None:
        async with sending(reactor, tmp_path, relay=postfix.port) as rig:
            rig.send(raw)
            await rig.until(lambda: rig.detail("sent") == 1)
            await rig.until(lambda: len(postfix.mails()) == before + 1)

    run(body)
    assert any(mail.endswith(as_delivered(raw)) for mail in postfix.mails())


@pytest.mark.parametrize("end", SHAPES, ids=list(SHAPES))
@pytest.mark.parametrize("normalise", [False, True], ids=["refuse", "normalise"])
def test_a_mail_stays_one_mail(tmp_path: Path, postfix: Postfix, end: str, normalise: bool) -> None:
    before = len(postfix.mails())
    raw = RAW + b"first" + SHAPES[end] + SECOND.replace(b"{e}", b"\r\n") + b".\r\n"
    bare = re.search(rb"\r(?!\n)|(?<!\r)\n|\0", raw) is not None
    refused = bare and not (normalise and b"\0" not in raw)

    async def body(reactor: Reactor) -> None:
        async with sending(reactor, tmp_path, relay=postfix.port, normalise=normalise) as rig:
            rig.send(raw)
            rig.send(RAW + b"last\r\n")
            await rig.until(lambda: rig.detail("sent") == (1 if refused else 2))
            assert rig.detail("dead") == int(refused)
            await rig.until(lambda: len(postfix.mails()) >= before + (1 if refused else 2))
            await rig.until(lambda: b"last" in b"".join(postfix.mails()))

    run(body)
    assert len(postfix.mails()) == before + (1 if refused else 2)
    assert not any(mail.count(b"victim") and not mail.count(b"first") for mail in postfix.mails())


def test_a_template(tmp_path: Path, postfix: Postfix) -> None:
    template = TemplatePlan(subject=Filling("{what}"), text=Filling("{what}\n.\n{what}"))

    async def body(reactor: Reactor) -> None:
        async with sending(reactor, tmp_path, relay=postfix.port, template=template, sender="a@example.com") as rig:
            rig.send_frames(b'{"to": "b@example.com", "what": "fire \\u00e4", "id": "alarm-1"}')
            await rig.until(lambda: rig.detail("sent") == 1)
            await rig.until(lambda: b"<alarm-1@client.example>" in b"".join(postfix.mails()))

    run(body)


def test_a_server_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    with Postfix(tmp_path / "postfix") as server:

        async def body(reactor: Reactor) -> None:
            async with sending(reactor, tmp_path, relay=server.port) as rig:
                for number in range(60):
                    rig.send(RAW + b"number %d\r\n" % number, id=str(number))
                    if number == 20:
                        await rig.until(lambda: rig.detail("sent") >= 5)
                        server.stop()
                        await rig.until(lambda: rig.status()["state"] == "retrying")
                server.start()
                await rig.until(lambda: rig.detail("sent") == 60, 60)
                await rig.until(lambda: len(delivered()) == 60, 20)
                assert len(server.mails()) <= 60 + rig.detail("may_repeat")

        def delivered() -> set[bytes]:
            return {found for mail in server.mails() for found in re.findall(rb"number \d+", mail)}

        run(body, within_s=100)


def test_through_a_postfix_that_relays(tmp_path: Path) -> None:
    raw = RAW + "Grüße\r\n".encode() + b".\r\n..\r\n" + b"z" * 900 + b"\r\n"

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        with Postfix(tmp_path / "postfix", relay_to=sink.port) as server:
            async with sending(reactor, tmp_path, relay=server.port) as rig:
                rig.send(raw, to=["b@elsewhere.example", "c@elsewhere.example"])
                await rig.until(lambda: len(sink.mails) == 1, 20)
        (mail,) = sink.mails
        assert sorted(mail.to) == ["b@elsewhere.example", "c@elsewhere.example"]
        assert mail.content.endswith(raw)
        await sink.stop()

    run(body)
