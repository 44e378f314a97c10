"""What `ztunnel mail` asks of a bridge that keeps mails in an inbox; see tunnel/cli/mail.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bridges.mail import meta
from bridges.mail.inbox import Inbox
from bridges.mail.raw import HEADERS_BYTES, headers
from tunnel.control import Command, number_in
from tunnel.errors import UsageError
from tunnel.limits import SPOOL_LIST_ROWS

Reply = dict[str, Any]
_STATES: Final = ("open", "dead")


class InboxDesk:
    """`again` is told the number of a mail that waits again."""

    def __init__(self, inbox: Inbox, again: Callable[[int], None]) -> None:
        self._inbox = inbox
        self._again = again
        self.commands: dict[str, Command] = {
            "mail-list": self._list,
            "mail-show": self._show,
            "mail-retry": self._retry,
            "mail-drop": self._drop,
        }

    async def _list(self, request: Reply) -> Reply:
        after, limit = number_in(request, "after", 0), number_in(request, "limit", 100)
        limit = max(1, min(limit, SPOOL_LIST_ROWS))
        state = request.get("state")
        if state in ("refused", "sent"):  # of an smtp-client; nothing of either lies here
            return {"mails": [], "more": False}
        if state not in (None, *_STATES):
            raise UsageError(f"mails are {' or '.join(_STATES)} here; {state!r} is neither.")
        rows = await self._inbox.list(after, limit, dead=None if state is None else state == "dead")
        return {"mails": [_told(row) for row in rows], "more": len(rows) == limit}

    async def _show(self, request: Reply) -> Reply:
        number = number_in(request, "number", 0)
        row = await self._row(number)
        told, known = _told(row), meta.read(row["meta"])
        states = [{"address": one, "state": told["state"], "words": ""} for one in known.get("to", [])]
        head = await self._inbox.head(number, HEADERS_BYTES)
        return {"mail": told | {"states": states}, "headers": headers(head), "meta": known}

    async def _retry(self, request: Reply) -> Reply:
        count = 0
        for number in await self._chosen(request):
            if await self._inbox.retry(number):
                self._again(number)
                count += 1
        return {"count": count, "refused": []}

    async def _drop(self, request: Reply) -> Reply:
        count = 0
        for number in await self._chosen(request):
            count += await self._inbox.drop(number)
        return {"count": count, "busy": 0}

    async def _chosen(self, request: Reply) -> list[int]:
        numbers = request.get("numbers")
        if isinstance(numbers, list) and numbers and all(type(number) is int for number in numbers):
            for number in numbers:
                await self._row(number)
            return numbers
        if request.get("all") is not True:
            raise UsageError("which mails? Say their numbers, or --all for all dead letters.")
        found: list[int] = []
        while rows := await self._inbox.list(found[-1] if found else 0, SPOOL_LIST_ROWS, dead=True):
            found += [row["number"] for row in rows]
        return found

    async def _row(self, number: int) -> Reply:
        rows = await self._inbox.list(number - 1, 1)
        if not rows or rows[0]["number"] != number:
            raise UsageError(f"there is no mail {number} here (any more); `ztunnel mail ls` shows those that are.")
        return rows[0]


def _told(row: Reply) -> Reply:
    envelope = meta.read(row["meta"])
    to = envelope.get("to", [])
    return {
        "number": row["number"],
        "id": row["id"],
        "state": row["state"],
        "born": row["born"],
        "size": row["bytes"],
        "attempts": 0,
        "due": None,
        "from": envelope.get("from", ""),
        "to": to[:3],
        "recipients": len(to),
        "why": row["reason"],
    }
