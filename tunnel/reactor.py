"""0MQ sockets and timers on the asyncio loop, by plain callbacks: no coroutine or future on the path of a message.

A 0MQ descriptor says only "something changed" and is consumed by whoever next sends, receives or reads EVENTS; so after
every callback EVENTS is read again, and the owner of a socket must `poke()` its watch when it sent or received outside
that callback. What is missed all the same is found by a one-second tick. This file knows asyncio and zmq, nothing of
ztunnel but its limits.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import zmq

from tunnel.limits import CONTEXT_SOCKETS, EVENTS_TICK_S
from tunnel.pump import events

T = TypeVar("T")
OnReady = Callable[[int], object]
"""True: every message was received, up to EAGAIN, and nothing was left half done; so EVENTS need not be read again."""

LOCAL_AFFINITY: Final = 1
"""ZMQ_AFFINITY of local sockets: I/O thread 0."""
LINK_AFFINITY: Final = 2
"""ZMQ_AFFINITY of link sockets: I/O thread 1, so that CURVE never delays the applications."""
IO_THREADS: Final = 2
POLLIN: Final = int(zmq.POLLIN)
POLLOUT: Final = int(zmq.POLLOUT)
"""As plain numbers: the flags of pyzmq are enums, which cost a microsecond each time."""


def new_loop() -> asyncio.AbstractEventLoop:
    """A fresh event loop: uvloop's where it installs, else asyncio's."""
    try:
        import uvloop
    except ImportError:  # not every platform has it; asyncio's own loop carries the same callbacks, slower
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a fresh loop to its end, cancel what it left behind, close the loop."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


class Reactor:
    """One loop, one 0MQ context, the watches between them. Everything happens in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(IO_THREADS)
        self.context.set(zmq.MAX_SOCKETS, CONTEXT_SOCKETS)
        self._watches: set[Watch] = set()
        self._names = itertools.count()
        self._tick = loop.call_later(EVENTS_TICK_S, self._on_tick)

    def __repr__(self) -> str:
        return f"<Reactor watches={len(self._watches)}{' closed' if self.context.closed else ''}>"

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> asyncio.TimerHandle:
        """Call `fn` once after `delay_s`; the handle's cancel() takes it back, also after it ran."""
        return self.loop.call_later(delay_s, fn)

    def watch(self, socket: zmq.Socket[bytes], on_ready: OnReady, want: int = zmq.POLLIN) -> Watch:
        """Call `on_ready(EVENTS & want)` once a loop turn for as long as that is not 0. One watch a socket.

        Who wants zmq.POLLIN only may also be called in vain: receive with DONTWAIT, and expect EAGAIN.
        """
        watch = Watch(self, socket, on_ready, want)
        self._watches.add(watch)
        return watch

    def inproc_name(self, what: str) -> str:
        """An inproc address that nothing else in this context has."""
        return f"inproc://{what}.{next(self._names)}"

    def close(self) -> None:
        """End every watch and the context. Blocks while closed sockets linger; open ones are not waited for."""
        self._tick.cancel()
        for watch in tuple(self._watches):
            watch.close()
        self.context.destroy(linger=0)

    def _on_tick(self) -> None:
        self._tick = self.loop.call_later(EVENTS_TICK_S, self._on_tick)
        for watch in tuple(self._watches):
            watch.poke()

    def _forget(self, watch: Watch) -> None:
        self._watches.discard(watch)


class Watch:
    """Waits for one socket on behalf of its owner. Close it before the socket is closed."""

    __slots__ = ("_fd", "_on_ready", "_poked", "_reactor", "_socket", "_soon", "_turning", "_want", "closed", "on_edge")

    def __init__(self, reactor: Reactor, socket: zmq.Socket[bytes], on_ready: OnReady, want: int) -> None:
        self._reactor = reactor
        self._socket = socket
        self._on_ready = on_ready
        self._want = want
        self._soon = False  # a call of _look is already queued
        self._turning = False  # inside on_ready
        self._poked = False  # ... and the owner sent meanwhile
        self.closed = False
        self.on_edge: Callable[[], None] | None = None
        """Called when the descriptor announces anything at all: for sockets that always say they can be written."""
        self._fd = int(socket.getsockopt(zmq.FD))
        reactor.loop.add_reader(self._fd, self._on_descriptor)
        self._queue_look()  # what arrived before the watch gave its edge already

    def __repr__(self) -> str:
        return f"<Watch fd={self._fd} want={self._want}{' closed' if self.closed else ''}>"

    def want(self, events: int) -> None:
        """Wait for `events` (zmq.POLLIN | zmq.POLLOUT) from now on; 0 waits for nothing."""
        if self._want != events:
            self._want = events
            if events:
                self.poke()

    def poke(self) -> None:
        """The owner sent or received on this socket, which may have taken the edge of something that waits: look."""
        if self._turning:
            self._poked = True
        elif not (self._soon or self.closed) and self._want and events(self._socket) & self._want:
            self._queue_look()

    def close(self) -> None:
        """No callback after this, not even one already queued."""
        if not self.closed:
            self.closed = True
            self._reactor.loop.remove_reader(self._fd)
            self._reactor._forget(self)

    def _queue_look(self) -> None:
        self._soon = True
        self._reactor.loop.call_soon(self._look)

    def _on_descriptor(self) -> None:
        """Something changed. Who waits for messages just tries to receive: that takes the edge and saves a call."""
        if self.closed:
            return
        if self._soon:
            pass  # _look is about to; twice a turn would be unfair to the others
        elif self._want == POLLIN:
            self._call(POLLIN)
        else:
            self._turn()
        if self.on_edge is not None and not self.closed:
            events(self._socket)
            self.on_edge()

    def _look(self) -> None:
        self._soon = False
        self._turn()

    def _turn(self) -> None:
        """Read EVENTS, which also takes in what the descriptor announced, and call the owner for what it wants."""
        if not self.closed:
            ready = events(self._socket) & self._want
            if ready:
                self._call(ready)

    def _call(self, ready: int) -> None:
        """Call the owner; look again unless it has certainly taken everything."""
        self._turning = True
        self._poked = False
        emptied: object = False
        try:
            emptied = self._on_ready(ready)
        finally:
            # after an exception the tick tries again: at once would spin
            self._turning = False
        certain = emptied is True and not self._poked and self._want == POLLIN
        if not (certain or self._soon or self.closed) and self._want and events(self._socket) & self._want:
            self._queue_look()
