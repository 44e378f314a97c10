"""The patterns: how a route's local socket meets its channels. One file a pattern, one line each in this table."""

from __future__ import annotations

from tunnel.patterns.base import Hub, Pattern, Port, Tally
from tunnel.patterns.desk import Desk, has_private_socket
from tunnel.patterns.desk_in import DeskIn
from tunnel.patterns.desk_out import DeskOut
from tunnel.patterns.pair import Pair
from tunnel.patterns.pipeline import PipelineFrom, PipelineTo
from tunnel.patterns.pubsub import PubsubFrom, PubsubTo
from tunnel.patterns.reqrep import ReqrepFrom, ReqrepTo
from tunnel.patterns.stream import Stream, StreamFrom, StreamTo

PATTERNS: dict[tuple[str, str], type[Pattern]] = {
    ("reqrep", "from"): ReqrepFrom,
    ("reqrep", "to"): ReqrepTo,
    ("pubsub", "from"): PubsubFrom,
    ("pubsub", "to"): PubsubTo,
    ("pipeline", "from"): PipelineFrom,
    ("pipeline", "to"): PipelineTo,
    ("pair", "from"): Pair,
    ("pair", "to"): Pair,
    ("stream", "from"): StreamFrom,
    ("stream", "to"): StreamTo,
}
"""(pattern, which end this side is) → its class."""

DESKS: dict[tuple[str, str], type[Desk]] = {
    ("pipeline", "from"): DeskIn,
    ("pipeline", "to"): DeskOut,
    ("pubsub", "from"): DeskIn,
}
"""(pattern, which end this side is) → the desk beside its private socket, where bridges get receipts."""

__all__ = ["DESKS", "PATTERNS", "Desk", "Hub", "Pattern", "Port", "Stream", "Tally", "has_private_socket"]
