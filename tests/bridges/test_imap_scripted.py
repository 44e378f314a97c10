"""What no real mail server does when it is asked to: refusals, lies, words at the wrong time, names that would break a
line. Against a server that says what the test wants."""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from imapclient import IMAPClient

from bridges.mail import mailbox
from bridges.mail.imap_client import Client
from bridges.mail.imap_wire import ControlError, No, Refused
from tests.bridges.fake_imap import HANG_UP, FakeImap
from tests.bridges.mailboxes import fetched, mail, meta_of, plan_of, subject
from tests.bridges.rig import run
from tests.waiting import until
from tunnel.config.plan import TlsPlan
from tunnel.keys import Secret
from tunnel.reactor import Reactor

EVIL = 'INBOX"\r\nX1 DELETE "INBOX'


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "IMAP_PAUSE_S", 0.05)
    monkeypatch.setattr(mailbox, "IMAP_PAUSE_MAX_S", 0.2)


@pytest.fixture
def server() -> Any:
    with FakeImap({number: mail(number) for number in range(1, 4)}) as made:
        yield made


def entered(server: FakeImap, folder: Path, **more: Any) -> Client:
    client = Client(plan_of(server.port, folder / "x", **more))
    client.enter(Secret("secret"))
    return client


# --- names that would break a line -----------------------------------------------------------------------------------


@pytest.mark.skipif(
    hasattr(imaplib, "_control_chars"), reason="this Python's imaplib refuses control characters itself"
)
def test_control_imapclient_alone_sends_a_second_command(server: FakeImap) -> None:
    client = IMAPClient("127.0.0.1", server.port, ssl=False)
    client.login("ops", "secret")
    client.select_folder("INBOX")
    with contextlib.suppress(imaplib.IMAP4.error):
        client.add_flags([1], b"a)\r\nX1 DELETE INBOX")
    until(lambda: any(line.startswith(b"X1 DELETE") for line in server.lines), 5, lambda: server.lines)


@pytest.mark.parametrize(
    "order",
    [
        lambda client: client.open(EVIL, reads_only=False),
        lambda client: client.put_away([1], EVIL),
        lambda client: client.flag([1], "a)\r\nX1 DELETE INBOX"),
        lambda client: client.flag([1], "a\0"),
        lambda client: client.bodies(["1:*\r\nX1 DELETE INBOX"], 10),
        lambda client: client.bodies([0], 10),
        lambda client: client.flag([True], "a"),
    ],
)
def test_no_argument_breaks_a_line(server: FakeImap, tmp_path: Path, order: Callable[[Client], Any]) -> None:
    client = entered(server, tmp_path)
    client.open("INBOX", reads_only=False)
    before = len(server.lines)
    with pytest.raises((ControlError, No)):
        order(client)
    client.noop()
    assert len(server.lines) == before + 1


@pytest.mark.parametrize("user", ["o\r\nX1 LOGOUT", "ops"])
def test_no_login_breaks_a_line(server: FakeImap, tmp_path: Path, user: str) -> None:
    client = Client(plan_of(server.port, tmp_path / "x", user=user))
    with pytest.raises(Refused):
        client.enter(Secret("secret\r\nX1 LOGOUT"))
    assert not any(b"LOGIN" in line or line.startswith(b"X1") for line in server.lines)


def test_a_user_of_two_words_is_quoted(server: FakeImap, tmp_path: Path) -> None:
    entered(server, tmp_path, user='o "p" s')
    assert server.lines[-2].endswith(rb'LOGIN "o \"p\" s" "secret"')


# --- the login -------------------------------------------------------------------------------------------------------


def test_plain_with_letters_of_any_kind(server: FakeImap, tmp_path: Path) -> None:
    server.capabilities += b" AUTH=PLAIN"
    client = Client(plan_of(server.port, tmp_path / "x", user="jürgen"))
    client.enter(Secret("größe"))
    assert server.logins == ["\0jürgen\0größe".encode()]


