"""`tunnel` is a tunnel that the test writes and starts; modules that share one define a fixture of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tunnel_pair import Tunnel


@pytest.fixture
def tunnel(tmp_path: Path) -> Iterator[Tunnel]:
    made = Tunnel(tmp_path)
    try:
        yield made
    finally:
        made.close()
