"""`ztunnel doctor`: one small check after the other, each with what it found and what to do. Nothing is changed."""

from __future__ import annotations

import os
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tunnel.cli import doctor_bridges, doctor_links, doctor_service
from tunnel.cli.findings import Finding
from tunnel.errors import ZtunnelError

if TYPE_CHECKING:
    from tunnel.config.plan import Plan

_LIBZMQ: Final = (4, 3, 3)
"""Older ones have holes that a stranger at the port can use (CVE-2020-15166 and others)."""
_DESCRIPTORS: Final = 4096
_OLDEST_CLOCK: Final = 1_735_689_600
"""2025-01-01: a clock before that was never set."""


def examine(table: str | None, side: str | None) -> list[Finding]:
    """Every finding about this machine, and about a table's side when there is one."""
    plan, finding = _read(table, side)  # first, as it may become the side's user
    findings = [check() for check in MACHINE]
    if finding:
        findings.append(finding)
    if plan is not None:
        findings += _folder(plan.runtime_dir), *_key_files(plan)
        findings += *doctor_links.examine(plan), *doctor_bridges.examine(plan), *doctor_service.examine(plan)
    else:
        from tunnel.places import runtime_root

        findings.append(_folder(runtime_root()))
    return findings


def _versions() -> Finding:
    names = ("pyzmq", "pydantic", "PyYAML", "typer", "rich", "supervisor", "paramiko", "websockets")
    missing, found = [], [f"Python {sys.version.split()[0]}"]
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(
            "bad", "packages", f"missing: {', '.join(missing)}", "install ztunnel again, with its dependencies"
        )
    return Finding("ok", "packages", ", ".join(found))


def _libzmq() -> Finding:
    import zmq

    version = ".".join(map(str, zmq.zmq_version_info()))
    if not zmq.has("curve"):
        return Finding(
            "bad", "libzmq", f"{version} without CURVE", "install a pyzmq whose libzmq has CURVE (the wheels do)"
        )
    if zmq.zmq_version_info() < _LIBZMQ:
        return Finding("bad", "libzmq", f"{version}, with known holes", "install libzmq 4.3.5 or newer")
    return Finding("ok", "libzmq", f"{version} with CURVE")


def _pump() -> Finding:
    try:
        from tunnel import pump
    except ImportError as error:
        return Finding("bad", "pump", f"does not load: {error}", "install ztunnel again")
    if pump.COMPILED:
        return Finding("ok", "pump", "compiled")
    remedy = "install a C compiler and Python's headers, then install ztunnel again"
    return Finding("warn", "pump", "pure Python: right, but several times slower", remedy)


def _loop() -> Finding:
    try:
        return Finding("ok", "uvloop", metadata.version("uvloop"))
    except metadata.PackageNotFoundError:
        return Finding("warn", "uvloop", "missing: asyncio's own loop is used, somewhat slower", "install uvloop")


def _descriptors() -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= _DESCRIPTORS:
        return Finding("ok", "descriptors", f"{'no' if hard == resource.RLIM_INFINITY else hard} limit")
    remedy = f"raise the hard limit to {_DESCRIPTORS} (ulimit -Hn, LimitNOFILE=): each peer needs one"
    return Finding("warn", "descriptors", f"at most {hard}", remedy)


def _clock() -> Finding:
    if time.time() < _OLDEST_CLOCK:
        return Finding("warn", "clock", f"says {time.strftime('%Y-%m-%d')}", "set it: the times in the logs are wrong")
    return Finding("ok", "clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))


MACHINE: Final[tuple[Callable[[], Finding], ...]] = (_versions, _libzmq, _pump, _loop, _descriptors, _clock)


def _read(table: str | None, side: str | None) -> tuple[Plan | None, Finding | None]:
    from tunnel.cli.pick import other_users_side, side_meant, table_file
    from tunnel.config import read_plan

    other = other_users_side(table, side)  # what it would meet is then seen with that user's eyes
    try:
        file = table_file(table) if other is None else other.table
    except ZtunnelError as error:
        if table is None:
            return None, None
        return None, Finding("bad", "table", str(error), "name the table's file")
    try:
        plan = read_plan(file, side_meant(side) if other is None else other.side)
        if other is None:
            other_users_side(str(file), plan.side)
    except ZtunnelError as error:
        return None, Finding("bad", "table", str(error), f"`ztunnel check {file}` tells it line by line")
    return plan, Finding("ok", "table", f"{file}, side {plan.side}")


def _folder(folder: Path) -> Finding:
    """Could `up` use it? Looked at without making anything."""
    from tunnel.limits import IPC_PATH_BYTES
    from tunnel.places import user_name

    there = next(p for p in (folder, *folder.parents) if p.exists())
    found = there.stat()
    elsewhere = "run it as a user who may write there, or set ZTUNNEL_RUNTIME_DIR"
    if len(os.fsencode(folder)) + len("/supervisor.sock.4194304") > IPC_PATH_BYTES:
        return Finding(
            "bad", "runtime folder", f"{folder}: too long for unix sockets", "set ZTUNNEL_RUNTIME_DIR shorter"
        )
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding("bad", "runtime folder", f"{there} may not be written", elsewhere)
    if there == folder and found.st_uid not in (os.geteuid(), 0):
        return Finding("bad", "runtime folder", f"{folder} belongs to {user_name(found.st_uid)}", elsewhere)
    return Finding("ok", "runtime folder", str(folder))


def _key_files(plan: Plan) -> Iterator[Finding]:
    """`read_plan` refuses a key that others may read; what is left is the folder around it."""
    from tunnel.places import service_account

    beside = (*plan.table.parent.glob("*.key_secret"), *plan.table.parent.glob("*/*.key_secret"))
    for file in beside:
        account = service_account(file)
        if account and file.stat().st_uid != account.pw_uid:
            found = f"the service runs as {account.pw_name} and cannot read {file}"
            yield Finding("warn", "keys", found, f"chown {account.pw_name} {shlex.quote(str(file))}")
            return
    for folder in {file.parent for file in beside}:
        if folder.stat().st_mode & 0o022:
            yield Finding("bad", "keys", f"others may write to {folder}", f"chmod go-w {folder}")
            return
    yield Finding("ok", "keys", f"the secret key of {plan.side} is held here, and private")
