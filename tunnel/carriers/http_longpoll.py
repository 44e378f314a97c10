"""The dialler's part of the long-poll form: a byte stream over plain requests, where WebSocket does not come through.

    POST PATH?s=SESSION&up=N     chunk N of what goes up (N = 0, empty: begin); 204 when it was taken
    GET  PATH?s=SESSION&down=N   asks for chunk N, and says that all before it came; 200, or 204 when none is there
    POST PATH?s=SESSION&end=N    N chunks went up, and no more will;  DELETE PATH?s=SESSION: all is over

SESSION is 32 random hex digits. Chunks are numbered each way, so a request or an answer that got lost is repeated and
nothing is carried twice. Our listener's answers bear `Ztunnel: 1`; any other comes from something on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Final

from tunnel.carriers.http_message import Head, MessageError, Stream, read_body, read_head, request
from tunnel.carriers.http_reach import Reach
from tunnel.carriers.http_wire import Count, WireError, carry_chunks
from tunnel.errors import LinkError
from tunnel.limits import BYE_S, HTTP_PATIENCE_S, HTTP_REPLY_S, HTTP_RETRY_MAX_S, HTTP_RETRY_MIN_S

_FINAL: Final = (404, 409, 410)
"""Our listener's answers after which repeating is of no use."""


class LongPoll:
    """A Wire: one connection for what goes up, one for what comes down, made anew when they break."""

    def __init__(self, reach: Reach) -> None:
        self._session = os.urandom(16).hex()
        self._reach = reach
        self._ups = _Requests(reach)
        self._downs = _Requests(reach)
        self._sent = 0
        self._got = 0
        self._closed = asyncio.Event()

    @classmethod
    async def open(cls, reach: Reach) -> LongPoll:
        """Begin a session. WireError, ReachError: it cannot be begun, and why."""
        wire = cls(reach)
        try:
            head, body = await wire._ups.once("POST", f"s={wire._session}&up=0", b"")
        except BaseException:
            await wire.close()
            raise
        if head.status != 204 or "ztunnel" not in head.headers:
            await wire.close()
            said = body.decode(errors="replace")[:200] if "ztunnel" in head.headers else ""
            raise WireError(said or f"a plain request was answered {head.status_words}")
        return wire

    async def carry(self, device: Stream, count: Count) -> str:
        return await carry_chunks(self, device, count)

    async def send(self, data: bytes) -> None:
        if not data:
            await self._ask(self._ups, "POST", f"end={self._sent}", b"")
            return
        self._sent += 1
        await self._ask(self._ups, "POST", f"up={self._sent}", data)

    async def receive(self) -> bytes:
        while True:
            head, body = await self._ask(self._downs, "GET", f"down={self._got}", None)
            if head.status == 200:
                self._got += 1
                return b"" if "ztunnel-end" in head.headers else body

    async def close(self) -> None:
        """Says goodbye where that is possible; the listener ends silent sessions by itself."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._downs.close()
        self._ups.close()
        goodbye = _Requests(self._reach)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(goodbye.once("DELETE", f"s={self._session}", None), BYE_S)
        goodbye.close()

    async def _ask(self, requests: _Requests, method: str, what: str, body: bytes | None) -> tuple[Head, bytes]:
        """Repeat until our listener answers with 200 or 204."""
        pause, last_good, said = HTTP_RETRY_MIN_S, time.monotonic(), ""
        while not self._closed.is_set():
            try:
                head, found = await requests.once(method, f"s={self._session}&{what}", body)
                ours = "ztunnel" in head.headers
                if ours and head.status in (200, 204):
                    return head, found
                if ours and head.status in _FINAL:
                    raise WireError(f"the listener has ended the long-poll session: {head.status_words}")
                said = f"a request was answered {head.status_words}"
                if ours:  # 503: there is no room yet
                    last_good = time.monotonic()
            except WireError:
                raise
            except (LinkError, OSError, TimeoutError) as error:
                said = str(error) or "no answer came"
            if time.monotonic() - last_good > HTTP_PATIENCE_S:
                raise WireError(f"{said}, for {HTTP_PATIENCE_S:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), pause)
            pause = min(2 * pause, HTTP_RETRY_MAX_S)
        raise WireError("the long-poll session was closed")


class _Requests:
    """Requests on one connection that is kept alive, one after the other."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._stream: Stream | None = None

    async def once(self, method: str, query: str, body: bytes | None) -> tuple[Head, bytes]:
        """One request, its answer whole. Any error ends the connection; the next one is made anew."""
        try:
            async with asyncio.timeout(HTTP_REPLY_S):
                if self._stream is None:
                    self._stream = await self._reach.open()
                return await self._exchange(self._stream, method, query, body)
        except BaseException:
            self.close()
            raise

    async def _exchange(self, stream: Stream, method: str, query: str, body: bytes | None) -> tuple[Head, bytes]:
        target = self._reach.target
        headers = {"Host": target.host_header, "Cache-Control": "no-store"}
        if body is not None:
            headers["Content-Type"] = "application/octet-stream"
        if stream.writer.is_closing():  # uvloop raises RuntimeError on a write then
            raise MessageError("the connection was closed before the next request")
        stream.writer.write(request(method, f"{target.path}?{query}", headers, body))
        await stream.writer.drain()
        head = await read_head(stream.reader)
        if head is None:
            raise MessageError("the connection was closed instead of an answer")
        found = await read_body(stream.reader, head, answer=True)
        if head.has("connection", "close") or head.line.startswith("HTTP/1.0") or not _has_length(head):
            self.close()
        return head, found

    def close(self) -> None:
        if self._stream is not None:
            self._stream.abort()
            self._stream = None


def _has_length(head: Head) -> bool:
    return head.status == 204 or "content-length" in head.headers or "transfer-encoding" in head.headers