def test_no_password_where_the_server_takes_none(server: FakeImap, tmp_path: Path) -> None:
    server.capabilities += b" LOGINDISABLED"
    with pytest.raises(Refused, match="takes no password here"):
        entered(server, tmp_path)
    assert not any(b"LOGIN" in line for line in server.lines)


@pytest.mark.parametrize(
    ("capability", "words"),
    [
        (b" AUTH=XOAUTH2", b"user=ops\1auth=Bearer good-1\1\1"),
        (b" AUTH=XOAUTH2 AUTH=OAUTHBEARER", b"n,a=ops,\1auth=Bearer good-1\1\1"),
    ],
)
def test_a_token_that_is_refused_is_asked_for_anew(
    server: FakeImap, tmp_path: Path, capability: bytes, words: bytes
) -> None:
    runs = tmp_path / "runs"
    program = tmp_path / "token"
    program.write_text(f'#!/bin/sh\necho x >> {runs}\necho "$1-$(wc -l < {runs})"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    server.capabilities += capability
    refused = {b"good-1"} if b"OAUTHBEARER" not in capability else set()

    def refuses(said: bytes) -> bytes | None:
        return b"[AUTHENTICATIONFAILED] expired" if any(token in said for token in refused) else None

    server.refuses = refuses

    async def body(reactor: Reactor) -> None:
        more = {"password": None, "token_command": (str(program), "good")}
        async with fetched(reactor, tmp_path, server.port, **more) as rig:
            if refused:
                await rig.until(lambda: "is refused" in rig.status()["reason"])
                assert rig.folder()["state"] == "refused"
                assert "good-1" not in str(rig.status())
                assert runs.read_text().count("x") == 1  # a fresh one that is refused is not asked for again at once
                return
            assert await rig.take(3) == ["1", "2", "3"]
            # the token expires, and the server hangs up
            refused.add(b"good-1")
            await rig.until(lambda: rig.detail["marked"] == 3)
            server.answers["NOOP"] = server.answers["FETCH"] = lambda tag, rest: [b"* BYE token expired", HANG_UP]
            rig.bridge._mailboxes[0].wake()  # type: ignore[union-attr]
            await rig.until(lambda: len(server.logins) > 1)
            server.answers.clear()
            server.mails[4] = mail(4)
            assert await rig.take(1) == ["4"]
            assert server.logins[-1] == words.replace(b"good-1", b"good-2")
            assert runs.read_text().count("x") == 2

    run(body)
    assert words in server.logins


def test_a_login_that_is_refused_is_not_tried_again_soon(server: FakeImap, tmp_path: Path) -> None:
    server.capabilities += b" AUTH=PLAIN"
    server.refuses = lambda _: b"[AUTHENTICATIONFAILED] no"

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port) as rig:
            await rig.until(lambda: rig.folder()["state"] == "refused")
            await asyncio.sleep(0.6)  # three times the longest pause before another attempt at a server that is away
            assert len(server.logins) == 1

    run(body)


def test_a_server_that_has_no_time_does_not_refuse(server: FakeImap, tmp_path: Path) -> None:
    turns = [b"[UNAVAILABLE] later", b"[INUSE] later"]
    server.refuses = lambda _: turns.pop() if turns else None

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port) as rig:
            assert await rig.take(3) == ["1", "2", "3"]

    run(body)


@pytest.mark.parametrize("greeting", [b"* OK ready", b"* PREAUTH welcome"])
def test_starttls_is_not_gone_without(server: FakeImap, tmp_path: Path, greeting: bytes) -> None:
    """Somebody on the way who takes STARTTLS out, or says that we are in already, hears nothing."""
    server.greeting = greeting

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port, mode="starttls", tls=TlsPlan()) as rig:
            await rig.until(lambda: rig.status()["reason"])
            assert rig.status()["state"] == "retrying"

    run(body)
    assert not any(b"LOGIN" in line or b"SELECT" in line for line in server.lines)


# --- words at the wrong time, and lies -------------------------------------------------------------------------------


