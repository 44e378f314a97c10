"""What `ztunnel spool` asks of spools. Only their owner (the device, a bridge) may open the files, so it is asked.

Commands, each with {route} (or the name of the bridge) and, where several sides take its messages, {peer}:

    spool-list   {after, limit}                  rows on disk, without their bodies
    spool-show   {number, bytes}                 the messages of one row: the first frames and bytes of each
    spool-drop   {numbers | all, older_than_s}   removes rows for good, counted `by_operator`
    spool-flush                                  what waits goes to the disk now

What is in memory already, at most a window, is delivered although its row is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from tunnel.control import Command, number_in
from tunnel.errors import SpoolError, UsageError, ZtunnelError
from tunnel.limits import SPOOL_LIST_ROWS, TAP_BATCH_MESSAGES, TAP_FRAME_BYTES, TAP_FRAME_MOST_BYTES
from tunnel.spool import Entry, Spool
from tunnel.tap import Walk

_PATIENCE_S: Final = 5.0
"""A disk gets this long; while it fails, questions wait for it."""

Reply = dict[str, Any]


class SpoolDesk:
    """`find` gives a route's spools by the side that takes the messages; nothing: it has none, or is not here."""

    def __init__(self, find: Callable[[str], Mapping[str, Spool]]) -> None:
        self._find = find
        self.commands: dict[str, Command] = {
            "spool-list": self._list,
            "spool-show": self._show,
            "spool-drop": self._drop,
            "spool-flush": self._flush,
        }

    def _spool(self, request: Reply) -> Spool:
        route, peer = str(request.get("route")), request.get("peer")
        known = self._find(route)
        if not known:
            raise UsageError(f"there is no route or bridge {route} here that keeps its messages on disk.")
        if peer is None and len(known) == 1:
            return next(iter(known.values()))
        if peer not in known:
            raise UsageError(f"{route} has a spool for each of {' and '.join(known)}; say for which: --for SIDE.")
        return known[str(peer)]

    async def _list(self, request: Reply) -> Reply:
        spool = self._spool(request)
        limit = min(number_in(request, "limit", SPOOL_LIST_ROWS), SPOOL_LIST_ROWS)
        entries = await _ask(lambda then: spool.list(number_in(request, "after", 0), limit, then))
        return {"rows": [_told(entry) for entry in entries], "full": len(entries) == limit}

    async def _show(self, request: Reply) -> Reply:
        number = number_in(request, "number", 0)
        frame_bytes = min(number_in(request, "bytes", TAP_FRAME_BYTES), TAP_FRAME_MOST_BYTES)
        spool = self._spool(request)
        entry = await _ask(lambda then: spool.show(number, then))
        if entry is None:
            raise UsageError(f"there is no row {number} (any more).")
        walk, shown = Walk([entry.body or b""], 0), list[Reply]()
        while len(shown) < TAP_BATCH_MESSAGES and (message := walk.message(frame_bytes)) is not None:
            frames, count, size, whole = message
            told = [[length, first.hex()] for length, first in frames]
            shown.append({"frames": told, "frame_count": count, "size": size, "whole": whole})
        return _told(entry) | {"shown": shown}

    async def _drop(self, request: Reply) -> Reply:
        numbers = request.get("numbers")
        if numbers is None and request.get("all") is not True:
            raise UsageError("say which rows: their numbers, or all.")
        if numbers is not None and not (isinstance(numbers, list) and all(type(n) is int for n in numbers)):
            raise UsageError("rows have numbers.")
        age = request.get("older_than_s", 0.0)
        older_than_s = float(age) if isinstance(age, int | float) else 0.0
        spool = self._spool(request)
        return {"dropped": await _ask(lambda then: spool.drop(then, numbers, older_than_s=older_than_s))}

    async def _flush(self, request: Reply) -> Reply:
        spool = self._spool(request)
        await _ask(spool.flush)
        return {"durable": spool.durable}


async def _ask(question: Callable[[Callable[[Any], None]], object]) -> Any:
    """What the spool's thread answers. SpoolError: what is wrong; ZtunnelError: no answer in time."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    question(lambda found: None if answer.done() else answer.set_result(found))
    try:
        found = await asyncio.wait_for(answer, _PATIENCE_S)
    except TimeoutError:
        raise ZtunnelError(f"the disk did not answer within {_PATIENCE_S:.0f} s; see ztunnel status.") from None
    if isinstance(found, SpoolError):
        raise found
    return found


def _told(entry: Entry) -> Reply:
    return {"number": entry.number, "born": entry.born, "messages": entry.messages, "bytes": entry.size}
