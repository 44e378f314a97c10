"""The listener's part of the long-poll form (http_longpoll.py): sessions, their numbered chunks, their end.

A session is a Wire. At most one chunk each way is held: what goes up waits in its request until the device took the one
before, what comes down is kept until it is asked for the next. Every session ends by itself when nobody asks.
"""

from __future__ import annotations

import asyncio
import re
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Final

from tunnel.carriers.http_message import Stream, answer
from tunnel.carriers.http_wire import Count, WireError, carry_chunks
from tunnel.limits import HTTP_HOLD_S, HTTP_SESSION_S, HTTP_SESSIONS

_OURS: Final = {"Ztunnel": "1"}
_NAME: Final = re.compile(r"[0-9a-f]{32}\Z")
_END: Final = b""


class Session:
    """One long-poll connection."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.closed = False
        self._changed = asyncio.Condition()
        self._ups = 0
        """Chunks taken from below."""
        self._up: bytes | None = None
        """The one that the device has not taken yet."""
        self._up_ended = False
        self._downs = 0
        """Number of the chunk that is offered, or comes next."""
        self._down: bytes | None = None

    # --- the Wire -----------------------------------------------------------------------------------------------
    async def carry(self, device: Stream, count: Count) -> str:
        return await carry_chunks(self, device, count)

    async def send(self, data: bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.closed or self._down is None)
            self._check_open()
            self._down = data
            self._changed.notify_all()

    async def receive(self) -> bytes:
        async with self._changed:
            await self._changed.wait_for(lambda: self.closed or self._up is not None)
            self._check_open()
            data, self._up = self._up or _END, None
            self._changed.notify_all()
            return data

    async def close(self) -> None:
        async with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self.closed:
            raise WireError("the long-poll session was ended by the other end, or went silent")

    # --- requests -----------------------------------------------------------------------------------------------
    async def on_up(self, number: int, data: bytes) -> bytes:
        """Chunk `number`, counted from 1; 204 when it is taken, also when it was before."""
        return await self._take(number, data) if data else _wrong("an empty chunk")

    async def on_end(self, number: int) -> bytes:
        """The end of what goes up, after `number` chunks."""
        return await self._take(number + 1, _END)

    async def _take(self, number: int, data: bytes) -> bytes:
        def ready() -> bool:
            return self.closed or number != self._ups + 1 or self._up is None

        async with self._changed:
            if not await self._within(ready):
                return answer(503, _OURS)
            if number <= self._ups:
                return answer(204, _OURS)
            if self.closed:
                return answer(410, _OURS)
            if number > self._ups + 1 or self._up_ended:
                return _wrong("a chunk out of order")
            self._ups, self._up, self._up_ended = number, data, not data
            self._changed.notify_all()
        return answer(204, _OURS)

    async def on_down(self, number: int) -> bytes:
        """Chunk `number`, counted from 0, when it is there; all before it have arrived."""
        async with self._changed:
            if number == self._downs + 1 and self._down is not None:
                self._downs, self._down = number, None
                self._changed.notify_all()
            if number != self._downs:
                return _wrong("a chunk out of order")
            if not await self._within(lambda: self.closed or self._down is not None or number != self._downs):
                return answer(204, _OURS)
            if number != self._downs or self._down is None:
                return answer(410 if self.closed else 409, _OURS)
            if self._down:
                return answer(200, {**_OURS, "Content-Type": "application/octet-stream"}, self._down)
            return answer(200, {**_OURS, "Ztunnel-End": "1"})

    async def _within(self, ready: Callable[[], bool]) -> bool:
        try:
            async with asyncio.timeout(HTTP_HOLD_S):
                await self._changed.wait_for(ready)
        except TimeoutError:
            return False
        finally:
            self.last = time.monotonic()
        return True


class Sessions:
    """All sessions of one port. `begin` connects one to the device and carries it; it raises OSError when it cannot."""

    def __init__(self, begin: Callable[[Session], Awaitable[None]]) -> None:
        self._begin = begin
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    async def answer(self, method: str, query: str, body: bytes) -> tuple[bytes, bool]:
        """(the whole answer, whether the request belongs to a session)."""
        asked = dict(urllib.parse.parse_qsl(query, max_num_fields=8))
        name = asked.get("s", "")
        number = {what: int(n) for what, n in asked.items() if what in ("up", "down", "end") and _is_number(n)}
        if not _NAME.match(name) or len(number) > 1:
            return answer(404), False
        session = self._sessions.get(name)
        if session is None:
            if method == "POST" and number == {"up": 0}:
                return await self._open(name)
            return answer(410, _OURS), False
        session.last = time.monotonic()
        what, n = next(iter(number.items()), ("", 0))
        match method, what:
            case "POST", "up" if n == 0:
                return answer(204, _OURS), True
            case "POST", "up":
                return await session.on_up(n, body), True
            case "POST", "end":
                return await session.on_end(n), True
            case "GET", "down":
                return await session.on_down(n), True
            case "DELETE", "":
                await session.close()
                return answer(204, _OURS), True
        return _wrong("no such request"), True

    async def _open(self, name: str) -> tuple[bytes, bool]:
        if len(self._sessions) >= HTTP_SESSIONS:
            self._sessions = {name: session for name, session in self._sessions.items() if not session.closed}
        if len(self._sessions) >= HTTP_SESSIONS:
            return answer(503, _OURS, b"the listener has too many long-poll sessions"), False
        session = self._sessions[name] = Session()
        try:
            await self._begin(session)
        except OSError:
            self._sessions.pop(name, None)
            return answer(503, _OURS, b"the listener's device is not running"), False
        return answer(204, _OURS), True

    async def sweep(self) -> None:
        """End what is silent, forget what is over and not asked about any more; to be called every few seconds."""
        old = time.monotonic() - HTTP_SESSION_S
        for name, session in tuple(self._sessions.items()):
            if session.last < old:
                del self._sessions[name]
                await session.close()

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()


def _wrong(what: str) -> bytes:
    return answer(409, _OURS, what.encode())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15
