"""How a link's bytes travel: one file a carrier, and the one table that names them by their scheme."""

from __future__ import annotations

from typing import Final

from tunnel.carriers.base import Carrier, DialEvents, Dialled, Lane, Listener, ListenEvents
from tunnel.carriers.ipc import IpcCarrier
from tunnel.carriers.memory import MemoryCarrier
from tunnel.carriers.tcp import TcpCarrier
from tunnel.served import raise_descriptor_limit

__all__ = [
    "CARRIERS",
    "Carrier",
    "DialEvents",
    "Dialled",
    "Lane",
    "ListenEvents",
    "Listener",
    "carrier_for",
    "raise_descriptor_limit",
]

CARRIERS: Final[dict[str, Carrier]] = {
    "tcp": TcpCarrier(),
    "ipc": IpcCarrier(),
    "memory": MemoryCarrier(),
}
"""Scheme of an address → its carrier. `memory` is for tests and simulation: no table may name it."""


def carrier_for(address: str) -> Carrier:
    """The carrier of `scheme://...`; KeyError for a scheme that the table's check should have refused."""
    return CARRIERS[address.partition("://")[0]]
