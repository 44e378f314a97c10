"""Files → one tree: reads the table, expands `${VARIABLES}`, merges what `include` names; every position stays known.

Knows files and the environment; of the table's words only `include`, the four sections, and `key:` (a key written out
may contain '${' by chance).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tunnel.config.fields import Expanded
from tunnel.config.nodes import Entry, Map, Mark, Node, Scalar, Seq, Unreadable, compose, show_path
from tunnel.config.nodes import Path as Steps
from tunnel.config.values import Z85
from tunnel.errors import Problem
from tunnel.limits import INCLUDE_FILES, TABLE_BYTES

SECTIONS: Final = ("sides", "links", "routes", "bridges")
_VARIABLE: Final = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?:(:-|:\?)([^{}]*))?\}", re.ASCII)
_WILD: Final = re.compile(r"[*?\[]")


@dataclass(slots=True)
class Tree:
    """A table's nodes, with answers to "where does this stand?" and "which folder are its paths relative to?"."""

    root: Map
    file: Path
    folders: dict[str, Path]
    problems: list[Problem] = field(default_factory=list)

    def find(self, path: Steps) -> tuple[Node, Mark]:
        """The node at a path and the mark of its key. Steps that the text leaves out (one item in place of a list,
        a short form) stop or are skipped, so the answer is the nearest node that is really there."""
        node: Node = self.root
        key = self.root.mark
        for step in path:
            if isinstance(node, Map) and isinstance(step, str):
                entry = node.entries.get(step)
                if entry is None:
                    break
                node, key = entry.node, entry.key
            elif isinstance(node, Seq) and isinstance(step, int) and step < len(node.items):
                node = node.items[step]
                key = node.mark
            elif not isinstance(step, int):
                break
        return node, key

    def mark(self, path: Steps, *, key: bool = False) -> Mark:
        """Where the value at a path stands, or its key; a value that is empty is told at its key."""
        node, key_mark = self.find(path)
        empty = isinstance(node, Scalar) and node.plain and node.text == ""
        return key_mark if key or empty else node.mark

    def problem(self, path: Steps, sentence: str, *, key: bool = False) -> Problem:
        """A problem there; its path is shown as the table is written, without steps that the text leaves out."""
        return self.mark(path, key=key).problem(show_path(self._written(path)), sentence)

    def _written(self, path: Steps) -> Steps:
        shown: list[str | int] = []
        node: Node = self.root
        for step in path:
            if isinstance(node, Map) and isinstance(step, str) and step in node.entries:
                node = node.entries[step].node
            elif isinstance(node, Seq) and isinstance(step, int) and step < len(node.items):
                node = node.items[step]
            elif isinstance(step, int):
                continue
            else:
                break
            shown.append(step)
        return tuple(shown)

    def folder(self, path: Steps) -> Path:
        """Relative paths in the value at a path are relative to this folder."""
        return self.folders[self.mark(path).file]

    def entries(self, section: str) -> dict[str, Entry]:
        entry = self.root.entries.get(section)
        return entry.node.entries if entry and isinstance(entry.node, Map) else {}


def load_tree(path: Path, environ: Mapping[str, str]) -> Tree:
    """The tree of a table and of what it includes. Raises Unreadable; lesser problems are in `Tree.problems`."""
    name = str(path)
    problems: list[Problem] = []
    start = Mark(name, 1, 1)
    root = compose(_read(path, start, name), name, problems)
    if root is None:
        raise Unreadable(start.problem("", "the table is empty; `ztunnel init` writes one to start from."))
    if not isinstance(root, Map):
        raise Unreadable(root.mark.problem("", "a table is a mapping that begins with version: 1, not this."))
    tree = Tree(Map(start, root.entries), path, {name: path.resolve().parent}, problems)
    _expand(tree.root, environ, problems)
    _include(tree, environ)
    return tree


