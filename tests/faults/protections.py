"""The protections that controls take out, each by replacing one thing of the device's process before it starts.

Every function says what is wrong afterwards. They know the code's inside, on purpose: when a protection moves, its
control must move with it, or it shows nothing and fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def replay() -> None:
    """A link that comes back goes on with what is new; what was under way is taken to have arrived."""
    from tunnel.link.outbound import Outbound

    def resume(self: Outbound, received: int, delivered: int) -> None:
        self.acknowledge(self.next_seq - 1)
        self.cursor = self.next_seq

    Outbound.resume = resume  # type: ignore[method-assign]
    sequence()  # the gap would be noticed there


def resume_point() -> None:
    """A link that comes back goes on where the last acknowledgement was, not where the peer says it is."""
    from tunnel.link.outbound import Outbound

    original = Outbound.resume

    def resume(self: Outbound, received: int, delivered: int) -> None:
        if self.terms.confirmed:
            received = delivered = self.delivered
        original(self, received, delivered)

    Outbound.resume = resume  # type: ignore[method-assign]


def sequence() -> None:
    """A batch is taken whatever its number."""
    from tunnel.link.inbound import Inbound

    original = Inbound.accept

    def accept(self: Inbound, header: Any, *rest: Any) -> bool:
        self.received = header.seq - 1
        return original(self, header, *rest)

    Inbound.accept = accept  # type: ignore[method-assign]


def counting() -> None:
    """What a `live` route loses is not counted."""
    from tunnel.link.outbound import Outbound

    original = Outbound._lose_flight_after

    def lose(self: Outbound, seq: int, reason: str) -> None:
        before = self.dropped.copy()
        original(self, seq, reason)
        self.dropped = before

    Outbound._lose_flight_after = lose  # type: ignore[method-assign]


def received() -> None:
    """The lane's bytes are acknowledged when they are delivered, not when they are received."""
    from tunnel.link.peer import Peer

    on_data, delivered = Peer._on_data, Peer.delivered

    def take(self: Peer, parts: Any, now: float) -> None:
        before = self._owed.lane_bytes
        on_data(self, parts, now)
        self._owed.lane_bytes = before

    def hand_on(self: Peer, channel: Any, size: int, now: float) -> None:
        self._owed.lane_bytes += size
        delivered(self, channel, size, now)

    Peer._on_data = take  # type: ignore[method-assign]
    Peer.delivered = hand_on  # type: ignore[method-assign]


def progress() -> None:
    """A busy data lane is judged by when it began to be busy, not by whether its bytes move."""
    from tunnel.link.lane import Credit

    original = Credit.acknowledge

    def acknowledge(self: Credit, lane_bytes: int, now: float) -> None:
        before = self.progress_at
        original(self, lane_bytes, now)
        self.progress_at = before

    Credit.acknowledge = acknowledge  # type: ignore[method-assign]


def version() -> None:
    """A greeting of any protocol version is taken."""
    from tunnel.link import listener, wire

    original = listener.parse_hello
    listener.parse_hello = lambda raw: original({**raw, "version": wire.VERSION})


def keys() -> None:
    """Every CURVE key is taken for the dialler's."""
    from tunnel.zap import Gate, Verdict

    Gate._judge = lambda self, address, mechanism, credentials: Verdict(None, "plant")  # type: ignore[method-assign]


def set_on_link_up() -> None:
    """Subscriptions made before the link was up are not told again."""
    from tunnel.link.subscriptions import Wanted

    def restart(self: Wanted) -> None:
        self._anew = False

    Wanted.restart = restart  # type: ignore[method-assign]


def mandatory() -> None:
    """A local ROUTER drops replies to clients that are gone without a word."""
    import zmq

    _socket_options("ROUTER", {zmq.ROUTER_MANDATORY: 0})


def queueing() -> None:
    """Exits queue for connected peers only, and forget the queue when the peer goes (IMMEDIATE)."""
    import zmq

    _socket_options("DEALER", {zmq.IMMEDIATE: 1})


def _socket_options(kind: str, changed: dict[int, int]) -> None:
    from tunnel.local import options

    original = options._by_type
    options._by_type = lambda end: original(end) | (changed if end.socket == kind else {})


