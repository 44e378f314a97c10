"""`ztunnel mail test` of an imap: a connection of its own looks at each folder; then our books, and the way to 0MQ.

Nothing is sent, and nothing in the mailbox changes.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bridges.mail import token
from bridges.mail.imap_client import Client, why_broken
from bridges.mail.imap_wire import No, Refused
from bridges.mail.limits import TRIAL_COMMAND_S, TRIAL_LOOK_S
from bridges.mail.trial import Reply, Steps, settled
from tunnel.errors import SpoolError, UsageError

if TYPE_CHECKING:
    from bridges.imap import ImapBridge
    from bridges.mail.folder import Folder

_TODO: Final = {
    "stopped": "a person must decide: rebaseline: skip or reprocess, then `ztunnel reload`",
    "refused": "it logs in again within 5 min, or at `ztunnel restart bridge-{}`",
    "retrying": "it connects again within a minute, or at `ztunnel restart bridge-{}`",
}


class ImapTrial:
    """One look."""

    def __init__(self, bridge: ImapBridge, name: str) -> None:
        self._bridge = bridge
        self._name = name

    async def __call__(self, request: Reply) -> Reply:
        if request.get("address"):
            raise UsageError(f"{self._name} fetches mail and sends none: leave the address out.")
        steps = Steps()
        look = _Look(self._bridge, steps)
        try:
            async with asyncio.timeout(TRIAL_LOOK_S):
                lie = await asyncio.to_thread(look.look)
        except TimeoutError:
            steps.add("connect", f"not done within {TRIAL_LOOK_S:.0f} s", "see to the mail server", ok=False)
            lie = {}
        finally:
            look.end()
        for folder in self._bridge.folders:
            if folder.name in lie:
                await self._folder(folder, lie[folder.name], steps)
        await self._books(steps)
        self._zmq(steps)
        return steps.reply()

    async def _folder(self, folder: Folder, lies: str, steps: Steps) -> None:
        """... and how the bridge itself fares with it."""
        await settled(lambda: folder.told != "connecting")
        known = folder.status()
        found = f"{folder.name}: {lies}; {known['backlog']} of them are to be handed over"
        if folder.told != "up":
            todo = _TODO.get(folder.told, "try again in a moment").format(self._name)
            steps.add("folder", f"{folder.name}: {lies}; {folder.told}: {folder.reason}", todo, ok=False)
        elif self._bridge.paused:
            todo = f"`ztunnel mail resume {self._name}`"
            steps.add("folder", f"{found}; paused by `ztunnel mail pause`", todo, ok=False)
        else:
            steps.add("folder", found + (f"; last trouble: {known['trouble']}" if known["trouble"] else ""))

    async def _books(self, steps: Steps) -> None:
        books = self._bridge.books
        try:
            known = [await books.position(folder.name) for folder in self._bridge.folders]
            trouble = books.database.trouble
        except SpoolError as error:
            known, trouble = [], str(error)
        if trouble:
            steps.add("books", trouble, "mend the disk: no mail is handed over meanwhile", ok=False)
            return
        upto = (f"{at.upto}" for at in known if at is not None)
        steps.add("books", f"{books.database.path}: looked at up to UID {', '.join(upto) or '0'}")

    def _zmq(self, steps: Steps) -> None:
        over = self._bridge.giving.over
        status = over.status()
        route = status["route"]
        way = f"{status['socket']} to " + (f"route {route}" if route else ", ".join(status["endpoints"]))
        answers = f"{over.answered_by} answers for a mail"
        waiting = f"; {over.under_way} under way" if over.under_way else ""
        if over.reason:
            steps.add("0MQ", f"{way}: {over.reason}", "free the address, or change the table", ok=False)
        elif not over.is_there:
            todo = f"`ztunnel probe {route}` tells more" if route else "start the application"
            steps.add("0MQ", f"{way}: nobody is connected; {answers}{waiting}", todo, ok=False)
        else:
            steps.add("0MQ", f"{way}: somebody is connected; {answers}{waiting}")


class _Look:
    """In a thread: connect, log in, open each folder; what lies there, in words. Steps are added as they are taken."""

    def __init__(self, bridge: ImapBridge, steps: Steps) -> None:
        plan = bridge.plan
        self._plan = replace(plan, command_s=min(plan.command_s, TRIAL_COMMAND_S))
        self._steps = steps
        self._client: Client | None = None
        self._ended = False

    def look(self) -> dict[str, str]:
        where, user = self._plan.connect[0], self._plan.user
        try:
            self._client = client = Client(self._plan)
        except Exception as error:
            return self._failed("connect", f"{where}: {why_broken(error)}", "is it the right server, port and tls:?")
        try:
            refusal = self._log_in(client)
            self._add("connect", f"{where}: {client.secured}")
            if refusal:
                return self._failed("login", refusal, "mend login: in the table, or the account")
            self._add("login", f"{user}: taken")
            return self._folders(client)
        except Exception as error:  # whatever a library makes of a server's words
            return self._failed("connect", f"{where}: {why_broken(error, client.farewell)}", "see to the mail server")
        finally:
            client.close(orderly=True)

    def end(self) -> None:
        """Nobody waits for it any more."""
        self._ended = True
        if self._client is not None:
            self._client.cut()

    def _log_in(self, client: Client) -> str:
        """Why that did not succeed."""
        try:
            client.enter(self._plan.password or token.token(self._plan.token_command))
        except (token.TokenError, Refused) as error:
            return str(error)
        return ""

    def _folders(self, client: Client) -> dict[str, str]:
        lie: dict[str, str] = {}
        for name in self._plan.folders:
            try:
                opened = client.open(name, reads_only=self._plan.reads_only)
            except No as error:
                self._failed("folder", str(error), "name another folder, or make this one")
                continue
            _, count = client.highest()
            lie[name] = f"UIDVALIDITY {opened.uidvalidity}, {count} mails"
        return lie

    def _failed(self, step: str, found: str, todo: str) -> dict[str, str]:
        self._add(step, found, todo, ok=False)
        return {}

    def _add(self, step: str, found: str, todo: str = "", *, ok: bool = True) -> None:
        if not self._ended:
            self._steps.add(step, found, todo, ok=ok)