def test_bye_in_idle_is_told_in_the_servers_words(server: FakeImap, tmp_path: Path) -> None:
    server.answers["IDLE"] = lambda tag, rest: [b"+ idling", b"* BYE \x1b[31mdown for \xe9 while", HANG_UP]

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port) as rig:
            await rig.take(3)
            await rig.until(lambda: rig.status()["reason"].startswith("the server hung up: "))
            assert "down for" in rig.status()["reason"]
            assert "\x1b" not in rig.status()["reason"]

    run(body)


@pytest.mark.parametrize("words", [b"* 4 EXISTS\r\n+ idling", b"+ idling\r\n* 4 EXISTS"])
def test_a_mail_that_is_told_of_as_idle_begins(server: FakeImap, tmp_path: Path, words: bytes) -> None:
    """It is told of once: whoever waits for it to be told again in IDLE waits until the next poll."""

    def idle(tag: bytes, rest: bytes) -> Sequence[bytes] | None:
        if 4 in server.mails:
            return None
        server.mails[4] = mail(4)
        return [words]

    server.answers["IDLE"] = idle

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port) as rig:
            assert await rig.take(4) == ["1", "2", "3", "4"]

    run(body)


def test_a_mail_that_is_told_of_while_we_look(server: FakeImap, tmp_path: Path) -> None:
    def fetch(tag: bytes, rest: bytes) -> Sequence[bytes] | None:
        if not rest.startswith(b"* ") or 4 in server.mails or len(server.seen) < 3:
            return None
        told = server._fetch(rest)
        server.mails[4] = mail(4)
        return [*told, b"* 4 EXISTS", tag + b" OK done"]

    server.answers["FETCH"] = fetch

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port) as rig:
            assert await rig.take(3) == ["1", "2", "3"]
            await rig.until(lambda: rig.detail["marked"] == 3)
            rig.bridge._mailboxes[0].wake()  # type: ignore[union-attr]
            assert await rig.take(1) == ["4"]

    run(body)


def test_words_about_other_mails_are_no_mails(server: FakeImap, tmp_path: Path) -> None:
    def fetch(tag: bytes, rest: bytes) -> Sequence[bytes] | None:
        return [b"* 2 FETCH (FLAGS (\\Seen))", *server._fetch(rest), b"* 9 FETCH (FLAGS ())", tag + b" OK done"]

    server.answers["FETCH"] = fetch

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port) as rig:
            frames = [await rig.takes() for _ in range(3)]
            assert [subject(raw) for _, _, raw in frames] == ["1", "2", "3"]
            assert meta_of(frames[0])["date"] == "2026-01-01T12:00:00+01:00"
            await rig.until(lambda: rig.detail["marked"] == 3)
            assert rig.detail["skipped"] == {}

    run(body)


def test_a_size_that_is_a_lie(server: FakeImap, tmp_path: Path) -> None:
    server.mails[2] = mail(2, 5000)
    server.size = lambda uid: 10  # type: ignore[method-assign]

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port, max_message_bytes=1000, quarantine="Aside") as rig:
            assert await rig.take(2) == ["1", "3"]
            await rig.until(lambda: rig.detail["quarantined"] == 1)
            assert rig.detail["skipped"] == {"too_large": 1}

    run(body)
    assert server.moved == [2]


def test_more_than_was_asked_for_is_not_read(server: FakeImap, tmp_path: Path) -> None:
    server.answers["SELECT"] = lambda tag, rest: [b"* LIST () {99999999999}"]

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port) as rig:
            await rig.until(lambda: "announces 99999999999 bytes" in rig.status()["reason"])

    run(body)


def test_an_answer_that_does_not_end(server: FakeImap, tmp_path: Path) -> None:
    server.answers["SELECT"] = lambda tag, rest: [b"* OK " + b"x" * 60_000] * 400

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port) as rig:
            await rig.until(lambda: "does not end" in rig.status()["reason"])

    run(body)


