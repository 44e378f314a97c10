"""One YAML text → a tree of nodes that know their line and column. YAML 1.2 core, tightened.

Only `true` and `false` are booleans, numbers are decimal, `22:22` is text; `0660` without quotes, equal keys, `<<`,
tags and several documents are refused. Aliases are bounded: the tree never counts more than TABLE_NODES nodes however
the text repeats itself. Built from PyYAML's events, so nesting is bounded here and not by Python's stack.
Knows nothing of what a table means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.reader import ReaderError

from tunnel.config.syntax import explain_syntax
from tunnel.errors import Problem
from tunnel.limits import TABLE_DEPTH, TABLE_NODES

Value: TypeAlias = str | int | float | bool | None
Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; line and column from 1."""

    file: str
    line: int
    column: int

    def problem(self, path: str, sentence: str) -> Problem:
        return Problem(self.file, self.line, self.column, path, sentence)


@dataclass(slots=True)
class Scalar:
    mark: Mark
    value: Value
    text: str
    """As written, before it was taken for a number or a boolean."""
    plain: bool = True
    """Written without quotes."""
    refused: bool = False
    """Something was told about it already, and its value says nothing."""


@dataclass(slots=True)
class Entry:
    key: Mark
    node: Node


@dataclass(slots=True)
class Map:
    mark: Mark
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass(slots=True)
class Seq:
    mark: Mark
    items: list[Node] = field(default_factory=list)


Node: TypeAlias = Scalar | Map | Seq


def plain(node: Node) -> Any:
    """What a node says, as plain values."""
    if isinstance(node, Scalar):
        return str(node.value) if isinstance(node.value, str) else node.value
    if isinstance(node, Seq):
        return [plain(item) for item in node.items]
    return {key: plain(entry.node) for key, entry in node.entries.items()}


