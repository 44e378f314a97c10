"""DATA: a mail is read to its end, bit by bit, into its body. What is too much is read too, and forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

from bridges.mail.bodies import Body
from bridges.mail.data import Data, Header
from bridges.mail.limits import READ_BYTES
from bridges.mail.smtp_post import Answer, Post


class CutError(Exception):
    """The connection ended before the mail did."""


class Reading:
    """One mail."""

    def __init__(self, post: Post) -> None:
        self.data = Data(normalise=post.plan.compat)
        self.header = Header()
        self.id, self.body = post.new_body()
        self._post = post

    def __repr__(self) -> str:
        return f"<Reading {self.id} {self.data} {self.body}>"

    async def read(self, reader: Any) -> Answer | None:
        """Through the end of the mail; what follows it goes back into the reader, an asyncio.StreamReader. An answer:
        it is not taken, and its body is gone. CutError: likewise, and nobody is there to be told."""
        try:
            answer = await self._read(reader)
        except BaseException:
            self.body.discard()
            raise
        if answer is not None:
            self.body.discard()
        return answer

    async def _read(self, reader: Any) -> Answer | None:
        trouble = ""
        deadline = self._post.loop.time() + self._post.plan.data_s
        while not self.data.done:
            try:
                async with asyncio.timeout_at(deadline):
                    chunk = await reader.read(READ_BYTES)
            except TimeoutError:
                return Answer("421 4.4.2 the mail did not end in time")
            if not chunk:
                raise CutError
            piece = self.data.feed(chunk)
            if not trouble:
                self.header.feed(piece)
                trouble = await self._add(self.body, piece)
        reader._buffer[0:0] = self.data.rest  # asyncio's reader has no way to give back
        return Answer(trouble) if trouble else None

    async def _add(self, body: Body, piece: bytes) -> str:
        """The reply, if that is the end of it."""
        plan = self._post.plan
        if body.size + len(piece) > plan.max_bytes:
            self._post.count("too_large")
            return f"552 5.3.4 a mail has at most {plan.max_bytes} bytes here"
        if trouble := self._post.room(body.size + len(piece)):
            self._post.count("full")
            return f"452 4.3.1 {trouble}"
        try:
            await body.add(piece)
        except OSError as error:
            return f"452 4.3.1 local error {self._post.failed(error)}"
        return ""
