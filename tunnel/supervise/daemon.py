"""The private supervisord of one side: its configuration, its start, and what it is asked over XML-RPC.

It listens on a unix socket in the private runtime folder and nowhere else. It starts and stops processes; starting
again what died is the keeper's (`autorestart=false`, `startretries=0`): supervisord itself gives up after a few tries,
or never pauses, depending on how long the process lived.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tunnel.errors import LocalError, NotRunningError, UsageError
from tunnel.limits import DOWN_S, KIB, PROCESS_LOG_BACKUPS, PROCESS_LOG_BYTES
from tunnel.programs import KEEPER, PROGRAMS, Program, keeper, programs
from tunnel.supervise import places
from tunnel.supervise.child import die_with_parent
from tunnel.supervise.places import Running
from tunnel.supervise.rpc import Refused, Rpc

if TYPE_CHECKING:
    from tunnel.config.plan import Plan

CONFIGURATION: Final = "supervisord.conf"
OUTPUT: Final = "log/supervisord.out"
"""What supervisord prints before it has a log."""

_OF_A_PYTHON: Final = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
"""Whatever modules the caller uses, ours come from where we are."""

_HEAD: Final = """\
; Written by ztunnel at every `up` and `reload`: changes made here are lost.
[unix_http_server]
file=supervisor.sock
chmod=0600

[supervisord]
nodaemon=true
silent=true
identifier=ztunnel
logfile=log/supervisord.log
logfile_maxbytes={log_bytes}
logfile_backups=1
pidfile=supervisord.pid
nocleanup=true
minfds=64
minprocs=1
{user}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
_KEEPER: Final = """
[eventlistener:keeper]
command=%(ENV_ZTUNNEL_PYTHON)s -P -m tunnel.supervise.child keeper {fingerprint}
events=PROCESS_STATE
buffer_size=1024
priority=1
autorestart=true
startsecs=1
startretries=1000000
stopwaitsecs={stop_wait_s}
stderr_logfile=log/keeper.log
stderr_logfile_maxbytes={log_bytes}
stderr_logfile_backups=1
stdout_logfile=NONE
"""
_PROGRAM: Final = """
[program:{name}]
command=%(ENV_ZTUNNEL_PYTHON)s -P -m tunnel.supervise.child {name} {fingerprint}
priority={priority}
autostart=true
autorestart=false
startsecs=0
startretries=0
stopsignal=TERM
stopwaitsecs={stop_wait_s}
killasgroup=true
redirect_stderr=true
stdout_logfile=log/{name}.log
stdout_logfile_maxbytes={log_bytes}
stdout_logfile_backups={log_backups}
"""


def configuration(wanted: Sequence[Program]) -> str:
    """supervisord's file. Every path in it is relative to the runtime folder, where supervisord runs."""
    user = "user=root\n" if os.geteuid() == 0 else ""  # else it warns at every start
    parts = [_HEAD.format(log_bytes=PROCESS_LOG_BYTES, user=user)]
    own = keeper()
    parts.append(_KEEPER.format(fingerprint=own.fingerprint, stop_wait_s=own.stop_wait_s, log_bytes=PROCESS_LOG_BYTES))
    for program in wanted:
        parts.append(
            _PROGRAM.format(
                name=program.name,
                fingerprint=program.fingerprint,
                priority=program.order,
                stop_wait_s=program.stop_wait_s,
                log_bytes=PROCESS_LOG_BYTES,
                log_backups=PROCESS_LOG_BACKUPS,
            )
        )
    return "".join(parts)


def start(plan: Plan, *, follow: bool) -> tuple[Running, subprocess.Popen[bytes]]:
    """Start a plan's supervisord in a session of its own; it starts the processes.

    `follow`: it ends, in order, when this process dies in whatever way. Otherwise it outlives us and our terminal.
    LocalError: the runtime folder cannot be used, or the table is up already. UsageError: another one of its name is.
    """
    folder = plan.runtime_dir
    places.prepare(folder)
    _let_the_last_one_end(folder, plan.table)
    lock = places.claim(folder, plan.table)
    try:
        places.forget_record(folder)
        _end_orphans(folder, programs(plan))
        (folder / places.SUPERVISOR_SOCKET).unlink(missing_ok=True)  # we hold the lock: it is stale
        (folder / "keeper.json").unlink(missing_ok=True)
        _write_files(folder, programs(plan))
        process = _spawn(folder, lock, follow=follow)
        running = Running(folder, plan.name, plan.side, plan.table, process.pid, time.time())
        places.write_record(running)
    except OSError as error:
        raise LocalError(f"{folder}: the supervisor could not be started: {error.strerror or error}.") from error
    finally:
        os.close(lock)  # supervisord has it now
    return running, process


def _write_files(folder: Path, wanted: Sequence[Program]) -> None:
    table = {p.name: asdict(p) for p in (keeper(), *wanted)}
    places.write_atomically(folder / PROGRAMS, json.dumps(table, indent=1))
    places.write_atomically(folder / CONFIGURATION, configuration(wanted))


