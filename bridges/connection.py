"""One TCP connection of a bridge: bytes to frames and back, its idle time and age, what may wait for it.

Reads go into one block that all connections of a bridge share, for what comes is cut into frames before the next read;
so an idle connection costs its transport and this object, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from bridges.framing import FramingError, Message
from tunnel.config.bridge_plan import TcpPlan
from tunnel.limits import (
    BRIDGE_CLOSE_S,
    BRIDGE_READ_HELD_BYTES,
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_INTERVAL_S,
)

if TYPE_CHECKING:
    from bridges.framing import Decoder

ZMQ: Final = 1
"""Why a connection is not read: the 0MQ socket takes nothing."""
FULL: Final = 2
"""... it does not read what it is told, and would be told more."""
MODE: Final = 4
"""... the bridge's mode has enough of it."""
STOP: Final = 8
"""... the bridge stops."""
_TCP_USER_TIMEOUT: Final = getattr(sockets, "TCP_USER_TIMEOUT", 18)


class Owner(Protocol):
    """What a connection tells, and asks of, whoever keeps it."""

    plan: TcpPlan
    loop: asyncio.AbstractEventLoop

    def block(self) -> memoryview:
        """Where the next read goes."""

    def opened(self, connection: Connection) -> None: ...

    def came(self, connection: Connection, messages: list[Message], size: int) -> None:
        """These frames, out of a read of so many bytes."""

    def breach(self, connection: Connection, error: FramingError) -> None:
        """It broke the framing, and is being closed."""

    def ended(self, connection: Connection) -> None:
        """It sends no more. Close it, now or later."""

    def writable(self, connection: Connection) -> None:
        """It was full, and is not any more."""

    def closed(self, connection: Connection, reason: str) -> None:
        """It is gone, for this reason: a word that is counted."""


