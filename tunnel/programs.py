"""Plan → the processes of a side: the device, the carriers with a process of their own, the bridges.

The list is written to `programs.json` in the runtime folder; supervisord's configuration holds names only, so that no
path, however odd, has to survive its quoting (`tunnel/supervise/child.py` reads the list and becomes the program).
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tunnel
from tunnel.limits import STOP_WAIT_S

if TYPE_CHECKING:
    from tunnel.config.bridge_plan import BridgePlan, OwnPlan
    from tunnel.config.plan import CarrierPlan, Plan

PROGRAMS: Final = "programs.json"
KEEPER: Final = "keeper"


@dataclass(frozen=True, slots=True)
class Program:
    """One process: `name` is `[a-z0-9][a-z0-9_.-]*`; `argv[0]` an absolute path."""

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    stop_wait_s: int = STOP_WAIT_S
    control: str | None = None
    """Its control socket in the runtime folder; None: it has none."""
    about: dict[str, Any] = field(default_factory=dict)
    """Of one that does not answer, for the status: {scheme, role, address, peers} of a carrier, {bridge, kind} of a
    bridge."""
    order: int = 200
    """Lower ones start first and stop last. Never by place in a list: a sibling's coming would be a change."""

    @classmethod
    def told(cls, fields: dict[str, Any]) -> Program:
        """From its fields as JSON has them."""
        return cls(**{**fields, "argv": tuple(fields["argv"])})

    @property
    def fingerprint(self) -> str:
        """Changes when anything about the program does: supervisord then sees another command."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def programs(plan: Plan) -> tuple[Program, ...]:
    """Every process of this side."""
    carriers = (_carrier(plan, carrier) for carrier in plan.carriers)
    return (_device(plan), *carriers, *(_bridge(plan, bridge) for bridge in plan.bridges))


def keeper() -> Program:
    """The one that starts the others again."""
    return Program(KEEPER, (*_python(), "-m", "tunnel.supervise.keeper"), _environment(), stop_wait_s=2)


def _device(plan: Plan) -> Program:
    argv = (*_python(), "-m", "tunnel.device", str(plan.table), "--as", plan.side)
    return Program("device", argv, _environment(), control="device.sock", order=100)


def _carrier(plan: Plan, carrier: CarrierPlan) -> Program:
    argv = (*_python(), "-m", "tunnel.carriers.process", str(plan.table), "--as", plan.side, "--carrier", carrier.name)
    told = {"ZTUNNEL_CARRIER": hashlib.sha256(repr(carrier).encode()).hexdigest()[:12]}
    about = {
        "scheme": carrier.scheme,
        "role": carrier.role,
        "address": carrier.address,
        "peers": list(carrier.peers),
    }
    return Program(carrier.name, argv, _environment() | told, control=f"{carrier.name}.sock", about=about, order=150)


def _bridge(plan: Plan, bridge: BridgePlan[OwnPlan]) -> Program:
    argv = (*_python(), "-m", "bridges.process", str(plan.table), "--as", plan.side, "--bridge", bridge.name)
    told = {"ZTUNNEL_BRIDGE": hashlib.sha256(repr(bridge).encode()).hexdigest()[:12]}
    about = {"bridge": bridge.name, "kind": bridge.kind}
    return Program(bridge.process, argv, _environment() | told, control=bridge.control, about=about, order=250)


def _python() -> tuple[str, ...]:
    return (sys.executable, "-P")  # -P: what lies in the working directory is not imported


def _environment() -> dict[str, str]:
    """A source checkout that is not installed is found by PYTHONPATH; anything else needs nothing."""
    root = Path(tunnel.__file__).resolve().parent.parent
    return {"PYTHONPATH": str(root)} if (root / "pyproject.toml").is_file() else {}
