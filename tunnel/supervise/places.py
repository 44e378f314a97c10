"""Where the runtime files lie, and who runs here.

One private folder (0700) a running side, `NAME.SIDE` under the runtime root: control sockets, supervisord's files,
logs, and two files of ours: `running.json` (what was started) and `lock`. supervisord holds the lock from its first to
its last moment, by the kernel's doing, so "is it running?" needs no pid that might be another process's by now.

Root looks after the sides of all users, and trusts none of their files: it reads a record as what a stranger wrote, and
becomes the side's user (`act_for`) before it looks at anything else there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import re
import shlex
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tunnel.errors import LocalError, NotRunningError, UsageError
from tunnel.limits import IPC_PATH_BYTES, PID_MOST, RECORD_BYTES
from tunnel.places import roots, runtime_root, user_name

LOGS: Final = "log"
DEVICE_SOCKET: Final = "device.sock"
SUPERVISOR_SOCKET: Final = "supervisor.sock"
_RECORD: Final = "running.json"
_LOCK: Final = "lock"
_UNTOLD: Final = ("folder", "owner")
"""Known from where a record lies, so not written in it."""
_LONGEST: Final = f"{SUPERVISOR_SOCKET}.{2**22}"
"""supervisord binds its socket under a name with its pid, then renames it."""
_UNIT: Final = re.compile(r"/(ztunnel@[\w.:\\-]+)\.service(?:/|$)", re.ASCII | re.MULTILINE)
_LATEST: Final = 1e12
"""Seconds of the wall clock; more is no time."""


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
    roots: dict[str, str] = field(default_factory=roots)
    """ZTUNNEL_... variables that lead to its folders, whatever the environment of a later command is."""
    owner: int = field(default_factory=os.geteuid)
    """The uid of the user whose folder it is; never read from the record."""

    def __str__(self) -> str:
        return f"{self.name} (side {self.side}, {self.table})"

    @property
    def alive(self) -> bool:
        return _held(self.folder, self.owner)


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
        _must_be_ours(folder.parent, or_roots=True)
        _must_be_ours(folder)
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
    fields = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(running).items() if k not in _UNTOLD}
    write_atomically(running.folder / _RECORD, json.dumps(fields))


def forget_record(folder: Path) -> None:
    """Before a start: what the last one wrote down is no longer true."""
    (folder / _RECORD).unlink(missing_ok=True)


def read_record(folder: Path) -> Running | None:
    """What was last started in this folder, alive or not; None where no sane record is there."""
    try:
        with _opened(folder, _RECORD) as (descriptor, owner):
            text = os.read(descriptor, RECORD_BYTES + 1)
        return None if len(text) > RECORD_BYTES else _sane(folder, owner, json.loads(text))
    except (OSError, ValueError, RecursionError):
        return None


def find_all(root: Path | None = None, *, dead_too: bool = False) -> list[Running]:
    """Every side that runs here for this user (for root: for anybody), by name; with `dead_too`, those that ran here
    last as well."""
    try:
        folders = sorted((root or runtime_root()).iterdir())
    except OSError:
        return []
    me = os.geteuid()
    found = [record for folder in folders if (record := read_record(folder)) and me in (0, record.owner)]
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


def act_for(running: Running) -> None:
    """From here on this process is the user whose side that is, and finds the folders that the side uses.

    For root, before it reads what that user wrote: a pid or a socket there then leads to nothing that this user could
    not reach without us. There is no way back. LocalError: that user has no account.
    """
    if running.owner != os.geteuid():
        _become(running.owner)
    os.environ.update(running.roots)


def unit_of(running: Running) -> str | None:
    """`ztunnel@NAME`, where systemd runs it: its supervisor is in the cgroup of that unit (so ask before it ends).

    NAME is the table's file; the table may call itself otherwise.
    """
    process = Path("/proc") / str(running.pid)
    with contextlib.suppress(OSError):
        if process.stat().st_uid == running.owner and (found := _UNIT.search((process / "cgroup").read_text())):
            return found[1]
    return None


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


def _become(uid: int) -> None:
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        raise LocalError(
            f"that side runs as uid {uid}, who has no account on this machine, so root does not look after it: "
            "give it one, or end its processes with kill."
        ) from None
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(uid)
    os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)
    for variable in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        os.environ.pop(variable, None)  # root's


@contextlib.contextmanager
def _opened(folder: Path, name: str) -> Iterator[tuple[int, int]]:
    """A file in a runtime folder, for reading, and the folder's owner. OSError: it is not a plain file of that owner.

    The folder may be anybody's: no link is followed, and a pipe is not waited for.
    """
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        owner = os.fstat(inside).st_uid
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=inside)
    finally:
        os.close(inside)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != owner:
            raise OSError(errno.EPERM, f"{folder / name} is not a plain file of the folder's owner")
        yield descriptor, owner
    finally:
        os.close(descriptor)


def _sane(folder: Path, owner: int, fields: Any) -> Running | None:
    """A record as `write_record` writes it, for this very folder."""
    match fields:
        case {
            "name": str(name),
            "side": str(side),
            "table": str(table),
            "pid": int(pid),
            "started": int() | float() as started,
            "roots": dict(said),
        }:
            told = {key: value for key in roots() if isinstance(value := said.get(key), str)}
            sane = (
                folder.name == f"{name}.{side}"
                and 1 < pid <= PID_MOST
                and 0 <= started <= _LATEST
                and all(map(os.path.isabs, (table, *told.values())))
            )
            if sane and (owner == os.geteuid() or "".join((name, side, table, *told.values())).isprintable()):
                return Running(folder, name, side, Path(table), pid, started, told, owner)
    return None


def _held(folder: Path, owner: int) -> bool:
    try:
        with _opened(folder, _LOCK) as (descriptor, found):
            if found != owner:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            return False
    except OSError:
        return False


def _must_be_ours(folder: Path, *, or_roots: bool = False) -> None:
    """Nobody else may own a folder that we put sockets into: in /tmp anybody could have made it first."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise LocalError(f"{folder} is not a folder: remove it, or set ZTUNNEL_RUNTIME_DIR.")
    if found.st_uid == os.geteuid() or (or_roots and found.st_uid == 0):
        return
    owner, remedy = user_name(found.st_uid), "run ztunnel as that user, or set ZTUNNEL_RUNTIME_DIR"
    running = None if or_roots else read_record(folder)
    if running is not None and running.alive:
        end = _stopping(running)
        raise LocalError(f"{running} is run by the user {owner} already: `{end}` ends it, as root or as {owner}.")
    if found.st_uid == 0:
        remedy = f"root removes it (`rm -r {shlex.quote(str(folder))}`), or set ZTUNNEL_RUNTIME_DIR"
    elif os.geteuid() == 0 and not or_roots:
        remedy += f"; nothing runs there, and `rm -r {shlex.quote(str(folder))}` makes room for root"
    raise LocalError(f"the runtime folder {folder} belongs to another user, {owner}: {remedy}.")


def _stopping(running: Running) -> str:
    """The command that ends it."""
    unit = unit_of(running)
    return f"systemctl stop {shlex.quote(unit)}" if unit else f"ztunnel down {running.name} --as {running.side}"
