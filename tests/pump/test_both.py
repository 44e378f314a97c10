"""Both pumps are there and look alike; the compiled one calls the libzmq that pyzmq loaded, and no other."""

from __future__ import annotations

import inspect
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
import zmq

from tests.pump.conftest import implementations
from tunnel import pump as selected
from tunnel.pump import libzmq, twin

ROOT = Path(__file__).resolve().parents[2]


def can_compile() -> bool:
    compiler = shlex.split(os.environ.get("CC", sysconfig.get_config_var("CC") or "cc"))[0]
    return bool(shutil.which(compiler)) and Path(sysconfig.get_paths()["include"], "Python.h").exists()


def compiled() -> ModuleType:
    both = implementations()
    if len(both) == 1:
        pytest.skip("the pump is not compiled here")
    return both[0]


@pytest.mark.skipif(not can_compile(), reason="no compiler or no Python headers")
def test_where_there_is_a_compiler_there_are_two_pumps() -> None:
    assert [module.__name__ for module in implementations()] == ["tunnel.pump._pump", "tunnel.pump.twin"]
    assert selected.COMPILED
    assert selected.WHY_PURE == ""


def test_both_have_the_same_functions_with_the_same_parameters() -> None:
    cython = compiled()
    for name in twin.__all__:
        assert hasattr(cython, name)
        if inspect.isfunction(getattr(twin, name)):
            parameters = list(inspect.signature(getattr(twin, name)).parameters)
            assert list(inspect.signature(getattr(cython, name)).parameters) == parameters, name


def test_the_package_has_whatever_a_pump_has() -> None:
    for name in selected.__all__:
        assert hasattr(selected, name), name
    chosen = compiled() if selected.COMPILED else twin
    assert twin.__all__
    for name in twin.__all__:
        assert getattr(selected, name) is getattr(chosen, name), name


def test_the_environment_asks_for_the_twin() -> None:
    code = "from tunnel import pump; print(pump.COMPILED, pump.drain.__module__, pump.WHY_PURE)"
    environment = {**os.environ, "ZTUNNEL_PUMP": "pure", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split(maxsplit=2) == ["False", "tunnel.pump.twin", "ZTUNNEL_PUMP=pure asks for it\n"]


def test_no_second_libzmq_is_loaded() -> None:
    compiled()

    def libraries() -> set[str]:
        maps = Path("/proc/self/maps").read_text().splitlines()
        return {line.split()[-1] for line in maps if "libzmq" in line.rpartition("/")[2]}

    before = libraries()
    found = libzmq.addresses()
    assert set(found) == set(libzmq.FUNCTIONS)
    assert all(found.values())
    assert libraries() == before
    assert len(before) <= 1


def test_a_libzmq_of_another_version_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 0, 1))
    with pytest.raises(ImportError, match="libzmq"):
        libzmq.addresses()


def test_a_function_that_is_missing_is_told() -> None:
    with pytest.raises(ImportError, match="libzmq"):
        libzmq.addresses(["zmq_errno", "zmq_no_such_function"])
