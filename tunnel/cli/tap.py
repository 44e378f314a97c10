"""`ztunnel tap ROUTE`: messages as they cross this half. Asks the device again and again (tunnel/tap.py)."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tunnel.cli.pick import SideOption, TableOption, running_side
from tunnel.limits import TAP_FRAME_BYTES, TAP_FRAME_MOST_BYTES, TAP_POLL_S

if TYPE_CHECKING:
    from collections.abc import Generator

_PATIENCE_S: Final = 5.0
_SUM_S: Final = 1.0
"""What was left out is told this often at most."""


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(tap)


def tap(
    route: Annotated[str, typer.Argument(metavar="ROUTE", help="A route of the table.")],
    table: TableOption = None,
    side: SideOption = None,
    count: Annotated[int, typer.Option("--count", min=0, help="End after so many messages; 0: on Ctrl-C.")] = 0,
    frame_bytes: Annotated[
        int,
        typer.Option("--bytes", min=0, max=TAP_FRAME_MOST_BYTES, help="Show so many bytes of each frame."),
    ] = TAP_FRAME_BYTES,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """Show messages of a route as they cross this half.

    in: read from the local socket, for the side named; out: handed to the local socket, from that side.
    Shows a few of each batch and 200 a second each way at most, says how many it left out, and slows nothing down.
    """
    from tunnel.supervise.places import DEVICE_SOCKET

    running = running_side(table, side)
    show = _show_json if as_json else _show_line
    left_out, told_at, shown = Counter[str](), time.monotonic(), 0
    try:
        with closing(_answers(running.folder / DEVICE_SOCKET, route, frame_bytes)) as answers:
            for answer in answers:
                left_out.update(answer["left_out"])
                for message in answer["messages"]:
                    show(message)
                    shown += 1
                    if shown == count:
                        return
                if left_out.total() and time.monotonic() - told_at >= _SUM_S:
                    _show_left_out(left_out, as_json)
                    told_at = time.monotonic()
    except KeyboardInterrupt:
        pass
    finally:
        if left_out.total():
            _show_left_out(left_out, as_json)


def _answers(device: Path, route: str, frame_bytes: int) -> Generator[dict[str, Any], None, None]:
    """Polls for ever. A tap that has ended meanwhile (this process was stopped, the route was changed) begins anew."""
    from tunnel.control import ask
    from tunnel.errors import ZtunnelError

    reader = ask(device, "tap-start", _PATIENCE_S, route=route, bytes=frame_bytes)["reader"]
    typer.echo(f"ztunnel: looking at route {route}; Ctrl-C ends it.", err=True)
    try:
        while True:
            answer = ask(device, "tap-poll", _PATIENCE_S, reader=reader)
            if answer.get("ended"):
                reader = ask(device, "tap-start", _PATIENCE_S, route=route, bytes=frame_bytes)["reader"]
                typer.echo("ztunnel: began anew; what crossed meanwhile was not counted.", err=True)
                continue
            yield answer
            if not answer["more"]:
                time.sleep(TAP_POLL_S)
    finally:
        with suppress(ZtunnelError):  # else the device finds out by itself
            ask(device, "tap-stop", _PATIENCE_S, reader=reader)


def readable(first: bytes, size: int) -> str:
    """The first bytes of a frame of `size`: quoted where they are printable text, else hex; `...`: it is longer."""
    dots = "..." if len(first) < size else ""
    if not first:
        return dots
    for cut in range(min(4, len(first))) if dots else (0,):  # a character may be cut in two
        try:
            text = first[: len(first) - cut].decode()
        except UnicodeDecodeError:
            continue
        if text and all(c.isprintable() or c in "\t\r\n" for c in text):
            return json.dumps(text, ensure_ascii=False) + dots
        break
    return f"x{first.hex()}{dots}"


def shown(size: int, first: bytes) -> str:
    """`[4] "tick"`: a frame of `size`, of which these are the first bytes."""
    return f"[{size}] {readable(first, size)}".rstrip()


def _show_line(message: dict[str, Any]) -> None:
    typer.echo(line_of(message))


def line_of(message: dict[str, Any]) -> str:
    """`12:00:00.123Z in  for plant 2 frames 9 B  [4] "tick"  [5] x0001020304`."""
    frames = [shown(size, bytes.fromhex(first)) for size, first in message["frames"]]
    hidden = message["frame_count"] - len(frames)
    more = "" if message["whole"] else "+"
    if hidden or more:
        frames.append(f"and {hidden}{more} more frames")
    count = message["frame_count"]
    noun = "frame" if count == 1 and not more else "frames"
    towards = "for" if message["direction"] == "in" else "from"
    doubt = "" if message["certain"] else "  (or one of its batch: not all were handed on)"
    head = f"{_clock(message['time'])} {message['direction']:3} {towards} {message['peer']}"
    return f"{head}  {count}{more} {noun} {message['size']}{more} B  {'  '.join(frames)}{doubt}"


def _show_json(message: dict[str, Any]) -> None:
    from tunnel.log import stamp

    frames = [{"size": size, "hex": first} for size, first in message["frames"]]
    typer.echo(json.dumps(message | {"time": stamp(message["time"]), "frames": frames}))


def _show_left_out(left_out: Counter[str], as_json: bool) -> None:
    """Tells what was counted, and begins to count anew."""
    if as_json:
        typer.echo(json.dumps({"left_out": {"in": left_out["in"], "out": left_out["out"]}}))
    else:
        typer.echo(f"{'':13} left out: {left_out['in']} in, {left_out['out']} out")
    left_out.clear()


def _clock(wall: float) -> str:
    from tunnel.log import stamp

    return stamp(wall)[11:]
