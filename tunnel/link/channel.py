"""What one route is to the link: how it is agreed on, its state towards one peer, and what of it may go ahead.

Records only; `tunnel.link.peer` works with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tunnel.link.inbound import Inbound
from tunnel.link.outbound import Outbound, Terms
from tunnel.link.spooled import Stored
from tunnel.link.subscriptions import Granted, Wanted

NOT_MET = "the two ends have not met yet"
"""Why a route that was never announced to the peer carries nothing."""


@dataclass(frozen=True, slots=True)
class Route:
    """What the link needs to know of a route at this side. `sends`/`takes`: which directions it has."""

    name: str
    pattern: str
    from_sides: tuple[str, ...]
    to_sides: tuple[str, ...]
    delivery: str
    terms: Terms
    max_message_bytes: int
    sends: bool
    takes: bool
    wants: bool = False
    """This half has the subscribers: it sends a topic set."""
    grants: bool = False
    """This half has the publishers: it gets a topic set."""
    standing: tuple[bytes, ...] = ()
    keep_on_restart: bool = True
    """What an ended session of the peer sent is still handed on (not so for requests: nobody waits for the answer)."""
    stored: Stored | None = None
    """A spooled route where messages enter: what its disk holds."""


@dataclass(slots=True, eq=False)
class Channel:
    """One route towards one peer."""

    route: Route
    number: int
    outbound: Outbound | None
    inbound: Inbound | None
    wanted: Wanted | None
    granted: Granted | None
    topic_changes: list[tuple[bool, bytes]] = field(default_factory=list)
    """Changes to `granted` that the owner has not applied yet."""
    topic_ack: tuple[int, int] | None = None
    """(the peer's number, generation) to confirm once they are applied."""
    peer_number: int | None = None
    met_number: int = 0
    """The peer's channel that our numbers speak of, also while the route is refused; 0 before they met."""
    refused: str | None = NOT_MET
    max_message_bytes: int = 0
    remote_peers: int = 0
    """Applications connected at the other end."""
    epoch: int = 0
    """Counts how often the channel began anew, with another process of the peer or another route there."""
    owner: Any = None
    """Whatever the owner wants to find here when the channel is in `arrived` or `freed`."""


class Foresight(NamedTuple):
    """What may go ahead of the bookkeeping on one channel, for as long as nothing else happens (`Peer.foresee`)."""

    departs: tuple[int, int, int] | None
    """Our channel, its next sequence number, bytes that may go; None when nothing may."""
    enters: tuple[int, int, int] | None
    """The peer's channel, the sequence number that is due, and what to add to the peer's clock in microseconds."""
    owed: tuple[int, float, bool]
    """Lane bytes received; when an acknowledgement must go (FOREVER: none is owed); whether one of this channel."""


class Ahead(Protocol):
    """Who lets batches go ahead, and notes them."""

    def catch_up(self) -> None:
        """`receive` and `departed` for all that went; nothing goes ahead any more."""
