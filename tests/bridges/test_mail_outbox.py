"""The outbox: what it knows after a crash, what it counts, what it forgets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bridges.mail import outbox_desk, outbox_tidy
from bridges.mail.outbox import Outbox
from bridges.mail.outbox_records import Mail, Result
from tunnel.errors import SpoolError, UsageError

NOW = time.time()
SENT, FAILED, DEFERRED = Result("sent", "250 ok"), Result("failed", "550 no"), Result("deferred", "451 later")


def mail(mail_id: str = "x", *, named: bool = True, to: tuple[str, ...] = ("a@b",), raw: bytes = b"raw") -> Mail:
    return Mail(mail_id, named, b"digest" + raw, "from@x", {"": to}, raw, False)


def on(folder: Path, body: Callable[[Outbox], Awaitable[None]]) -> None:
    async def run() -> None:
        box = Outbox(folder / "mails.db")
        try:
            await body(box)
            counted = (box.jobs, box.bytes, box.dead)
            box.jobs = box.bytes = box.dead = 0
            await box.begin(NOW)
            assert (box.jobs, box.bytes, box.dead) == counted  # the running counts are those of the file
        finally:
            await box.close()

    asyncio.run(run())


async def one(box: Outbox) -> int:
    (job,) = (await box.due(NOW + 1, 10)).jobs
    return job.job


@pytest.mark.parametrize("marked", [True, False])
def test_after_a_crash_what_was_marked_may_repeat_and_nothing_else(tmp_path: Path, marked: bool) -> None:
    async def first(box: Outbox) -> None:
        await box.begin(NOW)
        taken = await box.put(mail(), NOW)
        assert taken.verdict == ""
        if marked:
            assert await box.sending(await one(box))
            assert (await box.due(NOW + 1, 10)).jobs == []

    async def run() -> None:
        box = Outbox(tmp_path / "mails.db")
        await first(box)
        await box.close()
        box = Outbox(tmp_path / "mails.db")
        assert await box.begin(NOW) == int(marked)
        assert box.jobs == 1
        job = await one(box)
        assert (await box.states(1))["a@b"].state == ("unknown" if marked else "queued")
        assert (await box.settle(job, {"a@b": SENT}, NOW, NOW))[0] == "sent"
        await box.close()

    asyncio.run(run())


@pytest.mark.parametrize("named", [True, False])
def test_a_mail_that_was_sent_leaves_its_id_behind_if_it_has_one(tmp_path: Path, named: bool) -> None:
    async def body(box: Outbox) -> None:
        await box.put(mail(named=named), NOW)
        assert (box.jobs, box.bytes) == (1, 3)
        assert (await box.settle(await one(box), {"a@b": SENT}, NOW, NOW)) == ("sent", {"a@b": SENT})
        assert (box.jobs, box.bytes, box.dead) == (0, 0, 0)
        assert (await box.put(mail(named=named), NOW)).verdict == ("repeated" if named else "")
        assert (await box.put(mail(raw=b"other"), NOW)).verdict == "other"

    on(tmp_path, body)


def test_some_have_it_some_never_will_some_later(tmp_path: Path) -> None:
    async def body(box: Outbox) -> None:
        await box.put(mail(to=("a@b", "c@d", "e@f")), NOW)
        job = await one(box)
        state, _ = await box.settle(job, {"a@b": SENT, "c@d": FAILED, "e@f": DEFERRED}, NOW, NOW + 9)
        assert state == "open"
        assert await box.due(NOW, 10) == ([], NOW + 9)
        ((again,), _) = await box.due(NOW + 9, 10)
        assert (again.attempts, await box.load(again)) == (1, (b"raw", ["e@f"]))
        assert (await box.settle(job, {"e@f": SENT}, NOW, NOW))[0] == "dead"
        assert (box.jobs, box.bytes, box.dead) == (0, 3, 1)
        assert await outbox_desk.again(box, [1], NOW) == (1, [])
        assert await box.load(again) == (b"raw", ["c@d"])
        assert (await box.settle(job, {"c@d": SENT}, NOW, NOW))[0] == "sent"

    on(tmp_path, body)


def test_giving_up_and_forgetting(tmp_path: Path) -> None:
    async def body(box: Outbox) -> None:
        for number in range(4):
            await box.put(mail(str(number), raw=b"x" * 100), NOW)
        jobs = await outbox_tidy.expired(box, NOW + 1)
        assert len(jobs) == 4
        assert await box.sending(jobs[0])  # it is being sent
        assert await outbox_tidy.give_up(box, jobs, "too late", NOW) == 3
        assert (box.jobs, box.dead) == (1, 3)
        assert (await box.states(2))["a@b"] == Result("failed", "too late")
        assert await outbox_tidy.tidy(box, None, None, 200) == (1, 0)
        assert (box.dead, box.bytes) == (2, 300)
        assert await outbox_tidy.tidy(box, NOW + 1, NOW + 1, 1 << 30) == (2, 0)
        assert (box.dead, box.bytes, box.jobs) == (0, 100, 1)

    on(tmp_path, body)


def test_dropped_while_it_is_under_way(tmp_path: Path) -> None:
    async def body(box: Outbox) -> None:
        await box.put(mail("1"), NOW)
        await box.put(mail("2"), NOW)
        first, second = (await box.due(NOW + 1, 10)).jobs
        assert await box.sending(first.job)
        assert await outbox_desk.dropped(box, [1, 2]) == (1, 1)
        assert not await box.sending(second.job)
        assert await box.load(second) is None
        assert (await box.settle(second.job, {"a@b": SENT}, NOW, NOW))[0] == "gone"
        with pytest.raises(UsageError, match="no mail 2"):
            await outbox_desk.shown(box, 2)

    on(tmp_path, body)


def test_a_server_that_is_back(tmp_path: Path) -> None:
    async def body(box: Outbox) -> None:
        for number in range(3):
            await box.put(mail(str(number)), NOW)
        jobs = (await box.due(NOW + 1, 10)).jobs
        await box.settle(jobs[0].job, {"a@b": DEFERRED}, NOW, NOW + 900)
        await box.settle(jobs[1].job, {"a@b": DEFERRED}, NOW, NOW + 900, unreached=True)
        assert await box.reached("", NOW) == 1
        assert len((await box.due(NOW, 10)).jobs) == 2
        assert (await box.due(NOW, 10, [""])).jobs == []

    on(tmp_path, body)


def test_two_owners(tmp_path: Path) -> None:
    async def body(box: Outbox) -> None:
        with pytest.raises(SpoolError):
            Outbox(tmp_path / "mails.db")
        await box.note("paused", "1")
        assert await box.noted("paused") == "1"
        await box.note("paused", None)
        assert await box.noted("paused") is None

    on(tmp_path, body)
