"""Mails that were taken: their bounds, their files, and what an operator may do with them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bridges.mail import bodies
from bridges.mail.inbox import FullError, Inbox
from bridges.mail.inbox_desk import InboxDesk
from bridges.mail.limits import INLINE_BYTES
from tunnel.config.plan import SpoolPlan
from tunnel.errors import UsageError


def opened(folder: Path, body: Callable[[Inbox], Awaitable[None]], max_bytes: int = 1 << 30) -> None:
    async def main() -> None:
        inbox = Inbox(SpoolPlan(folder, max_bytes, None))
        try:
            await inbox.open()
            await body(inbox)
        finally:
            await inbox.close()

    asyncio.run(main())


async def put(inbox: Inbox, name: str, raw: bytes, rule: str = "r") -> int:
    mail = inbox.body(name)
    for at in range(0, len(raw), 100_000):
        await mail.add(raw[at : at + 100_000])
    return await inbox.put(name, rule, b"t", b'{"from":"a@b.c","to":["d@e.f"]}', mail, name.encode())


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "bodies"))


def test_small_mails_lie_in_the_database_and_large_ones_beside_it(tmp_path: Path) -> None:
    small, large = b"s" * INLINE_BYTES, b"l" * (INLINE_BYTES + 1)

    async def fill(inbox: Inbox) -> None:
        await put(inbox, "small", small)
        await put(inbox, "large", large)
        assert files(tmp_path) == ["large.eml"]

    opened(tmp_path, fill)
    (tmp_path / "bodies" / "left-by-a-killed-one.eml").write_bytes(b"half")

    async def look(inbox: Inbox) -> None:
        assert files(tmp_path) == ["large.eml"]  # what no row names is gone
        assert (inbox.rows, inbox.bytes) == (2, len(small) + len(large) + 2 * 512)
        first, second = await inbox.waiting(["r"], False, 0, 10)
        assert (first.body, second.file) == (small, "large.eml")
        assert await inbox.finish(second) == 1
        assert files(tmp_path) == []
        assert await inbox.finish(first) == 1
        assert (inbox.rows, inbox.bytes) == (0, 0)

    opened(tmp_path, look)


def test_each_socket_has_its_rules_and_one_has_those_of_none(tmp_path: Path) -> None:
    async def body(inbox: Inbox) -> None:
        for name, rule in (("1", "a"), ("2", "b"), ("3", "gone"), ("4", "a")):
            await put(inbox, name, b"x", rule)
        assert [mail.id for mail in await inbox.waiting(["b"], False, 0, 10)] == ["2"]
        assert [mail.id for mail in await inbox.waiting(["b"], True, 0, 10)] == ["1", "3", "4"]
        assert [mail.id for mail in await inbox.waiting(["b"], True, 1, 1)] == ["3"]

    opened(tmp_path, body)


def test_full(tmp_path: Path) -> None:
    async def body(inbox: Inbox) -> None:
        await put(inbox, "1", b"x" * 5000)
        with pytest.raises(FullError, match="of 6000 that it may"):
            await put(inbox, "2", b"x" * 1000)
        (mail,) = await inbox.waiting(["r"], False, 0, 10)
        await inbox.finish(mail)
        await put(inbox, "2", b"x" * 1000)

    opened(tmp_path, body, 6000)


def test_dead_letters(tmp_path: Path) -> None:
    async def body(inbox: Inbox) -> None:
        number = await put(inbox, "1", b"x")
        await inbox.bury(number, "too large for the route")
        assert (inbox.rows, inbox.dead) == (0, 1)
        assert await inbox.waiting(["r"], False, 0, 10) == []
        (told,) = await inbox.list(0, 10, dead=True)
        assert (told["id"], told["state"], told["reason"]) == ("1", "dead", "too large for the route")
        assert await inbox.retry(number)
        assert not await inbox.retry(number)
        assert (inbox.rows, inbox.dead) == (1, 0)
        assert await inbox.drop(number)
        assert not await inbox.drop(number)
        assert (inbox.rows, inbox.bytes) == (0, 0)

    opened(tmp_path, body)


def test_duplicates_are_forgotten_in_time(tmp_path: Path) -> None:
    async def body(inbox: Inbox) -> None:
        await put(inbox, "1", b"x")
        assert await inbox.known(b"1", 100, told=False) == "1"
        inbox.told(b"1", keep=True)
        assert await inbox.known(b"1", 100, told=False) is None
        assert await inbox.known(b"1", 100, told=True) == "1"
        assert await inbox.known(b"1", 0, told=True) is None
        inbox.forget(0)
        assert await inbox.known(b"1", 100, told=True) is None
        await put(inbox, "2", b"x")
        inbox.told(b"2", keep=False)  # nobody asks for it any more: a row a mail for days would be many
        assert await inbox.known(b"2", 100, told=True) is None

    opened(tmp_path, body)


def test_what_was_dropped_or_buried_on_its_way_is_counted_once(tmp_path: Path) -> None:
    async def body(inbox: Inbox) -> None:
        for name in ("dropped", "expired", "refused"):
            await put(inbox, name, b"x")
        dropped, expired, refused = await inbox.waiting(["r"], False, 0, 10)
        assert await inbox.drop(dropped.number)
        await inbox.finish(dropped)
        await inbox.bury(dropped.number, "nobody wants it")
        assert (inbox.rows, inbox.dead) == (2, 0)
        await inbox.bury(expired.number, "in vain")
        await inbox.bury(refused.number, "in vain")
        await inbox.bury(refused.number, "refused")
        await inbox.finish(expired)
        assert (inbox.rows, inbox.dead) == (0, 1)
        assert await inbox.drop(refused.number)
        assert (inbox.rows, inbox.dead, inbox.bytes) == (0, 0, 0)

    opened(tmp_path, body)


def test_many_that_come_at_once_have_no_more_room_than_one_after_the_other(tmp_path: Path) -> None:
    async def body(inbox: Inbox) -> None:
        large = b"l" * (INLINE_BYTES + 1)
        done = await asyncio.gather(*(put(inbox, f"{n}", large) for n in range(8)), return_exceptions=True)
        assert sum(isinstance(one, FullError) for one in done) == 5
        assert inbox.bytes <= 4 * INLINE_BYTES

    opened(tmp_path, body, max_bytes=4 * INLINE_BYTES)


def test_a_mail_that_comes_byte_by_byte_is_written_in_few_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = os.write, 0

    def counting(fd: int, data: bytes) -> int:
        nonlocal count
        count += 1
        return write(fd, data)

    async def body(inbox: Inbox) -> None:
        monkeypatch.setattr(bodies.os, "write", counting)
        mail = inbox.body("1")
        for _ in range(2 * INLINE_BYTES + 2):
            await mail.add(b"x")
        assert await mail.whole() == b"x" * (2 * INLINE_BYTES + 2)
        assert count < 10
        mail.discard()

    opened(tmp_path, body)


def test_the_files_of_a_corrupt_database_stay_for_whoever_recovers_it(tmp_path: Path) -> None:
    async def fill(inbox: Inbox) -> None:
        await put(inbox, "large", b"l" * (INLINE_BYTES + 1))

    opened(tmp_path, fill)
    (tmp_path / "mails.db").write_bytes(b"\xff" * 4096)

    async def look(inbox: Inbox) -> None:
        assert files(tmp_path) == ["large.eml"]

    opened(tmp_path, look)
    opened(tmp_path, look)  # and after one more start
    (tmp_path / "mails.db.corrupt-1").unlink()

    async def swept(_: Inbox) -> None:
        assert files(tmp_path) == []

    opened(tmp_path, swept)


@pytest.mark.parametrize("size", [10, INLINE_BYTES + 1])
def test_what_is_shown_of_a_mail(tmp_path: Path, size: int) -> None:
    async def body(inbox: Inbox) -> None:
        number = await put(inbox, "one", b"Subject: a\r\n b\r\nX-Odd: \xff\r\n\r\nnot this" + b"x" * size)
        show = InboxDesk(inbox, lambda _: None).commands["mail-show"]
        told = await show({"number": number})  # type: ignore[misc]
        assert told["headers"] == [["Subject", "a b"], ["X-Odd", "\ufffd"]]
        assert await inbox.head(number, 7) == b"Subject"
        assert await inbox.head(number + 1, 7) == b""
        with pytest.raises(UsageError):
            await show({"number": number + 1})  # type: ignore[misc]

    opened(tmp_path, body)