class Connection(asyncio.BufferedProtocol):
    """From accept or connect to its end."""

    def __init__(self, owner: Owner, number: int, address: str) -> None:
        self.number = number
        self.address = address
        self.subject = ""
        """Of the TLS certificate that the other end showed."""
        self.full = False
        """As much waits for it as may."""
        self.half_closed = False
        self.gathered = 0
        """What the owner knows of `pending`."""
        self.transport: asyncio.Transport | None = None
        self.opened_at = self.moved_at = owner.loop.time()
        self.mode: Any = None
        """What the bridge's mode keeps of this connection."""
        self._owner = owner
        self._decoder: Decoder = owner.plan.reads.decoder()
        self._reason = ""
        self._held = 0
        self._early = b""
        """What was read although it was held: uvloop reads once after `connection_made`, whatever was said there."""
        self._early_end = False
        self._deadline: asyncio.TimerHandle | None = None
        self._pausing: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.number} {self.address}{' full' if self.full else ''}{' held' if self._held else ''}>"

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete."""
        return self._decoder.pending + len(self._early)

    @property
    def reason(self) -> str:
        """Why it ended, or is about to: a word; "": its other end wanted it so."""
        return self._reason

    @property
    def ending(self) -> bool:
        """It is gone, or about to be: nothing more reaches it."""
        return bool(self._reason) or (self.transport is not None and self.transport.is_closing())

    # --- what the bridge does with it --------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send this, or keep it: who asks `full` first keeps what waits bounded."""
        if self.transport is not None and not self.transport.is_closing():
            self.moved_at = self._owner.loop.time()
            self.transport.write(data)

    def hold(self, why: int = ZMQ) -> None:
        """Read no more, until `go_on` for the same reason: each reason counts by itself."""
        was, self._held = self._held, self._held | why
        if not was and self.transport is not None:
            with contextlib.suppress(RuntimeError):  # it is closing
                self.transport.pause_reading()

    def go_on(self, why: int = ZMQ) -> None:
        was, self._held = self._held, self._held & ~why
        if was and not self._held and self.transport is not None:
            if self._early or self._early_end:
                self._owner.loop.call_soon(self._take_early)
            else:
                self._resume()

    def _resume(self) -> None:
        if self.transport is not None and not self.half_closed:  # its end would be read once more
            with contextlib.suppress(RuntimeError):  # it is closing
                self.transport.resume_reading()

    def _take_early(self) -> None:
        if self._held or self.transport is None:
            return
        early, self._early = self._early, b""
        if early:
            self._take(early)
        if self._held or self.ending:
            return
        if self._early_end:
            self._early_end = False
            self._end()
        else:
            self._resume()

    def close(self, reason: str = "") -> None:
        """What waits for it still goes, for as long as it goes at all."""
        self._reason = self._reason or reason
        if self.transport is not None:
            self.transport.close()
            if self._deadline is None:
                self._watch_the_rest(self.transport.get_write_buffer_size())

    def _watch_the_rest(self, left: int) -> None:
        """It may read slowly; but not nothing for BRIDGE_CLOSE_S."""
        self._deadline = self._owner.loop.call_later(BRIDGE_CLOSE_S, self._on_deadline, left)

    def _on_deadline(self, left: int) -> None:
        if self.transport is not None:
            now_left = self.transport.get_write_buffer_size()
            if now_left < left:
                self._watch_the_rest(now_left)
            else:
                self.transport.abort()

    def abort(self, reason: str) -> None:
        """Now; also one whose handshake is not over."""
        self._reason = self._reason or reason
        if self.transport is not None:
            self.transport.abort()

    # --- what the loop calls -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self._owner.plan.queue_bytes)
        with contextlib.suppress(OSError):
            self._set_up(self.transport.get_extra_info("socket"))
        self.subject = _subject(self.transport)
        if self._reason:  # it was given up during its handshake
            self.transport.abort()
            return
        self._owner.opened(self)

    def _set_up(self, socket: sockets.socket) -> None:
        if socket.family not in (sockets.AF_INET, sockets.AF_INET6):
            return
        plan = self._owner.plan
        socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        socket.setsockopt(sockets.IPPROTO_TCP, _TCP_USER_TIMEOUT, int(plan.user_timeout_s * 1000))
        if plan.keepalive:
            socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
            socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPIDLE, int(KEEPALIVE_IDLE_S))
            socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPINTVL, int(KEEPALIVE_INTERVAL_S))
            socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPCNT, KEEPALIVE_COUNT)

    def get_buffer(self, _hint: int) -> memoryview:
        block = self._owner.block()
        self._block = block[:BRIDGE_READ_HELD_BYTES] if self._held else block
        return self._block

    def buffer_updated(self, size: int) -> None:
        self.moved_at = self._owner.loop.time()
        data = self._block[:size]
        if self._held:
            self._early += bytes(data)
            if self.transport is not None:
                self.transport.pause_reading()
        else:
            self._take(data)

    def _take(self, data: bytes | memoryview) -> None:
        size = len(data)
        breach: FramingError | None = None
        try:
            messages = self._decoder.feed(data)
        except FramingError as error:
            messages, breach = error.before, error
        if messages or not breach:
            self._owner.came(self, messages, size)
        if breach is not None:
            self._broken(breach)
        elif self._owner.plan.reads.idle_s is not None and self._pausing is None:
            self._pausing = self._owner.loop.call_later(self._owner.plan.reads.idle_s, self._on_pause)

    def _on_pause(self) -> None:
        """Framing `idle`: a frame ends where nothing came for a while."""
        idle_s = self._owner.plan.reads.idle_s or 0.0
        left_s = self.moved_at + idle_s - self._owner.loop.time()
        if left_s > 0:
            self._pausing = self._owner.loop.call_later(left_s, self._on_pause)
            return
        self._pausing = None
        messages = self._decoder.pause()
        if messages:
            self._owner.came(self, messages, 0)

    def eof_received(self) -> bool:
        if self._held and self._owner.plan.tls is None:
            self._early_end = True
            return True
        return self._end()

    def _end(self) -> bool:
        self.half_closed = True
        try:
            messages = self._decoder.end()
        except FramingError as error:
            if error.before:
                self._owner.came(self, error.before, 0)
            self._broken(error)
            return False
        if messages:
            self._owner.came(self, messages, 0)
        self._owner.ended(self)
        return self._owner.plan.tls is None  # TLS cannot be ended one way

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._owner.writable(self)

    def connection_lost(self, error: Exception | None) -> None:
        for timer in (self._pausing, self._deadline):
            if timer is not None:
                timer.cancel()
        self.transport = None
        broke = "" if error is None else "vanished" if isinstance(error, TimeoutError) else "reset"
        self._reason = self._reason or broke
        self._owner.closed(self, self._reason)

    def _broken(self, error: FramingError) -> None:
        error.__traceback__ = None  # the decoder keeps it, and it would keep the decoder
        self._owner.breach(self, error)
        self.close("framing")


def _subject(transport: asyncio.Transport) -> str:
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return ""
    return ", ".join(f"{key}={value}" for part in certificate.get("subject", ()) for key, value in part)
