"""The link inside SSH, through an ordinary sshd: dialled (`ssh://user@host/HOST:PORT`), or opened there by a remote
forward (`listen: plant ssh://user@dmz/9440`).

Here is what both backends share: a session is opened, watched, and opened again for ever, with the reason in words.
`ssh_paramiko.py` carries the bytes in this process; `ssh_openssh.py` lets the system's `ssh` do it.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from tunnel.carriers.ssh_base import Backend, Counts, SshError
from tunnel.config.plan import CarrierPlan, SshPlan
from tunnel.limits import SSH_REDIAL_MAX_S
from tunnel.link.backoff import Backoff
from tunnel.log import Log


class SshCarrier:
    """One ssh:// link's process (tunnel/carriers/process.py)."""

    def __init__(self, plan: CarrierPlan) -> None:
        assert plan.ssh is not None
        self.plan = plan
        self.counts = Counts()
        self.state = "connecting"
        self.reason = ""
        self._log = Log(plan.name)
        self._backend = _backend(plan, plan.ssh, self.counts)
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<SshCarrier {self.plan.name} {self.state} connections={self.counts.connections}>"

    async def start(self) -> None:
        """Raises LocalError where the private socket cannot be opened."""
        await self._backend.start()
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        if self._task is not None:
            while not self._task.done():  # asyncio.wait_for of Python 3.11 can swallow a cancellation
                self._task.cancel()
                await asyncio.wait([self._task], timeout=0.2)
        await self._backend.hang_up()
        await self._backend.close()

    def status(self) -> dict[str, Any]:
        counts, ssh = self.counts, self.plan.ssh
        assert ssh is not None
        return {
            "state": self.state,
            "reason": self.reason or counts.reason,
            "connections": counts.connections,
            "bytes_in": counts.bytes_in if counts.counted else None,
            "bytes_out": counts.bytes_out if counts.counted else None,
            "refused": dict(counts.refused),
            "detail": {"backend": ssh.backend, "server": counts.server, "host_key": counts.host_key},
        }

    async def _keep(self) -> None:
        """A session after the other, for ever."""
        backoff = Backoff(most_s=SSH_REDIAL_MAX_S)
        while True:
            lasted_s = 0.0
            try:
                await self._backend.connect()
                since = time.monotonic()
                self._tell("up" if self.plan.role == "dial" else "listening", "")
                reason = await self._backend.ended()
                lasted_s = time.monotonic() - since
            except SshError as error:
                reason = str(error)
            except Exception as error:  # one attempt's misfortune; the carrier goes on
                reason = f"this is a bug in ztunnel: {type(error).__name__}: {error}"
            self._tell("retrying", reason)
            await self._backend.hang_up()
            await asyncio.sleep(backoff.pause(random.random(), lasted_s))

    def _tell(self, state: str, reason: str) -> None:
        if (state, reason) != (self.state, self.reason):
            log = self._log.warn if reason else self._log.info
            log(state, reason=reason or None, server=self.counts.server, host_key=self.counts.host_key or None)
        self.state, self.reason = state, reason
        if state != "retrying":
            self.counts.reason = ""


def _backend(plan: CarrierPlan, ssh: SshPlan, counts: Counts) -> Backend:
    made: Backend
    if ssh.backend == "openssh":
        from tunnel.carriers.ssh_openssh import OpensshBackend

        made = OpensshBackend(plan, ssh, counts)
        return made
    from tunnel.carriers.ssh_paramiko import ParamikoBackend

    made = ParamikoBackend(plan, ssh, counts)
    return made
