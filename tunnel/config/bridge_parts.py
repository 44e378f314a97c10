"""What plans of all kinds of bridges are made of: sockets, who is let in, what lies on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunnel import places
from tunnel.config.addresses import is_open
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.config.fields import NEVER, AllowItem
from tunnel.config.model import Bridge, BridgeSocket, Defaults, SpoolModel
from tunnel.config.nodes import Path as Steps
from tunnel.config.plan import Allow, Endpoint, SpoolPlan
from tunnel.config.values import networks_of
from tunnel.limits import LOCAL_HWM, SPOOL_BYTES, SPOOL_EXPIRE_S

if TYPE_CHECKING:
    from tunnel.config.planning import Planner


def zmq_plan(planner: Planner, bridge: Bridge, said: BridgeSocket, path: Steps) -> ZmqPlan:
    """A socket of a bridge, which may have more than the one of `zmq:`; `path` is where it stands."""
    if said.route is not None:
        private = f"ipc://{places.local_path(planner.runtime_dir, said.route)}"
        endpoints: tuple[Endpoint, ...] = (Endpoint("connect", private),)
    else:
        endpoints = tuple(Endpoint(said.method, planner.address(text, path)) for text in said.endpoints)
    subscribe: tuple[bytes, ...] = getattr(bridge, "subscribe", (b"",))
    desk = f"ipc://{places.receipts_path(planner.runtime_dir, said.route)}" if said.route is not None else None
    return ZmqPlan(said.socket, endpoints, said.route, bridge.hwm or LOCAL_HWM, subscribe, desk)


def allowed(said: Sequence[AllowItem] | None, listen: Sequence[str], defaults: Defaults) -> Allow:
    """Who may dial what a bridge listens at. What the defaults allow concerns addresses beyond loopback only."""
    if said is not None:
        return Allow(*networks_of(said))
    if defaults.allow is None or not any(is_open(address) for address in listen):
        return Allow()
    return Allow(*networks_of(defaults.allow))


def spool_plan(planner: Planner, name: str, said: SpoolModel | None) -> SpoolPlan:
    """The folder of what a bridge keeps on disk, and its bounds."""
    said = said or SpoolModel()
    expire_s = SPOOL_EXPIRE_S if said.expire is None else never(said.expire)
    return SpoolPlan(planner.state_dir / "spool" / f"bridge-{name}", said.max or SPOOL_BYTES, expire_s)


def never(seconds: float | None) -> float | None:
    """`never` as plans have it."""
    return None if seconds == NEVER else seconds
