"""The database of a mail bridge: what was told to be there is there, whatever happens around it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bridges.mail import database
from bridges.mail.database import Database
from tests.bridges.mail_disk import abandoned
from tunnel.errors import SpoolError

SCHEMA = ("CREATE TABLE words (word TEXT UNIQUE)",)


def opened(path: Path) -> Database:
    return Database(path, b"test", SCHEMA)


def add(word: str) -> Callable[[sqlite3.Connection], int]:
    return lambda db: db.execute("INSERT INTO words VALUES (?)", (word,)).rowcount


def words(db: sqlite3.Connection) -> list[str]:
    return [word for (word,) in db.execute("SELECT word FROM words ORDER BY rowid")]


def with_one(path: Path, body: Callable[[Database], Awaitable[None]]) -> None:
    async def main() -> None:
        made = opened(path)
        try:
            await body(made)
        finally:
            await made.close()

    asyncio.run(main())


def test_what_is_asked_together_is_one_transaction_and_stays(tmp_path: Path) -> None:
    commits: list[str] = []

    async def body(made: Database) -> None:
        await made.do(lambda db: db.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None))
        await asyncio.gather(*(made.do(add(str(number))) for number in range(200)))
        assert len(commits) < 50

    with_one(tmp_path / "a.db", body)

    async def again(made: Database) -> None:
        assert await made.ask(words) == [str(number) for number in range(200)]

    with_one(tmp_path / "a.db", again)


def test_one_that_raises_undoes_itself_alone(tmp_path: Path) -> None:
    async def body(made: Database) -> None:
        results = await asyncio.gather(*(made.do(add(word)) for word in ("a", "b", "a", "c")), return_exceptions=True)
        assert [type(result) for result in results] == [int, int, sqlite3.IntegrityError, int]
        assert await made.ask(words) == ["a", "b", "c"]

    with_one(tmp_path / "a.db", body)


def test_a_disk_that_fails_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        """A connection whose commit does not get through."""

        def __init__(self, db: sqlite3.Connection) -> None:
            self._db = db

        def execute(self, statement: str, *values: Any) -> Any:
            if statement == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")
            return self._db.execute(statement, *values)

        def close(self) -> None:
            self._db.close()

    async def body(made: Database) -> None:
        await made.do(add("before"))
        made._db = Failing(made._db)  # type: ignore[assignment, arg-type]
        with pytest.raises(SpoolError, match="disk I/O error"):
            await made.do(add("lost"))
        assert "disk I/O error" in made.trouble
        await made.do(add("after"))
        assert (await made.ask(words), made.trouble) == (["before", "after"], "")

    with_one(tmp_path / "a.db", body)


def test_a_file_that_vanished_does_not_come_back_empty(tmp_path: Path) -> None:
    async def body(made: Database) -> None:
        await made.do(add("a"))
        await abandoned(made)
        (tmp_path / "a.db").unlink()
        with pytest.raises(SpoolError, match="vanished"):
            await made.do(add("b"))

    with_one(tmp_path / "a.db", body)


def test_it_has_one_owner(tmp_path: Path) -> None:
    async def body(_made: Database) -> None:
        with pytest.raises(SpoolError, match="in use by process"):
            opened(tmp_path / "a.db")

    with_one(tmp_path / "a.db", body)


def test_a_corrupt_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"garbage" * 5000)

    async def body(made: Database) -> None:
        assert made.set_aside == str(tmp_path / "a.db.corrupt-1")
        await made.do(add("a"))

    with_one(tmp_path / "a.db", body)
    assert (tmp_path / "a.db.corrupt-1").read_bytes().startswith(b"garbage")


def test_another_program_s_file_and_another_version_are_left_alone(tmp_path: Path) -> None:
    async def body(_made: Database) -> None:
        """Only made."""

    with_one(tmp_path / "a.db", body)
    for mark, version, words in ((b"othr", 1, "something else"), (b"test", 2, "an older ztunnel")):

        async def main(mark: bytes = mark, version: int = version, words: str = words) -> None:
            with pytest.raises(SpoolError, match=words):
                Database(tmp_path / "a.db", mark, SCHEMA, version)

        asyncio.run(main())


def test_after_close_nothing_is_done_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    async def main() -> None:
        made = opened(tmp_path / "a.db")
        last = made.do(add("last"))
        await made.close()
        assert await last == 1
        with pytest.raises(SpoolError, match="closed"):
            await made.do(add("later"))
        await made.close()

    asyncio.run(main())


def test_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "DATABASE_GROUP", 3)

    async def body(made: Database) -> None:
        await asyncio.gather(*(made.do(add(str(number))) for number in range(10)))
        assert len(await made.ask(words)) == 10

    with_one(tmp_path / "a.db", body)
