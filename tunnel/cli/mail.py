"""`ztunnel mail`: what bridges for mail keep on disk here. The bridge's process is asked: nobody else opens its file.

The wire is `mail-list`, `mail-show`, `mail-retry`, `mail-drop`, `mail-pause`, `mail-resume` (bridges/mail/desk.py); any
kind of bridge that answers them can be asked.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tunnel.cli.pick import JsonOption, SideOption, TableOption, running_side

if TYPE_CHECKING:
    from tunnel.supervise.places import Running

_PATIENCE_S: Final = 8.0
_KINDS: Final = ("smtp-client", "smtp-server", "imap")

BridgeArgument = Annotated[
    str | None,
    typer.Argument(metavar="[BRIDGE]", help="A bridge for mail; left out: the only one here.", show_default=False),
]
BridgeAndNumbers = Annotated[
    list[str] | None,
    typer.Argument(metavar="[BRIDGE] [NUMBER]...", help="Mails, as `mail ls` numbers them.", show_default=False),
]
EveryOption = Annotated[bool, typer.Option("--all", help="Every one.")]


def register(app: typer.Typer) -> None:
    """Add these commands, under `mail`."""
    mail = typer.Typer(
        help="Look at the mail that bridges keep here; send it again, drop it, pause.", no_args_is_help=True
    )
    for command in (ls, show, retry, drop, pause, resume):
        mail.command()(command)
    app.add_typer(mail, name="mail")


def ls(
    bridge: BridgeArgument = None,
    state: Annotated[
        str | None, typer.Option("--state", help="Only those that are open, dead, refused or sent.", show_default=False)
    ] = None,
    after: Annotated[int, typer.Option("--after", metavar="NUMBER", help="Mails above this one.")] = 0,
    limit: Annotated[int, typer.Option("--limit", help="So many at most (1000).")] = 100,
    table: TableOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mails that wait, failed, or were refused, oldest first."""
    from tunnel.cli.show import amount, duration, print_json, print_rows

    running = running_side(table, side)
    found = _ask(running, _bridge(running, bridge), "mail-list", state=state, after=after, limit=limit)
    if as_json:
        print_json(found)
        return
    now = time.time()
    rows = []
    for mail in found["mails"]:
        more = mail["recipients"] - len(mail["to"])
        to = ", ".join(mail["to"]) + (f" and {more} more" if more > 0 else "")
        due = "-" if mail["due"] is None else duration(max(0.0, mail["due"] - now))
        age, size = duration(max(0.0, now - mail["born"])), amount(mail["size"])
        known = (mail["number"], mail["state"], age, size, mail["attempts"], due)
        rows.append((*known, mail["from"] or "<>", to or "-", mail["why"]))
    print_rows(("NUMBER", "STATE", "AGE", "SIZE", "ATTEMPTS", "NEXT IN", "FROM", "TO", "WHY"), rows)
    if found["more"]:
        typer.echo(f"There may be more: --after {found['mails'][-1]['number']}")


def show(
    words: BridgeAndNumbers = None,
    table: TableOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
) -> None:
    """One mail: its envelope, what became of each recipient, and its headers; not what it says."""
    from tunnel.cli.show import amount, print_json
    from tunnel.errors import UsageError
    from tunnel.log import stamp

    running = running_side(table, side)
    bridge, numbers = _split(running, words)
    if len(numbers) != 1:
        raise UsageError("say one mail: its number, as `ztunnel mail ls` tells it.")
    found = _ask(running, bridge, "mail-show", number=numbers[0])
    if as_json:
        print_json(found)
        return
    mail = found["mail"]
    typer.echo(f"mail {mail['number']}, id {_safe(mail['id'])}, {mail['state']}, {amount(mail['size'])}")
    typer.echo(f"taken {stamp(mail['born'])}, {mail['attempts']} attempts" + _due(mail))
    if mail["why"]:
        typer.echo(f"why: {_safe(mail['why'])}")
    typer.echo(f"from: {_safe(mail['from']) or '<>'}")
    for one in mail["states"]:
        typer.echo(f"to: {_safe(one['address'])}  {one['state']}  {_safe(one['words'])}".rstrip())
    if found.get("frames"):
        typer.echo(f"frames: {', '.join(amount(size) for size in found['frames'])}")
    for name, value in found["headers"]:
        typer.echo(f"  {_safe(name)}: {_safe(value)}")


