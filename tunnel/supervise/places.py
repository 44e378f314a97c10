"""Where the runtime files lie, and who runs here.

One private folder (0700) a running side, `NAME.SIDE` under the runtime root: control sockets, supervisord's files,
logs, and two files of ours: `running.json` (what was started) and `lock`. supervisord holds the lock from its first to
its last moment, by the kernel's doing, so "is it running?" needs no pid that might be another process's by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tunnel.errors import LocalError, NotRunningError, UsageError
from tunnel.limits import IPC_PATH_BYTES
from tunnel.places import runtime_root

LOGS: Final = "log"
DEVICE_SOCKET: Final = "device.sock"
SUPERVISOR_SOCKET: Final = "supervisor.sock"
_RECORD: Final = "running.json"
_LOCK: Final = "lock"
_LONGEST: Final = f"{SUPERVISOR_SOCKET}.{2**22}"
"""supervisord binds its socket under a name with its pid, then renames it."""


@dataclass(frozen=True, slots=True)
class Running:
    """A side that was started here: what `up` wrote down. `folder` is its runtime folder."""

    folder: Path
    name: str
    side: str
    table: Path
    pid: int
    """supervisord's."""
    started: float
    """Wall clock, for people."""

    def __str__(self) -> str:
        return f"{self.name} (side {self.side}, {self.table})"

    @property
    def alive(self) -> bool:
        return _held(self.folder / _LOCK)


def prepare(folder: Path) -> None:
    """Make the runtime folder, private to this user. LocalError: it cannot be made, or somebody else owns it."""
    if len(os.fsencode(folder / _LONGEST)) > IPC_PATH_BYTES:
        raise UsageError(
            f"{folder}: too long for the unix sockets in it (at most {IPC_PATH_BYTES} bytes with their names): "
            "set ZTUNNEL_RUNTIME_DIR to a shorter folder."
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o755 if os.geteuid() == 0 else 0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        for part in (folder.parent, folder):
            _must_be_ours(part)
        folder.chmod(0o700)
        (folder / LOGS).mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise LocalError(
            f"the runtime folder {folder} cannot be used: {error.strerror}. "
            "Run it as a user who may write there, or set ZTUNNEL_RUNTIME_DIR."
        ) from error


def claim(folder: Path, table: Path) -> int:
    """Take the lock of a prepared folder: a descriptor that holds it while any process keeps it open.

    LocalError: this table is up already. UsageError: another table of the same name and side is.
    """
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(10):  # a `status` that looks at the same moment holds it for microseconds
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        time.sleep(0.02)
    os.close(lock)
    other = read_record(folder)
    if other is None:
        raise LocalError(f"another start of the same table is under way in {folder}: try again in a moment.")
    if other.table != table:
        raise UsageError(
            f"a table named {other.name} runs here already as side {other.side}, from {other.table}: "
            f"give {table} another name (`name:`), or end that one with `ztunnel down {other.table}`."
        )
    raise LocalError(
        f"{other} is up already, pid {other.pid}: `ztunnel status` shows it, `ztunnel reload` takes in a changed table."
    )


def write_record(running: Running) -> None:
    """Write down what runs in a folder that we hold the lock of."""
    fields = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(running).items() if k != "folder"}
    write_atomically(running.folder / _RECORD, json.dumps(fields))


def forget_record(folder: Path) -> None:
    """Before a start: what the last one wrote down is no longer true."""
    (folder / _RECORD).unlink(missing_ok=True)


def read_record(folder: Path) -> Running | None:
    """What was last started in this folder, alive or not."""
    try:
        fields = json.loads((folder / _RECORD).read_text())
        fields["table"] = Path(fields["table"])
        return Running(folder=folder, **fields)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def find_all(root: Path | None = None, *, dead_too: bool = False) -> list[Running]:
    """Every side that runs here for this user, by name; with `dead_too`, those that ran here last as well."""
    try:
        folders = sorted((root or runtime_root()).iterdir())
    except OSError:
        return []
    found = [record for folder in folders if (record := read_record(folder))]
    return [record for record in found if dead_too or record.alive]


def find(table: str | None, side: str | None = None, *, dead_too: bool = False) -> Running:
    """The one running side that TABLE (a file, a name, or nothing) and `--as` mean.

    NotRunningError: there is none. UsageError: there are several.
    """
    everything = find_all(dead_too=dead_too)
    chosen = [r for r in everything if (table is None or _means(r, table)) and (side is None or r.side == side)]
    local = Path("ztunnel.yaml")
    if len(chosen) > 1 and table is None and local.is_file():  # as `up` would choose
        chosen = [r for r in chosen if _means(r, str(local))] or chosen
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        what = "no table is running" if table is None else f"{table} is not running"
        as_side = f" as side {side}" if side else ""
        others = f" Running here: {', '.join(f'{r.name} (side {r.side})' for r in everything)}." if everything else ""
        raise NotRunningError(f"{what} here{as_side} for this user: `ztunnel up` starts it.{others}")
    if len({r.table for r in chosen}) == 1:
        sides = " or ".join(f"--as {r.side}" for r in chosen)
        raise UsageError(f"{chosen[0].name} runs here with several sides: say {sides}.")
    names = ", ".join(f"{r.name} (side {r.side})" for r in chosen)
    raise UsageError(f"several tables run here: name one of them ({names}).")


def write_atomically(path: Path, text: str) -> None:
    """Whoever reads `path` sees the old text or the new one, never half of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def wait_until_gone(running: Running, timeout_s: float) -> bool:
    """Wait for the lock to come free; True when it did."""
    deadline = time.monotonic() + timeout_s
    while running.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _means(running: Running, table: str) -> bool:
    if os.sep in table or Path(table).is_file():
        return Path(table).resolve() == running.table
    return table == running.name


def _held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    return False


def _must_be_ours(folder: Path) -> None:
    """Nobody else may own a folder that we put sockets into: in /tmp anybody could have made it first."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise LocalError(f"{folder} is not a folder: remove it, or set ZTUNNEL_RUNTIME_DIR.")
    if found.st_uid not in (os.geteuid(), 0):
        raise LocalError(
            f"the runtime folder {folder} belongs to another user (uid {found.st_uid}): "
            "run ztunnel as that user, or set ZTUNNEL_RUNTIME_DIR."
        )
