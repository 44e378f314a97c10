"""The checkers see what is planted: one lost, one repeated, one out of place, one that nobody sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journal import Journal, Writer, compare, compare_requests, compare_shared, spans

SENT = {"a": list(range(1, 101)), "b": list(range(1, 51))}


def received(**changes: list[int]) -> dict[str, list[int]]:
    return {key: list(seqs) for key, seqs in (SENT | changes).items()}


def test_an_exact_copy_is_clean() -> None:
    verdict = compare(SENT, received())
    assert verdict.clean
    assert (verdict.sent, verdict.received) == (150, 150)


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        pytest.param([n for n in range(1, 101) if n != 40], (1, 0, 0, 0), id="one lost"),
        pytest.param([n for n in range(1, 101) if n < 98], (3, 0, 0, 0), id="the last ones lost"),
        pytest.param([n for n in range(1, 101) if n > 2], (2, 0, 0, 0), id="the first ones lost"),
        pytest.param([], (100, 0, 0, 0), id="all lost"),
        pytest.param([*range(1, 101), 100], (0, 1, 0, 0), id="the last one repeated"),
        pytest.param([*range(1, 51), *range(41, 101)], (0, 10, 0, 0), id="ten replayed"),
        pytest.param([1, 3, 2, *range(4, 101)], (0, 0, 1, 0), id="two swapped"),
        pytest.param([*range(2, 101), 1], (0, 0, 1, 0), id="one much too late"),
        pytest.param([*range(1, 101), 777], (0, 0, 0, 1), id="one that nobody sent"),
        pytest.param([*range(1, 41), *range(42, 101), 100, 7], (1, 2, 0, 0), id="lost and repeated"),
    ],
)
def test_a_planted_fault_is_seen_exactly(change: list[int], faults: tuple[int, ...]) -> None:
    verdict = compare(SENT, received(a=change))
    assert verdict.faults == faults
    assert not verdict.clean


def test_keys_are_compared_each_for_itself() -> None:
    assert compare(SENT, received(a=SENT["b"], b=SENT["a"])).faults == (50, 0, 0, 50)


def test_shares_may_interleave_but_each_is_in_order() -> None:
    odd, even = {"a": list(range(1, 101, 2))}, {"a": list(range(2, 101, 2)), "b": SENT["b"]}
    assert compare_shared(SENT, [odd, even]).clean
    assert compare_shared(SENT, [odd, even, {"a": [4]}]).faults == (0, 1, 0, 0)
    assert compare_shared(SENT, [{"a": [3, 1, *range(5, 101, 2)]}, even]).faults == (0, 0, 1, 0)
    assert compare_shared(SENT, [even]).faults == (50, 0, 0, 0)


def journals(tmp_path: Path, client: str, service: str) -> tuple[Journal, Journal]:
    for name, text in (("client", client), ("service", service)):
        (tmp_path / name).write_text(text)
    return Journal(tmp_path / "client"), Journal(tmp_path / "service")


@pytest.mark.parametrize(
    ("client", "service", "faults"),
    [
        ("S c 1\nR c 1\nS c 2\nR c 2\n", "R c 1\nR c 2\n", (0, 0, 0, 0)),
        ("S c 1\nR c 1\nS c 2\n", "R c 1\nR c 2\n", (1, 0, 0, 0)),
        ("S c 1\nR c 1\nS c 2\nW c 1\n", "R c 1\nR c 2\n", (1, 1, 0, 0)),
        ("S c 1\nR c 1\nS c 2\nR c 2\n", "R c 1\nR c 2\nR c 1\n", (0, 0, 1, 0)),
        ("S c 1\nS c 2\nR c 1\nR c 2\n", "R c 2\nR c 1\n", (0, 0, 0, 1)),
        ("S c 1\nR c 1\nR c 1\n", "R c 1\n", (0, 1, 0, 0)),
    ],
)
def test_requests(tmp_path: Path, client: str, service: str, faults: tuple[int, ...]) -> None:
    assert compare_requests(*journals(tmp_path, client, service)).faults == faults


def test_a_journal_is_read_while_it_grows_and_a_torn_last_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    assert journal.count("R") == 0
    writer = Writer(path)
    writer.note("R", "a", 1)
    assert journal.count("R") == 0, "nothing is on disk before the flush"
    writer.flush()
    with path.open("a") as torn:
        torn.write("R a ")
    assert journal.of("R") == {"a": [1]}
    with path.open("a") as rest:
        rest.write("2\n")
    assert journal.of("R") == {"a": [1, 2]}


def test_spans_shorten() -> None:
    assert spans([("a", 1), ("a", 2), ("a", 3), ("b", 9)]) == "(a 1-3, b 9)"
    assert spans([("a", n) for n in range(0, 40, 2)], most=2) == "(a 0, a 2, ...)"
