"""Which table and which running side a command means.

TABLE is a file or a name; left out, it is the only one running here, else ./ztunnel.yaml.
"""

from __future__ import annotations

import importlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tunnel.errors import UsageError, ZtunnelError
from tunnel.places import INSTALLED

if TYPE_CHECKING:
    from tunnel.supervise.places import Running

_NEEDED: Final = (
    "cryptography.x509",
    "encodings.idna",
    "encodings.utf_8_sig",
    "rich.live",
    "tunnel.cli.doctor",
    "tunnel.cli.show",
    "tunnel.cli.steps",
    "tunnel.config",
    "tunnel.local.words",
    "tunnel.ports",
    "tunnel.supervise.logs",
    "tunnel.supervise.reload",
    "tunnel.supervise.stages",
    "tunnel.supervise.up",
)
"""What commands on a running side import late."""

TableArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[TABLE]",
        help="A table's file or name; left out: the only one running here, else ./ztunnel.yaml.",
        show_default=False,
    ),
]
TableOption = Annotated[
    str | None,
    typer.Option("-t", "--table", metavar="TABLE", help="A table's file or name.", show_default=False),
]
SideOption = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="SIDE",
        envvar="ZTUNNEL_SIDE",
        help="Which side, where this machine holds several.",
        show_default=False,
        show_envvar=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def table_file(table: str | None) -> Path:
    """The file that TABLE means, absolute. UsageError: there is none, or several could be meant.

    What is in NAME.env of an installed table is in the environment from here on, where the shell has not set it.
    """
    file = _table_file(table)
    _take_variables(file, os.geteuid())
    return file


def side_meant(side: str | None) -> str | None:
    """`--as`, else ZTUNNEL_SIDE, which may have come with the table's variables."""
    return side or os.environ.get("ZTUNNEL_SIDE") or None


def named_table(table: str | None) -> Path:
    """As `table_file`, as it was named: problems are then shown so that an editor can jump to them."""
    if table is None or not Path(table).exists():
        return table_file(table)
    _take_variables(Path(table), os.geteuid())
    return Path(table)


def _table_file(table: str | None) -> Path:
    from tunnel.supervise.places import find_all

    running = [side for side in find_all() if side.owner == os.geteuid()]  # root takes no file that others name
    if table is None:
        tables = sorted({r.table for r in running})
        if len(tables) == 1:
            return tables[0]
        if Path("ztunnel.yaml").is_file():
            return Path("ztunnel.yaml").resolve()
        if tables:
            raise UsageError(
                f"several tables run here: name one of them ({', '.join(sorted({r.name for r in running}))})."
            )
        raise UsageError("which table? There is no ./ztunnel.yaml here, and none is running: name its file.")
    if Path(table).is_file():
        return Path(table).resolve()
    for file in (*(r.table for r in running if r.name == table), INSTALLED / f"{table}.yaml"):
        if file.is_file():
            return file.resolve()
    raise UsageError(f"there is no file {table}, and no table of that name runs here or lies in {INSTALLED}.")


def running_side(table: str | None, side: str | None, *, dead_too: bool = False) -> Running:
    """The running side that is meant. NotRunningError: none; UsageError: several.

    Where root means a side of another user, this process is that user from here on (docs/security.md).
    """
    from tunnel.supervise.places import act_for, find

    running = find(table, side, dead_too=dead_too)
    if running.owner != os.geteuid():
        for module in _NEEDED:  # that user may be unable to read the files of a ztunnel that only root has
            with suppress(ImportError):  # told by the command that needs it
                importlib.import_module(module)
    _take_variables(running.table, running.owner)  # the file may be root's alone
    act_for(running)
    _take_variables(running.table, running.owner)  # or that user's, from whom root takes none
    return running


def other_users_side(table: str | None, side: str | None) -> Running | None:
    """For a command that may also mean what does not run: as `running_side`, where root means another user's."""
    from tunnel.supervise.places import find

    try:
        found = find(table, side)
    except ZtunnelError:
        return None
    return running_side(table, side) if found.owner != os.geteuid() else None


def _take_variables(table: Path, owner: int) -> None:
    """The variables of the table's unit, as defaults. Those that root can read are for nobody but the service's user:
    any user can write down that a table below /etc/ztunnel runs here."""
    from tunnel.places import service_user
    from tunnel.service_variables import service_variables

    if owner == os.geteuid() or ((account := service_user()) is not None and owner == account.pw_uid):
        for name, value in service_variables(table).items():
            os.environ.setdefault(name, value)