def show_path(path: Path) -> str:
    """`routes.ticks.to`, `links[0].listen`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class Unreadable(Exception):
    """The text is no YAML, or no table can be made of it; carries the one problem that ended the reading."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def compose(text: str, file: str, problems: list[Problem]) -> Node | None:
    """The tree of one document; None for a file that holds nothing. Adds what is wrong but readable to `problems`.

    Raises Unreadable where reading cannot go on.
    """
    try:
        return _Composer(text, file, problems).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise Unreadable(Mark(file, line, column).problem("", explain_syntax(error, text.splitlines()))) from None
    except ReaderError as error:
        before = text[: error.position]
        place = Mark(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise Unreadable(
            place.problem("", f"the character U+{_code_point(error.character):04X} does not belong into a table.")
        ) from None
    except ValueError as error:  # a directive or a number in one that PyYAML itself trips over
        raise Unreadable(Mark(file, 1, 1).problem("", f"this is not YAML that can be read: {error}.")) from None


class _Composer:
    def __init__(self, text: str, file: str, problems: list[Problem]) -> None:
        self._events: Iterator[Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._file = file
        self._problems = problems
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._open_anchors: set[str] = set()
        self._nodes = 0

    def document(self) -> Node | None:
        next(self._events)  # the start of the stream
        start = next(self._events)
        if isinstance(start, StreamEndEvent):
            return None
        root = self._node(next(self._events), (), 0)
        end = next(self._events)
        assert isinstance(end, DocumentEndEvent)
        after = next(self._events)
        if isinstance(after, DocumentStartEvent):
            raise self._unreadable(after, (), "a table is one YAML document; take out this '---' and what follows it.")
        return None if isinstance(root, Scalar) and root.plain and root.text == "" else root

    def _mark(self, event: Event) -> Mark:
        start = event.start_mark
        assert start is not None  # PyYAML marks every event
        return Mark(self._file, start.line + 1, start.column + 1)

    def _unreadable(self, event: Event, path: Path, sentence: str) -> Unreadable:
        return Unreadable(self._mark(event).problem(show_path(path), sentence))

    def _node(self, event: Event, path: Path, depth: int) -> Node:
        if isinstance(event, AliasEvent):
            return self._alias(event, path)
        self._count(1, event, path)
        if depth > TABLE_DEPTH:
            raise self._unreadable(event, path[:4], f"this is nested more than {TABLE_DEPTH} levels deep.")
        anchor: str | None = getattr(event, "anchor", None)
        before = self._nodes
        if anchor is not None:
            self._open_anchors.add(anchor)
        node = self._content(event, path, depth)
        if anchor is not None:
            self._open_anchors.discard(anchor)
            self._anchors[anchor] = (node, self._nodes - before + 1)
        return node

    def _content(self, event: Event, path: Path, depth: int) -> Node:
        if isinstance(event, ScalarEvent):
            return self._scalar(event, path)
        self._refuse_tag(event, path)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(event, path, depth)
        return self._mapping(event, path, depth)

    def _count(self, nodes: int, event: Event, path: Path) -> None:
        self._nodes += nodes
        if self._nodes > TABLE_NODES:
            raise self._unreadable(event, path, f"with its aliases the table has more than {TABLE_NODES:,} values.")

    def _alias(self, event: AliasEvent, path: Path) -> Node:
        name = str(event.anchor)
        if name in self._open_anchors:
            raise self._unreadable(event, path, f"the alias *{name} stands inside what it stands for.")
        if name not in self._anchors:
            raise self._unreadable(
                event, path, f"no anchor &{name} stands before this alias; a value that begins with '*' needs quotes."
            )
        node, nodes = self._anchors[name]
        self._count(nodes, event, path)
        if isinstance(node, Scalar):  # a wrong value is told where it is used
            return Scalar(self._mark(event), node.value, node.text, node.plain, node.refused)
        return node

    def _refuse_tag(self, event: Event, path: Path) -> bool:
        tag: str | None = getattr(event, "tag", None)
        if tag not in (None, "!", "tag:yaml.org,2002:str"):
            sentence = "a tag ('!...') has no meaning in a table; a value that begins with '!' needs quotes."
            self._problems.append(self._mark(event).problem(show_path(path), sentence))
            return True
        return False

    def _scalar(self, event: ScalarEvent, path: Path) -> Scalar:
        refused = self._refuse_tag(event, path)
        mark = self._mark(event)
        if not event.implicit[0]:  # quoted, or tagged
            return Scalar(mark, event.value, event.value, plain=False, refused=refused)
        if _AMBIGUOUS.fullmatch(event.value):
            value = event.value
            sentence = (
                f"{value} without quotes is {int(value, 8)} to one YAML reader and {int(value)} to another; "
                if value.isdigit() and not set(value) & set("89")
                else f"{value} without quotes is a number to one YAML reader and text to another; "
            )
            self._problems.append(mark.problem(show_path(path), sentence + f'write "{value}" in quotes.'))
            return Scalar(mark, value, value, refused=True)
        return Scalar(mark, resolve(event.value), event.value)

    def _sequence(self, start: Event, path: Path, depth: int) -> Seq:
        sequence = Seq(self._mark(start))
        while not isinstance(event := next(self._events), SequenceEndEvent):
            sequence.items.append(self._node(event, (*path, len(sequence.items)), depth + 1))
        return sequence

    def _mapping(self, start: Event, path: Path, depth: int) -> Map:
        mapping = Map(self._mark(start))
        while not isinstance(event := next(self._events), MappingEndEvent):
            key = self._key(event, path, depth)
            mark = self._mark(event)
            node = self._node(next(self._events), (*path, key if key is not None else "?"), depth + 1)
            if key is None:
                continue
            if key in mapping.entries:
                first = mapping.entries[key].key
                sentence = f"{key!r} is here twice; it was first said in line {first.line}. Take one of them out."
                self._problems.append(mark.problem(show_path((*path, key)), sentence))
                continue
            mapping.entries[key] = Entry(mark, node)
        return mapping

    def _key(self, event: Event, path: Path, depth: int) -> str | None:
        """The key as it is written; None where it is refused and its value only read over."""
        node = self._node(event, path, depth + 1)
        sentence = ""
        if not isinstance(node, Scalar):
            sentence = "a key must be a plain word."
        elif node.plain and node.text == "<<":
            sentence = "merge keys ('<<') are not used in a table; write the values out, or put them under defaults:."
        else:
            return node.text
        self._problems.append(self._mark(event).problem(show_path(path), sentence))
        return None


def _code_point(character: object) -> int:
    return character if isinstance(character, int) else ord(str(character)[:1] or "\0")


_NULL: Final = {"", "~", "null", "Null", "NULL"}
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_AMBIGUOUS: Final = re.compile(r"[-+]?0[0-9]+", re.ASCII)


def resolve(text: str) -> Value:
    """What an unquoted scalar means: YAML 1.2's core schema, less its octal and hexadecimal numbers."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def reads_as_text(text: str) -> bool:
    """Whether the text, written without quotes, would be read as text."""
    return isinstance(resolve(text), str) and not _AMBIGUOUS.fullmatch(text)
