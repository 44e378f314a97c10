"""The commands of a bridge that keeps mail: mail-list, mail-show, mail-retry, mail-drop, mail-pause, mail-resume.

Requests and replies are plain JSON (tunnel/control.py); `ztunnel mail` is the one who asks (tunnel/cli/mail.py).

    mail-list    {state?, after?, limit?}      {mails: [...], more}
    mail-show    {number}                      {mail: {...}, headers: [[name, value], ...], frames?}
    mail-retry   {numbers} or {all: true}      {count, refused: [{number, why}]}
    mail-drop    {numbers} or {all: true}      {count, busy}
    mail-pause, mail-resume                    {}
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from bridges.mail import outbox_desk
from bridges.mail.dispatch import Dispatch
from bridges.mail.intake import RefusedMessageError
from bridges.mail.limits import LIST_ROWS
from bridges.mail.outbox import Outbox
from bridges.mail.raw import headers
from bridges.messages import messages_of
from tunnel.control import Command, Reply
from tunnel.errors import UsageError

LookAgain = Callable[[int, bytes], Awaitable[bool]]
"""A refused message's number and frames: is it taken now? RefusedMessageError: it is refused again."""


class MailDesk:
    """See the module."""

    NAMES: ClassVar = ("mail-list", "mail-show", "mail-retry", "mail-drop", "mail-pause", "mail-resume")

    def __init__(self, outbox: Outbox, dispatch: Dispatch, look_again: LookAgain) -> None:
        self._outbox = outbox
        self._dispatch = dispatch
        self._look_again = look_again
        does = (self._list, self._show, self._retry, self._drop, self._pause, self._resume)
        self.commands: Mapping[str, Command] = dict(zip(self.NAMES, does, strict=True))

    async def _list(self, asked: Reply) -> Reply:
        state, after, limit = asked.get("state"), asked.get("after", 0), asked.get("limit", 100)
        if state is not None and state not in outbox_desk.STATES:
            raise UsageError(f"mails are {', '.join(outbox_desk.STATES)}; {state!r} is none of these.")
        if not _whole(after) or not _whole(limit):
            raise UsageError("after and limit are whole numbers.")
        limit = max(1, min(limit, LIST_ROWS))
        mails = await outbox_desk.listed(self._outbox, state, after, limit)
        return {"mails": mails, "more": len(mails) == limit}

    async def _show(self, asked: Reply) -> Reply:
        number = asked.get("number")
        if not isinstance(number, int):
            raise UsageError("which mail? Say its number, as `ztunnel mail ls` tells it.")
        mail, body = await outbox_desk.shown(self._outbox, number)
        if mail["state"] == "refused":
            (frames,) = messages_of((body,))
            return {"mail": mail, "headers": [], "frames": [len(frame) for frame in frames]}
        return {"mail": mail, "headers": headers(body)}

    async def _retry(self, asked: Reply) -> Reply:
        count, refused = await outbox_desk.again(self._outbox, _numbers(asked), time.time())
        still: list[dict[str, Any]] = []
        for number in refused:
            _, run = await outbox_desk.shown(self._outbox, number)
            try:
                taken, why = await self._look_again(number, run), "its id is another mail's."
            except RefusedMessageError as error:
                taken, why = False, str(error)
            if taken:
                await outbox_desk.dropped(self._outbox, [number])
                count += 1
            else:
                still.append({"number": number, "why": why})
        self._dispatch.hurry()
        return {"count": count, "refused": still}

    async def _drop(self, asked: Reply) -> Reply:
        count, busy = await outbox_desk.dropped(self._outbox, _numbers(asked))
        return {"count": count, "busy": busy}

    async def _pause(self, _asked: Reply) -> Reply:
        await self._outbox.note("paused", "1")
        self._dispatch.pause()
        return {}

    async def _resume(self, _asked: Reply) -> Reply:
        self._dispatch.resume()  # also on a full disk: what is sent makes room
        await self._outbox.note("paused", None)
        return {}


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(asked: Reply) -> list[int] | None:
    """None: all."""
    numbers = asked.get("numbers")
    if asked.get("all") is True and numbers is None:
        return None
    if not isinstance(numbers, list) or not numbers or not all(map(_whole, numbers)):
        raise UsageError("which mails? Say their numbers, or --all.")
    return numbers
