"""`ztunnel probe ROUTE`: could a message cross now? The device finds the facts, tunnel/cli/steps.py judges them."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from tunnel.cli.pick import JsonOption, SideOption, TableOption, running_side

_PATIENCE_S: Final = 8.0
"""The device itself takes PROBE_STILL_S at most."""


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(probe)


def probe(
    route: Annotated[str, typer.Argument(metavar="ROUTE", help="A route of the table.")],
    table: TableOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
) -> None:
    """Could a message of this route cross now? Step by step: found, and what to do.

    Looks from this side, half a second to three; pings the links, sends nothing to any application.
    Exit 0: every step is ok. 1: one is not. 3: the side does not run here.
    """
    from tunnel.cli.show import print_json, print_rows
    from tunnel.cli.steps import steps_of
    from tunnel.control import ask
    from tunnel.supervise.places import DEVICE_SOCKET

    running = running_side(table, side)
    steps = steps_of(ask(running.folder / DEVICE_SOCKET, "probe", _PATIENCE_S, route=route))
    wrong = [step for step in steps if not step.ok]
    if as_json:
        told = [step.as_dict() for step in steps]
        print_json({"route": route, "side": running.side, "ok": not wrong, "steps": told})
    else:
        print_rows(("", "STEP", "FOUND", "WHAT TO DO"), [(s.word, s.step, s.found, s.todo) for s in steps])
        if wrong:
            typer.echo(
                f"\nroute {route}: no message can cross now, or not as it should: mend the first step that is not ok."
            )
        else:
            typer.echo(f"\nroute {route}: a message can cross now.")
    raise typer.Exit(1 if wrong else 0)
