"""What only the ipc carrier has: the file, its mode and group, and what may already be at its path."""

from __future__ import annotations

import grp
import os
import socket as sockets
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.carriers.ends import Ends, run_within, until
from tunnel.limits import IPC_PATH_BYTES


def over_ipc(path: Path | str, body: Callable[[Ends], Awaitable[None]]) -> None:
    async def main() -> None:
        ends = Ends("ipc", str(path))
        try:
            await body(ends)
        finally:
            ends.close()

    run_within(main())


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o600), (0o660, 0o660), (0o666, 0o666)])
def test_mode(tmp_path: Path, mode: int | None, expected: int) -> None:
    async def body(ends: Ends) -> None:
        ends.listen(mode=mode)
        assert stat.S_IMODE((tmp_path / "link").stat().st_mode) == expected
        await ends.pair()

    over_ipc(tmp_path / "link", body)


def test_group(tmp_path: Path) -> None:
    mine = grp.getgrgid(os.getgid()).gr_name

    async def body(ends: Ends) -> None:
        ends.listen(mode=0o660, group=mine)
        assert (tmp_path / "link").group() == mine

    over_ipc(tmp_path / "link", body)


def test_a_group_that_is_not_there_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    async def body(ends: Ends) -> None:
        status = ends.listen(group="no-such-group").status()
        assert status["state"] == "retrying"
        assert "no-such-group" in status["reason"]
        assert not (tmp_path / "link").exists()

    over_ipc(tmp_path / "link", body)


def test_the_file_goes_with_the_listener(tmp_path: Path) -> None:
    async def body(ends: Ends) -> None:
        listener = ends.listen()
        assert (tmp_path / "link").is_socket()
        listener.close()
        assert not (tmp_path / "link").exists()

    over_ipc(tmp_path / "link", body)


def test_a_stale_file_is_replaced(tmp_path: Path) -> None:
    left = sockets.socket(sockets.AF_UNIX)
    left.bind(str(tmp_path / "link"))
    left.close()

    async def body(ends: Ends) -> None:
        assert ends.listen().status()["state"] == "listening"
        await ends.pair()

    over_ipc(tmp_path / "link", body)


def test_a_file_that_is_no_socket_is_left_alone_and_waited_for(tmp_path: Path) -> None:
    (tmp_path / "link").write_text("precious")

    async def body(ends: Ends) -> None:
        listener = ends.listen()
        assert "no socket" in listener.status()["reason"]
        assert (tmp_path / "link").read_text() == "precious"
        (tmp_path / "link").unlink()
        await until(lambda: listener.status()["state"] == "listening")

    over_ipc(tmp_path / "link", body)


def test_closing_one_that_never_opened_leaves_the_others_file(tmp_path: Path) -> None:
    async def body(ends: Ends) -> None:
        ends.listen()
        other = Ends("ipc", str(tmp_path / "link"))
        second = other.listen()
        assert "another program listens there" in second.status()["reason"]
        other.close()
        assert (tmp_path / "link").is_socket()
        await ends.pair()

    over_ipc(tmp_path / "link", body)


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / ("x" * IPC_PATH_BYTES)

    async def body(ends: Ends) -> None:
        assert f"longer than {IPC_PATH_BYTES} bytes" in ends.listen().status()["reason"]

    over_ipc(path, body)


def test_abstract_name() -> None:
    async def body(ends: Ends) -> None:
        assert ends.listen().status()["address"] == f"ipc://@ztunnel-test-{os.getpid()}"
        await ends.pair()

    over_ipc(f"@ztunnel-test-{os.getpid()}", body)
