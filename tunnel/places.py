"""Where things are on this box: a side's private runtime folder, its state, the folder of applications' ipc sockets.

    runtime   $ZTUNNEL_RUNTIME_DIR, else /run/ztunnel (root), $XDG_RUNTIME_DIR/ztunnel,
              /tmp/ztunnel-UID; then /NAME.SIDE
    ipc       $ZTUNNEL_IPC_DIR, else $ZTUNNEL_RUNTIME_DIR/ipc, /run/ztunnel-ipc (root), $XDG_RUNTIME_DIR/ztunnel-ipc,
              /tmp/ztunnel-ipc-UID; then /NAME

    state     $ZTUNNEL_STATE_DIR, else /var/lib/ztunnel (root), $XDG_STATE_HOME/ztunnel, ~/.local/state/ztunnel;
              then /NAME.SIDE

Only names paths; makes nothing.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tunnel.errors import UsageError
from tunnel.limits import IPC_PATH_BYTES

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


def local_path(folder: Path, route: str) -> Path:
    """The socket file behind `local` of a route, in the runtime folder of its side."""
    path = folder / f"{route}.ipc"
    if len(os.fsencode(path)) <= IPC_PATH_BYTES:
        return path
    return folder / f"{hashlib.sha256(route.encode()).hexdigest()[:12]}.ipc"


def _state_root() -> Path:
    if said := os.environ.get("ZTUNNEL_STATE_DIR"):
        return Path(os.path.abspath(said))
    if os.geteuid() == 0:
        return Path("/var/lib/ztunnel")
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local/state") / "ztunnel"


def _root(variable: str, name: str) -> Path:
    if said := os.environ.get(variable):
        return Path(os.path.abspath(said))
    if os.geteuid() == 0:
        return Path("/run") / name
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / name
    return Path("/tmp") / f"{name}-{os.geteuid()}"
