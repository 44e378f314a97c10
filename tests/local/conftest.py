"""Tests here may be coroutines that take a `rig`: they run on the reactor's own loop."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from tests.local.rig import rig
from tunnel.reactor import run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = [name for name in inspect.signature(pyfuncitem.obj).parameters if name != "r"]
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in names}

    async def main() -> None:
        async with rig() as made:
            await pyfuncitem.obj(made, **arguments)

    run(main())
    return True


@pytest.fixture
def r() -> None:
    """Stands for the rig that is made on the loop (see above)."""
