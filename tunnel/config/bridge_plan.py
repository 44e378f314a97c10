"""What one bridge runs, decided: frozen records for its process. Bytes are bytes, times are seconds, paths absolute."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar

from tunnel.config.plan import Allow, Endpoint, SpoolPlan, TlsPlan
from tunnel.limits import (
    BRIDGE_CONNECTIONS,
    BRIDGE_PIPELINE,
    BRIDGE_QUEUE_BYTES,
    BRIDGE_TIMEOUT_S,
    BRIDGE_USER_TIMEOUT_S,
    LOCAL_HWM,
)

if TYPE_CHECKING:
    from bridges.framing import Framing

BridgeKind = Literal["tcp-server", "tcp-client", "smtp-server", "smtp-client", "imap"]
NOBODY: Final = Allow()
"""Loopback only."""
Accept = Literal["queued", "acked", "spooled"]


@dataclass(frozen=True, slots=True)
class ZmqPlan:
    """The bridge's own 0MQ socket."""

    socket: str
    endpoints: tuple[Endpoint, ...]
    route: str | None = None
    """The route whose private socket it connects to."""
    hwm: int = LOCAL_HWM
    subscribe: tuple[bytes, ...] = (b"",)
    receipts: str | None = None
    """The endpoint of that route's desk (bridges/receipts.py)."""

    def told(self) -> dict[str, Any]:
        """As a bridge's status says it."""
        endpoints = [f"{endpoint.method} {endpoint.address}" for endpoint in self.endpoints]
        return {"socket": self.socket, "endpoints": endpoints, "route": self.route}


@dataclass(frozen=True, slots=True)
class Correlation:
    """Where requests and replies bear the same field; else replies come in the order of the requests."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class TcpPlan:
    """What servers and clients of a legacy protocol have in common, and what only one of them has."""

    reads: Framing
    """How frames lie in the bytes that come."""
    writes: Framing
    listen: tuple[str, ...] = ()
    """tcp-server: addresses that devices dial."""
    connect: tuple[str, ...] = ()
    """tcp-client: addresses of the legacy server, tried in turn."""
    allow: Allow = NOBODY
    tls: TlsPlan | None = None
    topic: bytes | None = None
    """PUB: the first frame of every message."""
    topic_until: bytes | None = None
    """PUB: what comes before this in a frame is the topic, and goes out as a frame of its own."""
    meta: bool = False
    """A frame of JSON that tells of the connection goes before each frame of the device."""
    timeout_s: float = BRIDGE_TIMEOUT_S
    """A request without a reply for so long is over."""
    timeout_reply: bytes | None = None
    """What the asker is told then; None: a device's connection is closed, a 0MQ client gets no answer."""
    pipeline: int = BRIDGE_PIPELINE
    """Requests of one connection under way at a time."""
    queue_bytes: int = BRIDGE_QUEUE_BYTES
    """What may wait for one connection that does not read."""
    keepalive: bool = True
    user_timeout_s: float = BRIDGE_USER_TIMEOUT_S
    """TCP_USER_TIMEOUT: sent and not acknowledged for so long, the connection is dead."""
    idle_s: float | None = None
    lifetime_s: float | None = None
    # tcp-server
    connections: int = BRIDGE_CONNECTIONS
    per_address: int | None = None
    takeover: bool = False
    """At the limit of an address a new connection takes the place of its oldest."""
    to: Literal["all", "one"] = "all"
    """SUB, PULL: a message goes to every connection, or to one after the other."""
    accept: Accept = "queued"
    """When the device is told: handed to the 0MQ socket, acknowledged by a reply, or on disk."""
    spool: SpoolPlan | None = None
    """accept: spooled."""
    ack: bytes | None = None
    nak: bytes | None = None
    # tcp-client
    pool: int = 1
    lazy: bool = False
    """Connections are made when there is something to say."""
    greeting: bytes | None = None
    keep_alive: tuple[float, bytes] | None = None
    """After so many silent seconds this is said."""
    correlate: Correlation | None = None


class OwnPlan(Protocol):
    """What a kind of bridge has of its own; of that, what doctor and firewall lists look at."""

    @property
    def listen(self) -> tuple[str, ...]:
        """Addresses that it opens to the old world."""

    @property
    def connect(self) -> tuple[str, ...]:
        """... and that it dials there."""

    @property
    def tls(self) -> TlsPlan | None: ...


Own = TypeVar("Own", bound=OwnPlan, covariant=True)


@dataclass(frozen=True, slots=True)
class BridgePlan(Generic[Own]):
    """One bridge, a process of its own."""

    name: str
    """As the table calls it."""
    kind: BridgeKind
    zmq: ZmqPlan
    own: Own
    runtime_dir: Path
    table: str = ""
    """The table's name."""

    @property
    def process(self) -> str:
        """The name of its process and of its log."""
        return f"bridge-{self.name}"

    @property
    def control(self) -> str:
        """Its control socket in the runtime folder; short, as paths of sockets must be."""
        return f"bridge-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}.sock"
