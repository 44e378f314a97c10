"""Small batches ahead of their bookkeeping: what a round trip waits for is done at once, the rest a little later.

The link says what may go next (`Peer.foresee`), the pump's Shortcut does that and nothing else, and notes it; here it
is accounted for, by the same calls as ever. That happens before anything else happens to the peer (`Peer.catch_up`),
as soon as an acknowledgement is due, and after RINGS of the timer at the latest. So the link's own state is never seen
behind, and what others read of it (is there room?) is behind by no more than what `foresee` allowed to go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from tunnel import pump
from tunnel.errors import RemoteProtocolError
from tunnel.limits import ACK_DELAY_S, INLINE_BYTES, JOURNAL
from tunnel.link.acks import FOREVER
from tunnel.link.wire import Lane

if TYPE_CHECKING:
    import zmq

    from tunnel.link.channel import Channel
    from tunnel.link.peer import Peer
    from tunnel.patterns import Pattern, Port

RINGS = 5
"""So many times ACK_DELAY_S what went ahead waits to be accounted for, at most."""
FAR_US = 1 << 62
"""146,000 years: the shortcut reckons with 64 bits, and a peer may say of its clock what it likes."""
LEAST_S = 0.001
"""The loop's timers know no shorter time."""
Way = tuple["zmq.Socket[bytes]", bytes, bytes]
"""The link socket of a peer's data lane, and at a ROUTER that connection's routing id and User-Id."""


class Owner(Protocol):
    """What is asked of the device."""

    def way(self, peer: Peer, shortcut: pump.Shortcut) -> Way | None:
        """Offer the shortcut what comes on this peer's data lane. None: its carrier has none, or there is no link."""

    def look(self, peer: Peer) -> None:
        """Something was sent to this peer, which may have taken the edge of something that came from it."""

    def now(self) -> float: ...

    def touch(self, peer: Peer) -> None: ...

    def settle(self) -> None: ...

    def breach(self, peer: Peer, error: RemoteProtocolError) -> None: ...

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> Any: ...


class Aheads:
    """The shortcuts of a device: of each peer's ports the one that had a small batch last is armed."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._of: dict[Channel, Ahead] = {}
        self._last: dict[Peer, Ahead] = {}

    def add(self, pattern: Pattern, ports: Iterable[Port]) -> None:
        """A route has come."""
        for port in ports:
            self._of[port.channel] = Ahead(self._owner, pattern, port)

    def remove(self, ports: Iterable[Port]) -> None:
        """A route goes."""
        for port in ports:
            port.peer.catch_up()
            ahead = self._of.pop(port.channel, None)
            if ahead is not None and self._last.get(port.peer) is ahead:
                del self._last[port.peer]

    def saw(self, peer: Peer, channel: Channel, size: int) -> None:
        """A batch of this size went by the usual way; among large ones nothing is worth while."""
        if size <= INLINE_BYTES and channel in self._of:
            self._last[peer] = self._of[channel]
        else:
            self._last.pop(peer, None)

    def arm(self, peer: Peer) -> None:
        """Everything is done that was to be done for this peer."""
        ahead = self._last.get(peer)
        if ahead is not None:
            ahead.arm()


class Ahead:
    """The shortcut of one port."""

    def __init__(self, owner: Owner, pattern: Pattern, port: Port) -> None:
        self._owner = owner
        self._pattern = pattern
        self._port = port
        self._shortcut = port.shortcut = pump.Shortcut(self._on_entry)
        self._timer: Any = None
        self._rings = 0

    def arm(self) -> None:
        """Let small batches go ahead from now on, if everything is at rest."""
        peer, pattern = self._port.peer, self._pattern
        foreseen = peer.foresee(self._port.channel)
        way = self._owner.way(peer, self._shortcut) if foreseen is not None else None
        if foreseen is None or way is None:
            return
        departs, enters = foreseen.departs if pattern.may_leave_ahead(self._port) else None, None
        if foreseen.enters is not None and abs(foreseen.enters[2]) < FAR_US and pattern.may_enter_ahead(self._port):
            channel, seq, offset_us = foreseen.enters
            age_s = pattern.plan.max_age_s
            age_us = -1 if age_s is None else min(FAR_US, int(age_s * 1e6))
            enters = channel, seq, pattern.prefix(self._port), age_us, offset_us
        elif foreseen.owed[2]:
            departs = None  # what it acknowledges is known by what entered
        if departs is None and enters is None:
            return
        lane_bytes, ack_at, owed_here = foreseen.owed
        owed_at = 0 if ack_at == FOREVER else int((ack_at - ACK_DELAY_S) * 1e6)
        self._shortcut.arm(pattern.local(self._port), *way, departs, enters, (lane_bytes, owed_at, owed_here))
        peer.ahead = self
        if owed_at:
            self._wait(ACK_DELAY_S)

    def catch_up(self) -> None:
        """See Peer.ahead."""
        journal = self._shortcut.take()
        for entered, seq, at_us, what, rest in journal:
            if entered:
                self._entered(what, rest, at_us / 1e6)
            else:
                self._port.peer.departed(self._port.channel, what, seq, rest, at_us / 1e6)
                self._pattern.left(self._port, what)
        if journal:
            self._owner.touch(self._port.peer)

    def _entered(self, frame: bytes, fed: pump.Fed, at: float) -> None:
        peer = self._port.peer
        try:
            peer.receive(Lane.DATA, [frame], at)
        except RemoteProtocolError as error:  # its acknowledgement; the batch itself was looked at before it was fed
            wrong = error
            self._owner.call_later(0, lambda: self._owner.breach(peer, wrong))
        if self._pattern.entered(self._port, fed, at):
            peer.arrived.pop()

    def _on_entry(self, first: bool, local: bool, link: bool) -> None:
        if self._shortcut.full:
            self._owner.call_later(0, self._catch_up_now)
        elif first:
            self._wait(ACK_DELAY_S)
        if local:
            self._pattern.end.watch.poke()
        if link:
            self._owner.look(self._port.peer)

    def _wait(self, delay_s: float) -> None:
        if self._timer is None:
            self._timer = self._owner.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        """Catch up when an acknowledgement is due or there is much to do; in between there may be no time to lose."""
        self._timer = None
        peer, shortcut = self._port.peer, self._shortcut
        if peer.ahead is not self:
            self._owner.settle()  # whoever had us catch up perhaps only wanted to know the numbers
            return
        if not (len(shortcut) or shortcut.owed_at_us):
            return
        self._rings += 1
        owed_s = self._owner.now() - shortcut.owed_at_us / 1e6 if shortcut.owed_at_us else 0.0
        if owed_s < ACK_DELAY_S and len(shortcut) < JOURNAL // 2 and self._rings < RINGS:
            self._wait(max(LEAST_S, ACK_DELAY_S - owed_s))
        else:
            self._catch_up_now()

    def _catch_up_now(self) -> None:
        self._rings = 0
        self._port.peer.catch_up()
        self._owner.touch(self._port.peer)
        self._owner.settle()
