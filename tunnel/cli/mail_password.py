"""`ztunnel mail password`: a line for a file of users (bridges/mail/users.py)."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

_LINE_BYTES: Final = 4096


def password(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who is to log in.")],
) -> None:
    """A line for an smtp-server's file of users: NAME:HASH.

    The password is asked for twice, without echo; or it is one line on stdin, where that is no terminal.
    """
    from bridges.mail.users import UsersError, line_of
    from tunnel.errors import UsageError

    if sys.stdin.isatty():
        said = str(typer.prompt("Password", hide_input=True, confirmation_prompt="Once more", err=True)).encode()
    else:
        said = sys.stdin.buffer.readline(_LINE_BYTES).removesuffix(b"\n").removesuffix(b"\r")
    try:
        typer.echo(line_of(name, said))
    except UsersError as error:
        raise UsageError(str(error)) from None
