"""`ztunnel spool`: what a spooled route or bridge has on disk. Its owner is asked: nobody else may open the files."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tunnel.cli.pick import JsonOption, SideOption, TableOption, running_side

if TYPE_CHECKING:
    from tunnel.supervise.places import Running

_PATIENCE_S: Final = 8.0
"""The device itself gives the disk 5 s."""

RouteArgument = Annotated[str, typer.Argument(metavar="ROUTE", help="A spooled route, or bridge-NAME.")]
ForOption = Annotated[
    str | None,
    typer.Option("--for", metavar="SIDE", help="Whose, where several sides take the route's messages."),
]


def register(app: typer.Typer) -> None:
    """Add these commands, under `spool`."""
    spool = typer.Typer(help="Look at what spooled routes keep on disk here, or drop it.", no_args_is_help=True)
    spool.command("ls")(ls)
    spool.command()(show)
    spool.command()(drop)
    spool.command()(flush)
    app.add_typer(spool, name="spool")


def ls(
    route: Annotated[str | None, typer.Argument(metavar="[ROUTE]", help="Its rows; left out: all spools.")] = None,
    peer: ForOption = None,
    after: Annotated[int, typer.Option("--after", metavar="NUMBER", help="Rows above this one.")] = 0,
    limit: Annotated[int, typer.Option("--limit", help="So many rows at most (1000).")] = 100,
    table: TableOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
) -> None:
    """The spools of this side; or the rows of one, oldest first."""
    from tunnel.cli.show import print_json, print_rows

    running = running_side(table, side)
    if route is not None:
        found = _ask(running, "spool-list", route=route, peer=peer, after=after, limit=limit)
        if as_json:
            print_json(found)
            return
        now = time.time()
        rows = [(r["number"], _span(now - r["born"]), r["messages"], _size(r["bytes"])) for r in found["rows"]]
        print_rows(("NUMBER", "AGE", "MESSAGES", "BYTES"), rows)
        if found["full"] and found["rows"]:
            typer.echo(f"There may be more: --after {found['rows'][-1]['number']}")
        return
    spools = _all_spools(running)
    if as_json:
        print_json({"spools": spools})
        return
    print_rows(
        ("ROUTE", "FOR", "STATE", "ROWS", "MESSAGES", "BYTES", "OF", "OLDEST", "WHY"),
        [
            (
                *(s["route"], s["for"], s["state"], s["rows"], s["messages"], _size(s["bytes"]), _size(s["max_bytes"])),
                "-" if s["oldest_s"] is None else _span(s["oldest_s"]),
                s["reason"] or "",
            )
            for s in spools
        ],
    )


def show(
    route: RouteArgument,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="A row, as `spool ls ROUTE` numbers them.")],
    peer: ForOption = None,
    size: Annotated[int, typer.Option("--bytes", help="So many bytes of each frame (4096).")] = 32,
    table: TableOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
) -> None:
    """The first messages of one row."""
    from tunnel.cli.show import print_json
    from tunnel.cli.tap import shown
    from tunnel.log import stamp

    found = _ask(running_side(table, side), "spool-show", route=route, peer=peer, number=number, bytes=size)
    if as_json:
        print_json(found)
        return
    typer.echo(f"row {found['number']}, {stamp(found['born'])}: {found['messages']} messages, {_size(found['bytes'])}")
    for message in found["shown"]:
        frames = "  ".join(shown(length, bytes.fromhex(first)) for length, first in message["frames"])
        hidden = message["frame_count"] - len(message["frames"])
        typer.echo(f"  {frames}" + (f"  and {hidden} more frames" if hidden else ""))
    left = found["messages"] - len(found["shown"])
    if left > 0:
        typer.echo(f"  and {left} more messages")


def drop(
    route: RouteArgument,
    numbers: Annotated[list[int] | None, typer.Argument(metavar="[NUMBER]...", help="Rows to drop.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every row.")] = False,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="Only what is older, such as 2h.")
    ] = None,
    peer: ForOption = None,
    table: TableOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drop rows for good; they are counted. What is under way already (at most a window) is delivered all the same."""
    from tunnel.cli.show import print_json
    from tunnel.config.values import duration
    from tunnel.errors import UsageError

    if bool(numbers) == every:
        raise UsageError("say which rows: their numbers, or --all.")
    try:
        age_s = 0.0 if older_than is None else duration(older_than)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}") from None
    which: dict[str, Any] = {"all": True} if every else {"numbers": numbers}
    found = _ask(running_side(table, side), "spool-drop", route=route, peer=peer, older_than_s=age_s, **which)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{found['dropped']} messages dropped.")


def flush(
    route: RouteArgument,
    peer: ForOption = None,
    table: TableOption = None,
    side: SideOption = None,
) -> None:
    """Everything that was read is on disk when this returns; a disk that failed is tried at once."""
    found = _ask(running_side(table, side), "spool-flush", route=route, peer=peer)
    typer.echo(f"On disk through row {found['durable']}.")


def _ask(running: Running, do: str, **arguments: Any) -> dict[str, Any]:
    from tunnel.control import ask
    from tunnel.supervise.beside import control_of
    from tunnel.supervise.places import DEVICE_SOCKET

    of_bridge = control_of(running, str(arguments.get("route")))
    return ask(running.folder / (of_bridge or DEVICE_SOCKET), do, _PATIENCE_S, **arguments)


def _all_spools(running: Running) -> list[dict[str, Any]]:
    from tunnel.supervise.beside import read

    routes = _ask(running, "status")["routes"]
    found = [
        {"route": route, "for": peer, **told}
        for route, status in sorted(routes.items())
        for peer, told in sorted(status.get("spools", {}).items())
    ]
    bridges = ((f"bridge-{told['name']}", told["detail"].get("spool")) for told in read(running, _PATIENCE_S)[1])
    return found + [{"route": name, "for": "-", **spool} for name, spool in bridges if spool]


def _size(size: int) -> str:
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size} B"


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{max(0.0, seconds):.1f} s"