def retry(
    words: BridgeAndNumbers = None,
    every: EveryOption = False,
    table: TableOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try mails now, those that failed too; messages that were refused are looked at again."""
    found = _on_some(words, every, table, side, as_json, "mail-retry")
    if not as_json:
        typer.echo(f"{found['count']} mails are tried again.")
        for refused in found["refused"]:
            typer.echo(f"{refused['number']} is refused again: {_safe(refused['why'])}")
    if found["refused"]:
        raise typer.Exit(1)


def drop(
    words: BridgeAndNumbers = None,
    every: Annotated[bool, typer.Option("--all", help="All that failed or were refused.")] = False,
    table: TableOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drop mails for good."""
    found = _on_some(words, every, table, side, as_json, "mail-drop")
    if not as_json:
        typer.echo(f"{found['count']} mails dropped.")
        if found["busy"]:
            typer.echo(f"{found['busy']} are being sent at this moment, and were left.")
    if found["busy"]:
        raise typer.Exit(1)


def pause(bridge: BridgeArgument = None, table: TableOption = None, side: SideOption = None) -> None:
    """Send nothing more until `mail resume`, over restarts; messages are taken as before."""
    running = running_side(table, side)
    name = _bridge(running, bridge)
    _ask(running, name, "mail-pause")
    typer.echo(f"{name} sends nothing more until `ztunnel mail resume {name}`.")


def resume(bridge: BridgeArgument = None, table: TableOption = None, side: SideOption = None) -> None:
    """Send again, at once: after `mail pause`, or when what a server refused has been put right."""
    running = running_side(table, side)
    name = _bridge(running, bridge)
    _ask(running, name, "mail-resume")
    typer.echo(f"{name} sends again.")


def _on_some(
    words: list[str] | None, every: bool, table: str | None, side: str | None, as_json: bool, do: str
) -> dict[str, Any]:
    from tunnel.cli.show import print_json
    from tunnel.errors import UsageError

    running = running_side(table, side)
    bridge, numbers = _split(running, words)
    if bool(numbers) == every:
        raise UsageError("say which mails: their numbers, or --all.")
    found = _ask(running, bridge, do, **({"all": True} if every else {"numbers": numbers}))
    if as_json:
        print_json(found)
    return found


def _split(running: Running, words: list[str] | None) -> tuple[str, list[int]]:
    """The bridge, which may be left out, and the numbers."""
    from tunnel.errors import UsageError

    words = list(words or [])
    named = words.pop(0) if words and not words[0].isdigit() else None
    bad = next((word for word in words if not word.isdigit() or len(word) > 18), None)
    if bad is not None:
        raise UsageError(f"{bad!r} is no number of a mail; `ztunnel mail ls` shows them.")
    return _bridge(running, named), [int(word) for word in words]


def _bridge(running: Running, named: str | None) -> str:
    """The name of a bridge for mail of this side."""
    from tunnel.config.values import listing, suggest
    from tunnel.errors import UsageError
    from tunnel.supervise.beside import known_bridges

    there = [name for name, kind in known_bridges(running) if kind in _KINDS]
    if named is not None:
        name = named.removeprefix("bridge-")
        if name not in there:
            raise UsageError(f"{name!r} is no bridge for mail of this side.{suggest(name, there)}")
        return name
    if not there:
        raise UsageError("this side has no bridge for mail.")
    senders = [name for name, kind in known_bridges(running) if kind == "smtp-client"]
    for only in (there, senders):
        if len(only) == 1:
            return only[0]
    raise UsageError(f"which bridge? There are {listing(there, 'and')}.")


def _ask(running: Running, bridge: str, do: str, **arguments: Any) -> dict[str, Any]:
    from tunnel.control import ask
    from tunnel.supervise.beside import control_of

    control = control_of(running, f"bridge-{bridge}")
    assert control is not None
    return ask(running.folder / control, do, _PATIENCE_S, **arguments)


def _due(mail: dict[str, Any]) -> str:
    from tunnel.log import stamp

    return "" if mail["due"] is None else f", next at {stamp(mail['due'])}"


def _safe(text: str) -> str:
    """Somebody else's words on a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
