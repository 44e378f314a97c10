"""Installing from a checkout with and without what compiling needs: it always succeeds, and says what it did."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pump.test_both import can_compile

ROOT = Path(__file__).resolve().parents[2]
LOOK = "from tunnel import pump; print(pump.__file__); print(pump.COMPILED); print(pump.WHY_PURE)"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what an install needs, without anything built."""
    tree = tmp_path / "tree"
    leave = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    for name in ("tunnel", "bridges"):
        shutil.copytree(ROOT / name, tree / name, ignore=leave)
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    (tree / "README.md").touch()
    return tree


def install(checkout: Path, **environment: str) -> tuple[str, list[str]]:
    """(what pip said, what the installed package says of its pump)."""
    pytest.importorskip("pip")
    target = checkout.parent / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-v", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--target", str(target), str(checkout)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    look = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=checkout.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    where, *rest = look.stdout.splitlines()
    assert where.startswith(str(target))
    return done.stdout + done.stderr, rest


@pytest.mark.skipif(not can_compile(), reason="no compiler or no Python headers")
def test_with_a_compiler_the_pump_is_compiled(checkout: Path) -> None:
    pytest.importorskip("Cython")
    _, (compiled, why) = install(checkout)
    assert (compiled, why) == ("True", "")


def test_without_a_compiler_the_twin_takes_over_and_says_so(checkout: Path) -> None:
    pytest.importorskip("Cython")
    said, (compiled, why) = install(checkout, CC="/bin/false")
    assert "ztunnel: the pump could not be compiled" in said
    assert "pure Python twin" in said
    assert compiled == "False"
    assert why.startswith("the compiled pump does not load: ")


def test_without_cython_the_twin_takes_over_and_says_so(checkout: Path) -> None:
    broken = checkout.parent / "broken" / "Cython"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('there is no Cython here')\n")
    said, (compiled, _) = install(checkout, PYTHONPATH=str(broken.parent))
    assert "ztunnel: Cython is missing or cannot translate the pump" in said
    assert compiled == "False"
