"""What `ztunnel init` does on a box: a table, this side's keys, the public keys of the others; and what comes next.

Everything is looked at first and nothing is overwritten, so a command that is refused has written nothing, and one
that is repeated changes nothing. The line that is told for the other box makes the same table there, to the letter.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tunnel import keys, places
from tunnel.config.template import sides_for, table_text
from tunnel.config.values import listing, name
from tunnel.errors import KeyFileError, UsageError
from tunnel.files import PUBLIC, create, make_folder

DEFAULT_NAME: Final = "ztunnel"


def init_both(folder: Path, table_name: str) -> list[str]:
    """Table and keys of both sides, to try it on one machine. What is told, line by line. Raises UsageError."""
    table = folder / f"{checked(table_name)}.yaml"
    if os.path.lexists(table):
        raise UsageError(f"{table} exists already and is not overwritten; for the keys alone say --side SIDE.")
    sides = sides_for(None)
    for side in sides:
        if keys.find_pair(folder / "keys", side):
            raise _keys_are_there(folder, side)
    _write_table(table, sides, table_name)
    pairs = [keys.write_pair(folder / "keys", side) for side in sides]
    ups = ", and the same with --as ".join(sides)
    return [
        f"{table}: the table; edit it, then ask `ztunnel check {_quoted(table)}`.",
        *(f"{public}, {secret}: the keys of {public.stem}." for public, secret in pairs),
        f"To try it here: `ztunnel up {_quoted(table)} --as {ups}`.",
        "For two boxes: run `ztunnel init DIR --side SIDE` on one of them instead, and what it tells on the other, "
        "so that no secret key ever travels.",
    ]


def init_side(folder: Path, table_name: str, side: str, trusted: Sequence[str]) -> list[str]:
    """Table, keys of this side, public keys of others (`SIDE=KEY`). What is told, line by line. Raises UsageError."""
    box = _Box(folder, checked(table_name), checked(side), _trusted(trusted, side))
    return list(box.write())


def checked(text: str) -> str:
    """The text, where it can be a name. Raises UsageError."""
    try:
        return name(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


@dataclass(frozen=True, slots=True)
class _Found:
    """How the box is before anything is written."""

    sides: tuple[str, ...]
    """Of the table that lies there, else of the one to come; none: it cannot be told."""
    table: bool
    pair: keys.KeyPair | None
    missing: tuple[str, ...]
    """Trusted sides whose public key is not here yet."""


class _Box:
    """One side of a table on this box."""

    def __init__(self, folder: Path, table_name: str, side: str, trusted: dict[str, str]) -> None:
        self.folder = folder
        self.keys = folder / "keys"
        self.name = table_name
        self.table = folder / f"{table_name}.yaml"
        self.side = side
        self.trusted = trusted

    def write(self) -> Iterator[str]:
        found = self._look()
        if found.table:
            yield f"{self.table}: was here already and is left as it is."
        else:
            _write_table(self.table, found.sides, self.name)
            yield f"{self.table}: the table, the same on both boxes."
        yield self._own_keys(found)
        for other in found.missing:
            path = keys.write_public(self.keys, other, self.trusted[other])
            yield f"{path}: the public key of {other}."
        yield from self._next(found)

    # looking

    def _look(self) -> _Found:
        there = os.path.lexists(self.table)
        sides = _sides_of(self.table) if there else self._new_sides()
        for one in (self.side, *self.trusted):
            if sides and one not in sides:
                raise UsageError(
                    f"{self.table} has no side {one}; its sides are {listing(sides, 'and')}: "
                    "write it in there, or move that table away for a new one."
                )
        pair = keys.find_pair(self.keys, self.side)
        if pair and not there and not self.trusted:
            raise _keys_are_there(self.folder, self.side)
        missing = tuple(other for other, key in self.trusted.items() if not self._is_known(other, key, pair))
        return _Found(sides, there, pair, missing)

    def _new_sides(self) -> tuple[str, ...]:
        if len(self.trusted) > 1:
            raise UsageError(
                f"a new table has two sides, and these are {listing((self.side, *self.trusted), 'and')}: "
                f"say one --trust, add the other sides to {self.table}, then say --trust for them."
            )
        return sides_for(self.side, next(iter(self.trusted), None))

    def _is_known(self, other: str, key: str, own: keys.KeyPair | None) -> bool:
        if own and own.public == key:
            raise UsageError(f"--trust {other}: that is the key of {self.side}, this box's own; say the other box's.")
        path, _ = keys.pair_paths(self.keys, other)
        if not os.path.lexists(path):
            return False
        if keys.read_public(path) != key:
            raise UsageError(
                f"{path} holds another key of {other} than --trust says, and is not overwritten; "
                f"if {other} has new keys, move that file away and say it again."
            )
        return True

    # writing

    def _own_keys(self, found: _Found) -> str:
        public, secret = keys.pair_paths(self.keys, self.side)
        if found.pair is None:
            keys.write_pair(self.keys, self.side)
            return f"{public}, {secret}: the keys of {self.side}. {kept(secret)}"
        if not os.path.lexists(public):  # an earlier run was cut short
            keys.write_public(self.keys, self.side, found.pair.public)
        return f"{public}, {secret}: were here already and are left as they are.{_not_the_services(secret)}"

    # telling

    def _next(self, found: _Found) -> Iterator[str]:
        others = [side for side in found.sides or tuple(self.trusted) if side != self.side]
        lacking = [side for side in others if not os.path.lexists(keys.pair_paths(self.keys, side)[0])]
        if lacking or not (found.table and found.pair and found.missing):
            again = "" if lacking or not (found.table and found.pair) else ", if it has not been done yet"
            for other in lacking or others:
                yield f"On the box of {other} run this{again}:"
                yield f"    {self._line_for(other)}"
        if not others:
            yield f"`ztunnel check {_quoted(self.table)}` tells what else is needed."
        elif not lacking:
            yield (
                f"The keys are complete here. Next: write your addresses into {self.table}, "
                "the same on both boxes, and then"
            )
            yield f"    ztunnel check {_quoted(self.table)}"
            yield f"    {self._start()}"

    def _line_for(self, other: str) -> str:
        public = keys.read_public(keys.pair_paths(self.keys, self.side)[0])
        named = "" if self.name == DEFAULT_NAME else f" --name {self.name}"
        return f"ztunnel init {_quoted(self.folder)}{named} --side {other} --trust '{self.side}={public}'"

    def _start(self) -> str:
        if self.folder.resolve() == places.INSTALLED.resolve() and places.has_unit():
            return f"systemctl enable --now ztunnel@{self.name}"
        several = len(list(self.keys.glob("*.key_secret"))) > 1
        return f"ztunnel up {_quoted(self.table)}" + (f" --as {self.side}" if several else "")


def kept(secret: Path) -> str:
    """Whose a new secret file is: a sentence."""
    account = places.service_account(secret)
    given = f" and was given to the user {account.pw_name}, as whom the service runs" if account else ""
    return f"The secret one stays on this box{given}."


def _not_the_services(secret: Path) -> str:
    account = places.service_account(secret)
    if account is None or secret.stat().st_uid == account.pw_uid:
        return ""
    return (
        f" The service runs as {account.pw_name} and cannot read the secret one: "
        f"chown {account.pw_name} {_quoted(secret)}"
    )


def _trusted(texts: Sequence[str], side: str) -> dict[str, str]:
    """`SIDE=KEY` → the keys by side. A wrong key is not repeated: it might be a secret that was mistaken for one."""
    found: dict[str, str] = {}
    for text in texts:
        other, equals, key = text.partition("=")
        if not equals:
            raise UsageError("--trust is SIDE=KEY, in single quotes, as `ztunnel init` told it on the other box.")
        try:
            name(other)
        except ValueError as error:
            raise UsageError(f"--trust: {error}") from None
        if not keys.is_z85(key):
            raise UsageError(
                f"--trust {other}=...: what follows is no public key, which has 40 characters; "
                "copy the line from the other box again, whole and with its single quotes."
            )
        if other == side:
            raise UsageError(f"--trust {other}: that is this box's own side; say the key of the other box.")
        if found.setdefault(other, key) != key:
            raise UsageError(f"--trust says two different keys of {other}.")
    return found


def _sides_of(table: Path) -> tuple[str, ...]:
    """The sides of a table that may be unfinished; none where it cannot be read (`check` tells why)."""
    from tunnel.config.load import load_tree
    from tunnel.config.nodes import Unreadable
    from tunnel.config.read import read_draft

    try:
        return tuple(read_draft(load_tree(table, os.environ)).sides)
    except Unreadable:
        return ()


def _keys_are_there(folder: Path, side: str) -> KeyFileError:
    _, secret = keys.pair_paths(folder / "keys", side)
    return KeyFileError(
        f"{secret} exists already and is not overwritten; for a new table with these keys "
        "say --trust SIDE=KEY, the key of the other side; for new keys move it away, or name another folder."
    )


def _write_table(table: Path, sides: tuple[str, ...], table_name: str) -> None:
    listener, dialler = sides
    try:
        make_folder(table.parent)
        create(table, table_text(listener, dialler, table_name), PUBLIC)
    except OSError as error:
        remedy = "; run it as root, or name a folder of your own" if isinstance(error, PermissionError) else ""
        raise UsageError(f"cannot write {table}: {error.strerror}{remedy}.") from None


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
