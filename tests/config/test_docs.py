"""docs/table.md names every key that a table can have, and its example is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.config.tables import with_keys
from tunnel.config import load_table
from tunnel.config.fields import PATTERNS
from tunnel.config.model import (
    CurveModel,
    Defaults,
    Dial,
    End,
    Link,
    Listen,
    Model,
    PlainModel,
    ProxyModel,
    Route,
    Side,
    SpoolModel,
    SshModel,
    TableModel,
    TlsModel,
)
from tunnel.config.table import APPLICATIONS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "table.md").read_text(encoding="utf-8")
ON_LINKS: list[type[Model]] = [Link, Listen, Dial, TlsModel, SshModel, ProxyModel]
MODELS: list[type[Model]] = [TableModel, Side, *ON_LINKS, Route, SpoolModel, End, CurveModel, PlainModel, Defaults]
KEYS = sorted({field.alias or name for model in MODELS for name, field in model.model_fields.items()})


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_explained(key: str) -> None:
    assert f"`{key}`" in PAGE


def test_every_key_explained_is_one() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = {word for row in rows for word in re.findall(r"`(.+?)`", row) if "://" not in word}
    assert len(named) > 30
    assert named <= set(KEYS)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_applications_of_each_pattern(pattern: str) -> None:
    at_from, at_to = APPLICATIONS[pattern]
    assert f"| {pattern} | {', '.join(at_from)} | {', '.join(at_to)} |" in PAGE


def test_the_example_is_right(tmp_path: Path) -> None:
    example = PAGE.split("```yaml\n")[1].split("```")[0]
    assert load_table(with_keys(tmp_path, example)).warnings == ()
