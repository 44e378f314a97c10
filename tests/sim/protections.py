"""The link with one protection taken out each: what the simulation must find out, or it proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest

from tunnel.errors import RemoteProtocolError
from tunnel.link import wire
from tunnel.link.dialler import Dialler
from tunnel.link.directory import Directory
from tunnel.link.hello import Hello, Numbers, encode_numbers
from tunnel.link.inbound import Inbound
from tunnel.link.lane import Credit
from tunnel.link.listener import Listener
from tunnel.link.outbound import Outbound
from tunnel.link.peer import Peer
from tunnel.link.subscriptions import Wanted
from tunnel.link.wire import Data, Kind, Lane

Take = Callable[[pytest.MonkeyPatch], None]


def sequence_check(patch: pytest.MonkeyPatch) -> None:
    """A batch is taken whatever its number is."""
    accept = Inbound.accept

    def anything(self: Inbound, header: Data, segments: Any, size: int, born: float) -> bool:
        return accept(self, header._replace(seq=self.received + 1), segments, size, born)

    patch.setattr(Inbound, "accept", anything)


def open_step(patch: pytest.MonkeyPatch) -> None:
    """The listener switches over at HELLO; the data lane is whichever connection of that side speaks first."""
    on_hello, receive = Listener._on_hello, Listener.receive
    greeted: dict[int, dict[str, Numbers]] = {}

    def at_hello(self: Listener, conn: Hashable, user_id: str, parts: Any, now: float) -> None:
        on_hello(self, conn, user_id, parts, now)
        side = self._sides[user_id]
        pending, side.pending = side.pending, None
        if pending is None or pending.conn is not conn:
            return
        if side.session not in (b"", pending.hello.session):
            side.ended.append(side.session)
            self._refuse_bound(side, "evicted", "another process")
        self._unbind(side, "")
        side.session = pending.hello.session
        side.lanes = {Lane.CONTROL: conn}
        self._bound[conn] = (side, Lane.CONTROL)
        side.peer.begin(pending.hello, resume=pending.resume, now=now)
        ours = {name: channel.number for name, channel in side.peer.channels.items()}
        known = pending.hello.routes if pending.resume else ()
        greeted[id(side)] = {r.name: r.numbers for r in known if r.peer_number == ours.get(r.name)}

    def whoever_speaks(self: Listener, conn: Hashable, user_id: str, parts: Any, now: float) -> Peer | None:
        side = self._sides[user_id]
        kind = wire.kind_of(parts)
        if list(side.lanes) == [Lane.CONTROL] and conn not in self._bound and kind in (Kind.OPEN, Kind.DATA):
            side.lanes[Lane.DATA] = conn
            self._bound[conn] = (side, Lane.DATA)
            opened = wire.encode_json(Kind.OPENED, encode_numbers(side.peer.numbers()))
            self._outbox.append((side.lanes[Lane.CONTROL], opened))
            try:
                side.peer.open(greeted[id(side)], now)
            except RemoteProtocolError as error:
                self._refuse_bound(side, error.code, str(error))
                return side.peer
            if kind is Kind.OPEN:
                return side.peer
        return receive(self, conn, user_id, parts, now)

    patch.setattr(Listener, "_on_hello", at_hello)
    patch.setattr(Listener, "receive", whoever_speaks)


def opened_numbers(patch: pytest.MonkeyPatch) -> None:
    """The dialler goes by the numbers in WELCOME, from before the switch-over."""
    on_opened = Dialler._on_opened

    def from_welcome(self: Dialler, parts: Any, now: float) -> None:
        welcome = self._welcome
        if welcome is not None and welcome.resume:
            parts = wire.encode_json(
                Kind.OPENED, encode_numbers({route.name: route.numbers for route in welcome.routes})
            )
        on_opened(self, parts, now)

    patch.setattr(Dialler, "_on_opened", from_welcome)


def unbinding(patch: pytest.MonkeyPatch) -> None:
    """Connections that were overtaken are still heard."""

    def keep(self: Listener, side: Any, reason: str) -> None:
        side.lanes = {}
        side.reason = reason
        side.peer.closed()

    patch.setattr(Listener, "_unbind", keep)


def abandoning(patch: pytest.MonkeyPatch) -> None:
    """The fragments of a `live` message that was cut in two stay at the receiver."""
    patch.setattr(Inbound, "abandon", lambda self: None)


def channel_identity(patch: pytest.MonkeyPatch) -> None:
    """A route that was taken away and came again is taken for the old one."""
    agree = Directory.agree

    def forgetful(self: Directory, hello: Hello) -> None:
        for channel in self.by_name.values():
            channel.met_number = 0
        agree(self, hello)

    patch.setattr(Directory, "agree", forgetful)


def lane_credit(patch: pytest.MonkeyPatch) -> None:
    """Everything goes into the lane at once."""
    patch.setattr(Credit, "has_room", lambda self: True)


def window(patch: pytest.MonkeyPatch) -> None:
    """The local socket is read whatever is unacknowledged."""
    patch.setattr(Outbound, "has_room", property(lambda self: True))


def whole_sets(patch: pytest.MonkeyPatch) -> None:
    """A link that comes back goes on with changes of the topic set."""
    patch.setattr(Wanted, "restart", lambda self: None)


def counting_repeats(patch: pytest.MonkeyPatch) -> None:
    """What goes again to a new process is not counted."""
    restart = Outbound.restart

    def silent(self: Outbound) -> None:
        before = self.may_repeat
        restart(self)
        self.may_repeat = before

    patch.setattr(Outbound, "restart", silent)


def clock_offset(patch: pytest.MonkeyPatch) -> None:
    """Batches count as young as they arrive."""
    patch.setattr("tunnel.link.lane.Clock.local", lambda self, peer_s, now: now)


def resend(patch: pytest.MonkeyPatch) -> None:
    """After a cut the dialler goes on behind what it sent, instead of behind what was received."""

    def onwards(self: Outbound, received: int, delivered: int) -> None:
        self.cursor = self.next_seq

    patch.setattr(Outbound, "resume", onwards)


def catching_up(patch: pytest.MonkeyPatch) -> None:
    """A frame is taken before what went ahead of it is accounted for."""
    receive = Peer.receive

    def receive_first(self: Peer, lane: Lane, parts: Any, now: float) -> None:
        ahead, self.ahead = self.ahead, None
        try:
            receive(self, lane, parts, now)
        finally:
            self.ahead = ahead

    patch.setattr(Peer, "receive", receive_first)


PROTECTIONS: Sequence[Take] = (
    sequence_check,
    open_step,
    opened_numbers,
    unbinding,
    abandoning,
    channel_identity,
    lane_credit,
    window,
    whole_sets,
    counting_repeats,
    clock_offset,
    resend,
    catching_up,
)
