"""What a person reads of a status; the shapes are those of `status --json`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.supervise.test_carriers import TOLD
from tests.supervise.test_status import status
from tunnel.cli.show import print_status


def row(capsys: pytest.CaptureFixture[str], **carrier: Any) -> list[str]:
    """The carrier's line, by the head's columns."""
    print_status(status(carriers=[{**TOLD, "state": "up", "reason": "", **carrier}]))
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("CARRIER"))
    starts = [lines[at].index(word) for word in lines[at].split()]
    return [lines[at + 1][start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]


def test_bytes_of_a_carrier(capsys: pytest.CaptureFixture[str]) -> None:
    assert row(capsys, bytes_in=1536, bytes_out=0)[4:6] == ["1.5 KiB", "0 B"]


def test_bytes_that_nobody_counts_are_no_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert row(capsys, bytes_in=None, bytes_out=None)[4:6] == ["not counted", "not counted"]