def unlimited_subscriptions() -> None:
    """Subscriptions towards publishers obey a (small) high-water mark."""
    from tunnel.local import options

    original = options.high_water_marks
    options.high_water_marks = lambda end: (1, 1000) if end.socket == "XSUB" else original(end)


def nonblocking() -> None:
    """A full local socket is waited for on the spot."""
    from tunnel import pump

    original = pump.feed

    def feed(socket: Any, segments: Any, position: int = 0, *rest: Any) -> Any:
        while (fed := original(socket, segments, position, *rest)).status is pump.AGAIN:
            position = fed.position
            time.sleep(0.01)
        return fed

    pump.feed = feed


def max_message() -> None:
    """Messages of any size are read."""
    from tunnel.patterns.base import Pattern

    Pattern.max_message_bytes = lambda self: 1 << 30  # type: ignore[method-assign]


def local_sockets() -> None:
    """When a link goes down, the local sockets of its routes are closed and opened again."""
    from tunnel.device import Device
    from tunnel.link.peer import Peer
    from tunnel.local import LocalEnd

    devices: list[Device] = []
    start, closed = Device.start, Peer.closed

    async def begin(self: Device) -> None:
        devices.append(self)
        await start(self)

    def reopen(end: LocalEnd) -> None:
        pair = end._pair
        end._reopen()
        if pair is None:
            end._pair = None

    def end_of_link(self: Peer) -> None:
        if self.is_open:
            for route in devices[0].routes.values():
                devices[0].reactor.loop.call_soon(reopen, route.end)
        closed(self)

    Device.start = begin  # type: ignore[method-assign]
    Peer.closed = end_of_link  # type: ignore[method-assign]


def guard() -> None:
    """The listener takes connections until its descriptors are used up, and then still."""
    from tunnel.carriers.guard import Guard

    Guard._press = lambda self: None  # type: ignore[method-assign]
    Guard._review = lambda self: None  # type: ignore[method-assign]
    Guard._take_ballast = lambda self: True  # type: ignore[method-assign]


def stale_replies() -> None:
    """Replies that were not sent yet when the half they are for was replaced are sent to its successor."""
    from tunnel.link.outbound import Outbound

    Outbound.drop_all = lambda self, reason: None  # type: ignore[method-assign]


def spool_count() -> None:
    """The receiver of a spooled route forgets what it had when the other half's process is a new one."""
    from tunnel.link.inbound import Inbound
    from tunnel.link.spooled import UNKNOWN, SpooledInbound

    def restart(self: SpooledInbound, *, keep: bool) -> None:
        Inbound.restart(self, keep=keep)
        self._forget()

    SpooledInbound.restart = restart  # type: ignore[method-assign]
    SpooledInbound.known = property(lambda self: UNKNOWN)  # type: ignore[method-assign,assignment]


def spool_first() -> None:
    """A process begins with what comes, not with what its predecessor left on disk."""
    from tunnel import spools
    from tunnel.link.spooled import Stored

    spools.stored = lambda store: Stored(store.id.hex(), store.next, store.next)  # type: ignore[attr-defined]


def receipts() -> None:
    """A desk says `taken` of what it has read; and the disk takes its time, so that there is something to lose."""
    from tunnel.patterns.base import Port
    from tunnel.spool.file import SpoolFile

    Port.safe_through = property(lambda self: self.entered_through)  # type: ignore[method-assign,assignment]
    insert = SpoolFile.insert

    def late(self: SpoolFile, *rest: Any) -> None:
        time.sleep(1)
        insert(self, *rest)

    SpoolFile.insert = late  # type: ignore[method-assign]


def done() -> None:
    """What was given to a taker counts as delivered, whatever becomes of it."""
    from tunnel.patterns.desk_out import DeskOut

    give = DeskOut._give

    def give_for_good(self: DeskOut, taker: Any, message: Any) -> None:
        give(self, taker, message)
        self._on_done(taker, message.number)

    DeskOut._give = give_for_good  # type: ignore[method-assign]


PROTECTIONS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        replay,
        resume_point,
        sequence,
        counting,
        received,
        progress,
        version,
        keys,
        set_on_link_up,
        mandatory,
        queueing,
        unlimited_subscriptions,
        nonblocking,
        max_message,
        local_sockets,
        guard,
        stale_replies,
        spool_count,
        spool_first,
        receipts,
        done,
    )
}
