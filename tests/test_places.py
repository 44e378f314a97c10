"""Where things are: by the environment, by the user."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnel import places


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZTUNNEL_RUNTIME_DIR", "ZTUNNEL_IPC_DIR", "XDG_RUNTIME_DIR", "ZTUNNEL_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine where ztunnel is not installed: what this one has in /run, /etc and /var does not matter."""
    with tempfile.TemporaryDirectory(prefix="zt") as made:
        folder = Path(made)
        folder.chmod(0o755)
        monkeypatch.setattr(places, "_RUN", folder / "run")
        monkeypatch.setattr(places, "_STATE", folder / "state")
        monkeypatch.setattr(places, "INSTALLED", folder / "etc")
        monkeypatch.setattr(places, "_UNITS", (folder / "unit",))
        yield folder


@pytest.mark.parametrize(
    ("user", "environment", "runtime", "ipc"),
    [
        (0, {}, "RUN/ztunnel/t.dmz", "RUN/ztunnel-ipc/t"),
        (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, "RUN/ztunnel/t.dmz", "RUN/ztunnel-ipc/t"),
        (7, {"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/ztunnel/t.dmz", "/run/user/7/ztunnel-ipc/t"),
        (7, {}, "/tmp/ztunnel-7/t.dmz", "/tmp/ztunnel-ipc-7/t"),
        (7, {"ZTUNNEL_RUNTIME_DIR": "/a"}, "/a/t.dmz", "/a/ipc/t"),
        (0, {"ZTUNNEL_RUNTIME_DIR": "/a", "ZTUNNEL_IPC_DIR": "/b"}, "/a/t.dmz", "/b/t"),
        (7, {"ZTUNNEL_IPC_DIR": "/b"}, "/tmp/ztunnel-7/t.dmz", "/b/t"),
        (7, {"ZTUNNEL_RUNTIME_DIR": ""}, "/tmp/ztunnel-7/t.dmz", "/tmp/ztunnel-ipc-7/t"),
    ],
)
def test_places(
    monkeypatch: pytest.MonkeyPatch, system: Path, user: int, environment: dict[str, str], runtime: str, ipc: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert places.runtime_dir("t", "dmz") == Path(runtime.replace("RUN", f"{system}/run"))
    assert places.ipc_dir("t") == Path(ipc.replace("RUN", f"{system}/run"))


@pytest.mark.parametrize(
    ("user", "environment", "state"),
    [
        (0, {}, "STATE/t.dmz"),
        (0, {"XDG_STATE_HOME": "/home/state"}, "STATE/t.dmz"),
        (7, {"XDG_STATE_HOME": "/home/state"}, "/home/state/ztunnel/t.dmz"),
        (7, {"HOME": "/home/ann"}, "/home/ann/.local/state/ztunnel/t.dmz"),
        (0, {"ZTUNNEL_STATE_DIR": "/a"}, "/a/t.dmz"),
    ],
)
def test_state(
    monkeypatch: pytest.MonkeyPatch, system: Path, user: int, environment: dict[str, str], state: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert places.state_dir("t", "dmz") == Path(state.replace("STATE", f"{system}/state"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to another user")
def test_root_keeps_no_state_in_a_folder_of_another_user(monkeypatch: pytest.MonkeyPatch, system: Path) -> None:
    monkeypatch.setattr(places, "_ROOTS_STATE", system / "roots")
    (system / "state").mkdir()
    assert places.state_dir("t", "dmz") == system / "state/t.dmz"
    os.chown(system / "state", 7, -1)
    assert places.state_dir("t", "dmz") == system / "roots/t.dmz"
    (system / "state").rmdir()
    (system / "state").symlink_to("nowhere")
    assert places.state_dir("t", "dmz") == system / "roots/t.dmz"


def test_a_relative_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", "run")
    assert places.runtime_root() == tmp_path / "run"


def test_the_services_user_uses_the_services_folders(monkeypatch: pytest.MonkeyPatch, system: Path) -> None:
    (system / "run/ztunnel").mkdir(parents=True)
    (system / "run/ztunnel-ipc").mkdir()
    (system / "state").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path.is_dir())
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert places.runtime_root() == system / "run/ztunnel"
    assert places.ipc_dir("t") == system / "run/ztunnel-ipc/t"
    assert places.state_dir("t", "dmz") == Path.home() / ".local/state/ztunnel/t.dmz", "it belongs to another user"
    owner = (system / "state").stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner or 7)
    if not owner:
        os.chown(system / "state", 7, -1)
    assert places.state_dir("t", "dmz") == system / "state/t.dmz"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/state")
    assert places.runtime_root() == Path("/run/user/7/ztunnel")
    assert places.ipc_dir("t") == Path("/run/user/7/ztunnel-ipc/t")
    assert places.state_dir("t", "dmz") == Path("/home/state/ztunnel/t.dmz")


@pytest.mark.skipif(os.geteuid() != 0, reason="to make folders of other users it must run as root")
def test_a_folder_that_others_only_read_is_not_used(system: Path) -> None:
    shared = system / "run/ztunnel"
    shared.mkdir(parents=True)
    for mode, usable in ((0o755, False), (0o1777, True)):
        shared.chmod(mode)
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os._exit(int(places.runtime_root() == shared))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == usable


def test_the_three_folders_as_variables_lead_to_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    before = [places.runtime_dir("t", "dmz"), places.ipc_dir("t"), places.state_dir("t", "dmz")]
    for name, text in places.roots().items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert [places.runtime_dir("t", "dmz"), places.ipc_dir("t"), places.state_dir("t", "dmz")] == before


def test_what_is_installed(monkeypatch: pytest.MonkeyPatch, system: Path) -> None:
    (system / "etc/deep").mkdir(parents=True)
    (system / "link").symlink_to(system / "etc/deep")
    monkeypatch.chdir(system / "etc")
    for path in ("etc", "etc/keys/dmz.key", "link/keys"):
        assert places.is_installed(system / path)
    assert places.is_installed(Path("keys"))
    for path in ("etcetera", "etc/../x", "."):
        assert not places.is_installed(system / path)
    assert not places.has_unit()
    (system / "unit").touch()
    assert places.has_unit()


def test_which_tables_the_unit_runs(system: Path) -> None:
    (system / "etc/deep").mkdir(parents=True)
    (system / "link").symlink_to(system / "etc")
    assert places.instance(system / "etc/dmz.yaml") == "dmz"
    assert places.instance(system / "link/dmz.yaml") == "dmz"
    for path in ("etc/deep/dmz.yaml", "etc/dmz.yml", "dmz.yaml", "etc"):
        assert places.instance(system / path) is None


def test_whom_secrets_are_given_to(monkeypatch: pytest.MonkeyPatch, system: Path) -> None:
    ours = places.user_name(os.geteuid())
    monkeypatch.setattr(places, "SERVICE_USER", ours)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    account = places.service_account(system / "etc/keys/dmz.key")
    assert account is not None
    assert account.pw_name == ours
    assert places.service_account(system / "elsewhere") is None
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert places.service_account(system / "etc") is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(places, "SERVICE_USER", "nobody-at-all")
    assert places.service_account(system / "etc") is None
    assert places.user_name(4_000_000_000) == "uid 4000000000"


@pytest.mark.parametrize("length", [8, 90, 102, 103, 104, 120])
def test_the_two_private_sockets_of_a_route_have_paths_that_fit(length: int) -> None:
    folder, route = Path("/run/x"), "r" * (length - len("/run/x/"))
    found = {places.local_path(folder, route), places.receipts_path(folder, route)}
    assert {path.suffix for path in found} == {".ipc", ".desk"}
    assert all(path.parent == folder and len(str(path)) <= places.IPC_PATH_BYTES for path in found)
