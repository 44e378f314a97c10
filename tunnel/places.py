"""Where things are on this box: a side's private runtime folder, its state, the folder of applications' ipc sockets.

    runtime   $ZTUNNEL_RUNTIME_DIR, else /run/ztunnel (root), $XDG_RUNTIME_DIR/ztunnel,
              /run/ztunnel where this user may make a folder in it, /tmp/ztunnel-UID; then /NAME.SIDE
    ipc       $ZTUNNEL_IPC_DIR, else $ZTUNNEL_RUNTIME_DIR/ipc, /run/ztunnel-ipc (root), $XDG_RUNTIME_DIR/ztunnel-ipc,
              /run/ztunnel-ipc where this user may make a folder in it, /tmp/ztunnel-ipc-UID; then /NAME
    state     $ZTUNNEL_STATE_DIR, else (root) /var/lib/ztunnel, or /var/lib/ztunnel-root where another user owns that;
              $XDG_STATE_HOME/ztunnel, /var/lib/ztunnel where it is this user's, ~/.local/state/ztunnel; then /NAME.SIDE

And where an installed ztunnel has its tables (/etc/ztunnel), and which user its service runs as (ztunnel).
Only names paths and users; makes nothing.
"""

from __future__ import annotations

import hashlib
import os
import pwd
from pathlib import Path
from typing import Final

from tunnel.errors import UsageError
from tunnel.limits import IPC_PATH_BYTES

INSTALLED: Final = Path("/etc/ztunnel")
"""Where the systemd unit `ztunnel@NAME` finds NAME.yaml."""
SERVICE_USER: Final = "ztunnel"
"""The system user that the unit runs as."""
_RUN: Final = Path("/run")
_STATE: Final = Path("/var/lib/ztunnel")
_ROOTS_STATE: Final = Path("/var/lib/ztunnel-root")
"""Root writes nothing in a folder that the service's user owns, who could lead it elsewhere by links."""
_UNITS: Final = tuple(
    Path(folder) / "systemd/system/ztunnel@.service"
    for folder in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)
"""systemd.unit(5): where the unit may lie."""
_LONGEST = len("/supervisord.sock.12345678")
"""What the longest socket in the runtime folder is called."""


def runtime_root() -> Path:
    """The folder with one folder for each side that runs here."""
    return _root("ZTUNNEL_RUNTIME_DIR", "ztunnel")


def runtime_dir(name: str, side: str) -> Path:
    """The private folder of one side of a table. Raises UsageError where sockets in it would have too long a path."""
    folder = runtime_root() / f"{name}.{side}"
    if len(os.fsencode(folder)) + _LONGEST > IPC_PATH_BYTES:
        raise UsageError(
            f"the runtime folder {folder} is too long for the sockets in it (a path has {IPC_PATH_BYTES} bytes); "
            "set ZTUNNEL_RUNTIME_DIR to a shorter one, or give the table a shorter name."
        )
    return folder


def state_dir(name: str, side: str) -> Path:
    """Where one side of a table keeps what must outlive its processes and the machine's restarts: spools."""
    return _state_root() / f"{name}.{side}"


def ipc_dir(name: str) -> Path:
    """The folder of applications' relative ipc:// sockets, when the table names none."""
    if "ZTUNNEL_IPC_DIR" not in os.environ and os.environ.get("ZTUNNEL_RUNTIME_DIR"):
        return runtime_root() / "ipc" / name
    return _root("ZTUNNEL_IPC_DIR", "ztunnel-ipc") / name


def roots() -> dict[str, str]:
    """The three folders as variables: a process that is given them finds what this one has made."""
    ipc = ipc_dir("x").parent
    return {
        "ZTUNNEL_RUNTIME_DIR": str(runtime_root()),
        "ZTUNNEL_IPC_DIR": str(ipc),
        "ZTUNNEL_STATE_DIR": str(_state_root()),
    }


def local_path(folder: Path, route: str) -> Path:
    """The socket file behind `local` of a route, in the runtime folder of its side."""
    return _socket_path(folder, route, ".ipc")


def receipts_path(folder: Path, route: str) -> Path:
    """The socket file of its desk, where bridges get receipts (tunnel/receipts.py)."""
    return _socket_path(folder, route, ".desk")


def _socket_path(folder: Path, route: str, suffix: str) -> Path:
    path = folder / f"{route}{suffix}"
    if len(os.fsencode(path)) <= IPC_PATH_BYTES:
        return path
    return folder / f"{hashlib.sha256(route.encode()).hexdigest()[:12]}{suffix}"


def is_installed(path: Path) -> bool:
    """Whether it is /etc/ztunnel, or lies below."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(INSTALLED))


def service_account(path: Path) -> pwd.struct_passwd | None:
    """Whom root gives the secret files that it makes at `path`: for /etc/ztunnel the service's user; else None."""
    return service_user() if os.geteuid() == 0 and is_installed(path) else None


def service_user() -> pwd.struct_passwd | None:
    """The account that the unit runs as; None where there is none."""
    try:
        return pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None


def has_unit() -> bool:
    """Whether systemd's unit `ztunnel@NAME` is installed."""
    return any(unit.exists() for unit in _UNITS)


def instance(table: Path) -> str | None:
    """NAME, where the unit `ztunnel@NAME` runs that table: /etc/ztunnel/NAME.yaml, and not what lies deeper."""
    real = Path(os.path.realpath(table))
    return real.stem if real.suffix == ".yaml" and str(real.parent) == os.path.realpath(INSTALLED) else None


def user_name(uid: int) -> str:
    """`ann`, or `uid 4711` where nobody is called so."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _state_root() -> Path:
    if said := os.environ.get("ZTUNNEL_STATE_DIR"):
        return Path(os.path.abspath(said))
    if os.geteuid() == 0:
        return _STATE if not os.path.lexists(_STATE) or _is_ours(_STATE) else _ROOTS_STATE
    if home := os.environ.get("XDG_STATE_HOME"):
        return Path(home) / "ztunnel"
    return _STATE if _is_ours(_STATE) else Path.home() / ".local/state/ztunnel"


def _root(variable: str, name: str) -> Path:
    if said := os.environ.get(variable):
        return Path(os.path.abspath(said))
    if os.geteuid() == 0:
        return _RUN / name
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / name
    if os.access(_RUN / name, os.W_OK | os.X_OK):
        return _RUN / name
    return Path("/tmp") / f"{name}-{os.geteuid()}"


def _is_ours(folder: Path) -> bool:
    try:
        return folder.stat().st_uid == os.geteuid()
    except OSError:
        return False
