"""Every wrong table is told exactly: these problems, at these places, in these words, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.tables import BASE, load, write
from tests.config.wrong_tables import WRONG, Wrong
from tunnel.config import load_table
from tunnel.errors import TableError

RAW_PYDANTIC = ("Input should", "Value error", "validation error", "Extra inputs", "Field required", "pydantic")


def test_there_are_many_of_them_and_each_is_another() -> None:
    assert len(WRONG) >= 100
    assert len({wrong.name for wrong in WRONG}) == len(WRONG)
    assert len({wrong.text for wrong in WRONG}) == len(WRONG)


def test_what_they_are_made_from_is_right(tmp_path: Path) -> None:
    assert load(tmp_path, BASE).warnings == ()


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_told_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Wrong) -> None:
    monkeypatch.delenv("ZT_NOT_SET", raising=False)
    monkeypatch.chdir(tmp_path)
    write(tmp_path, wrong.text)
    with pytest.raises(TableError) as caught:
        load_table(Path("dmz.yaml"))
    problems = caught.value.problems
    told = [(problem.line, problem.column) for problem in problems]
    assert told == [(line, column) for line, column, _ in wrong.expected], f"told:\n{caught.value}"
    for problem, (_, _, words) in zip(problems, wrong.expected, strict=True):
        assert words in str(problem), f"told:\n{caught.value}"
        assert problem.file == "dmz.yaml"
        assert str(problem).startswith(f"dmz.yaml:{problem.line}:{problem.column}: ")
        assert problem.sentence[-1] in ".?'" or problem.sentence.endswith(("plant", ")")), problem.sentence
        assert not any(raw in problem.sentence for raw in RAW_PYDANTIC), problem.sentence
        assert "hunter2" not in str(problem)
    assert caught.value.exit_code == 2
