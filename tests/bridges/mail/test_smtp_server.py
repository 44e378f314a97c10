"""smtp-server with real sockets: every line of the table of replies, and what a mail becomes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import sqlite3
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import trustme
import zmq

from bridges.mail import database, meta, smtp_session, ways
from bridges.mail.inbox import Inbox
from tests.bridges.mail.rig import MAIL, Client, Rig, serving
from tests.bridges.mail.test_data import SMUGGLED
from tests.bridges.mail_disk import abandoned
from tests.bridges.rig import run
from tunnel.config.plan import Allow, TlsPlan
from tunnel.reactor import Reactor

TAKEN = re.compile(r"250 2\.0\.0 ([0-9a-f]{24})")
Body = Callable[[Rig], Awaitable[None]]


def served(folder: Path, body: Body, loop: str = "default", **more: Any) -> None:
    async def main(reactor: Reactor) -> None:
        async with serving(reactor, folder, **more) as rig:
            await body(rig)

    run(main, loop)


@pytest.mark.parametrize("loop", ["default", "asyncio"])
def test_a_mail_becomes_a_message_byte_for_byte(tmp_path: Path, loop: str) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        reply = await client.mail(b"Subject: a\r\n\r\n..\r\n...dots\r\n\x80\xff\x00\r\n")
        found = TAKEN.fullmatch(reply)
        assert found, reply
        ((topic, meta, raw),) = await rig.mails()
        assert (topic, raw) == (b"alarm.west", b"Subject: a\r\n\r\n.\r\n..dots\r\n\x80\xff\x00\r\n")
        assert meta.pop("received").startswith("20")
        assert meta == {
            "id": found[1],
            "from": "a@example.com",
            "to": ["ups+west@example.com"],
            "size": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
            "rule": "ups",
            "client": "127.0.0.1",
            "helo": "client.example.com",
            "tls": None,
            "user": None,
            "tag": "west",
            "utf8": False,
        }
        await rig.until(lambda: rig.detail["spool"]["bytes"] == 0)
        assert rig.detail["taken"] == rig.detail["handed"] == 1

    served(tmp_path, body, loop)


def test_what_is_offered_and_what_is_not(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial(greeted=False)
        assert await client.reply() == "220 mail.test ESMTP"  # and no version
        assert await client.ehlo() == ["SIZE 1000000", "8BITMIME", "SMTPUTF8", "PIPELINING", "ENHANCEDSTATUSCODES"]
        for word in ("VRFY a@b.c", "EXPN list", "HELP", "BDAT 5"):
            assert (await client.say(word)).startswith("502 5.5.1")
        assert (await client.say("WHAT")).startswith("500 5.5.1")
        assert (await client.say("DATA")).startswith("503 5.5.1")
        assert (await client.say("RCPT TO:<ups@b.c>")).startswith("503 5.5.1")
        assert (await client.say("NOOP")).startswith("250 2.0.0")

    served(tmp_path, body, max_bytes=1_000_000)


def test_several_mails_on_one_connection_and_pipelined(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        for _ in range(3):
            assert TAKEN.fullmatch(await client.mail())
        client.write(b"MAIL FROM:<a@b.c>\r\nRCPT TO:<ups@b.c>\r\nRCPT TO:<UPS+x@b.c>\r\nDATA\r\n")
        replies = [await client.reply() for _ in range(4)]
        assert [reply[:9] for reply in replies] == ["250 2.1.0", "250 2.1.5", "452 4.5.3", "354 end w"]
        client.write(b"Subject: p\r\n\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<ups@b.c>\r\nDATA\r\n")
        assert TAKEN.fullmatch(await client.reply())
        assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
        client.write(b"bounce\r\n.\r\nQUIT\r\n")
        assert TAKEN.fullmatch(await client.reply())
        assert (await client.reply()).startswith("221")
        mails = await rig.mails(5)
        assert [raw for _, _, raw in mails[3:]] == [b"Subject: p\r\n\r\n", b"bounce\r\n"]
        assert mails[4][1]["from"] == ""

    served(tmp_path, body)


# --- the table of replies --------------------------------------------------------------------------------------------


def test_451_when_nobody_acknowledges_in_time_and_250_when_somebody_does(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        reply = await client.mail()
        assert reply.startswith("451 4.3.0"), reply
        _, first, _ = await rig.recv()
        await rig.until(lambda: not rig.server._taking)
        rig.app.send(b"")  # too late: the client was told to come again

        sending = asyncio.ensure_future(client.mail())
        _, again, raw = await rig.recv()
        assert (raw, meta.read(again)["id"]) == (MAIL, meta.read(first)["id"])
        assert not sending.done()
        rig.app.send(b"any reply is an answer")
        assert (await sending) == f"250 2.0.0 {meta.read(first)['id']}"
        sending = asyncio.ensure_future(client.mail())
        _, other, _ = await rig.recv()
        assert meta.read(other)["id"] != meta.read(first)["id"]
        rig.app.send(b"")
        assert TAKEN.fullmatch(await sending)

    served(tmp_path, body, socket="REQ", accept="acked", answer_s=1.0)


def test_what_was_answered_with_451_does_not_pile_up_for_an_application_that_is_away(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        for number in range(3):
            assert (await client.mail(b"Subject: %d\r\n\r\n" % number)).startswith("451 4.3.0")
        (handover,) = rig.server.ways
        outlet = handover.zmq.outlet if handover.zmq is not None else None
        await rig.until(lambda: outlet is not None and not outlet.waiting and not handover.under_way)
        assert rig.detail["late"] == 3

    served(tmp_path, body, bound=False, socket="REQ", accept="acked", answer_s=0.2)


def test_many_at_once_are_under_way_no_more_than_one_after_the_other(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        clients = [await rig.dial() for _ in range(8)]
        replies = await asyncio.gather(*(client.mail(b"x" * 5_000_000 + b"\r\n") for client in clients))
        assert all(reply.startswith("451 4.3.0") for reply in replies)
        assert sum("too much is under way" in reply for reply in replies) == 6  # two are more than 8 MiB

    served(tmp_path, body, bound=False, socket="REQ", accept="acked", answer_s=3.0)


def test_mails_that_an_older_table_spooled_go_out_beside_those_that_wait_for_an_answer(tmp_path: Path) -> None:
    async def spooled(rig: Rig) -> None:
        assert TAKEN.fullmatch(await (await rig.dial()).mail(b"Subject: old\r\n\r\n"))

    async def acked(rig: Rig) -> None:
        assert (await rig.recv())[2] == b"Subject: old\r\n\r\n"
        rig.app.send(b"")
        await rig.until(lambda: not rig.detail["spool"]["rows"])
        sending = asyncio.ensure_future((await rig.dial()).mail())
        assert (await rig.recv())[2] == MAIL
        rig.app.send(b"")
        assert TAKEN.fullmatch(await sending)
        assert rig.detail["handed"] == 2

    served(tmp_path, spooled, bound=False, socket="REQ")
    served(tmp_path, acked, socket="REQ", accept="acked")


def test_452_when_the_spool_is_full_at_mail_and_at_the_end(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        assert (await client.say("MAIL FROM:<a@b.c> SIZE=90000")).startswith("452 4.3.1 the spool holds")
        await client.envelope()
        assert (await client.say("DATA")).startswith("354")
        client.write(b"x" * 90_000 + b"\r\n.\r\n")
        assert (await client.reply()).startswith("452 4.3.1")
        assert TAKEN.fullmatch(await client.mail())  # a small one has room
        assert rig.refused["full"] == 2

    served(tmp_path, body, bound=False, max_spool=50_000)


def test_452_when_the_disk_fails_and_250_when_it_works_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        connect = database.sqlite3.connect

        def fails(*_: Any, **__: Any) -> Any:
            raise database.sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(database.sqlite3, "connect", fails)
        await abandoned(rig.server.inbox.database)
        assert (await client.mail()).startswith("452 4.3.1 local error")
        assert "disk I/O error" in rig.server.status()["reason"]
        monkeypatch.setattr(database.sqlite3, "connect", connect)
        assert TAKEN.fullmatch(await client.mail())
        assert len(await rig.mails()) == 1

    served(tmp_path, body)


class Forgetful:
    """A database whose disk has what it was told to keep, and says that it has not."""

    def __init__(self, db: Any) -> None:
        self._db = db

    def execute(self, statement: str, *values: Any) -> Any:
        found = self._db.execute(statement, *values)
        if statement == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return found

    def close(self) -> None:
        self._db.close()


@pytest.mark.parametrize("lines", [1, 4000])
def test_a_mail_that_a_failing_disk_has_all_the_same_is_not_lost_when_it_comes_again(
    tmp_path: Path, lines: int
) -> None:
    raw = b"Subject: a\r\n\r\n" + (b"x" * 70 + b"\r\n") * lines

    async def body(rig: Rig) -> None:
        client, inbox = await rig.dial(), rig.server.inbox
        await inbox.database.ask(lambda _: None)  # its thread is at rest
        inbox.database._db = Forgetful(inbox.database._db)  # type: ignore[assignment]
        assert (await client.mail(raw)).startswith("452 4.3.1 local error")
        assert TAKEN.fullmatch(await client.mail(raw))
        assert (await rig.recv())[2] == raw
        await rig.until(lambda: inbox.status()["rows"] == 0)
        assert (inbox.bytes, list(inbox.bodies.iterdir())) == (0, [])

    served(tmp_path, body)


def test_what_a_failing_disk_did_not_take_leaves_nothing(tmp_path: Path) -> None:
    raw = b"x" * 300_000 + b"\r\n"

    async def body(rig: Rig) -> None:
        client, inbox = await rig.dial(), rig.server.inbox
        await inbox.database.ask(lambda _: None)
        inbox.database._abandon()
        inbox.database.path.rename(tmp_path / "away")
        assert (await client.mail(raw)).startswith("452 4.3.1 local error")
        assert len(list(inbox.bodies.iterdir())) == 1  # nobody can say whether a row names it
        (tmp_path / "away").rename(inbox.database.path)
        inbox.sweep()
        await rig.until(lambda: (inbox.rows, inbox.bytes, list(inbox.bodies.iterdir())) == (0, 0, []))
        assert TAKEN.fullmatch(await client.mail(raw))
        assert len(await rig.mails()) == 1

    served(tmp_path, body, duplicates="never")


def test_421_when_there_are_too_many_connections_and_it_really_closes(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        first = await rig.dial()
        await rig.dial()
        third = await rig.dial(greeted=False)
        assert (await third.reply()).startswith("421 4.7.0")
        assert await third.closed()
        assert rig.refused == {"per_address": 1}
        assert await first.say("QUIT") == "221 2.0.0 mail.test closes"
        await rig.until(lambda: rig.server.status()["connections"] == 1)
        assert TAKEN.fullmatch(await (await rig.dial()).mail())

    served(tmp_path, body, per_address=2)


def test_421_when_it_closes_and_a_mail_under_way_is_answered_first(tmp_path: Path) -> None:
    async def main(reactor: Reactor) -> None:
        async with serving(reactor, tmp_path) as rig:
            idle, busy = await rig.dial(), await rig.dial()
            await busy.envelope()
            assert (await busy.say("DATA")).startswith("354")
            closing = asyncio.ensure_future(rig.server.close())
            assert (await idle.reply()).startswith("421 4.3.2")
            assert await idle.closed()
            busy.write(MAIL + b".\r\n")
            assert TAKEN.fullmatch(await busy.reply())
            assert (await busy.reply()).startswith("421 4.3.2")
            await closing

    run(main)


def test_552_at_mail_where_the_size_is_announced(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        assert await client.say("MAIL FROM:<a@b.c> SIZE=1001") == "552 5.3.4 a mail has at most 1000 bytes here"
        assert (await client.say("MAIL FROM:<a@b.c> SIZE=1000")).startswith("250")

    served(tmp_path, body, max_bytes=1000)


def test_552_at_the_end_without_buffering(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        await client.envelope()
        assert (await client.say("DATA")).startswith("354")
        for _ in range(60):  # a line of 60 MB
            client.write(b"x" * 1_000_000)
            await client.writer.drain()
            (session,) = rig.server.sessions
            assert len(session._reader._buffer) <= 2 * smtp_session.READ_BYTES + (256 << 10)
        client.write(b"\r\n.\r\n")
        assert (await client.reply()).startswith("552 5.3.4")
        assert TAKEN.fullmatch(await client.mail())  # the connection is still good
        assert not list((tmp_path / "spool" / "bodies").iterdir())

    served(tmp_path, body)


def test_550_for_unknown_and_relay_and_451_when_nobody_can_say(tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text("ops@example.com # the pager\n*@night.example.com\n")

    async def body(rig: Rig) -> None:
        client = await rig.dial()
        await client.envelope("MAIL FROM:<a@b.c>")
        for address in ("ops+1@example.com", "OPS@Example.com", "any@night.example.com"):
            assert (await client.say(f"RCPT TO:<{address}>"))[:3] in ("250", "452"), address
        await client.say("RSET")
        await client.envelope("MAIL FROM:<a@b.c>")
        assert (await client.say("RCPT TO:<boss@example.com>")).startswith("550 5.1.1")
        assert (await client.say("RCPT TO:<ops@elsewhere.org>")).startswith("550 5.7.1")
        known.write_text("ops@example.com\nboss@example.com\n")
        assert (await client.say("RCPT TO:<boss@example.com>")).startswith("250")
        await client.say("RSET")
        await client.envelope("MAIL FROM:<a@b.c>")
        known.unlink()
        assert (await client.say("RCPT TO:<ops@example.com>")).startswith("451 4.3.0")
        assert rig.refused == {"unknown": 1, "relay": 1, "lookup": 1} | {
            key: value for key, value in rig.refused.items() if key == "other_route"
        }

    served(
        tmp_path,
        body,
        rules={"ops": {"match": ("*@example.com", "*@night.example.com"), "topic": "ops", "known": known}},
    )


def test_452_for_a_recipient_of_another_route(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        await client.envelope("MAIL FROM:<a@b.c>", "RCPT TO:<ups@b.c>", "RCPT TO:<ups@c.d>")
        assert (await client.say("RCPT TO:<printer@b.c>")).startswith("452 4.5.3")
        assert (await client.say("DATA")).startswith("354")
        client.write(MAIL + b".\r\n")
        assert TAKEN.fullmatch(await client.reply())
        assert TAKEN.fullmatch(await client.mail(MAIL, "MAIL FROM:<a@b.c>", "RCPT TO:<printer@b.c>"))
        first, second = await rig.mails(2)
        assert (first[0], first[1]["to"]) == (b"ups", ["ups@b.c", "ups@c.d"])
        assert (second[0], second[1]["to"]) == (b"paper", ["printer@b.c"])

    served(tmp_path, body, rules={"ups": {"match": ("ups@*",)}, "p": {"match": ("printer@*",), "topic": "paper"}})


@pytest.mark.parametrize("wrong", ["MAIL FROM:<a@b.c>", "MAIL", "MAIL FROM:<a@b.c> SIZE=x", "RSET now"])
def test_a_command_that_was_refused_does_not_open_the_mail_to_another_route(tmp_path: Path, wrong: str) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        await client.envelope("MAIL FROM:<a@b.c>", "RCPT TO:<ups@b.c>")
        assert (await client.say(wrong))[:1] == "5"
        assert (await client.say("RCPT TO:<printer@b.c>")).startswith("452 4.5.3")
        assert (await client.say("DATA")).startswith("354")
        client.write(MAIL + b".\r\n")
        assert TAKEN.fullmatch(await client.reply())
        ((topic, meta, _),) = await rig.mails()
        assert (topic, meta["to"]) == (b"ups", ["ups@b.c"])

    served(tmp_path, body, rules={"ups": {"match": ("ups@*",)}, "p": {"match": ("printer@*",)}})


def test_452_where_recipients_would_be_more_than_a_meta_frame_holds(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        lines = [f"RCPT TO:<ups+{'u' * 55}{number:04}@b.c>" for number in range(1000)]
        client.write("\r\n".join(["MAIL FROM:<a@b.c>", *lines, "DATA", ""]).encode())
        replies = [await client.reply() for _ in range(1002)]
        count = sum(reply.startswith("250 2.1.5") for reply in replies)
        assert 600 < count < 1000
        assert sum(reply.startswith("452 4.5.3") for reply in replies) == 1000 - count
        client.write(MAIL + b".\r\n")
        assert TAKEN.fullmatch(await client.reply())
        _, head, *_ = await rig.recv()
        assert len(meta.read(head)["to"]) == count

    served(tmp_path, body, max_recipients=10_000, parse=True, rules={"ups": {"match": ("ups@*",)}})


def test_452_for_one_recipient_too_many(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        await client.envelope("MAIL FROM:<a@b.c>", "RCPT TO:<ups@b.c>", "RCPT TO:<ups@c.d>")
        assert (await client.say("RCPT TO:<ups@d.e>")).startswith("452 4.5.3 too many recipients")

    served(tmp_path, body, max_recipients=2)


@pytest.mark.parametrize("said", [b"a\nb\r\n", b"a\rb\r\n", *(b"a" + probe + b"b\r\n" for probe in SMUGGLED)])
def test_550_for_a_lone_cr_or_lf(tmp_path: Path, said: bytes) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        assert (await client.mail(b"Subject: x\r\n\r\n" + said)).startswith("550 5.5.2")
        assert TAKEN.fullmatch(await client.mail())
        assert [raw for _, _, raw in await rig.mails()] == [MAIL]

    served(tmp_path, body)


def test_a_device_may_say_lone_line_ends_where_the_table_says_so(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        assert TAKEN.fullmatch(await client.mail(b"Subject: x\n\nold\rdevice\n.\nMAIL FROM:<evil@b.c>\r\n"))
        ((_, _, raw),) = await rig.mails()
        assert raw == b"Subject: x\r\n\r\nold\r\ndevice\r\n\r\nMAIL FROM:<evil@b.c>\r\n"
        assert rig.detail["taken"] == 1

    served(tmp_path, body, compat=True)


def test_554_for_a_mail_that_goes_in_circles(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        for header in (b"Received: from x\r\n" * 100, b"X-Ztunnel-Hop: other\r\nx-ztunnel-hop: table\r\n"):
            assert (await client.mail(header + b"\r\nbody\r\n")).startswith("554 5.4.6")
        for header in (b"Received: from x\r\n" * 99, b"X-Ztunnel-Hop: other\r\n"):
            assert TAKEN.fullmatch(await client.mail(header + b"\r\nReceived: not a field\r\n"))
        assert rig.refused == {"loop": 2}

    served(tmp_path, body)


def test_451_for_anything_inside_us_and_never_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> Any:
        raise RuntimeError("the secret is 1234")

    async def body(rig: Rig) -> None:
        client = await rig.dial()
        monkeypatch.setattr(Inbox, "put", broken)
        reply = await client.mail()
        assert re.fullmatch(r"451 4\.3\.0 local error [0-9a-f]+-1", reply)
        monkeypatch.undo()
        monkeypatch.setattr(rig.server, "find", broken_now)
        assert (await client.say("MAIL FROM:<a@b.c>")).startswith("250")
        assert re.fullmatch(r"451 4\.3\.0 local error [0-9a-f]+-2", await client.say("RCPT TO:<ups@b.c>"))
        monkeypatch.undo()
        assert TAKEN.fullmatch(await client.mail(MAIL, "RSET", "MAIL FROM:<a@b.c>", "RCPT TO:<ups@b.c>"))
        assert rig.detail["errors"] == 2

    def broken_now(*_: Any) -> Any:
        raise RuntimeError("the secret is 1234")

    served(tmp_path, body)


@pytest.mark.parametrize(
    "line",
    [
        "MAIL FROM:<a\rb@c.d>",
        "MAIL FROM:<a\x00b@c.d>",
        "MAIL FROM:<not an address>",
        "MAIL FROM:<a@b.c> NONSENSE=1",
        "MAIL FROM:a@b.c extra words",
        "MAIL FROM:<ü@b.c>",
        "MAIL",
        "MAIL FROM:<a@b.c> SIZE=\u00b2",
        "X" * 600,
    ],
)
def test_wrong_commands_are_refused_and_change_nothing(tmp_path: Path, line: str) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        assert (await client.say(line))[:1] == "5"
        assert TAKEN.fullmatch(await client.mail())

    served(tmp_path, body)


def test_utf8_addresses_where_they_were_announced(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        assert TAKEN.fullmatch(
            await client.mail(MAIL, "MAIL FROM:<jürgen@b.c> SMTPUTF8", "RCPT TO:<ups@bücher.example>")
        )
        ((_, meta, _),) = await rig.mails()
        assert (meta["from"], meta["to"], meta["utf8"]) == ("jürgen@b.c", ["ups@bücher.example"], True)

    served(tmp_path, body)


def test_who_errs_too_often_speaks_http_or_never_ends_a_command_is_closed(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        for _ in range(9):
            assert (await client.say("WHAT")).startswith("500")
        assert (await client.say("WHAT")).startswith("421 4.7.0")
        assert await client.closed()
        web = await rig.dial()
        assert (await web.say("GET / HTTP/1.1")).startswith("421")
        assert await web.closed()
        endless = await rig.dial()
        endless.write(b"x" * 1_000_000)
        assert (await endless.reply()).startswith("421")
        assert rig.refused == {"errors": 1, "protocol": 1, "too_long": 1}

    served(tmp_path, body)


def test_silence_is_ended_with_a_reply(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client, other = await rig.dial(), await rig.dial()
        await other.envelope()
        assert (await other.say("DATA")).startswith("354")
        other.write(b"half a mail\r\n")
        assert (await client.reply()).startswith("421 4.4.2")
        assert (await other.reply()).startswith("421 4.4.2")
        assert await client.closed()
        assert rig.nothing_came()

    served(tmp_path, body, command_s=0.3, data_s=0.3)


def test_who_does_not_read_his_replies_is_closed(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(TimeoutError, ConnectionError):
            while True:
                client.write(b"NOOP\r\n" * 1000)
                await asyncio.wait_for(client.writer.drain(), 0.2)
        await rig.until(lambda: not rig.server.sessions)
        assert rig.refused == {"idle": 1}

    served(tmp_path, body, command_s=0.5)


def test_strangers_are_not_let_in(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial(greeted=False)
        assert await client.closed()
        assert rig.refused == {"address": 1}

    served(tmp_path, body, allow=Allow(False, (ip_network("10.0.0.0/8"),)))


# --- TLS and logins --------------------------------------------------------------------------------------------------


class Pki:
    """A certificate for the server, and what trusts it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        made = authority.issue_cert("127.0.0.1")
        cert, key = folder / "cert.pem", folder / "key.pem"
        made.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)
        for blob in made.cert_chain_pems:
            blob.write_to_path(str(cert), append=True)
        self.plan = TlsPlan(cert, key)
        self.trusts = ssl.create_default_context()
        authority.configure_trust(self.trusts)
        self.users = folder / "users"
        self.users.write_text(f"ann:{bcrypt.hashpw(b'right', bcrypt.gensalt(4)).decode()}\n")


