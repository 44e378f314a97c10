"""What a carrier is: the bytes of one link, between a dialler and a listener, as two lanes of whole frames.

A carrier keeps order within a lane, delivers a frame whole or not at all, authenticates both ends before the first
frame, and says when a lane is gone. It retries nothing and remembers nothing: that is the link's part. Everything
happens on the reactor's loop; no call blocks. docs/carriers.md tells how to add one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import zmq

from tunnel.config.plan import KeyPair, ListenPlan
from tunnel.link.wire import Lane
from tunnel.pump import Segment, Shortcut
from tunnel.reactor import Reactor
from tunnel.zap import Zap

__all__ = ["Carrier", "DialEvents", "Dialled", "Lane", "ListenEvents", "Listener", "Who", "why_not_open"]

Who = Callable[[str], str | None]
"""A dialler's public key (Z85) → the User-Id its frames bear, or None: not let in."""


class DialEvents(Protocol):
    """What a dialler is told. After `lost`, or after close(), nothing more of that lane."""

    def up(self, lane: Lane) -> None:
        """The handshake is done: the listener holds the pinned key, and let us in."""

    def frames(self, lane: Lane, parts: list[Segment]) -> None:
        """One frame of the link."""

    def lost(self, lane: Lane, reason: str) -> None:
        """The lane is gone, or never came up; `reason` in words for status and log."""


class Dialled(Protocol):
    """One attempt: two fresh lanes. A lost one is never mended; dial again."""

    def send(self, lane: Lane, parts: Sequence[Segment]) -> bool:
        """Hand one frame over, before `up` too. False: the lane is dead, `lost` comes or came."""

    def way(self, shortcut: Shortcut) -> zmq.Socket[bytes] | None:
        """The 0MQ socket of the data lane, for small batches that are not handed over (tunnel/ahead.py); what comes by
        it is offered to `shortcut` first. None: this carrier has none."""

    def look(self) -> None:
        """Something was sent by that socket, which may have taken the edge of what came."""

    def close(self, linger_s: float = 0.0) -> None:
        """Close both lanes; what was handed over gets at most `linger_s` to leave."""


class ListenEvents(Protocol):
    """What a listener is told."""

    def frames(self, conn: bytes, user_id: str, parts: list[Segment]) -> None:
        """One frame. `conn` names one lane of one attempt of a dialler, `user_id` is what `who` said of its key."""


class Listener(Protocol):
    """An open port, or one that is being opened again and again: `status()` says which."""

    def send(self, conn: bytes, parts: Sequence[Segment]) -> bool:
        """Hand one frame over. False: that connection is dead."""

    def way(self, shortcut: Shortcut) -> zmq.Socket[bytes] | None:
        """As Dialled.way, for all connections; the last one offered is the one that counts."""

    def look(self) -> None:
        """As Dialled.look."""

    def close(self, linger_s: float = 0.0) -> None:
        """Close the port and every connection; what was handed over gets at most `linger_s` to leave."""

    def status(self) -> dict[str, Any]:
        """{address, state: listening|retrying|closed, reason, connections, admitted, refused: {reason: n},
        last_refusal, guard: {...}}: see docs/carriers.md."""


class Carrier(Protocol):
    """One way for a link to travel."""

    def dial(
        self, reactor: Reactor, address: str, own: KeyPair, server: str, source: str | None, events: DialEvents
    ) -> Dialled:
        """Begin one attempt. `address` is numeric (tunnel.resolve) or a path, `server` the listener's pinned key
        (Z85), `source` a local address to dial from."""

    def listen(
        self, reactor: Reactor, zap: Zap, plan: ListenPlan, own: KeyPair, who: Who, events: ListenEvents
    ) -> Listener:
        """Open a port. What goes wrong is in `status()`, and tried again for ever."""


def why_not_open(error: Exception) -> str:
    """Why a port could not be opened, in words."""
    if isinstance(error, OSError) and error.errno is not None:
        return {
            errno.EADDRINUSE: "another program listens there already",
            errno.EADDRNOTAVAIL: "this machine does not have that address (yet)",
            errno.EACCES: "the permission is missing (ports below 1024 need root or CAP_NET_BIND_SERVICE)",
        }.get(error.errno, os.strerror(error.errno))
    return str(error)
