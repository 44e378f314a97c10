"""Commands that make keys and a first table: keygen, init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(init)
    app.command()(keygen)


def keygen(
    side: Annotated[str, typer.Argument(metavar="SIDE", help="Whose keys they are.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The folder for them.")] = Path("keys"),
) -> None:
    """Make a side's key pair: DIR/SIDE.key for all boxes, and DIR/SIDE.key_secret, which never leaves this one."""
    from tunnel.cli.init import checked, kept
    from tunnel.keys import write_pair

    public, secret = write_pair(out, checked(side))
    typer.echo(f"{public}: the public key of {side}; copy it to the other boxes of the table.")
    typer.echo(f"{secret}: the secret key of {side}. {kept(secret)}")


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the table and the keys go.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="The table's name: DIR/NAME.yaml.")] = "ztunnel",
    side: Annotated[
        str | None,
        typer.Option("--side", metavar="SIDE", help="This box's side; left out: both sides, to try it on one machine."),
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option("--trust", metavar="SIDE=KEY", help="The public key of another side; may be said several times."),
    ] = None,
) -> None:
    """Write a commented table to start from, and this side's keys, and say what to run on the other box.

    Nothing that is there is overwritten; it does no harm to say it again.
    """
    from tunnel.cli.init import init_both, init_side
    from tunnel.errors import UsageError

    if side is None and trust:
        raise UsageError("--trust needs --side: which side is this box?")
    for line in init_both(folder, name) if side is None else init_side(folder, name, side, trust or []):
        typer.echo(line)
