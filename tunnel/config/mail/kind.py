"""What the configuration knows of a kind of mail bridge: one record a kind, in the table of `tunnel/config/mail`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnel.config.model import Bridge

if TYPE_CHECKING:
    from tunnel.config.bridge_plan import OwnPlan
    from tunnel.config.checking import Checking
    from tunnel.config.model import Defaults
    from tunnel.config.nodes import Path
    from tunnel.config.planning import Planner


class Reach(NamedTuple):
    """One address of a bridge for mail, for the firewall list."""

    address: str
    opens: bool
    """We listen there; else we dial it."""
    who: str
    """Who comes, or what is there, in words."""
    proof: str = ""
    """What proves who comes."""


class MailKind(NamedTuple):
    """The model of its keys, and what is made of them."""

    model: type[Bridge]
    plan: Callable[[Planner, str, Any], OwnPlan]
    """What its process is told; what only this box can know is looked at here."""
    check: Callable[[Checking, Any, Path, frozenset[str]], None]
    """What must make sense together; the last: keys whose values are wrong already."""
    sentence: Callable[[Any], str]
    """`mail for ups@* that comes to tcp://... → PUB to route alarms`, without the name and the side."""
    reach: Callable[[str, Any, Defaults], Iterable[Reach]]
    """Its addresses beside its 0MQ sockets; the name of the bridge comes first."""
    files: tuple[tuple[str, ...], ...] = ()
    """Where paths stand, key below key (* is every key): `render` makes them lead from its table to the same files."""
