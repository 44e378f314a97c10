"""A desk: the socket beside a route's private one where bridges get and give receipts (tunnel/receipts.py).

What both kinds have in common: the ROUTER, its words in and out. One Desk a route; the two kinds are `desk_in` and
`desk_out`, and the table of who has which is in `patterns/__init__`. Desks handle messages one by one in Python, which
is for mail, some hundreds a second; what goes by the route's own socket never comes near them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import zmq

from tunnel import places
from tunnel.config.plan import EndPlan, Endpoint, RoutePlan
from tunnel.limits import DESK_MESSAGES_A_TURN, DESK_RETRY_S, SESSION_BYTES
from tunnel.reactor import POLLIN

if TYPE_CHECKING:
    from tunnel.local import LocalEnd
    from tunnel.patterns.base import Pattern

_FILE_MODE = 0o600


def has_private_socket(plan: RoutePlan, private_dir: Path) -> bool:
    """Does this side's end of the route `bind local`?"""
    return Endpoint("bind", f"ipc://{places.local_path(private_dir, plan.name)}") in plan.end.endpoints


class Desk:
    """One route's desk. What it cannot understand it counts in the pattern's `dropped`, under `words`."""

    hwm: ClassVar[int]

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.may_repeat = 0
        """Messages that were given out again."""
        self._end: LocalEnd | None = None
        self._waiting: dict[bytes, list[list[bytes]]] = {}
        """Words for peers that were full."""
        self._retry: Any = None

    def plan(self, private_dir: Path) -> RoutePlan:
        """Of its socket, as of a route of its own, with a name that no route has.

        libzmq's own limit of a frame is out of reach: it would end the connection over a message, which the bridge
        would then put again, for ever; here it is refused in words.
        """
        route = self.pattern.plan
        address = f"ipc://{places.receipts_path(private_dir, route.name)}"
        end = EndPlan("ROUTER", (Endpoint("bind", address),), hwm=self.hwm, mode=_FILE_MODE)
        most = max(route.max_message_bytes, SESSION_BYTES)
        name = f"{route.name} desk"
        return replace(route, name=name, pattern="reqrep", where="from", end=end, max_message_bytes=most)

    def attach(self, end: LocalEnd) -> None:
        """The socket is there; nothing comes before `end.open()`."""
        self._end = end

    @property
    def end(self) -> LocalEnd:
        if self._end is None:
            raise RuntimeError("the desk is not attached")
        return self._end

    @property
    def socket(self) -> zmq.Socket[bytes]:
        return self.end.socket

    # --- what kinds decide -------------------------------------------------------------------------------------------

    def wants_to_read(self) -> bool:
        """May words be read now?"""
        raise NotImplementedError

    def heard(self, peer: bytes, word: bytes, frames: Sequence[zmq.Frame]) -> bool:
        """A word of this peer, with what follows it. False: it makes no sense."""
        raise NotImplementedError

    def gone(self, peer: bytes) -> None:
        """A word for it could not be sent: it is not connected any more."""
        raise NotImplementedError

    def on_doubt(self) -> None:
        """A peer has come or gone; libzmq does not say which."""

    def told(self) -> dict[str, Any]:
        """What `status` shows."""
        raise NotImplementedError

    # --- words -------------------------------------------------------------------------------------------------------

    def want(self) -> None:
        """Something about the route has changed: tell the watch whether words are read."""
        if self.end.has_socket:
            self.end.watch.want(POLLIN if self.wants_to_read() else 0)

    def on_ready(self, _events: int) -> bool:
        """Words have come."""
        for _ in range(DESK_MESSAGES_A_TURN):
            if not self.read():
                break
        self.pattern.hub.settle()
        self.pattern.want()
        return False

    def read(self) -> bool:
        """One word, if there is one and it is wanted."""
        if not (self.end.has_socket and self.wants_to_read()):
            return False
        try:
            frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return False
        peer, word = frames[0].bytes, frames[1].bytes if len(frames) > 1 else b""
        if not self.heard(peer, word, frames[2:]):
            self.pattern.dropped["words"] += 1
        return True

    def say(self, peer: bytes, *word: bytes) -> None:
        """Send a word, now or when the peer has room. The kind hears `gone` where nobody is."""
        if peer in self._waiting:
            self._waiting[peer].append([*word])
        elif self._say(peer, word) is None:
            self._waiting[peer] = [[*word]]
            self._again_soon()

    def _say(self, peer: bytes, word: Sequence[bytes]) -> bool | None:
        """None: the peer is full."""
        if not self.end.has_socket:
            return False
        try:
            self.socket.send_multipart([peer, *word], zmq.DONTWAIT)
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._waiting.pop(peer, None)
            self.gone(peer)
            return False
        finally:
            self.end.watch.poke()
        return True

    def _again_soon(self) -> None:
        if self._retry is None:
            self._retry = self.pattern.hub.call_later(DESK_RETRY_S, self._again)

    def _again(self) -> None:
        self._retry = None
        for peer, words in [*self._waiting.items()]:
            said = 0
            while said < len(words) and self._say(peer, words[said]):
                said += 1
            del words[:said]
            if not words:
                self._waiting.pop(peer, None)
        if self._waiting:
            self._again_soon()
        self.want()

    @property
    def unsaid(self) -> int:
        """Words that wait for peers to have room."""
        return sum(map(len, self._waiting.values()))