def _read(path: Path, mark: Mark, shown: str) -> str:
    try:
        if path.exists() and not path.is_file():
            raise Unreadable(mark.problem("", f"{shown} is not a file."))
        with path.open("rb") as file:
            raw = file.read(TABLE_BYTES + 1)
    except FileNotFoundError:
        raise Unreadable(mark.problem("", f"there is no file {shown}.")) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the name cannot be a file's"
        raise Unreadable(mark.problem("", f"{shown} cannot be read: {reason.lower()}.")) from None
    if len(raw) > TABLE_BYTES:
        raise Unreadable(mark.problem("", f"the file is larger than {TABLE_BYTES:,} bytes; that is no route table."))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        place = Mark(mark.file, before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        raise Unreadable(place.problem("", "the file is not UTF-8 text here; save it as UTF-8.")) from None


# --- variables -------------------------------------------------------------------------------------------------------


def _expand(root: Node, environ: Mapping[str, str], problems: list[Problem]) -> None:
    """Expand `${X}`, `${X:-default}`, `${X:?why}` in every string value, in place; `$${` stands for `${`."""
    for scalar, path in list(_scalars(root, (), set())):
        if not isinstance(scalar.value, str) or "${" not in scalar.value:
            continue
        if len(path) > 2 and path[2] == "key" and Z85.fullmatch(scalar.value):
            continue
        try:
            scalar.value = _expanded(scalar.value, environ)
        except ValueError as error:
            scalar.refused = True
            problems.append(scalar.mark.problem(show_path(path), str(error)))


def _scalars(node: Node, path: Steps, seen: set[int]) -> Iterator[tuple[Scalar, Steps]]:
    if id(node) in seen:  # an alias stands for the same node; it is expanded once
        return
    seen.add(id(node))
    if isinstance(node, Scalar):
        yield node, path
    elif isinstance(node, Map):
        for key, entry in node.entries.items():
            yield from _scalars(entry.node, (*path, key), seen)
    else:
        for index, item in enumerate(node.items):
            yield from _scalars(item, (*path, index), seen)


def _expanded(text: str, environ: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        variable, operator, rest = match.groups()
        found = environ.get(variable)
        if operator is None and found is not None:
            return found
        if operator is not None and found:
            return found
        if operator == ":-":
            return str(rest)
        if operator == ":?":
            raise ValueError(f"the variable {variable} is not set: {rest or 'it is needed here'}")
        raise ValueError(f"the variable {variable} is not set; set it, or write ${{{variable}:-default}}.")

    for opening in re.finditer(r"(?<!\$)\$\{", text):
        if not _VARIABLE.match(text, opening.start()):
            raise ValueError(
                "after '${' a variable's name and '}' are expected, as in ${NAME} or ${NAME:-default}; "
                "for the text '${' write '$${'."
            )
    return Expanded(_VARIABLE.sub(value, text))


# --- include ---------------------------------------------------------------------------------------------------------


def _include(tree: Tree, environ: Mapping[str, str]) -> None:
    entry = tree.root.entries.get("include")
    if entry is None:
        return
    items = entry.node.items if isinstance(entry.node, Seq) else [entry.node]
    seen: set[Path] = {tree.file.resolve()}
    for index, item in enumerate(items):
        if not isinstance(item, Scalar) or not isinstance(item.value, str):
            continue  # the model refuses it
        path: Steps = ("include", index) if isinstance(entry.node, Seq) else ("include",)
        for file in _matches(tree, path, item):
            if file.resolve() in seen:
                tree.problems.append(item.mark.problem(show_path(path), f"{file} is included twice."))
                continue
            seen.add(file.resolve())
            if len(seen) > INCLUDE_FILES:
                tree.problems.append(
                    item.mark.problem(show_path(path), f"more than {INCLUDE_FILES} files are included.")
                )
                return
            _include_file(tree, file, item.mark, path, environ)


def _matches(tree: Tree, path: Steps, item: Scalar) -> list[Path]:
    pattern = str(item.value)
    folder = tree.file.parent
    if not _WILD.search(pattern):
        found = folder / pattern
        if not found.is_file():
            tree.problems.append(item.mark.problem(show_path(path), f"there is no file {found}."))
            return []
        return [found]
    try:
        base = Path(os.sep) if pattern.startswith(os.sep) else folder
        return sorted(file for file in base.glob(pattern.lstrip(os.sep)) if file.is_file())
    except (ValueError, OSError, NotImplementedError, IndexError):
        tree.problems.append(item.mark.problem(show_path(path), f"{pattern!r} is no pattern of file names."))
        return []


def _include_file(tree: Tree, file: Path, mark: Mark, path: Steps, environ: Mapping[str, str]) -> None:
    name = str(file)
    tree.folders[name] = file.resolve().parent
    try:
        root = compose(_read(file, Mark(name, 1, 1), name), name, tree.problems)
    except Unreadable as error:
        tree.problems.append(error.problem)
        return
    if root is None:
        return
    if not isinstance(root, Map):
        tree.problems.append(
            root.mark.problem("", f"an included file is a mapping with {', '.join(SECTIONS)}, not this.")
        )
        return
    _expand(root, environ, tree.problems)
    for section, entry in root.entries.items():
        if section in SECTIONS:
            _merge(tree, section, entry)
        elif section != "version":
            sentence = f"an included file holds {', '.join(SECTIONS)} only; {section!r} belongs into {tree.file}."
            tree.problems.append(entry.key.problem(section, sentence))


def _merge(tree: Tree, section: str, entry: Entry) -> None:
    own = tree.root.entries.get(section)
    if own is None or (isinstance(own.node, Scalar) and own.node.value is None):
        tree.root.entries[section] = entry
    elif isinstance(own.node, Map) and isinstance(entry.node, Map):
        for key, more in entry.node.entries.items():
            first = own.node.entries.get(key)
            if first is None:
                own.node.entries[key] = more
                continue
            where = f"{first.key.file}, line {first.key.line}"
            tree.problems.append(
                more.key.problem(f"{section}.{key}", f"{key!r} is here twice; it was first said in {where}.")
            )
    elif isinstance(own.node, Seq) and isinstance(entry.node, Seq):
        own.node.items.extend(entry.node.items)
    elif not (isinstance(entry.node, Scalar) and entry.node.value is None):
        what = "a list" if isinstance(own.node, Seq) else "a mapping"
        tree.problems.append(
            entry.node.mark.problem(section, f"{section} is {what} in {own.node.mark.file}, and must be one here.")
        )
