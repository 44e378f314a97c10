"""The SSH carrier's second backend: the system's `ssh`, with its configuration, jump hosts and agents.

`ssh` itself listens on the private socket (dial) or connects to it (listen), so no byte passes through this process;
here it is started, its words are read for what happens, and it ends when we do. `-v` makes it tell enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
import signal
import stat
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from tunnel.carriers.ssh_base import Counts, SshError, held, split_target
from tunnel.carriers.ssh_hosts import files_of, host_name
from tunnel.config.plan import CarrierPlan, SshPlan
from tunnel.limits import SSH_ALIVE_COUNT, SSH_ALIVE_S, SSH_CONNECT_S, SSH_LINES

_SECRET: Final = "ZTUNNEL_SSH_PASSPHRASE"
_PR_SET_PDEATHSIG: Final = 1


class OpensshBackend:
    """One `ssh` after the other."""

    def __init__(self, plan: CarrierPlan, ssh: SshPlan, counts: Counts) -> None:
        self._plan = plan
        self._ssh = ssh
        self._counts = counts
        counts.server = f"{ssh.host}:{ssh.port}"
        counts.counted = False  # they pass through `ssh`, which tells at its end only, and with its own among them
        self._user = ssh.user
        self._hops = 0
        """Jump hosts between here and the sshd that are still to be passed; `server` and `_user` are of the next."""
        self._process: asyncio.subprocess.Process | None = None
        self._lines: deque[str] = deque(maxlen=SSH_LINES)
        self._up = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._askpass: Path | None = None
        self._channels: set[str] = set()

    async def start(self) -> None:
        self._unlink()
        if self._ssh.passphrase is not None:
            self._askpass = _askpass(self._plan.socket.parent)

    async def connect(self) -> None:
        if self._plan.role == "listen" and self._plan.allow.networks and not self._plan.allow.anyone:
            raise SshError("the openssh backend cannot tell who connects: leave out allow, or take backend: paramiko")
        program = shutil.which("ssh")
        if program is None:
            raise SshError("there is no program ssh here: install openssh-client, or take backend: paramiko")
        self._unlink()
        self._up.clear()
        self._lines.clear()
        self._hops = 0
        self._process = await asyncio.create_subprocess_exec(
            program,
            *arguments(self._plan, self._ssh),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(),
            start_new_session=True,  # without a terminal nobody is asked: BatchMode does not reach jump hosts
            preexec_fn=_die_with(os.getpid()),
        )
        self._reader = asyncio.get_running_loop().create_task(self._read(self._process))
        up = asyncio.get_running_loop().create_task(self._up.wait())
        try:
            # its own limits are shorter: connection and login each have SSH_CONNECT_S
            await asyncio.wait([up, self._reader], timeout=3 * SSH_CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if not self._up.is_set():
            if not self._reader.done():
                raise SshError(f"ssh to {self._counts.server} was not done within {3 * SSH_CONNECT_S:g} s")
            raise SshError(await self._reason())

    async def ended(self) -> str:
        assert self._reader is not None
        await asyncio.shield(self._reader)
        return await self._reason()

    async def hang_up(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 2)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])  # not awaited itself: its cancellation is none of ours
            self._reader = None
        self._channels.clear()
        self._counts.connections = 0
        self._unlink()

    async def close(self) -> None:
        self._unlink()
        if self._askpass is not None:
            shutil.rmtree(self._askpass.parent, ignore_errors=True)

    def _unlink(self) -> None:
        """`ssh` leaves its socket behind, and does not listen over an old one."""
        if self._plan.role == "dial":
            self._plan.socket.unlink(missing_ok=True)

    def _environment(self) -> dict[str, str]:
        environment = os.environ | {"LC_ALL": "C"}
        if self._askpass is not None and self._ssh.passphrase is not None:
            environment |= {"SSH_ASKPASS": str(self._askpass), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": "none"}
            environment[_SECRET] = self._ssh.passphrase.reveal()
        else:
            environment["SSH_ASKPASS_REQUIRE"] = "never"
        return environment

    # --- what it says ------------------------------------------------------------------------------------------------

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            self._heed(line.decode(errors="replace").strip())
        await process.wait()

    def _heed(self, line: str) -> None:
        told = line.removeprefix("debug1: ")
        if match := _AT.match(told):  # as the configuration names it; a jump host tells it of itself, too
            self._counts.server = f"{match[1] or match[3]}:{match[2] or match[4]}"
            self._user = match[5] or self._user
        elif told.startswith("Server host key: "):
            self._counts.host_key = told.split()[-1]
        elif told.startswith("Setting implicit ProxyCommand from ProxyJump"):
            self._hops += 1
        elif told.startswith("channel_connect_stdio_fwd: "):
            self._hops -= 1
        elif told.startswith("Authenticated to ") and self._plan.role == "dial":
            # the private socket is opened next; the connections that it takes are served from then on
            asyncio.get_running_loop().call_soon(self._look_for_socket)
        elif told.startswith("remote forward success for"):
            self._up.set()
        elif match := re.match(r"channel (\d+): new (direct|forwarded)-", told):
            self._channels.add(match[1])
            self._counts.reason = ""  # it is told when this one is refused too
        elif match := re.match(r"channel (\d+): free: (direct|forwarded)-", told):
            self._channels.discard(match[1])
        elif self._up.is_set() and (match := re.match(r"channel \d+: open failed: (.*)", told)):
            self._counts.refuse(*_refusal(match[1], self._counts.server, self._ssh.target))
        self._counts.connections = len(self._channels)
        self._lines.append(told)

    def _look_for_socket(self) -> None:
        if self._plan.socket.exists():
            self._up.set()
        elif self._process is not None and self._process.returncode is None:
            asyncio.get_running_loop().call_later(0.01, self._look_for_socket)

    async def _reason(self) -> str:
        lines = list(self._lines)
        ssh, where = self._ssh, self._counts.server
        said = "\n".join(lines)
        if "Host key verification failed" in said or "REVOKED HOST KEY" in said:
            return await self._host_key(said)
        if "remote port forwarding failed" in said or "remote forward failure" in said:
            remark = next((line for line in lines if line.startswith("Remote: ") and "disabled" in line), "")
            return held(where, ssh.target, remark.removeprefix("Remote: "))
        if "Permission denied" in said or "Too many authentication failures" in said:
            tried = [line.removeprefix("Offering public key: ") for line in lines if line.startswith("Offering ")]
            left = await asyncio.to_thread(_locked, ssh) if not self._hops else []
            offered = f"offered: {', '.join(tried)}" if tried else "there was none to offer"
            return "; ".join([f"{where} accepted no key of {self._user}", offered, *left])
        if match := re.search(r"Could not resolve hostname ([^:\n]+)", said):
            return f"the name {match[1]} is not known"
        if "stdio forwarding failed" in said:
            beyond = next(
                (line.split()[-1] for line in lines if line.startswith("channel_connect_stdio_fwd")), ssh.host
            )
            why = next((line.rpartition("failed: ")[2] for line in lines if "open failed: " in line), "no reason")
            return f"the jump host {where} could not connect to {beyond}: {why}"
        if "Connection refused" in said and "Authenticated to" not in said:
            return f"connection refused by {where}: no sshd listens there"
        if "Timeout, server" in said:
            silent_s = SSH_ALIVE_S * SSH_ALIVE_COUNT
            return f"nothing came from the sshd {where} for {silent_s:.0f} s: the connection is dead"
        if "Connection timed out" in said:
            return f"{where} did not answer within {SSH_CONNECT_S:g} s"
        if "Authenticated to" in said and ("closed by remote host" in said or "Connection reset" in said):
            return f"the sshd {where} hung up"
        last = next((line for line in reversed(lines) if line and not _NOISE.match(line)), "it said nothing")
        return f"ssh to {where} ended: {last.rstrip('.')}"

    async def _host_key(self, said: str) -> str:
        """As the other backend tells it. `ssh` shows no key, only its fingerprint, so that it is fetched once more."""
        from tunnel.carriers.ssh_paramiko import complaint  # not needed while all is well, and takes a while to import

        ssh = self._ssh
        host, _, port = self._counts.server.rpartition(":")
        file = "the known_hosts that ssh's configuration has for it" if self._hops else files_of(ssh.known_hosts)[0]
        if "REVOKED HOST KEY" not in said:
            told = await asyncio.to_thread(complaint, ssh, self._plan.source)
            if told is not None and self._counts.host_key in told:
                return told
        name = host_name(host, int(port))
        offending = re.search(r"Offending .* in (\S+)", said)
        what = (
            "is revoked"
            if "REVOKED HOST KEY" in said
            else f"has changed ({offending[1]} says otherwise)"
            if offending
            else "is unknown"
        )
        return (
            f"the host key of {name} {what}: {self._counts.host_key}. Compare that with the machine's own, then add to "
            f"{file} what ssh-keyscan -p {port} {host} prints"
        )


_AT: Final = re.compile(r"Connecting to (\S+) .*port (\d+)\.|Authenticating to (\S+):(\d+) as '(.*)'")
_NOISE: Final = re.compile(
    r"(channel|client_|Transferred|Bytes per second|Exit status|Connection (to .* closed|closed by UNKNOWN)|Killed)"
)


def arguments(plan: CarrierPlan, ssh: SshPlan) -> list[str]:
    """The command line after `ssh`."""
    options = {
        "BatchMode": "no" if ssh.passphrase is not None else "yes",
        "NumberOfPasswordPrompts": "1",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ExitOnForwardFailure": "yes",
        "ServerAliveInterval": f"{SSH_ALIVE_S:.0f}",
        "ServerAliveCountMax": str(SSH_ALIVE_COUNT),
        "ConnectTimeout": f"{SSH_CONNECT_S:.0f}",
        "StreamLocalBindMask": "0177",
        "ControlMaster": "no",
        "ControlPath": "none",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "RequestTTY": "no",
    }
    if ssh.known_hosts:
        options |= {"UserKnownHostsFile": " ".join(f'"{path}"' for path in ssh.known_hosts)}
        options |= {"GlobalKnownHostsFile": "none"}
    if ssh.identity:
        options["IdentitiesOnly"] = "yes"
    if not ssh.agent:
        options["IdentityAgent"] = "none"
    if plan.source:
        options["BindAddress"] = plan.source
    found = ["-v", "-N", "-T"]
    if ssh.config is not None:
        found += ["-F", str(ssh.config)]
    for option, value in options.items():
        found += ["-o", f"{option}={value}"]
    for path in ssh.identity:
        found += ["-i", str(path)]
    if ssh.port != 22:  # so that a configuration may say another
        found += ["-p", str(ssh.port)]
    found += ["-l", ssh.user]
    target = split_target(ssh.target)
    there = _escaped(target) if isinstance(target, str) else _bracketed(*target)
    here = _escaped(str(plan.socket))
    found += ["-L", f"{here}:{there}"] if plan.role == "dial" else ["-R", f"{there}:{here}"]
    return [*found, "--", ssh.host]


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace("%", "%%")


def _bracketed(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refusal(told: str, at: str, target: str) -> tuple[str, str]:
    if "prohibited" in told:
        return (
            "forward",
            f"the sshd {at} does not allow connections to {target}: see AllowTcpForwarding, permitopen",
        )
    return "target", f"the sshd {at} could not connect to {target}: {told.removeprefix('connect failed: ')}"


def _locked(ssh: SshPlan) -> list[str]:
    """What is wrong with the key files that the table names, such as a missing pass phrase: `ssh` offers them all."""
    from tunnel.carriers.ssh_keys import identities

    return identities(replace(ssh, agent=False), None).left_out if ssh.identity else []


def _askpass(folder: Path) -> Path:
    """A program that prints the pass phrase, which `ssh` takes from nowhere else; the secret is not in it.

    To that question only: a jump host, which our options do not reach, may have `ssh` ask for a password, too.

    In the private runtime folder, unless nothing may be run from there (Debian mounts /run so).
    """
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        folder = Path(tempfile.gettempdir())
    path = Path(tempfile.mkdtemp(prefix="askpass-", dir=folder)) / "askpass"
    path.write_text(f"#!/bin/sh\ncase $1 in *passphrase*) printf '%s\\n' \"${_SECRET}\" ;; *) exit 1 ;; esac\n")
    path.chmod(stat.S_IRWXU)
    return path


def _die_with(parent: int) -> Callable[[], None]:
    """Run in the new process, before `ssh`: it is told to end when this one does, however it does (prctl(2))."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
