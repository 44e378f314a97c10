"""Commands that start, stop and change what runs: up, down, restart, reload, wait."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tunnel.cli.pick import JsonOption, SideOption, TableArgument, TableOption, running_side, side_meant, table_file
from tunnel.limits import READY_S


class Stage(StrEnum):
    """What `wait` waits for."""

    LOCAL = "local"
    LINK = "link"
    SERVICE = "service"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(up)
    app.command()(down)
    app.command()(restart)
    app.command()(reload)
    app.command()(wait)


def up(
    table: TableArgument = None,
    side: SideOption = None,
    detach: Annotated[
        bool, typer.Option("-d", "--detach", help="Leave it running and return when it is ready.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="With -d: seconds to wait until it is ready.")] = READY_S,
) -> None:
    """Run this side of a table: with its logs in the foreground, or detached."""
    from tunnel.cli import complain
    from tunnel.config import read_plan
    from tunnel.errors import ZtunnelError
    from tunnel.supervise import journal
    from tunnel.supervise import up as supervise_up
    from tunnel.supervise.notify import Notifier

    notifier = Notifier()
    try:
        file = table_file(table)
        _leave_it_to_the_service(file)
        plan = read_plan(file, side_meant(side))
    except ZtunnelError as error:
        notifier.status(str(error).splitlines()[0])
        raise
    for warning in plan.warnings:
        complain(f"warning: {warning}", "warn")
    if detach:
        status = supervise_up.detached(plan, timeout)
        typer.echo(supervise_up.ready_line(status))
    elif journal.is_journal(1):
        supervise_up.Foreground(
            plan,
            notifier,
            say=lambda text, level: _print(journal.said(text, level)),
            show=lambda line: _print(journal.logged(line)),
        ).run()
    else:
        supervise_up.Foreground(plan, notifier, say=lambda text, _level: _print(text), show=_print).run()


def down(table: TableArgument = None, side: SideOption = None) -> None:
    """Stop a running side in order: what is under way gets a few seconds to arrive."""
    from tunnel.errors import LocalError
    from tunnel.limits import DOWN_S
    from tunnel.supervise.daemon import Supervisor
    from tunnel.supervise.places import unit_of, wait_until_gone

    asker = os.geteuid()  # before `running_side`, where root becomes the side's user
    running = running_side(table, side)
    unit = unit_of(running)
    Supervisor(running).shut_down()
    if not wait_until_gone(running, DOWN_S):
        how = f": `kill -9 {running.pid}` ends its supervisor at once, its processes then stop"
        if running.owner != asker:
            how = ""  # a pid in a record of another user is no advice for root
        raise LocalError(f"{running} did not end within {DOWN_S:g} s{how}.")
    typer.echo(f"stopped: {running.name} side {running.side}")
    if unit:
        typer.echo(f"systemd starts it again in 3 s; `systemctl stop {shlex.quote(unit)}` keeps it down")


def restart(
    part: Annotated[str, typer.Argument(metavar="PART", help="A process, as `ztunnel status` names it.")],
    table: TableOption = None,
    side: SideOption = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait until everything is ready again.")] = READY_S,
) -> None:
    """Stop one process in order and start it again; the others are not touched."""
    from tunnel.supervise.daemon import Supervisor
    from tunnel.supervise.up import ready_line, wait_ready

    running = running_side(table, side)
    Supervisor(running).restart(part)
    typer.echo(ready_line(wait_ready(running, timeout)))


def reload(
    table: TableArgument = None,
    side: SideOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take in a changed table: only the routes, links and processes that changed are touched."""
    from tunnel.cli.show import print_json
    from tunnel.supervise.reload import reload_side

    changes = reload_side(running_side(table, side), dry_run=dry_run)
    if as_json:
        print_json(changes)
        return
    for line in changes["changes"] or ["nothing changes"]:
        typer.echo(("would change: " if dry_run and changes["changes"] else "") + line)


def wait(
    route: Annotated[str, typer.Argument(metavar="ROUTE", help="A route of the table.")],
    stage: Annotated[
        Stage,
        typer.Option(
            "--for",
            help="local: its sockets here are open. link: messages can cross to the other side. "
            "service: and an application is there that serves (at `to`; pubsub: the publisher; pair: the other end).",
        ),
    ] = Stage.LINK,
    table: TableOption = None,
    side: SideOption = None,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds.")] = READY_S,
) -> None:
    """Wait until a route is as far as you need it: exit 0 when it is, 1 when the time is over."""
    from tunnel.errors import LocalError
    from tunnel.supervise.stages import missing_of, wait_for_stage

    status, reached = wait_for_stage(running_side(table, side), route, stage.value, timeout)
    if not reached:
        raise LocalError(f"route {route} after {timeout:g} s: {missing_of(status, route, stage.value)}")


def _leave_it_to_the_service(table: Path) -> None:
    """UsageError: root starts by hand what the unit runs as another user, in whose way root's files would be."""
    from tunnel.errors import UsageError
    from tunnel.places import SERVICE_USER, has_unit, instance

    name = instance(table)
    if name is not None and os.geteuid() == 0 and has_unit():
        name = shlex.quote(name)
        raise UsageError(
            f"{table} is run by systemd, as the user {SERVICE_USER}: `systemctl start ztunnel@{name}`; "
            f"or `runuser -u {SERVICE_USER} -- ztunnel up {name}` to see it in the foreground."
        )


def _print(line: str) -> None:
    """Where `up` stays in the foreground: a terminal or reader that went away must not end the tunnel half-way."""
    with suppress(OSError):
        typer.echo(line)
