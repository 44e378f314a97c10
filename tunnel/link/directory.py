"""The channels towards one peer: how they are numbered, announced and agreed on (docs/protocol.md, 3 and 5).

Each side numbers its own and learns the other's numbers in HELLO or WELCOME. A channel outlives connections; what it
has of a session of the peer's that has ended is put right here, by `restart`.
"""

from __future__ import annotations

from tunnel.link.channel import Channel, Route
from tunnel.link.hello import Announced, Hello, Numbers, Units, disagreement
from tunnel.link.inbound import Inbound
from tunnel.link.outbound import Compact, Outbound
from tunnel.link.spooled import UNKNOWN, SpooledInbound, SpooledOutbound
from tunnel.link.subscriptions import Granted, Wanted


class Directory:
    """Every channel, by name and by either side's number."""

    def __init__(self, own_side: str, side: str, compact: Compact | None) -> None:
        self.by_name: dict[str, Channel] = {}
        self.by_number: dict[int, Channel] = {}
        self.by_peer_number: dict[int, Channel] = {}
        self._own_side = own_side
        self._side = side
        self._compact = compact
        self._numbers = 0

    def add(self, route: Route) -> Channel:
        """A route of this side's; it carries nothing before it is agreed on."""
        self._numbers += 1
        number = self._numbers
        channel = Channel(
            route=route,
            number=number,
            outbound=_outbound(number, route, self._compact) if route.sends else None,
            inbound=_inbound(route) if route.takes else None,
            wanted=Wanted(route.standing) if route.wants else None,
            granted=Granted(route.name) if route.grants else None,
            max_message_bytes=route.max_message_bytes,
        )
        self.by_name[route.name] = self.by_number[number] = channel
        return channel

    def remove(self, name: str) -> Channel:
        """The channel that is gone."""
        channel = self.by_name.pop(name)
        del self.by_number[channel.number]
        if channel.peer_number is not None:
            self.by_peer_number.pop(channel.peer_number, None)
        return channel

    def announce(self) -> tuple[Announced, ...]:
        """Every route of this side, with what it has of the peer's present session."""
        return tuple(self._announced(channel, *_units_of(channel)) for channel in self.by_name.values())

    @staticmethod
    def _announced(channel: Channel, spool: str, unit: int) -> Announced:
        return Announced(
            name=channel.route.name,
            pattern=channel.route.pattern,
            from_sides=channel.route.from_sides,
            to_sides=channel.route.to_sides,
            delivery=channel.route.delivery,
            number=channel.number,
            window_bytes=channel.route.terms.window_bytes,
            max_message_bytes=channel.route.max_message_bytes,
            numbers=_numbers_of(channel),
            peer_number=channel.met_number,
            spool=spool,
            unit=unit,
        )

    def numbers(self) -> dict[str, Numbers]:
        """How far each channel is, (received, delivered)."""
        return {name: _numbers_of(channel) for name, channel in self.by_name.items()}

    def agree(self, hello: Hello) -> None:
        """The peer has announced its routes: which channels carry something now, and with which limits."""
        theirs = {route.name: route for route in hello.routes}
        self.by_peer_number.clear()
        for ours in self.announce():
            self._agree_on(self.by_name[ours.name], ours, theirs.get(ours.name))

    def _agree_on(self, channel: Channel, ours: Announced, other: Announced | None) -> None:
        if other is None:
            channel.refused = f"{self._side} has no route {ours.name} with {self._own_side}; add it there and reload"
        else:
            channel.refused = disagreement(ours, other, self._own_side, self._side)
        channel.peer_number = channel.topic_ack = None
        if other is None or channel.refused is not None:
            return
        if channel.met_number not in (0, other.number):
            _restart(channel)  # the peer took the route away and has it again: its numbers begin anew
        channel.peer_number = channel.met_number = other.number
        channel.max_message_bytes = min(ours.max_message_bytes, other.max_message_bytes)
        self.by_peer_number[other.number] = channel
        if channel.inbound:
            channel.inbound.channel = other.number
            if isinstance(channel.inbound, SpooledInbound):
                channel.inbound.meet(other.spool)
        if channel.outbound:
            channel.outbound.agreed(min(ours.window_bytes, other.window_bytes), channel.max_message_bytes)

    def restart(self) -> None:
        """One of the two processes is new: nothing that either side has counted is known to the other."""
        for channel in self.by_name.values():
            _restart(channel)

    def sending(self) -> list[Outbound]:
        """What the data lane may carry."""
        return [c.outbound for c in self.by_name.values() if c.outbound and c.refused is None]

    def inbounds(self) -> dict[int, Inbound]:
        """What may come in, by the peer's numbers."""
        return {number: c.inbound for number, c in self.by_peer_number.items() if c.inbound}


def _outbound(number: int, route: Route, compact: Compact | None) -> Outbound:
    if route.stored is not None:
        return SpooledOutbound(number, route.name, route.terms, route.stored)
    return Outbound(number, route.name, route.terms, compact)


def _inbound(route: Route) -> Inbound:
    kind = SpooledInbound if route.delivery == "spooled" else Inbound
    return kind(0, route.name, route.terms.window_bytes, route.max_message_bytes)


def _units_of(channel: Channel) -> Units:
    if isinstance(channel.outbound, SpooledOutbound):
        return channel.outbound.spool, 0
    return channel.inbound.known if isinstance(channel.inbound, SpooledInbound) else UNKNOWN


def _numbers_of(channel: Channel) -> Numbers:
    inbound = channel.inbound
    return (inbound.received, inbound.delivered) if inbound else (0, 0)


def _restart(channel: Channel) -> None:
    channel.epoch += 1
    if channel.outbound:
        channel.outbound.restart()
        if not channel.route.keep_on_restart:
            # replies to clients of the process that is gone; in the new one their routing ids are other clients'
            channel.outbound.drop_all("peer_restart")
    if channel.inbound:
        channel.inbound.restart(keep=channel.route.keep_on_restart)
    channel.met_number = 0
