"""Commands that make keys and a first table: keygen, init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunnel.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(init)
    app.command()(keygen)


def keygen(
    side: Annotated[str, typer.Argument(metavar="SIDE", help="Whose keys they are.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The folder for them.")] = Path("keys"),
) -> None:
    """Make a side's key pair: DIR/SIDE.key for all boxes, and DIR/SIDE.key_secret, which never leaves this one."""
    from tunnel.keys import write_pair

    public, secret = write_pair(out, _name(side))
    typer.echo(f"{public}: the public key of {side}; copy it to the other boxes of the table.")
    typer.echo(f"{secret}: the secret key of {side}; it stays on this box.")


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the table and the keys go.")],
    side: Annotated[
        str | None,
        typer.Option("--side", metavar="SIDE", help="This box's side; left out: both sides, to try it on one machine."),
    ] = None,
) -> None:
    """Write a commented table to start from, and this side's keys, and say what to copy where."""
    from tunnel.config.template import sides_for, table_text
    from tunnel.keys import write_pair

    listener, dialler = sides_for(None if side is None else _name(side))
    table = folder / "ztunnel.yaml"
    if table.exists() or table.is_symlink():
        if side is None:
            raise UsageError(f"{table} exists already and is not overwritten; for the keys alone say --side SIDE.")
        typer.echo(f"{table}: was here already and is left as it is.")
        made = False
    else:
        made = True
    ours = [listener, dialler] if side is None else [side]
    pairs = [write_pair(folder / "keys", name) for name in ours]
    if made:
        _write(table, table_text(listener, dialler))
        typer.echo(f"{table}: the table; edit it, then ask `ztunnel check {table}`.")
    for name, (public, secret) in zip(ours, pairs, strict=True):
        typer.echo(f"{public}, {secret}: the keys of {name}.")
    typer.echo(_advice(folder, side, listener, dialler))


def _advice(folder: Path, side: str | None, listener: str, dialler: str) -> str:
    if side is None:
        return (
            f"To try it here: `ztunnel up {folder}/ztunnel.yaml --as {listener}`, and the same with --as {dialler}.\n"
            f"For two boxes: run `ztunnel init DIR --side SIDE` on each instead, so that no secret key ever travels."
        )
    other = dialler if side == listener else listener
    return (
        f"Next: copy {folder}/keys/{side}.key to keys/ on the box of {other}, "
        f"and its keys/{other}.key to {folder}/keys/ here.\n"
        f"The same table goes on both boxes, or `ztunnel render --as {other}` of it, "
        f"which tells {other} no address of {side}.\n"
        f"{folder}/keys/{side}.key_secret stays here."
    )


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}.") from None


def _name(text: str) -> str:
    from tunnel.config.values import name

    try:
        return name(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
