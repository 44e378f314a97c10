"""/etc/ztunnel/NAME.env: the variables that systemd gives the unit `ztunnel@NAME`, for commands in a shell.

Read as systemd.exec(5) reads an EnvironmentFile=. They are defaults: what the shell has set counts. Knows files and
text; who may be told them is the caller's to say (tunnel/cli/pick.py).
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from tunnel.limits import VARIABLES_BYTES
from tunnel.places import instance

_LINE: Final = re.compile(
    r"""[ \t]*(?:
        [\#;][^\n]*
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*
        (?P<quoted>(?:'[^']*'[ \t]*|"(?:\\.|[^"\\])*"[ \t]*)*)   # quotes count where a value begins
        (?P<bare>(?:\\.|[^\\\n])*)
      | [^\n]*
    )(?:\n|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED: Final = re.compile(r"""'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)\"""", re.DOTALL)


def service_variables(table: Path) -> dict[str, str]:
    """What the unit of this table is given; nothing where no unit runs it, or the file is not there or not to be read.

    No link is followed, and root believes no file that others may write.
    """
    name = instance(table)
    if name is None:
        return {}
    file = Path(os.path.realpath(table)).with_name(f"{name}.env")
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            raw = os.read(descriptor, VARIABLES_BYTES + 1) if _is_believed(os.fstat(descriptor)) else b""
        finally:
            os.close(descriptor)
        return parse(raw.decode()) if len(raw) <= VARIABLES_BYTES else {}
    except (OSError, UnicodeDecodeError):
        return {}


def parse(text: str) -> dict[str, str]:
    """name → value; lines that are no assignment are passed over, and the last of several counts."""
    lines = _LINE.finditer(text.replace("\r", "\n"))
    return {line["name"]: value for line in lines if line["name"] and "\0" not in (value := _value(line))}


def _is_believed(file: os.stat_result) -> bool:
    plain = stat.S_ISREG(file.st_mode)
    return plain and (os.geteuid() != 0 or (file.st_uid == 0 and not file.st_mode & (stat.S_IWGRP | stat.S_IWOTH)))


def _value(line: re.Match[str]) -> str:
    pieces = [
        _unescaped_double(piece["double"]) if piece["single"] is None else piece["single"]
        for piece in _QUOTED.finditer(line["quoted"])
    ]
    bare = re.sub(r"\\(.)", lambda found: found[1].strip("\n"), line["bare"].rstrip(), flags=re.DOTALL)
    return "".join((*pieces, bare))


def _unescaped_double(text: str) -> str:
    """In double quotes a backslash counts before these, as in a shell; elsewhere it stays."""
    return re.sub(r'\\(["\\`$\n])', lambda found: found[1].strip("\n"), text)
