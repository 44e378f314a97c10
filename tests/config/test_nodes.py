"""The tight YAML reader: what values are, where they stand, and that a small text cannot become a large tree."""

from __future__ import annotations

import time

import pytest

from tunnel.config.nodes import Map, Node, Scalar, Seq, Unreadable, compose, reads_as_text, resolve, show_path
from tunnel.errors import Problem
from tunnel.limits import TABLE_DEPTH, TABLE_NODES


def read(text: str) -> tuple[Node | None, list[Problem]]:
    problems: list[Problem] = []
    return compose(text, "t.yaml", problems), problems


def value(text: str) -> object:
    root, problems = read(f"key: {text}\n")
    assert problems == []
    assert isinstance(root, Map)
    node = root.entries["key"].node
    assert isinstance(node, Scalar)
    return node.value


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("22:22", "22:22"),
        ("1:30:00", "1:30:00"),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("2001-01-01", "2001-01-01"),
        (".inf", ".inf"),
        ("9" * 30, 1e30),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("'0660'", "0660"),
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555"),
        ("=", "="),
    ],
)
def test_a_scalar_means(text: str, meant: object) -> None:
    found = value(text)
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize("text", ["0660", "007", "00", "-012", "08"])
def test_octal_by_accident_is_refused(text: str) -> None:
    _, problems = read(f"mode: {text}\n")
    assert [(p.line, p.column, p.path) for p in problems] == [(1, 7, "mode")]
    assert f'write "{text}" in quotes' in problems[0].sentence


def test_positions_of_keys_and_values() -> None:
    root, _ = read("a:\n  b: [x, y]\n  c: {d: z}\n")
    assert isinstance(root, Map)
    inner = root.entries["a"].node
    assert isinstance(inner, Map)
    b, c = inner.entries["b"], inner.entries["c"]
    assert (b.key.line, b.key.column, b.node.mark.line, b.node.mark.column) == (2, 3, 2, 6)
    assert isinstance(b.node, Seq)
    assert [(i.mark.line, i.mark.column) for i in b.node.items] == [(2, 7), (2, 10)]
    assert isinstance(c.node, Map)
    assert c.node.entries["d"].node.mark.column == 10


def test_an_alias_stands_where_it_is_used() -> None:
    root, _ = read("a: &age 5s\nb: *age\n")
    assert isinstance(root, Map)
    node = root.entries["b"].node
    assert isinstance(node, Scalar)
    assert (node.value, node.mark.line, node.mark.column) == ("5s", 2, 4)


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for before, after in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]")
    started = time.process_time()
    with pytest.raises(Unreadable, match=f"more than {TABLE_NODES:,} values"):
        read("\n".join(lines))
    assert time.process_time() - started < 5


def test_aliases_within_the_bound_are_fine() -> None:
    root, problems = read("a: &a [x, y]\nb: [*a, *a]\n")
    assert problems == []
    assert isinstance(root, Map)


def test_so_many_values_are_refused() -> None:
    with pytest.raises(Unreadable, match="more than"):
        read("a: [" + "1," * (TABLE_NODES + 1) + "]")


def test_nesting_is_bounded_and_the_bound_itself_is_fine() -> None:
    read("[" * TABLE_DEPTH + "]" * TABLE_DEPTH)
    with pytest.raises(Unreadable, match="levels deep"):
        read("[" * (TABLE_DEPTH + 2) + "]" * (TABLE_DEPTH + 2))


def test_all_that_can_be_read_is_told_at_once() -> None:
    _, problems = read("a: 0660\na: 1\nb: !x y\n<<: {c: 1}\n")
    assert [(p.line, p.column) for p in problems] == [(1, 4), (2, 1), (3, 4), (4, 1)]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~\n"])
def test_nothing_is_none(text: str) -> None:
    if text == "~\n":
        assert isinstance(read(text)[0], Scalar)
    else:
        assert read(text)[0] is None


@pytest.mark.parametrize(
    ("text", "fine"),
    [("dmz", True), ("1e3", False), ("12", False), ("0660", False), ("true", False), ("yes", True), ("", False)],
)
def test_reads_as_text(text: str, fine: bool) -> None:
    assert reads_as_text(text) is fine
    assert not fine or resolve(text) == text


def test_show_path() -> None:
    assert show_path(("links", 0, "listen")) == "links[0].listen"
    assert show_path(()) == ""
