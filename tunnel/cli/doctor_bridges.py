"""What `ztunnel doctor` looks at for bridges: can ports be opened, do servers answer. Nothing is changed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tunnel.cli.doctor_links import certificate, reach
from tunnel.cli.findings import Finding
from tunnel.config.values import tcp
from tunnel.errors import ZtunnelError

if TYPE_CHECKING:
    from tunnel.config.bridge_plan import BridgePlan, OwnPlan
    from tunnel.config.plan import Plan

_PATIENCE_S: Final = 1.0


def examine(plan: Plan) -> Iterator[Finding]:
    """Every bridge of this side. That its TLS files fit each other was looked at when the plan was made."""
    for bridge in plan.bridges:
        what = f"bridge {bridge.name}"
        for address in bridge.own.listen:
            yield _listen(what, bridge, address)
        for address in bridge.own.connect:
            yield _connect(what, address)
        if bridge.own.tls is not None:
            for file in (bridge.own.tls.cert, bridge.own.tls.ca):
                if file is not None:
                    yield certificate(what, file)


def _listen(what: str, bridge: BridgePlan[OwnPlan], address: str) -> Finding:
    if _listens(bridge):
        return Finding("ok", what, f"{address} is held by this bridge, which listens")
    if address.startswith("ipc://"):
        return _folder(what, address, Path(address.removeprefix("ipc://")).parent)
    from tunnel.local.words import why_bind_failed
    from tunnel.ports import bound

    try:
        bound(address).close()  # nobody is let in meanwhile, because nothing listens
    except ZtunnelError as error:
        return Finding("bad", what, f"{address}: {error}", "write an address of this machine")
    except OSError as error:
        remedy = "`ss -ltnp` shows who has it; or name another address in listen:"
        return Finding("bad", what, why_bind_failed(address, error.errno or 0).rstrip("."), remedy)
    return Finding("ok", what, f"{address} can be opened")


def _listens(bridge: BridgePlan[OwnPlan]) -> bool:
    """Does it run, with all its ports open?"""
    from tunnel.control import ask

    try:
        if bridge.runtime_dir.stat().st_uid != os.geteuid():
            return False
        return bool(ask(bridge.runtime_dir / bridge.control, "status", _PATIENCE_S)["state"] == "listening")
    except (ZtunnelError, OSError):
        return False


def _folder(what: str, address: str, folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Finding("ok", what, f"{address} can be opened")
    remedy = "run it as a user who may write there, or name another path"
    return Finding("bad", what, f"{address}: {there} may not be written", remedy)


def _connect(what: str, address: str) -> Finding:
    if not address.startswith("ipc://"):
        return reach(what, f"the server {address}", *tcp(address), remedy="is it on, and the port right?")
    path = address.removeprefix("ipc://")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PATIENCE_S)
        try:
            probe.connect(path)
        except OSError as error:
            return Finding("warn", what, f"the server {address} is not reached: {error.strerror}", "is it running?")
    return Finding("ok", what, f"the server {address} takes connections")
