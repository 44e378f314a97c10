"""Rules on routes whose messages are kept on disk where they enter, and on the words that are only for them."""

from __future__ import annotations

from typing import Final

from tunnel.config.checking import Checking
from tunnel.config.model import Route
from tunnel.config.nodes import Path
from tunnel.limits import SPOOL_ROW_BYTES

INSTEAD: Final = {
    "reqrep": "who asked may be gone when a request comes from the disk; use confirmed, or a pipeline for tasks that "
    "must not be lost.",
    "pair": "a conversation is not kept on disk; use confirmed, or a spooled pipeline each way.",
}
"""What to do where spooled cannot be had. Streams have words of their own (check_stream)."""


def check_route(c: Checking, route: Route, path: Path, broken: frozenset[str]) -> None:
    """`route.pattern` is known."""
    settings = c.settings(route)
    if settings.delivery != "spooled":
        if route.spool is not None and "delivery" not in broken:
            c.tell((*path, "spool"), "spool: is for a route with delivery: spooled.", key=True)
        return
    said_here = route.delivery is not None
    place: Path = (*path, "delivery") if said_here else path
    if route.pattern in INSTEAD:
        inherited = "" if said_here else "defaults say delivery: spooled, and "
        c.tell(place, f"{inherited}{INSTEAD[route.pattern]}", key=not said_here)
        return
    if route.pattern == "pubsub" and route.subscribe is None and "subscribe" not in broken:
        c.tell(
            place,
            "what is published is kept also while nobody is there to subscribe; say which topics: subscribe: [''] "
            "for all.",
            key=not said_here,
        )
    if route.overflow not in (None, "block"):
        c.tell((*path, "overflow"), "a spooled route drops nothing for want of room, so its overflow is block.")
    if route.on_restart == "drop":
        c.tell((*path, "on_restart"), "a spooled route always sends again what was not delivered; take this out.")
    if settings.max_message_bytes > SPOOL_ROW_BYTES // 2:
        at: Path = (*path, "max_message") if route.max_message else ("defaults", "max_message")
        c.tell(at, f"one message on disk has at most {SPOOL_ROW_BYTES >> 21}MiB.")
