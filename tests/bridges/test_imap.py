"""A mailbox at a real Dovecot becomes messages; and whatever goes wrong on the way, no mail is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bridges.mailboxes import fetched, mail, mails, meta_of
from tests.bridges.rig import run
from tests.servers import Dovecot
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