async def start_tls(client: Client, pki: Pki) -> None:
    assert (await client.say("STARTTLS")).startswith("220")
    await client.writer.start_tls(pki.trusts, server_hostname="127.0.0.1")


def plain(name: str, password: str) -> str:
    return base64.b64encode(f"\0{name}\0{password}".encode()).decode()


@pytest.mark.parametrize("loop", ["default", "asyncio"])
def test_530_without_tls_and_without_a_login(tmp_path: Path, loop: str) -> None:
    pki = Pki(tmp_path)

    async def body(rig: Rig) -> None:
        client = await rig.dial()
        offered = await client.ehlo()
        assert "STARTTLS" in offered
        assert not [line for line in offered if line.startswith("AUTH")]
        assert (await client.say("MAIL FROM:<a@b.c>")).startswith("530 5.7.0 say STARTTLS")
        assert (await client.say(f"AUTH PLAIN {plain('ann', 'right')}")).startswith("538 5.7.11")
        client.write(b"STARTTLS\r\nMAIL FROM:<injected@b.c>\r\n")  # what was said in the clear counts no more
        assert (await client.reply()).startswith("220")
        await client.writer.start_tls(pki.trusts, server_hostname="127.0.0.1")
        assert (await client.say("MAIL FROM:<a@b.c>")).startswith("530 5.7.0 log in")
        assert "AUTH PLAIN LOGIN" in await client.ehlo()
        assert (await client.say(f"AUTH PLAIN {plain('ann', 'wrong')}")).startswith("535 5.7.8")
        assert (await client.say("AUTH LOGIN")) == "334 VXNlcm5hbWU6"
        assert (await client.say(base64.b64encode(b"ann"))) == "334 UGFzc3dvcmQ6"
        assert (await client.say(base64.b64encode(b"right"))).startswith("235 2.7.0")
        assert TAKEN.fullmatch(await client.mail())
        ((_, meta, _),) = await rig.mails()
        assert meta["user"] == "ann"
        assert meta["tls"].startswith("TLSv1.3 ")

    served(tmp_path, body, loop, tls=pki.plan, users=pki.users, require_tls=True, require_login=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TLS 1.1 is what must not come in
def test_tls_from_the_first_byte(tmp_path: Path) -> None:
    pki = Pki(tmp_path)

    async def body(rig: Rig) -> None:
        client = await rig.dial(ssl=pki.trusts, server_hostname="127.0.0.1")
        assert (await client.say("AUTH PLAIN")) == "334 "
        assert (await client.say(plain("ann", "right"))).startswith("235")
        assert TAKEN.fullmatch(await client.mail())
        old = ssl.create_default_context(cadata=None)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await rig.dial(ssl=old, server_hostname="127.0.0.1")

    served(tmp_path, body, secure=True, tls=pki.plan, users=pki.users, require_login=True)


def test_three_wrong_logins_and_the_connection_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pki = Pki(tmp_path)
    monkeypatch.setattr(smtp_session, "SMTP_LOGIN_S", 0.01)

    async def body(rig: Rig) -> None:
        client = await rig.dial(ssl=pki.trusts, server_hostname="127.0.0.1")
        for name in ("ann", "nobody"):
            assert (await client.say(f"AUTH PLAIN {plain(name, 'wrong')}")).startswith("535")
        pki.users.write_text("ann:no hash\n")
        assert (await client.say(f"AUTH PLAIN {plain('ann', 'right')}")).startswith("454 4.7.0")
        assert (await client.say("AUTH PLAIN !!!")).startswith("501")
        pki.users.write_text(f"ben:{bcrypt.hashpw(b'x', bcrypt.gensalt(4)).decode()}\n")
        assert (await client.say(f"AUTH PLAIN {plain('ann', 'right')}")).startswith("421 4.7.0")
        assert await client.closed()

    served(tmp_path, body, secure=True, tls=pki.plan, users=pki.users, require_login=True)


# --- nothing is lost, and nothing comes twice ------------------------------------------------------------------------


def test_mails_wait_on_disk_for_an_application_that_is_away(tmp_path: Path) -> None:
    async def main(reactor: Reactor) -> None:
        endpoint = "ipc://@zt-away"
        async with serving(reactor, tmp_path, bound=False, socket="DEALER", endpoint=endpoint) as rig:
            client = await rig.dial()
            for number in range(20):
                assert TAKEN.fullmatch(await client.mail(b"%d\r\n" % number))
            assert rig.detail["spool"]["rows"] == 20
        async with serving(reactor, tmp_path, socket="DEALER", endpoint=endpoint) as rig:
            assert rig.detail["recovered"] == 20
            for number in range(20):
                peer, tag, empty, _, _, raw = await rig.recv()
                assert raw == b"%d\r\n" % number
                rig.app.send_multipart([peer, tag, empty])
            await rig.until(lambda: rig.detail["spool"]["rows"] == 0)
            await rig.until(lambda: rig.detail["spool"]["bytes"] == 0)

    run(main)


def test_a_client_that_goes_away_after_the_dot_does_not_end_the_hand_over(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        await client.envelope()
        assert (await client.say("DATA")).startswith("354")
        client.write(MAIL + b".\r\n")
        await rig.recv()  # the application has it, and takes its time
        client.writer.transport.abort()
        await rig.until(lambda: all(session._reader.at_eof() for session in rig.server.sessions))
        rig.app.send(b"")
        await rig.until(lambda: rig.detail["taken"] == 1 and not rig.server.sessions)

    served(tmp_path, body, socket="REQ", accept="acked")


def test_half_close_after_the_dot_is_answered(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        await client.envelope()
        assert (await client.say("DATA")).startswith("354")
        client.write(MAIL + b".\r\n")
        client.writer.write_eof()
        assert TAKEN.fullmatch(await client.reply())
        assert await client.closed()
        assert len(await rig.mails()) == 1

    served(tmp_path, body)


def test_half_a_mail_is_no_mail(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        await client.envelope()
        assert (await client.say("DATA")).startswith("354")
        client.write(b"x" * 500_000)
        await client.writer.drain()
        await rig.until(lambda: list((tmp_path / "spool" / "bodies").iterdir()))
        client.writer.close()
        await rig.until(lambda: rig.refused.get("cut"))
        assert not list((tmp_path / "spool" / "bodies").iterdir())
        assert rig.detail["taken"] == 0

    served(tmp_path, body)


def test_a_large_mail_goes_through_a_file(tmp_path: Path) -> None:
    raw = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 200_000

    async def body(rig: Rig) -> None:
        client = await rig.dial()
        assert TAKEN.fullmatch(await client.mail(raw))
        assert len(list((tmp_path / "spool" / "bodies").iterdir())) == 1
        rig.app.bind(rig.server.plan.rules[0].zmq.endpoints[0].address)
        peer, number, _, _, meta, came = await rig.recv()
        assert came == raw
        assert json.loads(meta)["sha256"] == hashlib.sha256(raw).hexdigest()
        rig.app.send_multipart([peer, number, b""])
        await rig.until(lambda: not list((tmp_path / "spool" / "bodies").iterdir()))

    served(tmp_path, body, bound=False, socket="DEALER")


def test_the_same_mail_again_when_its_250_was_lost(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        await client.envelope()
        assert (await client.say("DATA")).startswith("354")
        client.write(MAIL + b".\r\n")
        client.writer.transport.abort()  # before it can have read the 250
        await rig.until(lambda: rig.detail["taken"] == 1)
        again = await (await rig.dial()).mail()
        ((_, meta, _),) = await rig.mails()
        assert again == f"250 2.0.0 {meta['id']}"
        assert (rig.detail["duplicates"], rig.detail["taken"]) == (1, 1)
        assert rig.nothing_came()

    served(tmp_path, body)


@pytest.mark.parametrize("ending", ["QUIT", "close"])
def test_the_same_mail_again_from_a_device_that_heard_250_is_another_one(tmp_path: Path, ending: str) -> None:
    async def body(rig: Rig) -> None:
        for _ in range(3):
            client = await rig.dial()
            assert TAKEN.fullmatch(await client.mail())
            if ending == "QUIT":
                assert (await client.say("QUIT")).startswith("221")
            client.writer.close()
            await rig.until(lambda: not rig.server.sessions)
        assert len({meta["id"] for _, meta, _ in await rig.mails(3)}) == 3

    served(tmp_path, body)


def test_a_window_in_which_every_repeat_is_known(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        first = await client.mail()
        assert await client.mail() == first
        assert await client.mail(MAIL + b"more\r\n") != first  # the same Message-ID proves nothing
        assert await client.mail(MAIL, "MAIL FROM:<other@example.com>", "RCPT TO:<ups+west@example.com>") != first
        assert rig.detail["duplicates"] == 1

    served(tmp_path, body, duplicates="all", duplicates_s=3600)


def test_a_mail_nobody_takes_in_time_is_a_dead_letter_and_can_be_sent_on_its_way_again(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.dial()
        assert TAKEN.fullmatch(await client.mail())
        await rig.server._expire()
        await rig.until(lambda: rig.detail["spool"]["dead"] == 1)
        commands = rig.server.commands()
        (told,) = (await commands["mail-list"]({}))["mails"]  # type: ignore[misc]
        assert (told["state"], told["from"], told["to"]) == ("dead", "a@example.com", ["ups+west@example.com"])
        assert "expire" in told["why"]
        assert await commands["mail-retry"]({"all": True}) == {"count": 1, "refused": []}  # type: ignore[misc]
        rig.app.bind(rig.server.plan.rules[0].zmq.endpoints[0].address)
        peer, number, *_ = await rig.recv()
        rig.app.send_multipart([peer, number, b""])
        await rig.until(lambda: rig.detail["spool"]["bytes"] == 0)

    served(tmp_path, body, bound=False, socket="DEALER", expire_s=0.0)


def test_a_mail_that_we_stumble_over_stops_none_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumbling(raw: bytes) -> Any:
        if b"bad" in raw:
            raise RuntimeError("a parser gave up")
        return {}, []

    monkeypatch.setattr(ways, "parsed", stumbling)

    async def body(rig: Rig) -> None:
        client = await rig.dial()
        assert TAKEN.fullmatch(await client.mail(b"Subject: bad\r\n\r\n"))
        assert TAKEN.fullmatch(await client.mail())
        assert (await rig.recv())[2] == MAIL
        await rig.until(lambda: (rig.detail["spool"]["rows"], rig.detail["spool"]["dead"]) == (0, 1))

    served(tmp_path, body, parse=True)


def test_parsed(tmp_path: Path) -> None:
    raw = (
        b"Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n"
        b"--x\r\nContent-Type: text/plain; charset=latin-1\r\n\r\nh\xe4llo\r\n"
        b'--x\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename="../../etc/passwd"\r\n\r\n'
        b"%PDF\r\n--x--\r\n"
    )

    async def body(rig: Rig) -> None:
        assert TAKEN.fullmatch(await (await rig.dial()).mail(raw))
        topic, meta, came, attachment = await rig.recv()
        told = json.loads(meta)["parsed"]
        assert (came, attachment) == (raw, b"%PDF")
        assert told["headers"]["subject"] == ["grüße"]
        assert told["text"].strip() == "hällo"
        assert told["attachments"] == [{"name": "passwd", "type": "application/pdf", "size": 4}]
        assert topic == b"alarm.west"

    served(tmp_path, body, parse=True)


def test_published(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        assert rig.app.type == zmq.SUB
        client = await rig.dial()
        for _ in range(200):  # until the subscription is there
            assert TAKEN.fullmatch(await client.mail())
            if not rig.nothing_came():
                break
        ((topic, _, raw), *_) = await rig.mails()
        assert (topic, raw) == (b"alarm.west", MAIL)

    served(tmp_path, body, socket="PUB")


# --- ztunnel mail test -----------------------------------------------------------------------------------------------


async def tried(rig: Rig, **request: Any) -> tuple[bool, list[tuple[str, str]]]:
    told = await rig.server.commands()["mail-test"](request)  # type: ignore[misc]
    return told["fine"], [(step["step"], step["found"]) for step in told["steps"]]


def test_a_trial_tells_each_step(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        fine, steps = await tried(rig, address="ups+west@example.com")
        assert fine, steps
        assert [step for step, _ in steps] == ["rule", "connect", "taken", "on disk", "handed on"]
        assert steps[0][1].startswith("ups: topic 'alarm.west', PUSH to ")
        assert TAKEN.fullmatch(steps[2][1])
        ((_, meta, raw),) = await rig.mails()
        assert meta["to"] == ["ups+west@example.com"]
        assert b"Subject: ztunnel mail test of post\r\n" in raw

    served(tmp_path, body)


def test_a_trial_tells_who_refused_and_in_which_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bridges.mail import trial

    pki = Pki(tmp_path)
    monkeypatch.setattr(trial, "TRIAL_S", 0.3)
    monkeypatch.setattr(trial.settled, "__defaults__", (0.3,))

    async def body(rig: Rig) -> None:
        assert await tried(rig, address="nobody@example.com") == (
            False,
            [("rule", "nobody@example.com: 550 5.1.1 nobody of that name here")],
        )
        fine, steps = await tried(rig, address="ups@example.com")
        assert (fine, steps[-1]) == (False, ("login", "this bridge wants a login"))
        fine, steps = await tried(rig, address="ups@example.com", user="ann", password="wrong")
        assert (fine, steps[-1]) == (False, ("refused", "535 5.7.8 wrong name or password"))
        fine, steps = await tried(rig, address="ups@example.com", user="ann", password="right")
        assert [step for step, _ in steps] == ["rule", "connect", "tls", "login", "taken", "on disk", "handed on"]
        assert (fine, steps[-1][1]) == (False, "not within 0 s: the application has not answered")

    served(tmp_path, body, bound=False, socket="DEALER", tls=pki.plan, users=pki.users, require_login=True)
