"""What one side runs, decided: frozen records that the supervisor and the device read and never question again.

A plan is made from a checked table (`tunnel.config`) for one side. Addresses are 0MQ endpoints as libzmq wants them,
paths are absolute, times are seconds, sizes are bytes, secrets print masked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tunnel.keys import KeyPair, Secret
from tunnel.limits import LOCAL_HWM, MAX_MESSAGE_BYTES, STREAM_CONNECT_S, STREAM_CONNECTIONS, WINDOW_BYTES

if TYPE_CHECKING:
    from tunnel.config.bridge_plan import BridgePlan, OwnPlan

Pattern = Literal["reqrep", "pubsub", "pipeline", "pair", "stream"]
Where = Literal["from", "to"]
Socket = Literal["ROUTER", "DEALER", "XSUB", "XPUB", "PULL", "PUSH", "PAIR", "TCP"]
"""TCP: a byte stream, over TCP or a unix socket (pattern stream)."""
Scheme = Literal["ssh", "http", "https"]
"""Schemes whose carrier has a process of its own."""
Delivery = Literal["live", "confirmed", "spooled"]
Overflow = Literal["block", "drop-newest", "drop-oldest", "keep-latest"]
Priority = Literal["high", "normal", "bulk"]
Network = IPv4Network | IPv6Network

__all__ = [
    "Allow",
    "CarrierPlan",
    "Curve",
    "DialPlan",
    "EndPlan",
    "Endpoint",
    "KeyPair",
    "ListenPlan",
    "Plain",
    "Plan",
    "ProxyPlan",
    "RoutePlan",
    "Secret",
    "SpoolPlan",
    "SshPlan",
    "StreamPlan",
    "TlsPlan",
    "Topics",
]


@dataclass(frozen=True, slots=True)
class Allow:
    """Who may connect to what we bind. `anyone` was said aloud; empty `networks` without it let in loopback only."""

    anyone: bool = False
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """CURVE on a local end. connect: `own` and `server`; bind: `own` and `clients` (public keys; empty = any key)."""

    own: KeyPair
    server: str | None = None
    clients: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Plain:
    """PLAIN on a local end. connect: one user; bind: every user let in."""

    users: dict[str, Secret]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a local end: `tcp://10.0.0.5:5555`, `ipc:///run/x` ..."""

    method: Literal["bind", "connect"]
    address: str


@dataclass(frozen=True, slots=True)
class EndPlan:
    """This side's local socket of one route."""

    socket: Socket
    endpoints: tuple[Endpoint, ...]
    allow: Allow = Allow()
    hwm: int | None = None
    """None: LOCAL_HWM where messages enter, EXIT_HWM where they leave."""
    sndbuf: int | None = None
    routing_id: bytes | None = None
    handover: bool = False
    """ROUTER_HANDOVER (pitfalls: only where the end is authenticated or the table says so)."""
    heartbeat_s: float | None = None
    keepalive: bool = True
    curve: Curve | None = None
    plain: Plain | None = None
    mode: int | None = None
    """Permission bits of `ipc://` binds."""
    group: str | None = None

    @property
    def entry_hwm(self) -> int:
        return LOCAL_HWM if self.hwm is None else self.hwm


@dataclass(frozen=True, slots=True)
class Topics:
    """Byte prefixes: a topic crosses when it begins with one of `allow` and with none of `deny`."""

    allow: tuple[bytes, ...] = (b"",)
    deny: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What only a stream route has."""

    connections: int = STREAM_CONNECTIONS
    """Connections at a time, at this half."""
    idle_s: float | None = None
    """A connection without a byte either way for so long is closed; None: never."""
    connect_s: float = STREAM_CONNECT_S
    """How long the target may take to answer, and a client may wait for the link."""
    proxy_protocol: bool = False
    """`to`: the target is told by PROXY protocol v2 who connected."""


@dataclass(frozen=True, slots=True)
class SpoolPlan:
    """What a spooled route keeps on disk where its messages enter: one file for each side that takes them."""

    folder: Path
    max_bytes: int
    expire_s: float | None
    """None: never."""

    def file(self, peer: str) -> Path:
        return self.folder / f"{peer}.db"


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """One route as this side runs it."""

    name: str
    pattern: Pattern
    where: Where
    """Which end this side is: requests, tasks and published messages enter at `from` and leave at `to`."""
    end: EndPlan
    from_sides: tuple[str, ...]
    to_sides: tuple[str, ...]
    peers: tuple[str, ...]
    """The sides at the other end, in the table's order."""
    delivery: Delivery = "confirmed"
    overflow: Overflow = "block"
    window_bytes: int = WINDOW_BYTES
    priority: Priority = "normal"
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_age_s: float | None = None
    """None: never."""
    on_restart: Literal["drop", "resend"] = "resend"
    """What becomes of unconfirmed messages when the peer's process restarted; reqrep defaults to drop."""
    topics: Topics = Topics()
    subscribe: tuple[bytes, ...] = ()
    """Standing subscriptions of a pubsub route."""
    stream: StreamPlan | None = None
    """pattern stream only."""
    spool: SpoolPlan | None = None
    """delivery spooled, at `from`."""


