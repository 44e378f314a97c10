"""What happens to a socket's connections, as libzmq's monitor tells it, on the loop.

Two things libzmq does not say (measured, 4.3.5): its I/O thread *waits* when the monitor's queue is full, or when the
receiving end is closed before the monitor is stopped, and then every connection of that thread stands still. So the
queue here has no high-water mark, the monitor is stopped before its receiver is closed, and ACCEPT_FAILED, of which a
listener out of descriptors sends some 100,000 a second, is left out.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import zmq

from tunnel.limits import MONITOR_CLOSE_S
from tunnel.reactor import Reactor

_EVENT: Final = struct.Struct("=Hi")
_EVENTS_A_TURN: Final = 200
EVERYTHING_USEFUL: Final = zmq.Event.ALL & ~zmq.Event.ACCEPT_FAILED


@dataclass(frozen=True, slots=True)
class MonitorEvent:
    """One event. `value` is a descriptor, an errno, a ZAP status or a protocol error, by kind: zmq_socket_monitor(3).

    `address` is the endpoint: for accepted connections our own, not the peer's.
    """

    kind: zmq.Event
    value: int
    address: str


class Monitor:
    """Calls `on_event` for each event of `socket`, in order, until closed. Make it before bind and connect."""

    def __init__(
        self,
        reactor: Reactor,
        socket: zmq.Socket[bytes],
        on_event: Callable[[MonitorEvent], None],
        events: int = EVERYTHING_USEFUL,
    ) -> None:
        self._reactor = reactor
        self._socket = socket
        self._on_event = on_event
        self._closed = False
        self._deadline: asyncio.TimerHandle | None = None
        name = reactor.inproc_name("monitor")
        socket.monitor(name, events | zmq.Event.MONITOR_STOPPED)
        self._pair = reactor.context.socket(zmq.PAIR)
        self._pair.setsockopt(zmq.LINGER, 0)
        self._pair.setsockopt(zmq.RCVHWM, 0)
        self._pair.connect(name)
        self._watch = reactor.watch(self._pair, self._on_ready)

    def __repr__(self) -> str:
        return f"<Monitor{' closed' if self._closed else ''}>"

    def close(self) -> None:
        """No event after this. May come before or after the socket's own close."""
        if self._closed:
            return
        self._closed = True
        if self._socket.closed:
            # libzmq may still be sending to us: take it in until it says that it stopped
            self._deadline = self._reactor.call_later(MONITOR_CLOSE_S, self._end)
            self._watch.poke()
        else:
            self._socket.monitor(None, 0)
            self._end()

    def _end(self) -> None:
        self._watch.close()
        self._pair.close()

    def _on_ready(self, _ready: int) -> None:
        for _ in range(_EVENTS_A_TURN):
            try:
                head, address = self._pair.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            kind, value = _EVENT.unpack(head)
            if kind == zmq.Event.MONITOR_STOPPED:
                self._on_stopped()
                return
            if not self._closed:
                self._on_event(MonitorEvent(zmq.Event(kind), value, address.decode("utf-8", "replace")))
                if self._pair.closed:  # the owner closed us in the callback
                    return

    def _on_stopped(self) -> None:
        """The socket is gone: libzmq sends no more."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._closed = True
        self._end()
