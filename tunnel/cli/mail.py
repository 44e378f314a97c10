"""`ztunnel mail`: what bridges for mail keep on disk here. The bridge's process is asked: nobody else opens its file.

The wire is `mail-list`, `mail-show`, `mail-retry`, `mail-drop`, `mail-pause`, `mail-resume` (bridges/mail/desk.py); any
kind of bridge that answers them can be asked. `mail test` is mail_trial.py's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunnel.cli.mail_ask import asked, bridge_meant, kind_of, safe
from tunnel.cli.mail_password import password
from tunnel.cli.mail_trial import try_out
from tunnel.cli.pick import JsonOption, SideOption, TableOption, running_side

if TYPE_CHECKING:
    from tunnel.supervise.places import Running

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
        help="Try a bridge for mail; look at the mail that it keeps; send it again, drop it, pause.",
        no_args_is_help=True,
    )
    mail.command("test")(try_out)
    for command in (ls, show, retry, drop, pause, resume, password):
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
    found = asked(running, bridge_meant(running, bridge), "mail-list", state=state, after=after, limit=limit)
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
    found = asked(running, bridge, "mail-show", number=numbers[0])
    if as_json:
        print_json(found)
        return
    mail = found["mail"]
    typer.echo(f"mail {mail['number']}, id {safe(mail['id'])}, {mail['state']}, {amount(mail['size'])}")
    typer.echo(f"taken {stamp(mail['born'])}, {mail['attempts']} attempts" + _due(mail))
    if mail["why"]:
        typer.echo(f"why: {safe(mail['why'])}")
    typer.echo(f"from: {safe(mail['from']) or '<>'}")
    for one in mail["states"]:
        typer.echo(f"to: {safe(one['address'])}  {one['state']}  {safe(one['words'])}".rstrip())
    if found.get("frames"):
        typer.echo(f"frames: {', '.join(amount(size) for size in found['frames'])}")
    for name, value in found["headers"]:
        typer.echo(f"  {safe(name)}: {safe(value)}")


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
            typer.echo(f"{refused['number']} is refused again: {safe(refused['why'])}")
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
    """Send nothing more until `mail resume`, over restarts; messages are taken as before.

    An imap fetches nothing more, until `mail resume` or its next start."""
    running = running_side(table, side)
    name = bridge_meant(running, bridge)
    asked(running, name, "mail-pause")
    until = f"until `ztunnel mail resume {name}`"
    if kind_of(running, name) == "imap":
        typer.echo(f"{name} fetches nothing more {until}, or its next start.")
    else:
        typer.echo(f"{name} sends nothing more {until}.")


def resume(bridge: BridgeArgument = None, table: TableOption = None, side: SideOption = None) -> None:
    """Send, or fetch, again at once: after `mail pause`, or when what a server refused has been put right."""
    running = running_side(table, side)
    name = bridge_meant(running, bridge)
    asked(running, name, "mail-resume")
    typer.echo(f"{name} {'fetches' if kind_of(running, name) == 'imap' else 'sends'} again.")


def _on_some(
    words: list[str] | None, every: bool, table: str | None, side: str | None, as_json: bool, do: str
) -> dict[str, Any]:
    from tunnel.cli.show import print_json
    from tunnel.errors import UsageError

    running = running_side(table, side)
    bridge, numbers = _split(running, words)
    if bool(numbers) == every:
        raise UsageError("say which mails: their numbers, or --all.")
    found = asked(running, bridge, do, **({"all": True} if every else {"numbers": numbers}))
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
    return bridge_meant(running, named), [int(word) for word in words]


def _due(mail: dict[str, Any]) -> str:
    from tunnel.log import stamp

    return "" if mail["due"] is None else f", next at {stamp(mail['due'])}"
