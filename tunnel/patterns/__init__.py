"""The patterns: how a route's local socket meets its channels. One file a pattern, one line each in this table."""

from __future__ import annotations

from tunnel.patterns.base import Hub, Pattern, Port, Tally
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

__all__ = ["PATTERNS", "Hub", "Pattern", "Port", "Stream", "Tally"]
