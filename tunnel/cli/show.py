"""How things look: tables by rich on a terminal, plain aligned columns elsewhere. Nothing here asks or decides."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

_PLAIN_WIDTH: Final = 1000
"""Columns are never folded when nobody looks at a screen."""
_COLOURS: Final = {
    "ready": "green",
    "up": "green",
    "bound": "green",
    "listening": "green",
    "connected": "green",
    "RUNNING": "green",
    "waiting": "yellow",
    "connecting": "yellow",
    "retrying": "yellow",
    "STARTING": "yellow",
    "degraded": "yellow",
}


def print_json(value: object) -> None:
    """One JSON document, indented."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_rows(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns under a head line."""
    _print(_rows(head, rows))


def print_status(status: dict[str, Any], rates: dict[str, dict[str, float]] | None = None) -> None:
    """Everything about one side."""
    _print(render_status(status, rates))


def render_status(status: dict[str, Any], rates: dict[str, dict[str, float]] | None = None) -> RenderableType:
    """`rates`: route → {in, out} in messages a second, for `top`."""
    state = "ready" if not status["degraded"] else "degraded"
    title = Text.assemble((status["table"], "bold"), f" side {status['side']}: ", (state, _COLOURS[state]))
    parts: list[RenderableType] = [title, Text(str(status["file"]), style="dim"), Text()]
    parts.append(_rows(("PROCESS", "STATE", "PID", "UPTIME", "RESTARTS"), map(_process, status["processes"])))
    if status["links"]:
        parts += [Text(), _rows(("LINK TO", "STATE", "RTT", "RESUMES", "REDIALS"), map(_link, status["links"]))]
    if status["ports"]:
        parts += [Text(), _rows(("LINK PORT", "STATE", "CONNECTIONS", "REFUSED"), map(_port, status["ports"]))]
    if status["carriers"]:
        carried = ("CARRIER", "STATE", "ADDRESS", "CONNECTIONS", "IN", "OUT", "HOW", "REFUSED")
        parts += [Text(), _rows(carried, map(_carrier, status["carriers"]))]
    if status["bridges"]:
        bridged = ("BRIDGE", "KIND", "STATE", "CONNECTIONS", "FRAMES IN", "FRAMES OUT", "REFUSED", "DROPPED")
        parts += [Text(), _rows(bridged, map(_bridge, status["bridges"]))]
    if status["routes"]:
        head = ("ROUTE", "PATTERN", "END", "STATE", "IN", "OUT", "UNACKED", "DROPPED")
        rows = [_route(name, route, rates) for name, route in status["routes"].items()]
        ends = [row for name, route in status["routes"].items() for row in _endpoints(name, route)]
        parts += [Text(), _rows(head, rows), Text()]
        parts.append(_rows(("ROUTE", "LOCAL ENDPOINT", "STATE", "PEERS", "WHY"), ends))
    notes = [f"· route {name}: {note}" for name, route in status["routes"].items() for note in _notes(route)]
    if notes:
        parts += [Text(), *(Text(note, style="dim") for note in notes)]
    if status["degraded"]:
        parts += [Text(), *(Text(f"! {sentence}", style="yellow") for sentence in status["degraded"])]
    return Group(*parts)


def duration(seconds: float) -> str:
    """`3 s`, `12 min`, `5 h`, `3 d`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def amount(size: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def terminal() -> bool:
    """Does a person read our output?"""
    return sys.stdout.isatty()


def _print(what: RenderableType) -> None:
    if terminal():
        Console().print(what)
        return
    plain = Console(width=_PLAIN_WIDTH, color_system=None)
    with plain.capture() as captured:
        plain.print(what)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _process(process: dict[str, Any]) -> tuple[object, ...]:
    state = "crash loop" if process["crash_loop"] else process["state"]
    return (process["name"], state, process["pid"] or "-", duration(process["uptime_s"]), process["restarts"])


def _link(link: dict[str, Any]) -> tuple[object, ...]:
    rtt = link.get("rtt_ms")
    return (link["peer"], link["state"], "-" if rtt is None else f"{rtt:.1f} ms", link["resumes"], link["redials"])


def _port(port: dict[str, Any]) -> tuple[object, ...]:
    return (port["address"], port["state"], port["connections"], _counts(port["refused"]))


def _carrier(carrier: dict[str, Any]) -> tuple[object, ...]:
    how = ", ".join(str(word) for word in carrier["detail"].values() if word)
    known = (carrier["name"], carrier["state"], carrier["address"], carrier["connections"])
    moved = ("not counted" if size is None else amount(size) for size in (carrier["bytes_in"], carrier["bytes_out"]))
    return (*known, *moved, how or "-", _counts(carrier["refused"]))


def _bridge(bridge: dict[str, Any]) -> tuple[object, ...]:
    known = (bridge["name"], bridge["kind"], bridge["state"], bridge["connections"])
    return (*known, bridge["frames_in"], bridge["frames_out"], _counts(bridge["refused"]), _counts(bridge["dropped"]))


def _counts(by_reason: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in by_reason.items() if count) or "-"


def _route(name: str, route: dict[str, Any], rates: dict[str, dict[str, float]] | None) -> tuple[object, ...]:
    if rates is None:
        came, went = route["messages_in"], route["messages_out"]
    else:
        rate = rates.get(name, {})
        came, went = f"{rate.get('in', 0):.0f}/s", f"{rate.get('out', 0):.0f}/s"
    dropped = ", ".join(f"{reason} {count}" for reason, count in route["dropped"].items() if count)
    unacked = f"{amount(route['unacked_bytes'])} of {amount(route['window_bytes'])}"
    return (name, route["pattern"], route["end"], route["state"], came, went, unacked, dropped or "-")


def _notes(route: dict[str, Any]) -> list[str]:
    """What a ready route still has to say, beyond what its endpoints' lines tell."""
    told = [e["reason"] for e in route["endpoints"] if e["reason"]]
    words = (route["reason"] or "").split("; ") if route["state"] == "ready" else []
    return [word for word in words if word and not any(reason in word for reason in told)]


def _endpoints(name: str, route: dict[str, Any]) -> list[tuple[object, ...]]:
    return [(name, e["address"], e["state"], e["peers"], e["reason"] or "") for e in route["endpoints"]]


def _rows(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in head:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell), style=_COLOURS.get(str(cell), "")) for cell in row))
    return table
