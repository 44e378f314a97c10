"""The command line is tested on sides under real supervision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.supervise.conftest import side
from tests.supervise.rig import Rig, rig

__all__ = ["running", "side"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The dmz side, up: for tests that leave it as they find it."""
    with rig(tmp_path_factory.mktemp("running")) as made:
        made.up()
        yield made
