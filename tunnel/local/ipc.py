"""The files of `ipc://` binds: made with the mode and group that the table says, never taken from a living process.

libzmq removes whatever socket file lies at the path it binds, living or not, and leaves its own behind at close
(measured, 4.3.5). So both are done here. Knows files and unix sockets only.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from tunnel.errors import LocalError
from tunnel.limits import IPC_PATH_BYTES
from tunnel.places import user_name

_PUBLIC_FOLDER = 0o755
_PRIVATE_FOLDER = 0o700


class IpcFile:
    """The socket file of one bind. An abstract address (`@name`) has none, and then nothing is done."""

    def __init__(self, path: str, *, mode: int | None, group: str | None, private: bool = False) -> None:
        self.path = path
        self.abstract = path.startswith("@")
        self._mode = mode
        self._group = group
        self._private = private
        self._made: tuple[int, int, int] | None = None

    def __repr__(self) -> str:
        return f"<IpcFile {self.path}{' made' if self._made else ''}>"

    def bind(self, bind: Callable[[], object]) -> None:
        """Clear the way, call `bind`, give the file its mode and group. Raises LocalError, in words; zmq.ZMQError
        from `bind` passes through."""
        if self.abstract:
            bind()
            return
        self._check_length()
        self._make_folder()
        self._clear_the_way()
        group_id = _group_id(self._group)
        # until mode and group are what the table says, the file is this user's alone
        before = os.umask(0o177) if self._mode is not None or group_id is not None else None
        try:
            bind()
        finally:
            if before is not None:
                os.umask(before)
        self._made = _identity(self.path)
        self._set_access(group_id)

    def remove(self) -> None:
        """Remove the file if it is still the one that was made here."""
        made, self._made = self._made, None
        if made is None:
            return
        with contextlib.suppress(OSError):
            if _identity(self.path) == made:
                os.unlink(self.path)

    def _check_length(self) -> None:
        length = len(os.fsencode(self.path))
        if length > IPC_PATH_BYTES:
            raise LocalError(
                f"The path {self.path} has {length} bytes, and a unix socket's may have {IPC_PATH_BYTES}: "
                "choose a shorter one."
            )

    def _make_folder(self) -> None:
        folder = Path(self.path).parent
        mode = _PRIVATE_FOLDER if self._private else _PUBLIC_FOLDER
        try:
            for parent in reversed((folder, *folder.parents)):
                missing = not parent.exists()
                if missing:
                    parent.mkdir(mode=mode, exist_ok=True)
                _refuse_if_planted(parent)
                if missing:  # the umask may have taken away what the applications need to get at the socket
                    parent.chmod(mode)
        except OSError as error:
            raise LocalError(
                f"The folder {folder} could not be made: {error.strerror}. Make it, or choose another path."
            ) from None

    def _clear_the_way(self) -> None:
        """Remove a socket file that nobody listens on; anything else in the way is an error."""
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LocalError(f"{self.path} could not be looked at: {error.strerror}.") from None
        if not stat.S_ISSOCK(found.st_mode):
            raise LocalError(f"{self.path} is there already and is no socket: remove it, or choose another path.")
        self._refuse_if_alive()
        try:
            os.unlink(self.path)
        except OSError as error:
            raise LocalError(f"{self.path} is stale and could not be removed: {error.strerror}.") from None

    def _refuse_if_alive(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            code = probe.connect_ex(self.path)
        if code in (errno.ECONNREFUSED, errno.ENOENT):
            return
        if code in (errno.EACCES, errno.EPERM):
            raise LocalError(f"{self.path} belongs to another user: remove it, or choose another path.")
        raise LocalError(f"{self.path} is in use: another process, or another route, listens on it.")

    def _set_access(self, group_id: int | None) -> None:
        try:
            if group_id is not None:
                os.chown(self.path, -1, group_id)
            if self._mode is not None or group_id is not None:
                os.chmod(self.path, 0o660 if self._mode is None else self._mode)
        except OSError as error:
            what = f"group {self._group}" if group_id is not None else "mode"
            raise LocalError(
                f"{self.path} could not be given its {what}: {error.strerror}. Is this user a member of the group?"
            ) from None


def _refuse_if_planted(folder: Path) -> None:
    """In a sticky folder (/tmp, /run/ztunnel-ipc) anybody may have made it first, and could put another socket in
    the place of ours."""
    if not folder.parent.stat().st_mode & stat.S_ISVTX:
        return
    found = folder.lstat()
    owner, remedy = user_name(found.st_uid), "remove it, or choose another path."
    if stat.S_ISLNK(found.st_mode):
        raise LocalError(f"The folder {folder} is a symbolic link, made by {owner}: {remedy}")
    if found.st_uid not in (os.geteuid(), 0):
        raise LocalError(f"The folder {folder} belongs to another user, {owner}: {remedy}")


def _identity(path: str) -> tuple[int, int, int]:
    """Which file lies there. The time belongs to it: the number of a removed file is given to the next one."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise LocalError(f"There is no group {group} on this machine: create it, or name another one.") from None
