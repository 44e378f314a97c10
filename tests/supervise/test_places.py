"""The runtime folder: private, ours, locked; and which running side a command means."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnel.errors import LocalError, NotRunningError, UsageError
from tunnel.supervise import places
from tunnel.supervise.places import Running


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="zt") as made:
        monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", made)
        yield Path(made)


def start(root: Path, name: str, side: str, table: str) -> int:
    """What `up` leaves: a prepared folder, its lock, its record. Gives the lock."""
    folder = root / f"{name}.{side}"
    places.prepare(folder)
    lock = places.claim(folder, Path(table))
    places.write_record(Running(folder, name, side, Path(table), os.getpid(), 1.0))
    return lock


def test_a_folder_is_made_private(root: Path) -> None:
    folder = root / "demo.dmz"
    folder.mkdir(mode=0o777)
    places.prepare(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "log").stat().st_mode & 0o777 == 0o700


def test_a_folder_of_somebody_else_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = os.geteuid()
    places.prepare(root / "demo.dmz")
    monkeypatch.setattr(os, "geteuid", lambda: ours + 1000)
    if ours == 0:
        os.chown(root, 4711, 4711)
    with pytest.raises(LocalError, match="belongs to another user"):
        places.prepare(root / "demo.dmz")
    os.chown(root, ours, -1)


def test_a_link_in_the_folders_place_is_refused(root: Path) -> None:
    (root / "elsewhere").mkdir()
    (root / "demo.dmz").symlink_to(root / "elsewhere")
    with pytest.raises(LocalError, match="is not a folder"):
        places.prepare(root / "demo.dmz")


def test_a_file_in_the_folders_place_is_refused(root: Path) -> None:
    (root / "demo.dmz").write_text("")
    with pytest.raises(LocalError, match="cannot be used"):
        places.prepare(root / "demo.dmz")


def test_a_folder_too_long_for_sockets_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="ZTUNNEL_RUNTIME_DIR"):
        places.prepare(root / ("x" * 90))


def test_the_lock_is_held_as_long_as_anybody_keeps_it_open(root: Path) -> None:
    lock = start(root, "demo", "dmz", "/t/demo.yaml")
    (running,) = places.find_all()
    assert running.alive
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    os.close(lock)
    assert running.alive, "the child has it"
    sleeper.communicate(b"\n")
    assert not running.alive
    assert places.find_all() == []
    assert places.find_all(dead_too=True) == [running]


def test_a_look_at_the_same_moment_is_no_obstacle(root: Path) -> None:
    """`status` takes the lock shared for microseconds; a `claim` that meets it tries again."""
    folder = root / "demo.dmz"
    places.prepare(folder)
    (folder / "lock").touch()
    script = """
import fcntl, sys, time
lock = open(sys.argv[1])
fcntl.flock(lock, fcntl.LOCK_SH)
print(flush=True)
time.sleep(0.1)
"""
    holder = subprocess.Popen([sys.executable, "-c", script, folder / "lock"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with (folder / "lock").open() as control, pytest.raises(BlockingIOError):
        fcntl.flock(control, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(places.claim(folder, Path("/t")))
    holder.communicate()


def test_what_is_up_is_not_claimed_twice(root: Path) -> None:
    start(root, "demo", "dmz", "/t/demo.yaml")
    with pytest.raises(LocalError, match="is up already"):
        places.claim(root / "demo.dmz", Path("/t/demo.yaml"))
    with pytest.raises(UsageError, match=r"from /t/demo\.yaml: give /other/demo\.yaml another name"):
        places.claim(root / "demo.dmz", Path("/other/demo.yaml"))
    (root / "demo.dmz/running.json").unlink()
    with pytest.raises(LocalError, match="under way"):
        places.claim(root / "demo.dmz", Path("/t/demo.yaml"))


class TestFind:
    def test_nothing_runs(self, root: Path) -> None:
        with pytest.raises(NotRunningError, match="no table is running here"):
            places.find(None)
        with pytest.raises(NotRunningError, match="demo is not running here as side dmz"):
            places.find("demo", "dmz")

    def test_the_only_one(self, root: Path) -> None:
        start(root, "demo", "dmz", "/t/demo.yaml")
        assert places.find(None).side == "dmz"
        assert places.find("demo").side == "dmz"
        assert places.find("/t/demo.yaml").side == "dmz"
        assert places.find(None, "dmz").name == "demo"
        with pytest.raises(NotRunningError, match=r"Running here: demo \(side dmz\)"):
            places.find(None, "plant")
        with pytest.raises(NotRunningError):
            places.find("/elsewhere/demo.yaml")

    def test_two_sides_of_one_table(self, root: Path) -> None:
        start(root, "demo", "dmz", "/t/demo.yaml")
        start(root, "demo", "plant", "/t/demo.yaml")
        for table in (None, "demo", "/t/demo.yaml"):
            with pytest.raises(UsageError, match="say --as dmz or --as plant"):
                places.find(table)
            assert places.find(table, "plant").side == "plant"

    def test_two_tables(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        local = tmp_path / "ztunnel.yaml"
        start(root, "one", "dmz", "/t/one.yaml")
        start(root, "two", "dmz", str(local))
        with pytest.raises(UsageError, match=r"name one of them \(one \(side dmz\), two \(side dmz\)\)"):
            places.find(None)
        assert places.find("two").name == "two"
        local.write_text("")
        assert places.find(None).name == "two", "the one of this folder, as for `up`"

    def test_rubbish_beside_is_passed_over(self, root: Path) -> None:
        (root / "ipc").mkdir()
        (root / "file").write_text("")
        (root / "bad.dmz").mkdir()
        (root / "bad.dmz/running.json").write_text("{}")
        start(root, "demo", "dmz", "/t/demo.yaml")
        assert [r.name for r in places.find_all()] == ["demo"]
