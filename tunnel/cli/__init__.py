"""The command line: `ztunnel COMMAND`. One module a group of commands; each imports what it needs when a command runs.

This file knows which modules there are and how an error becomes an exit code (tunnel/errors.py):
0 fine, 1 failed at run time or degraded, 2 the table or the command line is wrong, 3 not running or not reachable.
Nobody meets a traceback unless ZTUNNEL_DEBUG=1 is set.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from tunnel import __version__
from tunnel.errors import TableError, ZtunnelError

MODULES: Final = (
    "tunnel.cli.run",
    "tunnel.cli.look",
    "tunnel.cli.tap",
    "tunnel.cli.probe",
    "tunnel.cli.spool",
    "tunnel.cli.mail",
    "tunnel.cli.table",
    "tunnel.cli.frames",
    "tunnel.cli.keys",
)
"""Each has `register(app)`, which adds its commands, in the order in which `--help` shows them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code (always by SystemExit)."""
    app = build()
    try:
        app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="ztunnel")
    except TableError as error:  # each problem begins with file:line:column, which editors understand
        _to_stderr(str(error), "error")
        sys.exit(error.exit_code)
    except ZtunnelError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `ztunnel logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        hint = "" if _debugging() else " Run it again with ZTUNNEL_DEBUG=1 to see where, and report it."
        complain(f"this is a bug in ztunnel: {type(error).__name__}: {error}.{hint}")
        if _debugging():
            traceback.print_exc()
        sys.exit(1)


def build() -> typer.Typer:
    """Every command of every module, on one application."""
    app = typer.Typer(
        help="Ties 0MQ networks together across a firewall: several endpoints over one authenticated port.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in MODULES:
        importlib.import_module(name).register(app)
    return app


def complain(text: str, level: str = "error") -> None:
    """A sentence on stderr; in systemd's journal with its level."""
    _to_stderr(f"ztunnel: {text}", level)


def _to_stderr(text: str, level: str) -> None:
    from tunnel.supervise import journal

    print(journal.said(text, level) if journal.is_journal(2) else text, file=sys.stderr)


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=lambda v: _version(v)),
    ] = False,
) -> None:
    """Ties 0MQ networks together across a firewall: several endpoints over one authenticated port."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ztunnel {__version__}")
        raise typer.Exit


def _debugging() -> bool:
    return os.environ.get("ZTUNNEL_DEBUG", "") not in ("", "0")
