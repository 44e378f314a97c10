"""What a reload has to touch: the difference of two plans of one side. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunnel.config.plan import Plan, RoutePlan


@dataclass(frozen=True, slots=True)
class Changes:
    """From one plan to the next. A route that differs in anything is removed and added."""

    removed: tuple[RoutePlan, ...]
    added: tuple[RoutePlan, ...]
    links: bool
    """Keys, ports, addresses or peers differ: every link is made anew."""

    @property
    def sides(self) -> set[str]:
        """Those that must be met again, for they share a route that has changed."""
        return {side for route in (*self.removed, *self.added) for side in route.peers}

    def told(self) -> dict[str, Any]:
        """{removed: [route], added: [route], links}: the answer to `reload`."""
        return {
            "removed": [route.name for route in self.removed],
            "added": [route.name for route in self.added],
            "links": self.links,
        }


def between(old: Plan, new: Plan) -> Changes:
    """What differs in `new`."""
    before = {route.name: route for route in old.routes}
    after = {route.name: route for route in new.routes}
    return Changes(
        removed=tuple(route for name, route in before.items() if after.get(name) != route),
        added=tuple(route for name, route in after.items() if before.get(name) != route),
        links=(old.own, old.listens, old.dials, old.peer_keys) != (new.own, new.listens, new.dials, new.peer_keys),
    )
