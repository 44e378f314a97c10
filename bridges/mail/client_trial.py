"""`ztunnel mail test` of an smtp-client: one mail through its outbox, and what became of it, in the server's words.

The mail is as real as any other: one that does not go at once stays in the outbox, and is tried again.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from bridges.mail.addresses import shown
from bridges.mail.intake import RefusedMessageError
from bridges.mail.limits import TRIAL_SENT_S
from bridges.mail.outbox_records import Mail
from bridges.mail.trial import Reply, Steps, address_of, settled, trial_mail
from bridges.mail.troubles import NoMail, Unreachable
from tunnel.errors import SpoolError, UsageError

if TYPE_CHECKING:
    from bridges.smtp_client import SmtpClient

_WRITTEN_S: Final = 1.0
"""A server that cannot be reached is known a moment before the mail's state is on disk."""


class ClientTrial:
    """One mail through an smtp-client."""

    def __init__(self, client: SmtpClient, name: str) -> None:
        self._client = client
        self._name = name

    async def __call__(self, request: Reply) -> Reply:
        plan = self._client.plan
        to = address_of(request, "address")
        if not to:
            raise UsageError(f"say for whom the mail is; {self._name} sends to {', '.join(plan.allow_to or ('any',))}.")
        sender = address_of(request, "from", plan.sender or "")
        if not sender:
            raise UsageError(f"{self._name} has no from: in its table; say --from ADDRESS.")
        steps = Steps()
        if self._allowed(to, steps) and (taken := await self._taken(sender, to, steps)) is not None:
            mail, number = taken
            self._client.trials[number] = {}
            try:
                self._client.dispatch.wake()
                (destination,) = mail.to
                await self._servers(destination, steps)
                await self._sent(number, to, destination, steps)
            finally:
                del self._client.trials[number]
        return steps.reply()

    def _allowed(self, to: str, steps: Steps) -> bool:
        pattern = self._client.intake.allowed_by(to)
        if pattern:
            return steps.add("allowed", f"allow_to: {pattern} fits {shown(to)}")
        patterns = ", ".join(self._client.plan.allow_to or ())
        todo = "name another address, or add a pattern to allow_to: and `ztunnel reload`"
        return steps.add("allowed", f"{shown(to)}: no pattern of allow_to fits ({patterns})", todo, ok=False)

    async def _taken(self, sender: str, to: str, steps: Steps) -> tuple[Mail, int] | None:
        # with an id of its own, so that it can be looked at when it was sent
        said = {"from": sender, "to": to, "id": f"mail-test-{uuid.uuid4().hex}"}
        try:
            mail, number = await self._client.intake.take_own(said, trial_mail(sender, to, self._name))
        except RefusedMessageError as error:
            steps.add("on disk", str(error), "mend the table", ok=False)
            return None
        except SpoolError as error:
            steps.add("on disk", str(error), "make room: nothing is taken from 0MQ either", ok=False)
            return None
        beside = ", beside the template" if self._client.plan.template is not None else ""
        steps.add("on disk", f"mail {number}, from {sender}{beside}")
        return mail, number

    async def _servers(self, destination: str, steps: Steps) -> None:
        """Who is to take it; where nobody can say, the mail's own state tells why."""
        with suppress(NoMail, Unreachable):
            servers = [f"{host}:{port}" for host, port in await self._client.dispatch.servers(destination)]
            what = f"MX of {destination}" if destination else "relay"
            steps.add("server", f"{what}: {', '.join(servers)}{', tried in turn' if len(servers) > 1 else ''}")

    async def _sent(self, number: int, to: str, destination: str, steps: Steps) -> None:
        client, name = self._client, self._name
        dispatch, trials = client.dispatch, client.trials
        await settled(lambda: bool(trials[number]) or dispatch.holds(destination), TRIAL_SENT_S)
        why = dispatch.why_held(destination)
        if why:
            await settled(lambda: bool(trials[number]), 0.0 if dispatch.paused else _WRITTEN_S)
        result = trials[number].get(to)
        if result is not None and result.state == "sent":
            steps.add("sent", f"{result.words}, says {dispatch.server(destination)}")
        elif result is not None and result.state == "failed":
            todo = f"the words say why; `ztunnel mail retry {name} {number}` or `drop`"
            steps.add("sent", f"failed: {result.words}", todo, ok=False)
        elif result is not None and result.state != "queued":
            todo = f"it is tried again; `ztunnel mail show {name} {number}` tells how it goes"
            steps.add("sent", f"{result.state}: {result.words}", todo, ok=False)
        elif why:
            state, _ = dispatch.state()
            word = "paused" if state == "paused" else "waits"
            todo = f"mend that, then `ztunnel mail resume {name}`: the mail waits on disk"
            steps.add("sent", f"{word}: {why.removeprefix('paused ')}", todo, ok=False)
        else:
            todo = f"a rate:, or mails before it: see `ztunnel mail ls {name}`; it waits on disk"
            found = f"not tried within {TRIAL_SENT_S:.0f} s; {client.outbox.jobs} mails wait here"
            steps.add("sent", found, todo, ok=False)