def test_a_folder_whose_last_mails_are_gone_was_not_renumbered(server: FakeImap, tmp_path: Path) -> None:
    """A server that does not tell UIDNEXT."""

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port) as rig:
            await rig.take(3)
            await rig.until(lambda: rig.detail["marked"] == 3)
            await rig.stop()
            server.mails.clear()
            server.answers["SELECT"] = lambda tag, rest: [
                b"* 0 EXISTS",
                b"* OK [UIDVALIDITY 7] valid",
                tag + b" OK done",
            ]
            await rig.start()
            await rig.until(lambda: rig.status()["state"] == "up")
            server.mails[4] = mail(4)
            rig.bridge._mailboxes[0].wake()  # type: ignore[union-attr]
            assert await rig.take(1) == ["4"]

    run(body)


@pytest.mark.parametrize("how", ["hangs up", "says NO", "says nonsense"])
def test_a_mail_that_the_server_stumbles_over_goes_to_quarantine(server: FakeImap, tmp_path: Path, how: str) -> None:
    def fetch(tag: bytes, rest: bytes) -> Sequence[bytes] | None:
        if b"BODY" not in rest or b"2" not in rest.split()[0].split(b","):
            return None
        if how == "hangs up":
            return [HANG_UP]
        if how == "says NO":
            return [tag + b" NO [SERVERBUG] cannot read it"]
        return [b"* 2 FETCH (UID 2 FLAGS ( BODY[]<0> NIL", tag + b" OK done"]

    server.answers["FETCH"] = fetch

    async def body(reactor: Reactor) -> None:
        more = {"quarantine": "Aside", "attempts": 3, "poll_s": 0.1}
        async with fetched(reactor, tmp_path, server.port, **more) as rig:
            number, came = 4, 0
            while rig.detail["quarantined"] == 0:
                while (message := rig.application.look()) is not None:
                    assert subject(rig.application.answer(message)[2]) != "2"
                    came += 1
                if came == number - 2:  # a mail now and then: others go through
                    server.mails[number] = mail(number)
                    number += 1
                await asyncio.sleep(0.01)
            assert rig.detail["skipped"] == {"failed": 1}

    run(body)
    assert server.moved == [2]


def test_a_mark_that_the_server_refuses_keeps_nothing_up(server: FakeImap, tmp_path: Path) -> None:
    server.answers["STORE"] = lambda tag, rest: [tag + b" NO quota"] if b"2" in rest.split()[0] else None

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port, attempts=2, poll_s=0.1) as rig:
            assert await rig.take(3) == ["1", "2", "3"]
            await rig.until(lambda: rig.detail["skipped"] == {"unmarked": 1})
            assert rig.detail["marked"] == 2
            assert "quota" in rig.folder()["trouble"]

    run(body)
    assert server.seen == {1, 3}


@pytest.mark.parametrize("rule", ["stop", "reprocess"])
def test_uids_that_go_backwards(server: FakeImap, tmp_path: Path, rule: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port, rebaseline=rule) as rig:
            await rig.take(3)
            await rig.until(lambda: rig.detail["marked"] == 3)
            await rig.stop()
            server.mails = {1: mail("restored")}
            server.seen.clear()
            await rig.start()
            if rule == "stop":
                await rig.until(lambda: "its last UID was 3 and is 1" in rig.status()["reason"])
            else:
                assert await rig.take(1) == ["restored"]

    run(body)


def test_a_folder_without_lasting_names(server: FakeImap, tmp_path: Path) -> None:
    server.uidvalidity = 0

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port) as rig:
            await rig.until(lambda: "no UIDVALIDITY" in rig.status()["reason"])

    run(body)


def test_sparse_uids_are_found(server: FakeImap, tmp_path: Path) -> None:
    server.mails = {5: mail(5), 1_000_000: mail(6), 4_294_967_295: mail(7)}

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port) as rig:
            assert await rig.take(3) == ["5", "6", "7"]
            assert len(server.lines) < 60

    run(body)


def test_nothing_secret_is_logged(server: FakeImap, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port, password=Secret("hunter2")) as rig:
            await rig.take(3)

    run(body)
    assert any(b"hunter2" in line for line in server.lines)
    assert "hunter2" not in caplog.text
