"""`ztunnel mail password`: lines that an smtp-server's file of users may hold."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from bridges.mail.users import Users
from tests.cli.terminal import typed
from tests.supervise.rig import ROOT, ZTUNNEL

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def run(name: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*ZTUNNEL, "mail", "password", name], input=stdin, env=ENVIRONMENT, capture_output=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("stdin", "password"),
    [
        (b"secret\nmore\n", b"secret"),
        (b"no end", b"no end"),
        (b" \xc3\xa4 \r\n", " ä ".encode()),
        (b"x" * 72, b"x" * 72),
    ],
)
def test_a_line_that_lets_its_user_in(tmp_path: Path, stdin: bytes, password: bytes) -> None:
    done = run("ann@example.com", stdin)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"ann@example.com:$2b$10$")
    assert done.stdout.count(b"\n") == 1
    file = tmp_path / "users"
    file.write_bytes(done.stdout)

    async def body() -> None:
        users = Users(file)
        assert await users.are("ann@example.com", password)
        assert not await users.are("ann@example.com", password + b"x")

    asyncio.run(body())


@pytest.mark.parametrize(
    ("name", "stdin"),
    [
        ("a:b", b"secret\n"),
        ("", b"secret\n"),
        (" ann", b"secret\n"),
        ("#ann", b"secret\n"),
        ("an\nn", b"secret\n"),
        ("ann", b""),
        ("ann", b"\n"),
        ("ann", b"x" * 73),
        ("ann", b"a\0b\n"),
    ],
)
def test_what_nobody_could_log_in_with(name: str, stdin: bytes) -> None:
    done = run(name, stdin)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"ztunnel: a ")


def test_on_a_terminal_it_is_asked_for_twice(tmp_path: Path) -> None:
    same, other = [("Password", "secret"), ("Once more", "secret")], [("Password", "secret"), ("Once more", "other")]
    for answers in (same, [*other, *same]):
        code, line = typed(["mail", "password", "ann"], answers, ENVIRONMENT, tmp_path)
        assert (code, line[:11], line.count("\n")) == (0, "ann:$2b$10$", 1)
