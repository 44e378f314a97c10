"""The bridges of one side's plan. What can only be known on the side's own box is checked here, for its own bridges."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from bridges.framing import Framing, make
from tunnel import places
from tunnel.config.addresses import is_open
from tunnel.config.bridge_model import Tcp, TcpClient, TcpServer
from tunnel.config.bridge_plan import BridgeKind, BridgePlan, Correlation, TcpPlan, ZmqPlan
from tunnel.config.fields import NEVER
from tunnel.config.model import Bridge, Defaults, SpoolModel
from tunnel.config.nodes import Path as Steps
from tunnel.config.plan import Allow, Endpoint, SpoolPlan
from tunnel.config.values import networks_of
from tunnel.limits import (
    BRIDGE_CONNECTIONS,
    BRIDGE_PIPELINE,
    BRIDGE_QUEUE_BYTES,
    BRIDGE_TIMEOUT_S,
    BRIDGE_USER_TIMEOUT_S,
    LOCAL_HWM,
    SPOOL_BYTES,
    SPOOL_EXPIRE_S,
)

if TYPE_CHECKING:
    from tunnel.config.planning import Planner


def plans(planner: Planner) -> tuple[BridgePlan, ...]:
    """Those of the planner's side."""
    found = planner.table.model.bridges.items()
    return tuple(_plan(planner, name, bridge) for name, bridge in found if bridge.side == planner.side)


def _plan(planner: Planner, name: str, bridge: Bridge) -> BridgePlan:
    path: Steps = ("bridges", name)
    return BridgePlan(
        name=name,
        kind=cast("BridgeKind", bridge.kind),
        zmq=_zmq(planner, bridge, path),
        tcp=_tcp(planner, name, cast("Tcp", bridge), path),
        runtime_dir=planner.runtime_dir,
    )


def _zmq(planner: Planner, bridge: Bridge, path: Steps) -> ZmqPlan:
    said = bridge.zmq
    if said.route is not None:
        private = f"ipc://{places.local_path(planner.runtime_dir, said.route)}"
        endpoints: tuple[Endpoint, ...] = (Endpoint("connect", private),)
    else:
        endpoints = tuple(Endpoint(said.method, planner.address(text, (*path, "zmq"))) for text in said.endpoints)
    subscribe = bridge.subscribe if isinstance(bridge, Tcp) else (b"",)
    desk = f"ipc://{places.receipts_path(planner.runtime_dir, said.route)}" if said.route is not None else None
    return ZmqPlan(said.socket, endpoints, said.route, bridge.hwm or LOCAL_HWM, subscribe, desk)


def _tcp(planner: Planner, name: str, bridge: Tcp, path: Steps) -> TcpPlan:
    reads: Framing = bridge.frame.made if bridge.frame is not None else make("line")
    server = bridge if isinstance(bridge, TcpServer) else None
    client = bridge if isinstance(bridge, TcpClient) else None
    return TcpPlan(
        listen=tuple(planner.address(text, (*path, "listen")) for text in server.listen) if server else (),
        connect=tuple(planner.address(text, (*path, "connect")) for text in client.connect) if client else (),
        allow=devices_allowed(server, planner.table.model.defaults) if server else Allow(),
        tls=planner.carriers.tls(bridge.tls, (*path, "tls")) if bridge.tls is not None else None,
        reads=reads,
        writes=bridge.frame_out.made if bridge.frame_out is not None else reads,
        topic=bridge.topic,
        topic_until=bridge.topic_until,
        meta=bridge.meta,
        timeout_s=bridge.timeout or BRIDGE_TIMEOUT_S,
        timeout_reply=bridge.timeout_reply,
        pipeline=1 if bridge.zmq.socket == "REQ" else bridge.pipeline or BRIDGE_PIPELINE,
        queue_bytes=bridge.queue or BRIDGE_QUEUE_BYTES,
        keepalive=bridge.keepalive,
        user_timeout_s=bridge.user_timeout or BRIDGE_USER_TIMEOUT_S,
        idle_s=_never(bridge.idle),
        lifetime_s=_never(bridge.lifetime),
        connections=(server.connections if server else None) or BRIDGE_CONNECTIONS,
        per_address=server.per_address if server else None,
        takeover=server is not None and server.takeover is not None,
        to=(server.to if server else None) or "all",
        accept=server.accept if server else "queued",
        spool=_spool(planner, name, server) if server and server.accept == "spooled" else None,
        ack=server.ack if server else None,
        nak=server.nak if server else None,
        pool=(client.pool if client else None) or 1,
        lazy=client is not None and client.start == "lazy",
        greeting=client.on_connect if client else None,
        keep_alive=(client.keep_alive.every, client.keep_alive.send) if client and client.keep_alive else None,
        correlate=Correlation(client.correlate.offset, client.correlate.length)
        if client and client.correlate
        else None,
    )


def devices_allowed(server: TcpServer, defaults: Defaults) -> Allow:
    """Who may dial it. What the defaults allow concerns addresses beyond loopback only."""
    if server.allow is not None:
        return Allow(*networks_of(server.allow))
    if defaults.allow is None or not any(is_open(address) for address in server.listen):
        return Allow()
    return Allow(*networks_of(defaults.allow))


def _spool(planner: Planner, name: str, server: TcpServer) -> SpoolPlan:
    said = server.spool or SpoolModel()
    expire_s = SPOOL_EXPIRE_S if said.expire is None else _never(said.expire)
    return SpoolPlan(planner.state_dir / "spool" / f"bridge-{name}", said.max or SPOOL_BYTES, expire_s)


def _never(seconds: float | None) -> float | None:
    return None if seconds == NEVER else seconds
