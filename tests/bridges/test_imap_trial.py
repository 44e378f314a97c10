"""`ztunnel mail test` of an imap: what each step finds at a real Dovecot, and that nothing changes there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bridges.fake_imap import FakeImap
from tests.bridges.mailboxes import Rig, fetched, mail, with_tls
from tests.bridges.rig import run
from tests.servers import Dovecot
from tests.waiting import free_port
from tunnel.errors import UsageError
from tunnel.keys import Secret
from tunnel.reactor import Reactor


@pytest.fixture(scope="module")
def dovecot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    with Dovecot(tmp_path_factory.mktemp("dovecot")) as server:
        server.append(mail(1), mail(2))
        server.append(mail(3), folder="Lab")
        yield server


async def tried(rig: Rig, **request: Any) -> tuple[bool, list[tuple[str, bool, str]]]:
    assert rig.bridge is not None
    told: dict[str, Any] = await rig.bridge.commands()["mail-test"](request)  # type: ignore[misc]
    assert all(step["todo"] for step in told["steps"] if not step["ok"])
    assert told["fine"] is all(step["ok"] for step in told["steps"])
    return told["fine"], [(step["step"], step["ok"], step["found"]) for step in told["steps"]]


@pytest.mark.parametrize("socket", ["REQ", "DEALER", "PUSH", "PUB"])
def test_all_is_well(dovecot: Dovecot, tmp_path: Path, socket: str) -> None:
    folders = {"folders": ("INBOX", "Lab"), "since": "now"}
    answers = "the application" if socket in ("REQ", "DEALER") else "nobody"

    async def body(reactor: Reactor) -> None:
        more = with_tls(dovecot.ca) | folders
        async with fetched(reactor, tmp_path, dovecot.tls_port, socket, **more) as rig:
            fine, steps = await tried(rig)
            assert fine, steps
            assert [step for step, *_ in steps] == ["connect", "login", "folder", "folder", "books", "0MQ"]
            connect, login, inbox, lab, books, way = (found for *_, found in steps)
            assert connect == f"tcp://127.0.0.1:{dovecot.tls_port}: TLSv1.3"
            assert login == "ops: taken"
            validity = rig.folder()["uidvalidity"]
            assert inbox == f"INBOX: UIDVALIDITY {validity}, 2 mails; 0 of them are to be handed over"
            assert "Lab: UIDVALIDITY " in lab
            assert ", 1 mails; 0 of them" in lab
            assert books.endswith("mailbox.db: looked at up to UID 2, 1")
            assert way.startswith(f"{socket} to connect ipc://")
            assert way.endswith(f": somebody is connected; {answers} answers for a mail")
            with pytest.raises(UsageError, match="leave the address out"):
                await tried(rig, address="b@example.com")

    run(body)
    assert (dovecot.uids(criteria="UNSEEN"), dovecot.uids("Lab", "UNSEEN")) == ([1, 2], [1])


def test_nobody_is_there_and_a_pause(dovecot: Dovecot, tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, after="none") as rig:
            await rig.takes(answer=False)
            rig.application.close()
            rig.bridge.commands()["mail-pause"]({})  # type: ignore[union-attr]

            await rig.until(lambda: not rig.bridge.giving.over.is_there)  # type: ignore[union-attr]
            fine, steps = await tried(rig)
            connect, _, inbox, _, way = steps
            assert (fine, connect[2]) == (False, f"tcp://127.0.0.1:{dovecot.port}: without TLS")
            assert (inbox[1], inbox[2].rpartition("; ")[2]) == (False, "paused by `ztunnel mail pause`")
            assert way[1] is False
            assert ": nobody is connected; the application answers for a mail; " in way[2]

    run(body)


def test_each_thing_that_can_be_wrong_is_told(dovecot: Dovecot, tmp_path: Path) -> None:
    async def wrong(reactor: Reactor, port: int, step: str, words: str, **more: Any) -> None:
        async with fetched(reactor, tmp_path / step / str(len(more)), port, **more) as rig:
            fine, steps = await tried(rig)
            assert not fine
            bad = next(told for told in steps if not told[1])
            assert (bad[0], words in bad[2]) == (step, True), steps
            assert [told[0] for told in steps[-2:]] == ["books", "0MQ"]

    async def body(reactor: Reactor) -> None:
        await wrong(reactor, free_port(), "connect", "Connection refused")
        await wrong(reactor, dovecot.tls_port, "connect", "certificate", **with_tls(dovecot.ca, name="x.example.com"))
        await wrong(reactor, dovecot.port, "login", "the login of ops is refused: ", password=Secret("wrong"))
        nowhere = {"password": None, "token_command": ("/nowhere",)}
        await wrong(reactor, dovecot.port, "login", "the token command /nowhere cannot be run", **nowhere)
        await wrong(reactor, dovecot.port, "folder", "Nowhere cannot be opened", folders=("INBOX", "Nowhere"))

    run(body)


def test_what_the_bridge_itself_meets_is_told(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        with FakeImap({1: mail(1)}) as server:
            async with fetched(reactor, tmp_path, server.port) as rig:
                await rig.take(1)
                await rig.until(lambda: rig.folder()["to_mark"] == 0)
                await rig.stop()
                server.uidvalidity = 8
                await rig.start()
                fine, steps = await tried(rig)
                inbox = steps[2]
                assert (fine, inbox[:2]) == (False, ("folder", False))
                assert inbox[2].startswith("INBOX: UIDVALIDITY 8, 1 mails; stopped: INBOX was renumbered")

    run(body)


def test_a_server_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bridges.mail import imap_trial

    monkeypatch.setattr(imap_trial, "TRIAL_LOOK_S", 0.5)

    async def body(reactor: Reactor) -> None:
        with FakeImap({1: mail(1)}) as server:
            server.answers["EXAMINE"] = server.answers["SELECT"] = lambda _tag, _rest: []
            async with fetched(reactor, tmp_path, server.port) as rig:
                fine, steps = await tried(rig)
                assert not fine
                assert ("connect", False, "not done within 0 s") in steps

    run(body)
