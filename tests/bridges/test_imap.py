"""A mailbox at a real Dovecot becomes messages; and whatever goes wrong on the way, no mail is lost."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridges.mail import ledger, mailbox
from tests.bridges.mail_disk import abandoned
from tests.bridges.mailboxes import fetched, mail, mails, meta_of, subject, with_tls
from tests.bridges.rig import run
from tests.relay import Relay
from tests.servers import Dovecot
from tunnel.keys import Secret
from tunnel.reactor import Reactor


@pytest.fixture(scope="module")
def _dovecot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    with Dovecot(tmp_path_factory.mktemp("dovecot")) as server:
        yield server


@pytest.fixture
def dovecot(_dovecot: Dovecot) -> Dovecot:
    """Empty."""
    _dovecot.clear()
    return _dovecot


@pytest.mark.parametrize("socket", ["REQ", "DEALER", "PUSH", "PUB"])
def test_mails_become_messages_and_are_marked(dovecot: Dovecot, tmp_path: Path, socket: str) -> None:
    first = mail("first", 5000) + b"\xff8 bit\r\n"

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, socket) as rig:
            topic, meta, raw = await rig.takes()
            assert (topic, raw) == (b"INBOX", first)
            told = meta_of([topic, meta, raw])
            assert told["sha256"] == hashlib.sha256(first).hexdigest()
            assert (told["account"], told["folder"], told["uid"], told["size"]) == ("ops", "INBOX", 1, len(first))
            assert (told["flags"], told["uidvalidity"]) == ([], rig.folder()["uidvalidity"])
            assert await rig.take(2) == ["second", "third"]
            await rig.until(lambda: rig.detail["marked"] == 3)
            await rig.in_thread(dovecot.append, mail("fourth"))
            assert await rig.take(1) == ["fourth"]
            await rig.until(lambda: rig.detail["marked"] == 4)
            status = rig.status()
            assert (status["state"], status["connections"], status["frames_in"]) == ("up", 1, 4)
            assert rig.folder()["backlog"] == rig.detail["may_repeat"] == rig.detail["under_way"] == 0

    dovecot.append(first, mail("second"), mail("third"))
    run(body)
    assert dovecot.uids(criteria="SEEN") == [1, 2, 3, 4]


def test_by_default_only_what_comes_from_now_on(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, since="now") as rig:
            await rig.until(lambda: rig.status()["state"] == "up")
            await rig.in_thread(dovecot.append, mail("new"))
            assert await rig.take(1) == ["new"]

    dovecot.append(*mails(range(3)))
    run(body)


@pytest.mark.parametrize(
    ("after", "mark", "criteria"), [("keyword", "$Done", "KEYWORD $Done"), ("none", "", "UNSEEN"), ("seen", "", "SEEN")]
)
def test_what_is_done_with_a_mail_that_was_taken(
    dovecot: Dovecot, tmp_path: Path, after: str, mark: str, criteria: str
) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, after=after, mark=mark) as rig:
            assert await rig.take(3) == ["0", "1", "2"]
            await rig.until(lambda: not rig.folder()["to_mark"] and not rig.folder()["backlog"])
            assert rig.detail["marked"] == (0 if after == "none" else 3)

    dovecot.append(*mails(range(3)))
    run(body)
    assert dovecot.uids(criteria=criteria) == [1, 2, 3]


@pytest.mark.parametrize("without", ["", "MOVE", "MOVE UIDPLUS"])
def test_mails_are_moved_to_a_folder_that_is_made_for_them(tmp_path: Path, without: str) -> None:
    capabilities = " ".join(word for word in ("IMAP4rev1", "IDLE", "UIDPLUS", "MOVE") if word not in without.split())
    setting = f"protocol imap {{\n  imap_capability = {capabilities}\n}}"

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port, after="move", mark="Grüße/done") as rig:
            assert await rig.take(3) == ["0", "1", "2"]
            await rig.until(lambda: rig.detail["marked"] == 3)

    with Dovecot(tmp_path, setting) as server:
        server.append(*mails(range(3)))
        run(body)
        assert len(server.uids("Grüße/done")) == 3
        # without UIDPLUS nothing can expunge single mails, so they are left for whoever empties the folder
        assert server.uids(criteria="UNDELETED") == []
        assert len(server.uids()) == (3 if "UIDPLUS" in without else 0)


def test_mails_are_deleted(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, after="delete") as rig:
            assert await rig.take(3) == ["0", "1", "2"]
            await rig.until(lambda: rig.detail["marked"] == 3)

    dovecot.append(*mails(range(3)))
    run(body)
    assert dovecot.uids() == []


def test_nothing_is_marked_before_it_is_answered_for(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port) as rig:
            held = [await rig.takes(answer=False) for _ in range(3)]
            assert await rig.in_thread(dovecot.uids, "INBOX", "SEEN") == []
            rig.application.answer(held[2])
            await rig.until(lambda: rig.detail["marked"] == 1)
            assert await rig.in_thread(dovecot.uids, "INBOX", "SEEN") == [3]
            rig.application.answer(held[0])
            rig.application.answer(held[1])
            await rig.until(lambda: rig.detail["marked"] == 3)

    dovecot.append(*mails(range(3)))
    run(body)


def test_several_folders_with_their_own_topics(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, folders=("INBOX", "Alarms/West")) as rig:
            told = {(frames[0], meta_of(frames)["id"]) for frames in [await rig.takes() for _ in range(2)]}
            assert {topic for topic, _ in told} == {b"INBOX", b"Alarms/West"}
            assert len({identity for _, identity in told}) == 2
            await rig.in_thread(dovecot.append, mail("late"))
            assert await rig.take(1) == ["late"]
            assert rig.status()["connections"] == 2

    dovecot.append(mail("a"))
    dovecot.append(mail("b"), folder="Alarms/West")
    run(body)


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
def test_tls(dovecot: Dovecot, tmp_path: Path, mode: str) -> None:
    port = dovecot.tls_port if mode == "implicit" else dovecot.port

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, port, **with_tls(dovecot.ca, mode)) as rig:
            assert await rig.take(1) == ["0"]
            logins = dovecot.log.read_text().count("Login: user=<ops>")
            for number in range(1, 4):  # IDLE, too
                await rig.until(lambda count=number: rig.detail["marked"] == count)
                await rig.in_thread(dovecot.append, mail(number))
                assert await rig.take(1) == [str(number)]
            assert dovecot.log.read_text().count("Login: user=<ops>") == logins + 3  # those that append

    dovecot.append(mail(0))
    run(body)


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
def test_a_certificate_of_another_name_is_refused(dovecot: Dovecot, tmp_path: Path, mode: str) -> None:
    port = dovecot.tls_port if mode == "implicit" else dovecot.port

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, port, **with_tls(dovecot.ca, mode, "mail.example.com")) as rig:
            await rig.until(lambda: "CERTIFICATE_VERIFY_FAILED" in rig.status()["reason"])
            assert rig.status()["state"] == "retrying"

    run(body)


def test_a_refused_login_is_told(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, password=Secret('wr"ong')) as rig:
            await rig.until(lambda: "the login of ops is refused" in rig.status()["reason"])
            assert rig.folder()["state"] == "refused"
            assert "wr" not in str(rig.status())

    run(body)


def test_a_mail_that_is_too_large_is_not_fetched(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        more = {"max_message_bytes": 10_000, "quarantine": "Aside"}
        async with fetched(reactor, tmp_path, dovecot.port, **more) as rig:
            assert await rig.take(2) == ["small", "as large as may be"]
            await rig.until(lambda: rig.detail["quarantined"] == 1)
            assert rig.detail["skipped"] == {"too_large": 1}
            assert rig.detail["fetched"] == 2

    exact = mail("as large as may be")
    dovecot.append(mail("small"), mail("large", 10_000), exact[:-2] + b"x" * (10_000 - len(exact)) + b"\r\n")
    run(body)
    assert dovecot.uids("Aside") == [1]


@pytest.mark.parametrize("quarantine", ["Aside", None])
def test_a_mail_that_nobody_answers_for_goes_to_quarantine_and_the_rest_go_on(
    dovecot: Dovecot, tmp_path: Path, quarantine: str | None
) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, quarantine=quarantine, attempts=3, again_s=0.2) as rig:
            came: list[str] = []
            number = 4
            while not rig.detail["skipped"]:
                message = rig.application.look()
                if message is None:
                    await asyncio.sleep(0.01)
                    continue
                came.append(subject(message[-1]))
                if came[-1] != "1":
                    rig.application.answer(message)
                else:  # others go through, so it is this mail's fault
                    await rig.in_thread(dovecot.append, mail(number))
                    number += 1
            assert {"0", "2", "3"} <= {*came}
            assert came.count("1") >= 3
            assert rig.detail["skipped"] == {"failed": 1}
            await rig.until(lambda: rig.detail["quarantined"] == (1 if quarantine else 0))
            await rig.until(lambda: rig.answered() or rig.detail["marked"] == number - 1)
            assert rig.detail["may_repeat"] >= came.count("1") - 1

    dovecot.append(*mails(range(4)))
    run(body)
    assert len(dovecot.uids("Aside")) == (1 if quarantine else 0)


def test_nobody_there_is_no_mails_fault(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, attempts=1, quarantine="Aside", again_s=0.1) as rig:
            heard = [subject((await rig.takes(answer=False))[-1]) for _ in range(20)]
            assert {*heard} == {"0", "1", "2", "3"}
            assert rig.detail["skipped"] == {}
            await rig.until(lambda: rig.answered() or rig.detail["marked"] == 4)
            assert rig.detail["skipped"] == {}
            assert rig.detail["may_repeat"] >= 16

    dovecot.append(*mails(range(4)))
    run(body)
    assert dovecot.uids("Aside") == []


def test_the_server_hangs_up_in_idle(dovecot: Dovecot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "IMAP_PAUSE_S", 0.2)

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port) as rig:
            for number in range(3):
                await rig.in_thread(dovecot.append, mail(number))
                assert await rig.take(1) == [str(number)]
                await rig.until(lambda count=number + 1: rig.detail["marked"] == count)
                await rig.in_thread(dovecot.kick)
                await rig.until(lambda: rig.status()["state"] == "retrying")
                await rig.until(lambda: rig.status()["state"] == "up")
            assert rig.detail["may_repeat"] == 0

    run(body)


def test_a_connection_that_drops_silently_is_noticed(
    dovecot: Dovecot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "IMAP_PAUSE_S", 0.2)

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, relay.port, poll_s=0.3, command_s=0.5) as rig:
            await rig.until(lambda: rig.status()["state"] == "up")
            await rig.in_thread(relay.swallow)
            await rig.until(lambda: rig.status()["reason"] == "the server does not answer")
            await rig.in_thread(dovecot.append, mail("meanwhile"))
            await rig.in_thread(relay.heal)
            assert await rig.take(1) == ["meanwhile"]

    with Relay(("127.0.0.1", dovecot.port)) as relay:
        run(body)


def test_every_cut_is_mended_and_nothing_is_lost(
    dovecot: Dovecot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "IMAP_PAUSE_S", 0.05)
    monkeypatch.setattr(mailbox, "IMAP_PAUSE_MAX_S", 0.1)

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, relay.port, poll_s=0.5) as rig:
            came: Counter[str] = Counter()
            while len(came) < 400:
                came.update(await rig.take(1))
                if sum(came.values()) % 40 == 0:
                    await rig.in_thread(relay.cut, "rst" if sum(came.values()) % 80 else "fin")
            await rig.until(lambda: not rig.folder()["to_mark"] and not rig.folder()["backlog"])
            assert came == Counter({str(number): 1 for number in range(400)})
            assert rig.detail["skipped"] == {}

    dovecot.deliver(mail(number, 2000) for number in range(400))
    with Relay(("127.0.0.1", dovecot.port)) as relay:
        relay.rate(2_000_000)
        run(body, within_s=90)
    assert len(dovecot.uids(criteria="SEEN")) == 400


@pytest.mark.parametrize("rule", ["stop", "skip", "reprocess"])
def test_the_server_renumbers_the_folder(dovecot: Dovecot, tmp_path: Path, rule: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, rebaseline=rule) as rig:
            first = [await rig.takes() for _ in range(3)]
            await rig.until(lambda: rig.detail["marked"] == 3)
            await rig.stop()
            await rig.in_thread(dovecot.append, mail("missed"))
            await rig.in_thread(dovecot.renumber)
            await rig.start()
            if rule == "stop":
                await rig.until(lambda: "was renumbered" in rig.status()["reason"])
                assert (rig.status()["state"], rig.folder()["state"]) == ("retrying", "stopped")
                return
            if rule == "reprocess":
                # those that bear the mark were handed over
                again = await rig.takes()
                assert subject(again[2]) == "missed"
                assert meta_of(again)["id"] not in {meta_of(frames)["id"] for frames in first}
            await rig.until(lambda: rig.status()["state"] == "up")
            await rig.in_thread(dovecot.append, mail("after"))
            assert await rig.take(1) == ["after"]
            assert rig.folder()["uidvalidity"] == meta_of(first[0])["uidvalidity"] + 1000

    dovecot.append(*mails(range(3)))
    run(body)


def test_what_was_answered_and_not_marked_is_only_marked_by_the_next_process(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, relay.port, command_s=1.0) as rig:
            held = [await rig.takes(answer=False) for _ in range(3)]
            await rig.in_thread(relay.swallow)
            for message in held[:2]:
                rig.application.answer(message)
            await rig.until(lambda: rig.folder()["to_mark"] == 2)
            await rig.stop()
            assert await rig.in_thread(dovecot.uids, "INBOX", "SEEN") == []
            await rig.in_thread(relay.heal)
            await rig.start()
            again = await rig.takes()
            assert meta_of(again)["id"] == meta_of(rig.application.answer(held[2]))["id"]
            await rig.until(lambda: rig.detail["marked"] == 3)
            assert (rig.detail["fetched"], rig.detail["may_repeat"]) == (1, 1)

    dovecot.append(*mails(range(3)))
    with Relay(("127.0.0.1", dovecot.port)) as relay:
        run(body)
    assert dovecot.uids(criteria="SEEN") == [1, 2, 3]


def test_ten_thousand_mails_lie_there(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port) as rig:
            await rig.until(lambda: rig.detail["under_way"] == 256)
            await rig.until(lambda: rig.folder()["backlog"] >= 10_000 - 256)
            assert rig.detail["held_bytes"] < 4 << 20
            assert rig.detail["fetched"] <= 2 * 256
            assert sorted(map(int, await rig.take(10_000))) == [*range(10_000)]
            await rig.until(lambda: rig.detail["marked"] == 10_000)
            assert rig.detail["may_repeat"] == 0

    dovecot.deliver(mails(range(10_000)))
    run(body, within_s=100)


def test_large_mails_are_held_to_a_bound(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port) as rig:
            await rig.until(lambda: rig.detail["held_bytes"] > 12 << 20)
            await rig.until(lambda: rig.folder()["state"] == "up")
            assert rig.detail["held_bytes"] < 17 << 20
            came = set()
            while len(came) < 12:
                came.add(subject((await rig.takes())[2]))
                assert rig.detail["held_bytes"] < 17 << 20
            await rig.until(lambda: rig.detail["marked"] == 12)

    dovecot.append(*[mail(number, 3 << 20) for number in range(12)])
    run(body)


def test_poll_alone_where_the_server_has_no_idle(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, server.port, poll_s=0.2) as rig:
            await rig.until(lambda: rig.status()["state"] == "up")
            for number in range(3):
                await rig.in_thread(server.append, mail(number))
                assert await rig.take(1) == [str(number)]
            await rig.until(lambda: rig.detail["marked"] == 3)

    with Dovecot(tmp_path, "protocol imap {\n  imap_capability = IMAP4rev1 UIDPLUS MOVE\n}") as server:
        run(body)


def test_pause_and_resume(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port) as rig:
            held = await rig.takes(answer=False)
            assert rig.bridge is not None
            commands = rig.bridge.commands()
            assert commands["mail-pause"]({}) == {"paused": True}
            await rig.in_thread(dovecot.append, mail("later"))
            rig.application.answer(held)  # what was fetched is seen to its end
            await rig.until(lambda: rig.detail["marked"] == 1)
            assert (rig.detail["fetched"], rig.detail["paused"]) == (1, True)
            assert commands["mail-resume"]({}) == {"paused": False}
            assert await rig.take(1) == ["later"]

    dovecot.append(mail("now"))
    run(body)


def test_a_folder_that_is_not_there_and_one_that_can_only_be_read(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, folders=("Nowhere",)) as rig:
            await rig.until(lambda: "Nowhere cannot be opened" in rig.status()["reason"])
            assert rig.status()["state"] == "retrying"

    run(body)


def test_a_disk_that_fails_stops_fetching_and_nothing_is_lost(
    dovecot: Dovecot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "IMAP_PAUSE_S", 0.1)
    monkeypatch.setattr(ledger, "IMAP_DISK_S", 0.1)

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port) as rig:
            held = [await rig.takes(answer=False) for _ in range(3)]
            file = rig.plan.own.file
            hidden = file.rename(file.with_name("hidden"))  # and the connection to it breaks at the next attempt
            assert rig.bridge is not None
            await abandoned(rig.bridge.books.database)
            rig.application.answer(held[0])
            await rig.in_thread(dovecot.append, mail("more"))
            await rig.until(lambda: "the file has vanished" in str(rig.status()))
            await rig.until(lambda: rig.status()["state"] == "retrying")
            assert rig.application.look() is None
            assert rig.detail["marked"] == 0
            hidden.rename(file)
            rig.application.answer(held[1])
            rig.application.answer(held[2])
            assert await rig.take(1) == ["more"]
            await rig.until(lambda: rig.detail["marked"] == 4)
            assert rig.detail["may_repeat"] == 0

    dovecot.append(*mails(range(3)))
    run(body)


MIXED = (
    b"From: a@example.com\r\nSubject: =?utf-8?q?gr=C3=BCn?=\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n'
    b"--x\r\nContent-Type: text/plain\r\n\r\nhello\r\n"
    b'--x\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; filename="../a.bin"\r\n'
    b"Content-Transfer-Encoding: base64\r\n\r\nAAEC\r\n--x--\r\n"
)


def test_a_mail_is_taken_apart(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, parse=True) as rig:
            first, second = await rig.takes(), await rig.takes()
            topic, _, raw, attachment = first
            assert (topic, raw, attachment) == (b"INBOX", MIXED, b"\0\1\2")
            told = meta_of(first)["parsed"]
            assert told["headers"]["subject"] == ["grün"]
            assert (told["text"].strip(), told["cut"]) == ("hello", False)
            assert told["attachments"] == [{"name": "a.bin", "type": "application/octet-stream", "size": 3}]
            assert (len(second), meta_of(second)["parsed"]["attachments"]) == (3, [])
            await rig.until(lambda: rig.detail["marked"] == 2)

    dovecot.append(MIXED, mail("second"))
    run(body)
