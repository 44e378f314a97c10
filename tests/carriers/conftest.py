"""Servers that several tests of carriers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Sshd


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd; a test that cuts it takes one of its own."""
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server
