"""Servers that several tests of carriers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.carriers.ends import run_within
from tests.carriers.http_rig import Body, HttpRig
from tests.servers import Sshd


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd; a test that cuts it takes one of its own."""
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def over(tmp_path: Path) -> Callable[[Body], None]:
    """Runs a body with a fresh HTTP rig."""

    async def with_rig(body: Body) -> None:
        rig = HttpRig(tmp_path)
        try:
            await body(rig)
        finally:
            await rig.close()

    return lambda body: run_within(with_rig(body))
