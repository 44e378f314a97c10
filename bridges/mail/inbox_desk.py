"""What `ztunnel mail` asks of a bridge that keeps mails in an inbox; see tunnel/cli/mail.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridges.mail import meta
from bridges.mail.inbox import Inbox
from tunnel.control import Command
from tunnel.errors import UsageError

Reply = dict[str, Any]


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
        after, limit = _number(request, "after", 0), _number(request, "limit", 100)
        rows = await self._inbox.list(after, limit)
        return {"mails": [_told(row) for row in rows], "full": len(rows) == limit}

    async def _show(self, request: Reply) -> Reply:
        number = _number(request, "number", 0)
        rows = await self._inbox.list(number - 1, 1)
        if not rows or rows[0]["number"] != number:
            raise UsageError(f"there is no mail {number} (any more).")
        return _told(rows[0]) | {"meta": meta.read(rows[0]["meta"])}

    async def _retry(self, request: Reply) -> Reply:
        count = 0
        for number in await self._chosen(request):
            if await self._inbox.retry(number):
                self._again(number)
                count += 1
        return {"mails": count}

    async def _drop(self, request: Reply) -> Reply:
        count = 0
        for number in await self._chosen(request):
            count += await self._inbox.drop(number)
        return {"mails": count}

    async def _chosen(self, request: Reply) -> list[int]:
        numbers = request.get("numbers")
        if isinstance(numbers, list) and all(type(number) is int for number in numbers):
            return numbers
        if request.get("all") is not True:
            raise UsageError("say which mails: their numbers, or all dead letters.")
        return [row["number"] for row in await self._inbox.list(0, 1000, dead=True)]


def _told(row: Reply) -> Reply:
    envelope = meta.read(row["meta"])
    return {**row, "meta": None, "from": envelope.get("from", ""), "to": envelope.get("to", [])}


def _number(request: Reply, key: str, default: int) -> int:
    value = request.get(key, default)
    return value if type(value) is int and value >= 0 else default
