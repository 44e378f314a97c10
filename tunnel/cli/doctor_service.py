"""What `ztunnel doctor` says of an installed table's unix sockets, as the unit `ztunnel@NAME` would meet them: it has a
/tmp of its own, sees no home, may write to few folders, and gives sockets to groups of its user only."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tunnel import places
from tunnel.cli.findings import Finding

if TYPE_CHECKING:
    from tunnel.config.plan import Plan

_HIDDEN: Final = {
    "/tmp": "PrivateTmp=",
    "/var/tmp": "PrivateTmp=",
    "/home": "ProtectHome=",
    "/root": "ProtectHome=",
    "/run/user": "ProtectHome=",
}
"""Folders that the unit does not share with applications, and by which of its settings."""
_WRITABLE: Final = ("/run/ztunnel", "/run/ztunnel-ipc", "/var/lib/ztunnel")
"""Its ReadWritePaths= and StateDirectory=."""


def examine(plan: Plan) -> Iterator[Finding]:
    """Every unix socket that this side makes. Nothing where no unit runs the table, or its user is not there."""
    name, account = places.instance(plan.table), places.service_user()
    if name is None or account is None:
        return
    unit = shlex.quote(f"ztunnel@{name}")
    findings = [finding for what, path in _sockets(plan) for finding in _place(what, path, unit)]
    for what, group in _groups(plan):
        findings += _group(what, group, account, unit)
    yield from findings or [Finding("ok", "service", f"{unit} may make the unix sockets of this table, if it has any")]


def _sockets(plan: Plan) -> Iterator[tuple[str, Path]]:
    """What it belongs to, and its path; not those in folders that the unit itself chooses."""
    own = (plan.runtime_dir, places.ipc_dir(plan.name))
    for what, address in _binds(plan):
        path = address.removeprefix("ipc://")
        if path != address and not path.startswith("@") and not any(map(Path(path).is_relative_to, own)):
            yield what, Path(os.path.realpath(path))


def _binds(plan: Plan) -> Iterator[tuple[str, str]]:
    for route in plan.routes:
        yield from ((f"route {route.name}", end.address) for end in route.end.endpoints if end.method == "bind")
    for bridge in plan.bridges:
        yield from ((f"bridge {bridge.name}", end.address) for end in bridge.zmq.endpoints if end.method == "bind")
        yield from ((f"bridge {bridge.name}", address) for address in bridge.own.listen)
    yield from (("listen", listen.address) for listen in plan.listens)


def _groups(plan: Plan) -> Iterator[tuple[str, str]]:
    for route in plan.routes:
        if route.end.group is not None:
            yield f"route {route.name}", route.end.group
    for listen in plan.listens:
        if listen.group is not None:
            yield "listen", listen.group


def _place(what: str, path: Path, unit: str) -> Iterator[Finding]:
    if any(map(path.is_relative_to, _WRITABLE)):
        return
    for folder, setting in _HIDDEN.items():
        if path.is_relative_to(folder):
            remedy = f"write a relative path, as ipc://{path.name}: it then lies in /run/ztunnel-ipc"
            yield Finding("bad", what, f"{path}: {setting} of {unit} hides its {folder} from applications", remedy)
            return
    remedy = f"ReadWritePaths={path.parent} by `systemctl edit {unit}`, or a relative path: it lies in /run/ztunnel-ipc"
    yield Finding("warn", what, f"{path}: {unit} may write there only where it is told so", remedy)


def _group(what: str, group: str, account: pwd.struct_passwd, unit: str) -> Iterator[Finding]:
    number = (
        int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    )  # the plan says when there is no such group
    if number not in os.getgrouplist(account.pw_name, account.pw_gid):
        found = f"the service's user {account.pw_name} is no member of {group}, so the socket cannot be given to it"
        remedy = f"`usermod -aG {shlex.quote(group)} {account.pw_name}`, then `systemctl restart {unit}`"
        yield Finding("bad", what, found, remedy)
