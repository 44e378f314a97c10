"""Reading logs: last lines, merging by time, tails over rotations as supervisord does them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.errors import UsageError
from tunnel.supervise.logs import Tail, Tails, last_lines, log_files, merged


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    return tmp_path


def _rotate(path: Path) -> None:
    path.rename(path.with_name(path.name + ".1"))


def test_supervisords_own_log_is_shown_only_by_name(folder: Path) -> None:
    for name in ("device.log", "keeper.log", "supervisord.log", "device.log.1", "supervisord.out"):
        (folder / "log" / name).touch()
    assert list(log_files(folder)) == ["device", "keeper"]
    assert list(log_files(folder, "supervisord")) == ["supervisord"]
    with pytest.raises(UsageError, match=r"no log of nonsense; there are device, keeper, supervisord"):
        log_files(folder, "nonsense")


def test_last_lines_look_back_over_one_rotation(folder: Path) -> None:
    path = folder / "log" / "device.log"
    path.write_text("1\n2\n")
    _rotate(path)
    path.write_text("3\n")
    assert last_lines(path, 2) == ["2", "3"]
    assert last_lines(path, 0) == []
    assert last_lines(folder / "log" / "none.log", 5) == []


def test_logs_are_merged_by_time_and_tracebacks_stay_together() -> None:
    first = ["2026-01-01T00:00:01.000Z a", "  traceback", "2026-01-01T00:00:03.000Z a"]
    second = ["2026-01-01T00:00:02.000Z b"]
    assert list(merged([first, second])) == [first[0], first[1], second[0], first[2]]


def test_a_tail_gives_whole_lines_once(folder: Path) -> None:
    path = folder / "log" / "device.log"
    path.write_text("before\n")
    tail = Tail(path)
    with path.open("a") as log:
        log.write("one\ntw")
        log.flush()
        assert tail.read() == ["one"]
        log.write("o\n")
    assert tail.read() == ["two"]
    assert tail.read() == []
    tail.close()


def test_a_tail_follows_over_a_rotation(folder: Path) -> None:
    path = folder / "log" / "device.log"
    path.write_text("old\n")
    tail = Tail(path)
    with path.open("a") as log:
        _rotate(path)
        assert tail.read() == []
        log.write("late\n")
    path.write_text("new\n")
    assert tail.read() == ["late", "new"]
    path.write_text("")
    assert tail.read() == []
    path.write_text("again\n")
    assert tail.read() == ["again"], "a file truncated in place is read from its beginning"
    tail.close()


def test_a_log_that_appears_later_is_shown_from_its_beginning(folder: Path) -> None:
    tails = Tails(folder)
    (folder / "log" / "bridge.log").write_text("first words\n")
    assert tails.read() == ["first words"]
    tails.close()


def test_a_line_without_end_is_shown_in_pieces(folder: Path) -> None:
    path = folder / "log" / "device.log"
    path.touch()
    tail = Tail(path)
    path.write_text("x" * 200_000)
    assert len("".join(tail.read())) == 200_000
    tail.close()
