"""Commands that only look: status, ls, logs, top, doctor."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunnel.cli.pick import JsonOption, SideOption, TableArgument, TableOption, running_side

if TYPE_CHECKING:
    from tunnel.supervise.places import Running


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(status)
    app.command()(ls)
    app.command()(logs)
    app.command()(top)
    app.command()(doctor)


def status(
    table: TableArgument = None,
    side: SideOption = None,
    as_json: JsonOption = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print nothing; exit 1 when anything is not as it should be.")
    ] = False,
) -> None:
    """How a running side is. Exit 3: it does not run, or its device does not answer."""
    from tunnel.cli.show import print_json, print_status
    from tunnel.supervise.status import exit_code, read

    now = read(running_side(table, side))
    if as_json:
        print_json(now)
    elif not quiet:
        print_status(now)
    raise typer.Exit(exit_code(now, strict=quiet))


def ls(as_json: JsonOption = False) -> None:
    """Every table that runs here for this user; for root, those of all users."""
    from tunnel.cli.show import duration, print_json, print_rows
    from tunnel.errors import NotRunningError
    from tunnel.places import user_name
    from tunnel.supervise.places import find_all

    found: list[dict[str, Any]] = []
    me = os.geteuid()
    for running in find_all():
        try:
            state = _state(running) if running.owner == me else "running"  # root asks no process of another user
        except NotRunningError:  # it ended a moment ago
            continue
        found.append(
            {
                "table": running.name,
                "side": running.side,
                "state": state,
                "pid": running.pid,
                "uptime_s": round(max(time.time() - running.started, 0.0), 1),
                "file": str(running.table),
                "user": user_name(running.owner),
            }
        )
    if as_json:
        print_json(found)
    elif found:
        users = {f["user"] for f in found} != {user_name(me)}
        head = ("TABLE", "SIDE", "STATE", "PID", "UPTIME", "FILE", *(["USER"] if users else []))
        rows: list[tuple[Any, ...]] = [
            (f["table"], f["side"], f["state"], f["pid"], duration(f["uptime_s"]), f["file"], f["user"])[: len(head)]
            for f in found
        ]
        print_rows(head, rows)
    else:
        typer.echo("no table is running here for this user.")


def _state(running: Running) -> str:
    from tunnel.supervise.status import read

    return "degraded" if read(running)["degraded"] else "ready"


def logs(
    part: Annotated[
        str | None,
        typer.Argument(metavar="[PART]", help="A process (or supervisord); left out: all.", show_default=False),
    ] = None,
    table: TableOption = None,
    side: SideOption = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="So many lines of each part first.")] = 100,
) -> None:
    """What the processes logged, by time; also of a side that ran here last."""
    from tunnel.errors import NotRunningError
    from tunnel.supervise.logs import Tails, last_lines, log_files, merged

    try:
        running = running_side(table, side)
    except NotRunningError:
        running = running_side(table, side, dead_too=True)
    tails = Tails(running.folder, part) if follow else None
    for line in merged([last_lines(file, lines) for file in log_files(running.folder, part).values()]):
        typer.echo(line)
    try:
        while tails is not None:
            for line in tails.read():
                typer.echo(line)
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass


def top(
    table: TableArgument = None,
    side: SideOption = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    count: Annotated[int, typer.Option(min=0, help="Stop after so many looks; 0: until Ctrl-C.")] = 0,
) -> None:
    """The status, live, with messages a second."""
    from rich.console import Group
    from rich.live import Live

    from tunnel.cli.show import print_status, render_status, terminal
    from tunnel.supervise.status import Rates, read

    running = running_side(table, side)
    rates, looks = Rates(), 0
    live = Live(Group(), screen=True, auto_refresh=False) if terminal() else None
    try:
        if live:
            live.start()
        while True:
            now = read(running)
            seen = rates.of(now, time.monotonic())
            if live:
                live.update(render_status(now, seen), refresh=True)
            else:
                print_status(now, seen)
            looks += 1
            if looks == count:
                break
            time.sleep(interval)
    except KeyboardInterrupt:
        pass
    finally:
        if live:
            live.stop()


def doctor(table: TableArgument = None, side: SideOption = None, as_json: JsonOption = False) -> None:
    """Look for what would keep ztunnel from working here, and say what to do about it. Exit 1: something would."""
    from tunnel.cli.doctor import examine
    from tunnel.cli.show import print_json, print_rows

    findings = examine(table, side)
    if as_json:
        print_json([finding.as_dict() for finding in findings])
    else:
        rows: list[tuple[Any, ...]] = [(f.state, f.what, f.detail, f.remedy) for f in findings]
        print_rows(("", "CHECK", "FOUND", "WHAT TO DO"), rows)
    raise typer.Exit(1 if any(f.state == "bad" for f in findings) else 0)
