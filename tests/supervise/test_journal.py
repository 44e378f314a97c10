"""Lines as systemd's journal wants them, and who is asked whether it is the journal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunnel.log import LEVELS, Log
from tunnel.supervise import journal

NUMBERS = {"debug": 7, "info": 6, "warn": 4, "error": 3}


@pytest.mark.parametrize("level", LEVELS)
def test_a_line_of_the_log_has_its_level_before_it_and_no_time(level: str, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as out:
        getattr(Log("device", fd=out.fileno(), level="debug"), level)("link-down", peer="plant", why="line\nline")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert journal.logged(line) == f'<{NUMBERS[level]}>device link-down peer=plant why="line\\nline"'


def test_a_line_of_another_form_is_an_error_and_stays_whole() -> None:
    assert journal.logged("Traceback (most recent call last):") == "<3>Traceback (most recent call last):"
    assert journal.logged("<0>forged") == "<3><0>forged"


def test_every_line_of_a_sentence_has_the_level() -> None:
    assert journal.said("a.yaml:1:1: one\na.yaml:2:1: two", "error") == "<3>a.yaml:1:1: one\n<3>a.yaml:2:1: two"


def test_the_journal_is_known_by_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "stream").open("wb") as stream:
        found = os.fstat(stream.fileno())
        for told, expected in {
            f"{found.st_dev}:{found.st_ino}": True,
            f"{found.st_dev}:{found.st_ino + 1}": False,
            "": False,
            "nonsense": False,
        }.items():
            monkeypatch.setenv("JOURNAL_STREAM", told)
            assert journal.is_journal(stream.fileno()) is expected, told