def _spawn(folder: Path, lock: int, *, follow: bool) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_A_PYTHON}
    environment = {**inherited, "ZTUNNEL_PYTHON": shlex.quote(sys.executable), **keeper().environment}
    with (folder / OUTPUT).open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", CONFIGURATION],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches us only; a closed terminal reaches nobody
            pass_fds=(lock,),
            preexec_fn=(lambda: die_with_parent(parent)) if follow else None,
        )


def _let_the_last_one_end(folder: Path, table: Path) -> None:
    """One that is on its way out (its `up` was killed, or `down` is under way) is waited for."""
    last = places.read_record(folder)
    if last is None or last.table != table or not last.alive:
        return
    deadline = time.monotonic() + DOWN_S
    while last.alive and time.monotonic() < deadline:
        with suppress(NotRunningError):  # it has closed its socket already, or not opened it yet
            # Twice: a signal that came just now is looked at only after the first question has woken supervisord.
            if not (Supervisor(last).shutting_down() or Supervisor(last).shutting_down()):
                return  # it runs: `claim` says so
        time.sleep(0.05)


def _end_orphans(folder: Path, wanted: Sequence[Program]) -> None:
    """Nobody supervises in this folder (we hold its lock): a process that still answers here lost its supervisor."""
    from tunnel.control import ask

    for program in wanted:
        if program.control is None:
            continue
        try:
            pid = ask(folder / program.control, "status").get("pid")
            ask(folder / program.control, "stop")
        except NotRunningError:
            continue
        deadline = time.monotonic() + program.stop_wait_s
        while _answers(folder / program.control):
            if time.monotonic() > deadline:
                raise LocalError(
                    f"{program.name} (pid {pid}) of an earlier start still runs and does not end: kill {pid}."
                )
            time.sleep(0.1)


def _answers(path: Path) -> bool:
    from tunnel.control import ask

    try:
        ask(path, "status")
    except NotRunningError:
        return False
    return True


class Supervisor:
    """What a running supervisord is asked. NotRunningError when it does not answer."""

    def __init__(self, running: Running, timeout_s: float = 2.0) -> None:
        self.running = running
        self._rpc = Rpc(running.folder / places.SUPERVISOR_SOCKET, timeout_s)

    def processes(self) -> list[dict[str, Any]]:
        """supervisord's own account (supervisor/rpcinterface.py, getAllProcessInfo), the keeper last."""
        found: list[dict[str, Any]] = self._rpc("getAllProcessInfo")
        return sorted(found, key=lambda p: (p["name"] == KEEPER, p["name"]))

    def shutting_down(self) -> bool:
        try:
            return bool(self._rpc("getState")["statename"] != "RUNNING")
        except Refused as refused:
            return refused.fault == Refused.SHUTDOWN_STATE

    def shut_down(self) -> None:
        """Begin an orderly stop of everything; `places.wait_until_gone` waits for its end."""
        try:
            self._rpc("shutdown")
        except Refused as refused:
            if refused.fault != Refused.SHUTDOWN_STATE:
                raise
        except NotRunningError:
            if not self.running.alive:
                return
            try:
                os.kill(self.running.pid, signal.SIGTERM)
            except ProcessLookupError:
                return
            except PermissionError:
                raise LocalError(
                    f"{self.running} does not answer, and pid {self.running.pid}, which its record names as its "
                    "supervisor, is another user's process: that one is left alone."
                ) from None

    def restart(self, name: str) -> None:
        """Stop one process in order, then start it. UsageError: there is none of this name."""
        known = {p["name"]: p for p in self.processes()}
        if name not in known:
            raise UsageError(f"there is no process {name} in {self.running}; there are {', '.join(known)}.")
        patience = json.loads((self.running.folder / PROGRAMS).read_text())[name]["stop_wait_s"] + 5.0
        with suppress(Refused):  # it was not running
            self._rpc("stopProcess", name, True, timeout_s=patience)
        try:
            self._rpc("startProcess", name, False)
        except Refused as refused:
            if refused.fault != Refused.ALREADY_STARTED:
                raise

    def take_in(self, wanted: Sequence[Program]) -> dict[str, list[str]]:
        """Bring the running set of processes to `wanted`: only what was added, changed or removed is touched."""
        _write_files(self.running.folder, wanted)
        ((added, changed, removed),) = self._rpc("reloadConfig")
        for name in (*removed, *changed):
            self._rpc("stopProcessGroup", name, timeout_s=DOWN_S)
            self._rpc("removeProcessGroup", name)
        for name in (*added, *changed):
            self._rpc("addProcessGroup", name)
        return {"added": added, "changed": changed, "removed": removed}


def first_words(running: Running) -> str:
    """What supervisord printed before it could log, for when it did not come up."""
    try:
        return (running.folder / OUTPUT).read_text(errors="replace")[-2 * KIB :].strip()
    except OSError:
        return ""
