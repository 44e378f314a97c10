"""The source of ztunnel(1), in Markdown, told by the commands themselves: what `--help` says, for all of them."""

from __future__ import annotations

import re
from typing import Any

import typer

from tunnel.cli import build

_TOP = """\
# NAME

ztunnel - ties 0MQ networks together across a firewall

# SYNOPSIS

**ztunnel** *COMMAND* [*OPTION*...] [*ARGUMENT*...]

# DESCRIPTION

One YAML file, the route table, describes a whole tunnel; see ztunnel.yaml(5). Each box runs the side whose
secret key it holds. Messages enter at one side and leave at the other over one authenticated, encrypted link;
a cut link loses nothing, repeats nothing, reorders nothing.

TABLE is a table's file or name; a name means the table that runs here under it, or `/etc/ztunnel/NAME.yaml`.
Left out, it is the only table running here, else `./ztunnel.yaml`. **ztunnel@**NAME**.service** runs
`/etc/ztunnel/NAME.yaml` under systemd(1).

# COMMANDS
"""
_END = """\
# EXIT STATUS

0
: fine

1
: failed at run time, or degraded

2
: the table, a key or the command line is wrong

3
: not running, or not reachable

# ENVIRONMENT

ZTUNNEL_LOG
: the lowest level that is logged: debug, info (the default), warn, error

ZTUNNEL_SIDE
: what `--as` says, where it is left out

ZTUNNEL_RUNTIME_DIR, ZTUNNEL_STATE_DIR, ZTUNNEL_IPC_DIR
: where a side's control sockets and logs, its spools, and the `ipc://` sockets of applications lie

ZTUNNEL_DEBUG
: 1 shows where in the program an error arose

# FILES

`/etc/ztunnel/NAME.yaml`
: the table that **ztunnel@**NAME**.service** runs

`/etc/ztunnel/keys/`
: keys: SIDE.key is public, SIDE.key_secret never leaves its box

`/run/ztunnel/NAME.SIDE/`
: control sockets and logs of a running side, for its user and root only

`/var/lib/ztunnel/NAME.SIDE/`
: spools: messages and mails that must outlive a restart

# SEE ALSO

ztunnel.yaml(5), systemd(1), the pages in `/usr/share/doc/ztunnel/`
"""

_TYPE = re.compile(r" <(list\[[a-z]+\]|[a-z]+( range)?)>")
"""What a value is to Python (`<str>`) tells a reader nothing."""


def main() -> None:
    root = typer.main.get_command(build())
    print(_TOP)
    context = root.context_class(root, info_name="ztunnel")
    for path, command in commands(root, context, ()):
        print(section(path, command, context))
    print(_END)


def commands(group: Any, context: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    """(path, command) of every command, those of sub-groups included, in the order of `--help`."""
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            found += commands(command, context, (*path, name))
        elif not command.hidden:
            found.append(((*path, name), command))
    return found


def section(path: tuple[str, ...], command: Any, context: Any) -> str:
    arguments = [p.metavar or p.name.upper() for p in command.params if p.param_type_name == "argument"]
    lines = [
        f"## ztunnel {' '.join(path)} {escaped(' '.join(arguments))}",
        "",
        escaped((command.help or "").strip()),
        "",
    ]
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in record[0]:
            lines += [escaped(_TYPE.sub("", record[0])), f": {escaped(' '.join(record[1].split()))}", ""]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Plain text as Markdown."""
    for character in "\\`*_[]<>":
        text = text.replace(character, f"\\{character}")
    return text.replace("--", "\\-\\-")


main()
