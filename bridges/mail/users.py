"""Who may log in: a file of names and bcrypt hashes, as `htpasswd -B` writes it, read again when it has changed."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Final

import bcrypt

from bridges.mail.limits import SMTP_LOGINS_AT_A_TIME, USERS_BYTES

_HASH: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_MOST_COST: Final = 14
"""2^14 rounds take a second or so; a file that asks for more would stop the bridge."""
_COST: Final = 10
"""Of hashes that are made here, some 50 ms a login."""
_PASSWORD_BYTES: Final = 72
"""bcrypt looks at no more."""


class UsersError(Exception):
    """The file cannot be used; the sentence says where and why, and shows no hash."""


def read(path: Path) -> dict[str, bytes]:
    """Names and hashes. UsersError: it is not such a file."""
    try:
        if path.stat().st_size > USERS_BYTES:
            raise UsersError(f"{path} is longer than {USERS_BYTES} bytes: it is no file of users.")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsersError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}.") from None
    users: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, hashed = line.strip().partition(":")
        found = _HASH.fullmatch(hashed)
        if not name or not colon or found is None:
            raise UsersError(f"{path}:{number}: a line is NAME:HASH with a hash of bcrypt; `htpasswd -B` writes them.")
        if int(found[1]) > _MOST_COST:
            raise UsersError(f"{path}:{number}: a cost of {found[1]} takes seconds a login; {_MOST_COST} is the most.")
        if name in users:
            raise UsersError(f"{path}:{number}: {name} is there twice.")
        users[name] = hashed.encode()
    return users


def line_of(name: str, password: bytes) -> str:
    """NAME:HASH, as `read` takes it. UsersError: nobody could log in with these."""
    if not name or name != name.strip() or not name.isprintable() or ":" in name or name.startswith("#"):
        raise UsersError("a name has no colon, no control character and no blank at its ends, and begins with no #.")
    if not password or b"\0" in password:
        raise UsersError("a password is not empty, and has no NUL in it.")
    if len(password) > _PASSWORD_BYTES:
        raise UsersError(f"a password has {_PASSWORD_BYTES} bytes at most: bcrypt looks at no more.")
    return f"{name}:{bcrypt.hashpw(password, bcrypt.gensalt(_COST)).decode()}"


class Users:
    """The file, and the passwords being looked at: so many at a time, each in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._users: dict[str, bytes] = {}
        self._turns = asyncio.Semaphore(SMTP_LOGINS_AT_A_TIME)
        self._nobody = bcrypt.hashpw(os.urandom(16).hex().encode(), bcrypt.gensalt(_COST))
        """Compared with where there is no such user, so that the time tells nothing."""

    def __repr__(self) -> str:
        return f"<Users {self._path} {len(self._users)}>"

    async def are(self, name: str, password: bytes) -> bool:
        """Whether that is the user's password. UsersError: nobody can say."""
        self._refresh()
        hashed = self._users.get(name)
        async with self._turns:
            right = await asyncio.to_thread(_same, password, hashed or self._nobody)
        return right and hashed is not None

    def _refresh(self) -> None:
        try:
            now = os.stat(self._path)
        except OSError as error:
            raise UsersError(f"{self._path} cannot be read: {error.strerror}.") from None
        stamp = now.st_mtime_ns, now.st_size, now.st_ino
        if stamp != self._stamp:
            self._users, self._stamp = read(self._path), stamp


def _same(password: bytes, hashed: bytes) -> bool:
    if len(password) > _PASSWORD_BYTES or b"\0" in password:
        return False
    try:
        return bcrypt.checkpw(password, hashed)
    except ValueError:
        return False
