"""Imports run one way, the link is pure, and bridges know nothing of the link: this test holds the line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = [
    {"errors", "limits", "receipts"},
    {"link", "heap", "places"},
    {"files", "service_variables"},
    {"keys"},
    {"config", "pump", "log", "control"},
    {"programs"},
    {"ports", "reactor", "resolve", "tap", "spool", "backlog"},
    {"monitor", "zap", "taps", "served"},
    {"carriers", "local"},
    {"patterns"},
    {"ahead", "spools"},
    {"links", "route", "spool_desk"},
    {"probe", "exchange", "changes"},
    {"device"},
    {"supervise"},
    {"cli"},
]
"""A part may import parts of the layers above its own line, never of its own or of those below."""

IMPURE = {
    "socket",
    "zmq",
    "asyncio",
    "time",
    "random",
    "secrets",
    "os",
    "threading",
    "select",
    "subprocess",
    "datetime",
}


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ([f"tunnel.{alias.name}" for alias in node.names] if node.module == "tunnel" else [node.module])


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "tunnel").parts[0].removesuffix(".py")


FILES = [path for path in sorted((ROOT / "tunnel").rglob("*.py")) if part_of(path) != "__init__"]


def test_every_part_has_its_layer() -> None:
    assert {part_of(path) for path in FILES} == set().union(*LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    part = part_of(path)
    own = next(index for index, layer in enumerate(LAYERS) if part in layer)
    lower = {part, "__version__"}.union(*LAYERS[:own])
    imported = {name.split(".")[1] for name in imports_of(path) if name.startswith("tunnel.")}
    assert imported <= lower


PURE = [
    *sorted((ROOT / "tunnel/link").glob("*.py")),
    *sorted((ROOT / "bridges").glob("framing.py")),
    *sorted((ROOT / "bridges/framings").glob("*.py")),
]


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_the_link_is_pure(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & IMPURE


def test_the_link_was_looked_at() -> None:
    assert len(PURE) >= 20
    assert {"wire.py", "framing.py", "marks.py"} <= {path.name for path in PURE}


@pytest.mark.parametrize("path", sorted((ROOT / "bridges").rglob("*.py")), ids=lambda path: path.name)
def test_bridges_are_ordinary_applications(path: Path) -> None:
    inside = {"tunnel.link", "tunnel.carriers", "tunnel.patterns", "tunnel.device"}
    assert not {".".join(name.split(".")[:2]) for name in imports_of(path)} & inside
