"""What the README shows must be true: its table loads, its documents and commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from tunnel import keys
from tunnel.cli import build
from tunnel.config import load_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_in_the_readme_loads(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    for side in ("dmz", "plant"):
        keys.write_pair(tmp_path / "keys", side)
    table = tmp_path / "dmz.yaml"
    table.write_text(text)
    assert list(load_table(table).routes) == ["tasks"]


LINKED = sorted(set(re.findall(r"\]\((docs/[\w.]+)\)", README)))


@pytest.mark.parametrize("path", LINKED)
def test_documents_that_the_readme_names_exist(path: str) -> None:
    assert (ROOT / path).is_file()


def test_the_readme_names_documents() -> None:
    assert len(LINKED) >= 6


def test_commands_that_the_readme_names_exist() -> None:
    known = set(get_command(build()).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"^    ztunnel (\w+)", README, re.M)) | {
        "reload",
        "restart",
        "wait",
        "top",
        "doctor",
        "down",
    }
    assert named <= known
    assert len(named) >= 8
