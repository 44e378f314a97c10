"""Every protection that can be taken out is taken out by some control."""

from __future__ import annotations

from pathlib import Path

from tests.faults.protections import PROTECTIONS


def test_every_protection_has_a_control() -> None:
    tests = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    text = "".join(path.read_text() for path in tests)
    assert len(PROTECTIONS) >= 15
    assert [name for name in PROTECTIONS if f'"{name}"' not in text] == []