@dataclass(frozen=True, slots=True)
class SshPlan:
    """How an ssh:// link gets through a sshd."""

    user: str
    host: str
    port: int
    target: str
    """dial: where the far device listens, as seen from the sshd; listen: what the sshd is asked to open.
    `HOST:PORT` (IPv6 in brackets), or the absolute path of a unix socket."""
    backend: Literal["paramiko", "openssh"] = "paramiko"
    identity: tuple[Path, ...] = ()
    """Private key files; none: the agent's keys, then ~/.ssh/id_*."""
    passphrase: Secret | None = None
    agent: bool = True
    known_hosts: tuple[Path, ...] = ()
    """None given: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts."""
    config: Path | None = None
    """openssh: its configuration file (-F)."""


@dataclass(frozen=True, slots=True)
class TlsPlan:
    """TLS of an https:// link. dial: `cert` and `key` are the client's own, `ca` alone is trusted.
    listen: `cert` and `key` are the server's, `ca` signs the client certificates that are asked for."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    pin: tuple[str, ...] = ()
    """SHA-256 of the server's certificate, 64 hex digits each; any of them will do, and no CA is asked then."""
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class ProxyPlan:
    """An HTTP proxy on the way: `http://host:port`. A url of "" forbids the one that the environment names."""

    url: str
    username: str | None = None
    password: Secret | None = None


@dataclass(frozen=True, slots=True)
class CarrierPlan:
    """A process that carries the bytes of a link's own connections inside something else (docs/carriers.md)."""

    name: str
    """Of the process: `ssh-dmz`, `https-dmz-2`."""
    scheme: Scheme
    role: Literal["dial", "listen"]
    address: str
    """As in the table."""
    socket: Path
    """Where it meets the device, in the private runtime folder. dial: the carrier listens, the device connects;
    listen: the device listens, the carrier connects."""
    peers: tuple[str, ...]
    allow: Allow = Allow()
    """listen: who may connect, where the carrier itself can tell."""
    ssh: SshPlan | None = None
    tls: TlsPlan | None = None
    proxy: ProxyPlan | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class ListenPlan:
    """A link port that this side opens."""

    address: str
    peers: tuple[str, ...]
    """The sides that may dial in here."""
    allow: Allow = Allow()
    mode: int | None = None
    group: str | None = None
    via: str | None = None
    """The unix endpoint to open in place of `address`: a carrier with a process of its own connects there."""


@dataclass(frozen=True, slots=True)
class DialPlan:
    """A link that this side dials."""

    peer: str
    addresses: tuple[str, ...]
    """Tried in turn."""
    source: str | None = None
    """Local address to dial from."""
    via: dict[str, str] = field(default_factory=dict)
    """address → the unix endpoint to dial in its place, where a carrier with a process of its own listens."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that one side of one table runs."""

    name: str
    table: Path
    side: str
    own: KeyPair
    peer_keys: dict[str, tuple[str, ...]]
    """Public keys (Z85) of every side this one has a link with; two while they rotate."""
    listens: tuple[ListenPlan, ...]
    dials: tuple[DialPlan, ...]
    routes: tuple[RoutePlan, ...]
    runtime_dir: Path
    """Private (0700): control sockets, supervisord's files, `local` ipc endpoints."""
    ipc_dir: Path
    """Where relative application `ipc://` sockets live."""
    session_bytes: int
    carriers: tuple[CarrierPlan, ...] = ()
    """Processes that carry links."""
    bridges: tuple[BridgePlan[OwnPlan], ...] = ()
    warnings: tuple[str, ...] = field(default=())
