"""Files of users: what htpasswd writes is read, anything else is told with its line and without its hash."""

from __future__ import annotations

import asyncio
from pathlib import Path

import bcrypt
import pytest

from bridges.mail.users import Users, UsersError, read


def hashed(password: bytes, cost: int = 4) -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(cost)).decode()


def test_right_and_wrong_and_changed(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(f"# ours\nann:{hashed(b'one')}\n\nben:{hashed(b'two').replace('$2b$', '$2y$')}\n")

    async def body() -> None:
        users = Users(file)
        assert [await users.are(*pair) for pair in (("ann", b"one"), ("ben", b"two"))] == [True, True]
        wrong = (("ann", b"two"), ("carl", b"one"), ("ann", b"one\0"), ("ann", b"x" * 100), ("", b""))
        assert [await users.are(*pair) for pair in wrong] == [False] * 5
        file.write_text(f"carl:{hashed(b'three')}\n")
        assert await users.are("carl", b"three")
        assert not await users.are("ann", b"one")
        file.unlink()
        with pytest.raises(UsersError, match="cannot be read"):
            await users.are("carl", b"three")

    asyncio.run(body())


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ann:hunter2", "NAME:HASH"),
        ("ann", "NAME:HASH"),
        (":$2y$05$" + "a" * 53, "NAME:HASH"),
        ("ann:$apr1$abc$def", "NAME:HASH"),
        ("ann:$2y$31$" + "a" * 53, "takes seconds"),
        ("first:$2y$05$" + "a" * 53, "twice"),
    ],
)
def test_wrong_files(tmp_path: Path, line: str, why: str) -> None:
    file = tmp_path / "users"
    file.write_text("first:$2y$05$" + "b" * 53 + f"\n{line}\n")
    with pytest.raises(UsersError, match=why) as told:
        read(file)
    assert f"{file}:2:" in str(told.value)
    assert "hunter2" not in str(told.value).removeprefix(str(file))
