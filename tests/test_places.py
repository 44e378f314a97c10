"""Where things are: by the environment, by the user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunnel import places


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZTUNNEL_RUNTIME_DIR", "ZTUNNEL_IPC_DIR", "XDG_RUNTIME_DIR", "ZTUNNEL_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("user", "environment", "runtime", "ipc"),
    [
        (0, {}, "/run/ztunnel/t.dmz", "/run/ztunnel-ipc/t"),
        (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, "/run/ztunnel/t.dmz", "/run/ztunnel-ipc/t"),
        (7, {"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/ztunnel/t.dmz", "/run/user/7/ztunnel-ipc/t"),
        (7, {}, "/tmp/ztunnel-7/t.dmz", "/tmp/ztunnel-ipc-7/t"),
        (7, {"ZTUNNEL_RUNTIME_DIR": "/a"}, "/a/t.dmz", "/a/ipc/t"),
        (0, {"ZTUNNEL_RUNTIME_DIR": "/a", "ZTUNNEL_IPC_DIR": "/b"}, "/a/t.dmz", "/b/t"),
        (7, {"ZTUNNEL_IPC_DIR": "/b"}, "/tmp/ztunnel-7/t.dmz", "/b/t"),
        (7, {"ZTUNNEL_RUNTIME_DIR": ""}, "/tmp/ztunnel-7/t.dmz", "/tmp/ztunnel-ipc-7/t"),
    ],
)
def test_places(
    monkeypatch: pytest.MonkeyPatch, user: int, environment: dict[str, str], runtime: str, ipc: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert places.runtime_dir("t", "dmz") == Path(runtime)
    assert places.ipc_dir("t") == Path(ipc)


@pytest.mark.parametrize(
    ("user", "environment", "state"),
    [
        (0, {}, "/var/lib/ztunnel/t.dmz"),
        (0, {"XDG_STATE_HOME": "/home/state"}, "/var/lib/ztunnel/t.dmz"),
        (7, {"XDG_STATE_HOME": "/home/state"}, "/home/state/ztunnel/t.dmz"),
        (7, {"HOME": "/home/ann"}, "/home/ann/.local/state/ztunnel/t.dmz"),
        (0, {"ZTUNNEL_STATE_DIR": "/a"}, "/a/t.dmz"),
    ],
)
def test_state(monkeypatch: pytest.MonkeyPatch, user: int, environment: dict[str, str], state: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert places.state_dir("t", "dmz") == Path(state)


def test_a_relative_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", "run")
    assert places.runtime_root() == tmp_path / "run"
