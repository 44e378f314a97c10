"""The files of ipc binds, with real files and sockets."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from tunnel.errors import LocalError
from tunnel.limits import IPC_PATH_BYTES
from tunnel.local.ipc import IpcFile


class Listener:
    """Stands for libzmq: removes what is at the path and binds, as it does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def bind(self) -> None:
        self.path.unlink(missing_ok=True)
        self.socket.bind(str(self.path))
        self.socket.listen()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def ipc(path: Path, **kwargs: object) -> IpcFile:
    return IpcFile(str(path), **({"mode": None, "group": None} | kwargs))  # type: ignore[arg-type]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_mode_and_group(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Listener(path) as listener:
        ipc(path, mode=0o660, group=str(os.getgid())).bind(listener.bind)
        assert mode_of(path) == 0o660
        assert path.stat().st_gid == os.getgid()


def test_a_group_without_a_mode_may_use_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Listener(path) as listener:
        ipc(path, group=str(os.getgid())).bind(listener.bind)
        assert mode_of(path) == 0o660


def test_the_file_is_never_open_to_others_before_its_mode_is_set(tmp_path: Path) -> None:
    path = tmp_path / "s"
    seen: list[int] = []
    with Listener(path) as listener:

        def bind() -> None:
            listener.bind()
            seen.append(mode_of(path))

        ipc(path, mode=0o666).bind(bind)
    assert seen == [0o600]


def test_the_umask_is_put_back(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with pytest.raises(OSError, match="no"):
            ipc(tmp_path / "s", mode=0o600).bind(lambda: (_ for _ in ()).throw(OSError("no")))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_an_unknown_group_is_told_and_nothing_is_bound(tmp_path: Path) -> None:
    called: list[int] = []
    with pytest.raises(LocalError, match="no group nobody-has-this"):
        ipc(tmp_path / "s", group="nobody-has-this").bind(lambda: called.append(1))
    assert not called


def test_a_stale_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Listener(path) as dead:
        dead.bind()
    assert path.exists()
    with Listener(path) as listener:
        ipc(path).bind(lambda: (listener.socket.bind(str(path)), listener.socket.listen()))


def test_a_living_socket_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Listener(path) as living, Listener(path) as second:
        living.bind()
        with pytest.raises(LocalError, match="in use"):
            ipc(path).bind(second.bind)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_living_socket_with_a_full_queue_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(path))
        with pytest.raises(LocalError, match="in use"):
            ipc(path).bind(lambda: None)
        for client in clients:
            client.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(LocalError, match="no socket"):
        ipc(path).bind(path.unlink)
    assert path.read_text() == "precious"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path, target = tmp_path / "s", tmp_path / "target"
    path.symlink_to(target)
    with pytest.raises(LocalError, match="no socket"):
        ipc(path).bind(lambda: None)


@pytest.mark.parametrize(("private", "mode"), [(False, 0o755), (True, 0o700)])
def test_missing_folders_are_made(tmp_path: Path, private: bool, mode: int) -> None:
    path = tmp_path / "a" / "b" / "s"
    before = os.umask(0o077)
    try:
        with Listener(path) as listener:
            ipc(path, private=private).bind(listener.bind)
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "a") == mode
    assert mode_of(tmp_path / "a" / "b") == mode


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match="could not be made"):
        ipc(tmp_path / "file" / "sub" / "s").bind(lambda: None)


def test_a_path_too_long_is_told_with_its_length(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    with pytest.raises(LocalError, match=rf"{len(str(path))} bytes, and a unix socket's may have {IPC_PATH_BYTES}"):
        ipc(path).bind(lambda: None)


def test_the_file_is_removed_at_the_end_but_not_a_successor_s(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Listener(path) as listener, Listener(path) as successor:
        first = ipc(path)
        first.bind(listener.bind)
        first.remove()
        assert not path.exists()
        second = ipc(path)
        with Listener(path) as own:
            second.bind(own.bind)
        successor.bind()  # somebody else took the path meanwhile
        second.remove()
        assert path.exists()


def test_an_abstract_address_has_no_file() -> None:
    called: list[int] = []
    file = IpcFile("@name", mode=None, group=None)
    file.bind(lambda: called.append(1))
    file.remove()
    assert called


@pytest.fixture
def sticky(tmp_path: Path) -> Path:
    """As /tmp and /run/ztunnel-ipc are."""
    folder = tmp_path / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_a_link_in_a_sticky_folder_is_not_followed(sticky: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (sticky / "t").symlink_to(tmp_path / "elsewhere")
    for path in (sticky / "t/s", sticky / "t/deep/s"):
        with Listener(path) as listener, pytest.raises(LocalError, match=r"sticky/t is a symbolic link, made by"):
            ipc(path).bind(listener.bind)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to another user")
def test_a_folder_of_another_user_in_a_sticky_folder_is_not_used(sticky: Path) -> None:
    folder = sticky / "t"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    for path in (folder / "s", folder / "deep/s"):
        with Listener(path) as listener, pytest.raises(LocalError, match="sticky/t belongs to another user, nobody"):
            ipc(path).bind(listener.bind)
    assert not list(folder.iterdir())
    sticky.chmod(0o755)  # the control: root's own folder, where root alone can have let that user in
    with Listener(folder / "s") as listener:
        ipc(folder / "s").bind(listener.bind)


def test_an_own_folder_in_a_sticky_folder_is_used(sticky: Path) -> None:
    for _ in range(2):
        with Listener(sticky / "t/s") as listener:
            made = ipc(sticky / "t/s")
            made.bind(listener.bind)
            made.remove()
