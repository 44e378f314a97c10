"""The device's connection and a WebSocket, spliced: what comes on one goes out on the other, without a copy of ours.

Plain callbacks of the loop's transports, for TCP, unix sockets and TLS alike. Each end reads into one block of its own,
and does not read while the other end has not sent what it was given: so the block is free again before it is read into.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Final

from tunnel.carriers.http_frames import FrameError, Frames, Opcode, frame_of, head_of, masked
from tunnel.carriers.http_message import Stream
from tunnel.carriers.http_wire import Count
from tunnel.limits import HTTP_CHUNK_BYTES, HTTP_PING_S, HTTP_SILENCE_S

END: Final = b"end"
"""In a text message: the orderly end of a direction."""
LOST: Final = "the WebSocket was closed by the other end or on the way"
_SMALL_BYTES: Final = 4096
"""Up to this a copy is cheaper than one more piece to send."""


class _End(asyncio.BufferedProtocol):
    """One of the two connections, from its streams' taking over on."""

    def __init__(self, stream: Stream, on_bytes: Callable[[memoryview], None], on_end: Callable[[], bool]) -> None:
        self.peer: _End | None = None
        """Who does not read while we are full."""
        self.paused = False
        self._transport = stream.writer.transport
        self._reader = stream.reader
        self._block = memoryview(bytearray(HTTP_CHUNK_BYTES))
        self._on_bytes = on_bytes
        self._on_end = on_end

    def take_over(self) -> None:
        """From now on the loop calls us."""
        self._transport.set_protocol(self)
        self._transport.set_write_buffer_limits(high=1, low=0)

    def start(self) -> None:
        """What the streams had read already; then what comes."""
        read, ended = bytes(self._reader._buffer), self._reader._eof  # type: ignore[attr-defined]
        if read:
            self._on_bytes(memoryview(read))
        if ended:
            self._on_end()
        elif not self.paused:
            self.resume()  # the streams may have paused it

    def write(self, *parts: bytes | memoryview) -> None:
        """Sent at once or, when that cannot be, kept: then the peer is paused before this returns."""
        if self._transport.is_closing():  # uvloop raises RuntimeError on a write then
            return
        if sum(map(len, parts)) <= _SMALL_BYTES:
            self._transport.write(b"".join(parts))
        elif len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)

    def write_end(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._transport.write_eof()

    def pause(self) -> None:
        self.paused = True
        with contextlib.suppress(RuntimeError):
            self._transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        self.paused = False
        with contextlib.suppress(RuntimeError):
            self._transport.resume_reading()  # type: ignore[attr-defined]

    # --- what the loop calls -----------------------------------------------------------------------------------------

    def get_buffer(self, _hint: int) -> memoryview:
        return self._block

    def buffer_updated(self, size: int) -> None:
        self._on_bytes(self._block[:size])

    def pause_writing(self) -> None:
        if self.peer is not None:
            self.peer.pause()

    def resume_writing(self) -> None:
        if self.peer is not None:
            self.peer.resume()

    def eof_received(self) -> bool:
        return self._on_end()

    def connection_lost(self, _error: Exception | None) -> None:
        self._on_end()


class Splice:
    """Both directions, to their end."""

    def __init__(self, far: Stream, frames: Frames, device: Stream, count: Count, *, client: bool) -> None:
        """`far`, `frames`: the WebSocket's connection and what comes on it; `client`: its client is at this end."""
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[str] = self._loop.create_future()
        self._count = count
        self._client = client
        self._frames = frames
        self._device_transport = device.writer.transport
        self._far = _End(far, self._on_far, self._far_ended)
        self._device = _End(device, self._on_device, self._device_ended)
        self._far.peer, self._device.peer = self._device, self._far
        self._heard_at = self._loop.time()
        self._out_ended = self._back_ended = False
        self._alarm = self._loop.call_later(HTTP_PING_S, self._ping)

    async def run(self) -> str:
        """Why it ended, in words, when that was not in order; else nothing. Neither connection is closed."""
        ends = self._far, self._device
        for end in ends:
            end.take_over()
        for end in ends:
            end.start()
        try:
            return await self._done
        finally:
            self._alarm.cancel()

    # --- from the device ---------------------------------------------------------------------------------------------

    def _on_device(self, data: memoryview) -> None:
        self._count.bytes_in += len(data)
        mask = self._mask()
        self._far.write(head_of(Opcode.BINARY, len(data), mask), masked(data, mask))

    def _device_ended(self) -> bool:
        """It sends no more, or is gone; the latter is no reason to tell."""
        if self._device_transport.is_closing():
            self._finish("")
        elif not self._out_ended:
            self._out_ended = True
            self._far.write(frame_of(Opcode.TEXT, END, self._mask()))
            self._finish_in_order()
        return True

    # --- from the other end ------------------------------------------------------------------------------------------

    def _on_far(self, data: memoryview) -> None:
        self._heard_at = self._loop.time()
        try:
            for opcode, piece in self._frames.feed(data):
                self._heed(opcode, piece)
        except FrameError as error:
            self._finish(f"the other end broke the WebSocket protocol: {error}")

    def _heed(self, opcode: Opcode, piece: bytes | memoryview) -> None:
        if opcode is Opcode.BINARY:
            if self._back_ended:
                raise FrameError("bytes came after their end")
            self._count.bytes_out += len(piece)
            self._device.write(piece)
        elif opcode is Opcode.TEXT and piece == END:
            self._back_ended = True
            self._device.write_end()
            self._finish_in_order()
        elif opcode is Opcode.PING:
            self._far.write(frame_of(Opcode.PONG, bytes(piece), self._mask()))
        elif opcode is Opcode.CLOSE:
            self._finish(LOST)

    def _far_ended(self) -> bool:
        self._finish(LOST)
        return False

    def _ping(self) -> None:
        """A connection that is silent though we listen is dead."""
        if self._loop.time() - self._heard_at > HTTP_SILENCE_S and not self._far.paused:
            self._finish(f"nothing came through the WebSocket for {HTTP_SILENCE_S:g} s")
            return
        self._far.write(frame_of(Opcode.PING, b"", self._mask()))
        self._alarm = self._loop.call_later(HTTP_PING_S, self._ping)

    def _mask(self) -> bytes:
        return os.urandom(4) if self._client else b""

    def _finish_in_order(self) -> None:
        if self._out_ended and self._back_ended:
            self._finish("")

    def _finish(self, reason: str) -> None:
        if not self._done.done():
            self._done.set_result(reason)
