"""The parts of the mailbox bridge alone: token commands, who is to blame, and the books."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from bridges.mail.bookkeeping import Books, Kept, Position, State
from bridges.mail.giving import Giving, Letter
from bridges.mail.token import TokenError, token
from tests.bridges.mailboxes import fetched, mail, subject
from tests.bridges.rig import run
from tests.loops import until
from tests.servers import Dovecot
from tests.waiting import free_port
from tests.waiting import until as until_now
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.config.plan import Endpoint
from tunnel.reactor import Reactor

# --- token commands --------------------------------------------------------------------------------------------------


def test_a_token_is_what_the_program_prints() -> None:
    secret = token(["printf", "  %s\n", "ya29.a0-B_c~d+e/f=="])
    assert secret.reveal() == "ya29.a0-B_c~d+e/f=="
    assert "ya29" not in f"{secret} {secret!r}"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["sh", "-c", "exit 3"], "failed, with exit status 3"),
        (["true"], "printed nothing"),
        (["echo", "two words"], "printed something that is no token"),
        (["printf", "a\\nb"], "printed something that is no token"),
        (["printf", "a\\001auth=x"], "printed something that is no token"),
        (["head", "-c", "100000", "/dev/zero"], "printed more than 16384 bytes"),
        (["/nonexistent/program"], "cannot be run: No such file or directory"),
        (["printf", "a\0b"], "cannot be run"),
    ],
)
def test_no_token(command: list[str], why: str) -> None:
    with pytest.raises(TokenError, match=why):
        token(command)


def test_arguments_are_no_shell(tmp_path: Path) -> None:
    assert token(["echo", "x", ";touch", str(tmp_path / "made")][:2]).reveal() == "x"
    with pytest.raises(TokenError):
        token(["echo", f"$(touch {tmp_path}/made)"])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("script", ["sleep 60", "sleep 60 & echo x", "exec >&-; sleep 60"])
def test_a_program_that_takes_too_long_is_ended_with_what_it_started(script: str) -> None:
    before = time.monotonic()
    with pytest.raises(TokenError, match="took too long"):
        token(["sh", "-c", script], within_s=0.3)
    assert time.monotonic() - before < 5


# --- who is to blame -------------------------------------------------------------------------------------------------


class Desk:
    """A Giving, and an application that comes and goes."""

    def __init__(self, reactor: Reactor, again_s: float) -> None:
        self._reactor = reactor
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"  # a path would be removed by whoever had it before
        self.application: zmq.Socket[bytes] | None = None
        plan = ZmqPlan("REQ", (Endpoint("connect", self.endpoint),))
        self.giving = Giving(reactor, plan, lambda: None, again_s)
        self.taken: list[str] = []
        self.failed: list[str] = []
        self.refused: list[str] = []

    def put(self, *names: str, attempts: int = 100) -> None:
        for name in names:
            self.giving.put(Letter([name.encode()], *self._says(name, attempts)))

    def _says(
        self, name: str, attempts: int
    ) -> tuple[Callable[[], None], Callable[[str], None], Callable[[str], bool]]:
        def failed(_why: str) -> bool:
            self.failed.append(name)
            return self.failed.count(name) < attempts

        return lambda: self.taken.append(name), self.refused.append, failed

    def come(self) -> None:
        self.application = made = self._reactor.context.socket(zmq.ROUTER)
        made.linger = 0

        def bound() -> bool:
            try:
                made.bind(self.endpoint)
            except zmq.ZMQError:  # the one before is closing still
                return False
            return True

        until_now(bound, 10, self.endpoint)

    def leave(self) -> None:
        assert self.application is not None
        self.application.close()
        self.application = None

    def look(self) -> tuple[str, list[bytes]] | None:
        assert self.application is not None
        if not self.application.poll(0):
            return None
        message = self.application.recv_multipart()
        return message[-1].decode(), message

    def answer(self, message: list[bytes]) -> None:
        assert self.application is not None
        self.application.send_multipart([*message[:3], b"done"])

    async def close(self) -> None:
        self.giving.close()
        if self.application is not None:
            self.leave()


def with_desk(body: Callable[[Desk], object], again_s: float = 30.0) -> None:
    async def main(reactor: Reactor) -> None:
        desk = Desk(reactor, again_s)
        try:
            await body(desk)  # type: ignore[misc]
        finally:
            await desk.close()

    run(main)


def test_a_mail_that_brings_the_application_down_is_to_blame_and_the_others_go_on() -> None:
    async def body(desk: Desk) -> None:
        desk.come()
        desk.put("a", "b", "bomb", "c", "d", attempts=3)
        crashes = 0
        while len(desk.taken) < 4 or desk.failed.count("bomb") < 3:
            if desk.application is None:
                desk.come()
            found = desk.look()
            if found is None:
                if desk.giving.held == 1 and len(desk.taken) >= 4:  # others go through
                    desk.put(f"more-{crashes}")
                await asyncio.sleep(0.005)
            elif found[0] == "bomb":
                crashes += 1
                desk.leave()
            else:
                desk.answer(found[1])
        assert {"a", "b", "c", "d"} <= {*desk.taken}
        assert set(desk.failed) == {"bomb"}
        assert crashes >= 3
        await until(lambda: desk.giving.held <= 1)

    with_desk(body)


def test_an_application_that_is_away_blames_nobody_and_gets_everything() -> None:
    async def body(desk: Desk) -> None:
        names = [str(number) for number in range(20)]
        desk.put(*names)
        for _ in range(5):  # it comes, takes some, and goes without an answer
            desk.come()
            await until(desk.look)
            desk.leave()
        desk.come()

        def work() -> bool:
            while (found := desk.look()) is not None:
                desk.answer(found[1])
            return len(desk.taken) == 20

        await until(work)
        assert sorted(desk.taken, key=int) == names
        assert {*desk.failed} <= {"0", "1", "2", "3", "4"}  # with which alone it went, and others were answered
        assert desk.giving.may_repeat >= 5
        assert desk.giving.held_bytes == 0

    with_desk(body)


def test_a_slow_application_is_not_drowned_in_repeats() -> None:
    async def body(desk: Desk) -> None:
        desk.come()
        desk.put(*[str(number) for number in range(10)])
        heard = 0
        while len(desk.taken) < 10:  # each takes a good part of the time that there is, and all together far more
            found = desk.look()
            if found is None:
                await asyncio.sleep(0.005)
                continue
            heard += 1
            await asyncio.sleep(0.2)
            desk.answer(found[1])
        assert heard == 10
        assert desk.failed == []

    with_desk(body, again_s=0.5)


# --- the books -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_there_after_the_end(tmp_path: Path) -> None:
    async def body(_: Reactor) -> None:
        books = Books(tmp_path / "b.db", "ops")
        assert await books.position("INBOX") is None
        await books.begin("INBOX", Position(7, 10, 0))
        await books.listed("INBOX", 7, 14, [Kept(uid, 100, State.LISTED) for uid in (11, 13, 14)])
        await books.note("INBOX", 7, [Kept(11, 100, State.GIVEN, 2)])
        await books.note("INBOX", 7, [Kept(13, 100, State.TAKEN)])
        await books.done("INBOX", 7, [14])
        await books.close()
        books = Books(tmp_path / "b.db", "ops")
        assert await books.position("INBOX") == Position(7, 14, 0)
        assert await books.mails("INBOX", 7) == [Kept(11, 100, State.GIVEN, 2), Kept(13, 100, State.TAKEN)]
        assert await books.mails("INBOX", 8) == []
        await books.begin("INBOX", Position(8, 0, 14))
        assert await books.mails("INBOX", 7) == []
        assert not books.was_lost
        await books.close()

    run(body)


@pytest.mark.parametrize("rule", ["stop", "reprocess"])
def test_books_that_were_lost_are_no_first_start(tmp_path: Path, rule: str) -> None:
    """`since: now` would skip what came while nobody looked."""

    async def body(reactor: Reactor) -> None:
        async with fetched(reactor, tmp_path, dovecot.port, since="now", rebaseline=rule) as rig:
            await rig.until(lambda: rig.status()["state"] == "up")
            await rig.stop()
            file = rig.plan.own.file
            file.write_bytes(b"garbage" * 1000)
            for left in file.parent.glob("mailbox.db-*"):
                left.unlink()
            await rig.in_thread(dovecot.append, mail("meanwhile"))
            await rig.start()
            if rule == "stop":
                await rig.until(lambda: "the database was lost" in rig.status()["reason"])
                await rig.stop()
                await rig.start()  # nor is it one the next time
                await rig.until(lambda: "the database was lost" in rig.status()["reason"])
            else:
                assert await rig.take(1) == ["meanwhile"]

    with Dovecot(tmp_path) as dovecot:
        run(body)


# --- a half that gives receipts --------------------------------------------------------------------------------------


def test_a_half_answers_for_mails_and_what_it_refuses_is_put_aside(tmp_path: Path) -> None:
    endpoint = f"ipc://@zt-{uuid.uuid4().hex}"

    async def body(reactor: Reactor) -> None:
        half = reactor.context.socket(zmq.ROUTER)
        half.linger = 0
        half.bind(endpoint)
        more = {"quarantine": "Aside", "attempts": 2, "poll_s": 0.2}
        async with fetched(reactor, tmp_path, dovecot.port, "PUSH", receipts=endpoint, **more) as rig:
            refused = 0

            def answers() -> bool:
                nonlocal refused
                while half.poll(0):
                    peer, word, number, _topic, _meta, raw = half.recv_multipart()
                    assert word == b"put"
                    if subject(raw) == "1":
                        refused += 1
                        half.send_multipart([peer, b"refused", number, b"it is too large for the route"])
                    else:
                        half.send_multipart([peer, b"taken", number])
                return bool(rig.detail["quarantined"] == 1 and rig.detail["marked"] == 2)

            await rig.until(answers)
            assert refused == 2
            assert "too large for the route" in rig.folder()["trouble"]
            assert rig.status()["zmq"]["answered_by"] == "the half"
        half.close()

    with Dovecot(tmp_path) as dovecot:
        dovecot.append(*[mail(number) for number in range(3)])
        run(body)
        assert len(dovecot.uids("Aside")) == 1
