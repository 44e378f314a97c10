"""`ztunnel mail test`: a real mail through a bridge, told step by step.

The bridge's process tries (bridges/mail/trial.py); here it is asked, and what it found is printed.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final

import typer

from tunnel.cli.mail_ask import asked, bridge_meant, safe
from tunnel.cli.pick import JsonOption, SideOption, TableOption, running_side

PASSWORD: Final = "ZTUNNEL_MAIL_PASSWORD"
"""The variable that a login's password may come from."""
_PATIENCE_S: Final = 60.0
"""The bridge itself takes TRIAL_SENT_S and a few seconds at most, but its server's answers may be slow."""


def try_out(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[BRIDGE] [ADDRESS]",
            help="A bridge for mail, left out: the only one here; and for whom the mail is (not for an imap).",
            show_default=False,
        ),
    ] = None,
    sender: Annotated[
        str | None,
        typer.Option("--from", metavar="ADDRESS", help="The sender of the mail.", show_default=False),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            metavar="NAME",
            help=f"Log in to an smtp-server; the password is asked for, or {PASSWORD}.",
            show_default=False,
        ),
    ] = None,
    table: TableOption = None,
    side: SideOption = None,
    as_json: JsonOption = False,
) -> None:
    """A real mail through a bridge: each step, and who refused it in which words. An imap is only looked at.

    Exit 0: every step is ok. 1: one is not. 3: the side does not run here.
    """
    from tunnel.cli.show import print_json, print_rows

    running = running_side(table, side)
    named, address = _split(list(words or []))
    bridge = bridge_meant(running, named)
    arguments = {"address": address, "from": sender, "user": user, "password": _password() if user else None}
    found = asked(running, bridge, "mail-test", _PATIENCE_S, **arguments)
    steps = found["steps"]
    if as_json:
        print_json({"bridge": bridge, "side": running.side, "ok": found["fine"], "steps": steps})
    else:
        rows = [("ok" if s["ok"] else "NOT OK", s["step"], safe(s["found"]), safe(s["todo"])) for s in steps]
        print_rows(("", "STEP", "FOUND", "WHAT TO DO"), rows)
        verdict = "every step is ok." if found["fine"] else "mend the first step that is not ok."
        typer.echo(f"\nbridge {bridge}: {verdict}")
    raise typer.Exit(0 if found["fine"] else 1)


def _split(words: list[str]) -> tuple[str | None, str | None]:
    """Bridge and address, either of which may be left out: an address has an @, and a name has none."""
    from tunnel.errors import UsageError

    address = words.pop() if words and "@" in words[-1] else None
    named = words.pop() if words else None
    if words or (named is not None and "@" in named):
        raise UsageError("say [BRIDGE] [ADDRESS], in this order; an address has an @.")
    return named, address


def _password() -> str:
    """Never an argument: those are seen by everybody on this machine."""
    from tunnel.errors import UsageError

    if (said := os.environ.get(PASSWORD)) is not None:
        return said
    if not sys.stdin.isatty():
        raise UsageError(f"--user wants a password: set {PASSWORD}, or run this on a terminal.")
    return str(typer.prompt("Password", hide_input=True, err=True))
