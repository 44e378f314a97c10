"""The bridges of one side's plan. What can only be known on the side's own box is checked here, for its own bridges."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from bridges.framing import Framing, make
from tunnel.config.bridge_model import Tcp, TcpClient, TcpServer
from tunnel.config.bridge_parts import allowed, never, spool_plan, zmq_plan
from tunnel.config.bridge_plan import BridgeKind, BridgePlan, Correlation, OwnPlan, TcpPlan
from tunnel.config.mail import MAIL
from tunnel.config.model import Bridge
from tunnel.config.nodes import Path as Steps
from tunnel.config.plan import Allow
from tunnel.limits import (
    BRIDGE_CONNECTIONS,
    BRIDGE_PIPELINE,
    BRIDGE_QUEUE_BYTES,
    BRIDGE_TIMEOUT_S,
    BRIDGE_USER_TIMEOUT_S,
)

if TYPE_CHECKING:
    from tunnel.config.planning import Planner


def plans(planner: Planner) -> tuple[BridgePlan[OwnPlan], ...]:
    """Those of the planner's side."""
    found = planner.table.model.bridges.items()
    return tuple(_plan(planner, name, bridge) for name, bridge in found if bridge.side == planner.side)


def _plan(planner: Planner, name: str, bridge: Bridge) -> BridgePlan[OwnPlan]:
    path: Steps = ("bridges", name)
    mail = MAIL.get(bridge.kind)
    return BridgePlan(
        name=name,
        kind=cast("BridgeKind", bridge.kind),
        zmq=zmq_plan(planner, bridge, bridge.zmq, (*path, "zmq")),
        own=_tcp(planner, name, cast("Tcp", bridge), path) if mail is None else mail.plan(planner, name, bridge),
        runtime_dir=planner.runtime_dir,
        table=planner.table.name,
    )


def _tcp(planner: Planner, name: str, bridge: Tcp, path: Steps) -> TcpPlan:
    reads: Framing = bridge.frame.made if bridge.frame is not None else make("line")
    server = bridge if isinstance(bridge, TcpServer) else None
    client = bridge if isinstance(bridge, TcpClient) else None
    return TcpPlan(
        listen=tuple(planner.address(text, (*path, "listen")) for text in server.listen) if server else (),
        connect=tuple(planner.address(text, (*path, "connect")) for text in client.connect) if client else (),
        allow=allowed(server.allow, server.listen, planner.table.model.defaults) if server else Allow(),
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
        idle_s=never(bridge.idle),
        lifetime_s=never(bridge.lifetime),
        connections=(server.connections if server else None) or BRIDGE_CONNECTIONS,
        per_address=server.per_address if server else None,
        takeover=server is not None and server.takeover is not None,
        to=(server.to if server else None) or "all",
        accept=server.accept if server else "queued",
        spool=spool_plan(planner, name, server.spool) if server and server.accept == "spooled" else None,
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
