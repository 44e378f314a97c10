"""Fixtures of supervision; tests/cli/test_run.py uses them too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervise.rig import Rig, rig


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made
