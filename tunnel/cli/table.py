"""Commands about a table that need nothing running: check, schema, render."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunnel.cli.pick import JsonOption, SideOption, TableArgument, named_table
from tunnel.errors import KeyFileError, TableError, UsageError

if TYPE_CHECKING:
    from tunnel.config import Table
    from tunnel.config.describe import Ports
    from tunnel.errors import Problem


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(check)
    app.command()(schema)
    app.command()(render)


def check(
    table: TableArgument = None,
    ports: Annotated[
        bool, typer.Option("--ports", help="Print who listens where, who dials, and who is let in.")
    ] = False,
    as_json: JsonOption = False,
    side: SideOption = None,
) -> None:
    """Say what a table means, or everything that is wrong with it. Needs no secret key."""
    from tunnel.config import load_table
    from tunnel.config.describe import ports as ports_of

    try:
        loaded = load_table(named_table(table))
        sides = _plan_what_can_be(loaded, side)
    except TableError as error:
        if as_json:
            _print_problems(error)
            raise typer.Exit(error.exit_code) from None
        raise
    if ports:
        _print_ports(ports_of(loaded), as_json)
    elif as_json:
        _print_json(_meaning(loaded, sides))
    else:
        _print_meaning(loaded, sides)


def schema() -> None:
    """Print the JSON schema of tables, for editors."""
    from tunnel.config.schema import table_schema

    _print_json(table_schema())


def render(
    table: TableArgument = None,
    side: Annotated[
        str | None, typer.Option("--as", metavar="SIDE", help="The side to write it for.", show_default=False)
    ] = None,
) -> None:
    """Print the table as one side needs to know it: the ends of the other sides are left out."""
    from tunnel.config import load_table
    from tunnel.config.render import render as rendered
    from tunnel.config.values import listing, suggest

    loaded = load_table(named_table(table))
    if side is None:
        raise UsageError(f"for which side? Say --as {listing(loaded.sides)}.")
    if side not in loaded.sides:
        raise UsageError(f"--as {side}: {loaded.path} has no such side.{suggest(side, loaded.sides)}")
    typer.echo(rendered(loaded, side), nl=False)


def _plan_what_can_be(table: Table, side: str | None) -> list[str]:
    """Plan the sides whose secret keys are here, so that what is wrong on this box is found too."""
    from tunnel.config import find_side, plan_for
    from tunnel.config.planning import held_sides

    if side is not None:
        plan_for(table, find_side(table, side))
        return [side]
    planned: list[str] = []
    problems: list[Problem] = []
    for held in held_sides(table):
        try:
            plan_for(table, held)
            planned.append(held)
        except TableError as error:
            problems.extend(error.problems)
        except KeyFileError as error:
            typer.echo(f"ztunnel: warning: not checked as {held}: {error}", err=True)
    if problems:
        raise TableError(problems)
    return planned


def _meaning(table: Table, sides: list[str]) -> dict[str, Any]:
    from tunnel.config.describe import bridge_sentence, route_sentence

    return {
        "table": table.name,
        "file": str(table.path),
        "sides": list(table.sides),
        "checked_as": sides,
        "routes": {name: route_sentence(table, name) for name in table.routes},
        "bridges": {name: bridge_sentence(table, name) for name in table.model.bridges},
        "warnings": [_problem(warning) for warning in table.warnings],
        "problems": [],
    }


def _print_meaning(table: Table, sides: list[str]) -> None:
    from tunnel.config.describe import bridge_sentence, route_sentence
    from tunnel.config.values import listing

    for warning in table.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for name in table.routes:
        typer.echo(route_sentence(table, name))
    for name in table.model.bridges:
        typer.echo(bridge_sentence(table, name))
    here = f"; checked as {listing(sides, 'and')}, whose secret key is here" if sides else ""
    typer.echo(f"{table.path} is right{here}.")


def _print_ports(ports: Ports, as_json: bool) -> None:
    from tunnel.cli.show import print_rows

    if as_json:
        _print_json(ports.as_json())
        return
    opens = [(o.side, "listens", o.address, o.purpose, o.let_in, o.proven_by or "-") for o in ports.opens]
    calls = [(c.side, "dials", c.to, c.purpose, "-", "-") for c in ports.calls]
    print_rows(("SIDE", "", "ADDRESS", "FOR", "LET IN", "PROVEN BY"), [*opens, *calls])
    for untold in ports.untold:
        typer.echo(f"not told here: {untold}")


def _print_problems(error: TableError) -> None:
    _print_json({"problems": [_problem(problem) for problem in error.problems]})


def _problem(problem: Problem) -> dict[str, Any]:
    return {key: getattr(problem, key) for key in ("file", "line", "column", "path", "sentence")}


def _print_json(value: object) -> None:
    from tunnel.cli.show import print_json

    print_json(value)
