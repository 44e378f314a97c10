"""smtp-client: what the server gets, byte for byte, and what whoever sent it hears."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bridges.mail.fill import Filling
from tests.bridges.mail_rig import RAW, sending
from tests.bridges.mail_sink import Sink
from tests.bridges.rig import run
from tunnel.config.mail.smtp_client_plan import TemplatePlan
from tunnel.reactor import Reactor

DOTS = RAW + b".\r\n..\r\n.dot\r\nmiddle.\r\n" + (b"x" * 900 + b"\r\n.\r\n") * 800 + bytes(range(128, 256)) + b"\r\n"


@pytest.mark.parametrize("loop", ["default", "asyncio"])
@pytest.mark.parametrize("socket", ["PULL", "SUB", "REP"])
def test_a_mail_goes_byte_for_byte(tmp_path: Path, loop: str, socket: str) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, socket, relay=sink.port) as rig:
            rig.send(DOTS)
            await rig.until(lambda: rig.detail("sent") == 1)
            (mail,) = sink.mails
            assert (mail.sender, mail.to) == ("a@example.com", ["b@example.com"])
            assert mail.content == DOTS
            assert rig.status()["state"] == "up"
            assert (rig.detail("queue"), rig.detail("bytes"), rig.status()["bytes_out"]) == (0, 0, len(DOTS))
        await sink.stop()

    run(body, loop)


@pytest.mark.parametrize("at", [*range(-3, 4)])
def test_dots_where_pieces_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr("bridges.mail.sending.SEND_CHUNK_BYTES", len(RAW) + 60 + at)
    raw = RAW + (b"." * 9 + b"\r\n" + b".\r\n" + b"a.\r\n") * 40

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            rig.send(raw)
            await rig.until(lambda: sink.mails)
            assert sink.mails[0].content == raw
        await sink.stop()

    run(body)


def test_the_envelope_is_that_of_the_meta_frame_alone_and_bcc_is_taken_out(tmp_path: Path) -> None:
    raw = (
        b"From: x@example.org\r\nBcc: secret@example.com,\r\n other@example.com\r\nTo: nobody@example.org\r\n"
        b"RESENT-BCC : third@example.com\r\nSubject: bcc: not this\r\n\r\nBcc: nor this\r\n"
    )

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            rig.send(raw, **{"from": "", "to": ["c@example.com", "d@example.com", "c@example.com"]})
            await rig.until(lambda: rig.detail("sent") == 2)
            (mail,) = sink.mails
            assert (mail.sender, sorted(mail.to)) == ("", ["c@example.com", "d@example.com"])
            assert mail.content == (
                b"From: x@example.org\r\nTo: nobody@example.org\r\nSubject: bcc: not this\r\n\r\nBcc: nor this\r\n"
            )
        await sink.stop()

    run(body)


def test_many_go_on_few_connections_that_are_used_again(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, relay=sink.port, connections=3) as rig:
            for number in range(250):
                rig.send(RAW + b"%d\r\n" % number)
            await rig.until(lambda: rig.detail("sent") == 250, 30)
            assert len({mail.content for mail in sink.mails}) == len(sink.mails) == 250
            assert sink.connections <= 8
            assert rig.status()["connections"] <= 3
        await sink.stop()

    run(body)


def test_who_asks_hears_that_it_is_on_disk(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with sending(reactor, tmp_path, "REP", relay=1) as rig:
            told = await rig.ask(id="order-1")
            assert told == {"id": "order-1", "state": "queued"}
            assert (await rig.ask(id="order-1")) == {"id": "order-1", "state": "queued", "repeated": True}
            other = await rig.ask(id="order-1", raw=RAW + b"more\r\n")
            assert other["state"] == "refused"
            assert "another mail's" in other["error"]
            assert (rig.detail("taken"), rig.detail("repeated"), rig.status()["dropped"]) == (1, 1, {"id": 1})
            assert len((await rig.ask())["id"]) == 32  # its own
            assert rig.detail("queue") == 2
            assert await rig.mails("refused") == []  # who asked was told: nothing is put aside

    run(body)


def test_who_asks_hears_what_the_first_attempt_came_to(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        sink.say("RCPT", "550 5.1.1 nobody of that name", when=lambda address: address.startswith("gone"))
        sink.say("RCPT", "451 4.3.0 not now", when=lambda address: address.startswith("later"), times=1)
        async with sending(reactor, tmp_path, "REP", relay=sink.port, result=True) as rig:
            told = await rig.ask()
            assert told["state"] == "sent"
            assert told["to"]["b@example.com"] == {"state": "sent", "words": "250 2.0.0 taken"}
            told = await rig.ask(to=["b@example.com", "gone@example.com", "later@example.com"], id="x")
            assert told["state"] == "partly"
            assert told["to"] == {
                "b@example.com": {"state": "sent", "words": "250 2.0.0 taken"},
                "gone@example.com": {"state": "failed", "words": "550 5.1.1 nobody of that name"},
                "later@example.com": {"state": "deferred", "words": "451 4.3.0 not now"},
            }
            await rig.until(lambda: rig.detail("sent") == 3)
            assert [sorted(mail.to) for mail in sink.mails[1:]] == [["b@example.com"], ["later@example.com"]]
            again = await rig.ask(to=["b@example.com", "gone@example.com", "later@example.com"], id="x")
            assert again["repeated"]
            assert again["to"]["later@example.com"]["state"] == "sent"
            assert (rig.detail("failed"), rig.detail("dead"), len(sink.mails)) == (1, 1, 3)
        await sink.stop()

    run(body)


def test_who_asks_hears_at_once_that_the_server_is_away(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with sending(reactor, tmp_path, "REP", relay=1, result=True) as rig:
            told = await rig.ask(id="x")
            assert told["state"] in ("deferred", "queued")
            await rig.until(lambda: rig.status()["state"] == "retrying")
            assert "connection refused" in rig.status()["reason"].lower() or "connect" in rig.status()["reason"].lower()
            told = await rig.ask(id="y")
            assert told["state"] in ("deferred", "queued")
            await rig.command("mail-pause")
            assert (await rig.ask(id="z"))["state"] == "queued"

    run(body)


TEMPLATE = TemplatePlan(
    subject=Filling("{host.name}: {what}"),
    text=Filling("At {host.name} there is {what}.\n{note?}\n"),
    html=Filling("<p>{what}</p>"),
    to=(Filling("{to}"), Filling("ops+{host.name}@example.com")),
    attachments=True,
)


@pytest.mark.parametrize("socket", ["PULL", "SUB", "REP"])
def test_a_template_makes_a_mail(tmp_path: Path, socket: str) -> None:
    from email import message_from_bytes
    from email.policy import default

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(
            reactor, tmp_path, socket, relay=sink.port, template=TEMPLATE, sender="alarms@example.com"
        ) as rig:
            said: dict[str, Any] = {
                "id": "alarm-17",
                "to": ["b@example.com", "Ödön <c@example.com>"],
                "host": {"name": "pump-3"},
                "what": "smoke & <fire>, ä",
                "attachments": [{"name": "../../plan.pdf", "type": "application/pdf"}],
            }
            content = bytes(range(256)) * 99
            rig.send_frames(json.dumps(said).encode(), content, b"second")
            await rig.until(lambda: rig.detail("sent") == 3)
            (found,) = sink.mails
            assert sorted(found.to) == ["b@example.com", "c@example.com", "ops+pump-3@example.com"]
            assert found.sender == "alarms@example.com"
            mail = message_from_bytes(found.content, policy=default)
            assert mail["Subject"] == "pump-3: smoke & <fire>, ä"
            assert mail["Message-ID"] == "<alarm-17@client.example>"
            assert mail["X-Ztunnel-Hop"] == "plant"
            assert mail["To"] == "b@example.com, Ödön <c@example.com>, ops+pump-3@example.com"
            text, html = mail.get_body(("plain",)), mail.get_body(("html",))
            assert text is not None
            assert html is not None
            assert text.get_content().splitlines() == ["At pump-3 there is smoke & <fire>, ä.", ""]
            assert html.get_content().splitlines() == ["<p>smoke &amp; &lt;fire&gt;, ä</p>"]
            one, two = mail.iter_attachments()
            assert (one.get_filename(), one.get_content_type()) == ("plan.pdf", "application/pdf")
            assert one.get_content() == content
            assert (two.get_filename(), two.get_content()) == ("attachment-2", b"second")
            assert found.content.isascii()
            assert re.search(rb"(?<!\r)\n|\r(?!\n)", found.content) is None
            assert max(map(len, found.content.split(b"\r\n"))) <= 998
        await sink.stop()

    run(body)


def test_an_id_that_comes_again_is_not_sent_again_not_after_a_restart_either(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        for number in range(2):
            async with sending(reactor, tmp_path, relay=sink.port) as rig:
                rig.send(id="x")
                await rig.until(lambda r=rig, n=number: r.detail("repeated") == 1 if n else r.detail("sent") == 1)
        assert len(sink.mails) == 1
        async with sending(reactor, tmp_path, relay=sink.port, remember_s=-1.0) as rig:
            await rig.client._tidy_once(__import__("time").time())
            rig.send(id="x")
            await rig.until(lambda: rig.detail("sent") == 1)
        assert len(sink.mails) == 2
        await sink.stop()

    run(body)


def test_what_is_no_mail_is_put_aside_and_said_why(tmp_path: Path) -> None:
    wrong = {
        "is not JSON": (b"{", RAW),
        "no recipient": (b'{"to": []}', RAW),
        "frames are missing": (b"{}",),
        "too many": (b'{"to": "b@example.com"}', RAW, b"more"),
        "no mail goes to 'x@example.net'": (b'{"to": ["b@example.com", "x@example.net"]}', RAW),
        "3 recipients; 2 is the most": (b'{"to": ["1@example.com", "2@example.com", "3@example.com"]}', RAW),
        "control character": (json.dumps({"to": "b@example.com\r\nRCPT TO:<evil@example.com>"}).encode(), RAW),
        "a LF stands alone": (b'{"to": "b@example.com"}', RAW + b"a\nb\r\n"),
        "a CR stands alone": (b'{"to": "b@example.com"}', RAW + b"a\rb\r\n"),
        "a NUL": (b'{"to": "b@example.com"}', RAW + b"a\0b\r\n"),
        "does not begin with a header": (b'{"to": "b@example.com"}', b"hello\r\n"),
        "the mail is empty": (b'{"to": "b@example.com"}', b""),
        "an id is text": (b'{"to": "b@example.com", "id": 5}', RAW),
        "is the most": (b'{"to": "b@example.com"}', RAW + b"x" * 30_000),
    }

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        limits = {"allow_to": ("*@example.com",), "recipients": 2, "max_bytes": 20_000}
        async with sending(reactor, tmp_path, relay=sink.port, **limits) as rig:
            for number, (words, frames) in enumerate(wrong.items()):
                head = [b"topic"] if len(frames) == 3 else []
                rig.send_frames(*head, *frames)
                await rig.until(lambda n=number: rig.detail("dead") == n + 1)
                found = (await rig.mails("refused"))[-1]
                assert words in found["why"]
            assert sum(rig.status()["dropped"].values()) == len(wrong)
            shown = await rig.command("mail-show", number=found["number"])
            assert shown["frames"] == [len(frame) for frame in frames]
            rig.send()
            await rig.until(lambda: rig.detail("sent") == 1)
        assert len(sink.mails) == 1
        assert not any("evil" in command for command in sink.commands)
        await sink.stop()

    run(body)
