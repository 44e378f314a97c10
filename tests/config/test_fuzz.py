"""Whatever the text, the loader answers with a Table or a TableError: no other exception, no raw message."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.config.tables import BASE, write
from tests.config.wrong_tables import WRONG
from tunnel.config import Table, load_table
from tunnel.errors import Problem, TableError

PIECES = sorted(
    {word for wrong in WRONG for word in wrong.text.split()}
    | set("{}[],:#&*!|>'\"%@`-?~\t\n ")
    | {
        "<<:",
        "null",
        "true",
        "0o17",
        ".inf",
        "---",
        "...",
        "!!int",
        "\r\n",
        "\ufeff",
        "\u2028",
        "\x85",
        "${",
        "}",
        "1e400",
    }
)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def answer(folder: Path, text: str | bytes) -> None:
    path = folder / "dmz.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    for problem in problems_of(path):
        assert problem.line >= 1
        assert problem.column >= 1
        assert "Input should" not in problem.sentence


def problems_of(path: Path) -> tuple[Problem, ...]:
    try:
        assert isinstance(load_table(path), Table)
    except TableError as error:
        return error.problems or (Problem("an error without a problem", 0, 0, "", ""),)
    return ()


@QUICK
@given(text=st.text(max_size=300))
def test_any_text(tmp_path: Path, text: str) -> None:
    answer(tmp_path, text)


@QUICK
@given(raw=st.binary(max_size=300))
def test_any_bytes(tmp_path: Path, raw: bytes) -> None:
    answer(tmp_path, raw)


@QUICK
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=60))
def test_any_words_of_tables(tmp_path: Path, pieces: list[str]) -> None:
    answer(tmp_path, "version: 1\n" + " ".join(pieces))


@QUICK
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 6))
def test_damaged_tables(tmp_path: Path, seed: int, edits: int) -> None:
    rng = random.Random(seed)
    text = rng.choice([BASE, *(wrong.text for wrong in WRONG)])
    for _ in range(edits):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice([0, 0, 1, 3, 20]))
        text = text[:start] + rng.choice([*PIECES, "", text[end : end + 20]]) + text[end:]
    answer(tmp_path, text)


YAML_VALUES = st.recursive(
    st.sampled_from(
        ["1", "x", "''", "~", "true", "5s", "4MiB", "dmz", "'dmz bind local'", "tcp://a:1", "1.5", "[]", "{}"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(["side", "bind", "key", "own", "file", "x"]), inner, max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        )
    ),
    max_leaves=6,
)
PLACES = [line.partition(":")[0] for line in BASE.splitlines() if ":" in line and "#" not in line]


@QUICK
@given(place=st.sampled_from(PLACES), value=YAML_VALUES)
def test_any_value_at_any_key(tmp_path: Path, place: str, value: str) -> None:
    """A key's value, with all that stands below it, becomes something else."""
    answer(tmp_path, replaced(place, value))


ROUTE_KEYS = ["pattern", "from", "to", "allow", "delivery", "overflow", "window", "priority", "max_message", "max_age"]
ROUTE_KEYS += ["on_restart", "topics", "subscribe"]
END_KEYS = ["bind", "connect", "hwm", "sndbuf", "routing_id", "handover", "heartbeat", "keepalive", "curve", "plain"]
END_KEYS += ["allow", "mode", "group"]
HEAD_KEYS = ["include", "session", "ipc_dir", "defaults", "bridges", "name"]


@QUICK
@given(
    key=st.sampled_from(ROUTE_KEYS),
    end_key=st.sampled_from(END_KEYS),
    head=st.sampled_from(HEAD_KEYS),
    value=YAML_VALUES,
)
def test_any_value_at_any_optional_key(tmp_path: Path, key: str, end_key: str, head: str, value: str) -> None:
    answer(tmp_path, f"{BASE}    {key}: {value}\n")
    answer(tmp_path, BASE.replace("to: plant connect tcp://127.0.0.1:6555", f"to: {{side: plant, {end_key}: {value}}}"))
    answer(tmp_path, f"{head}: {value}\n{BASE}")


def replaced(place: str, value: str) -> str:
    lines = BASE.splitlines()
    index = next(i for i, line in enumerate(lines) if line.partition(":")[0] == place)
    indent = len(place) - len(place.lstrip(" -"))
    end = index + 1
    while end < len(lines) and (not lines[end] or len(lines[end]) - len(lines[end].lstrip()) > indent):
        end += 1
    return "\n".join([*lines[:index], f"{place}: {value}", *lines[end:], ""])


def test_a_replaced_key_is_still_yaml(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="a mapping of names"):
        load_table(write(tmp_path, replaced("routes", "[]")))


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "a:\n "])
def test_deep_nesting_ends_in_words(tmp_path: Path, opening: str) -> None:
    with pytest.raises(TableError):
        load_table(write(tmp_path, opening * 20_000))
