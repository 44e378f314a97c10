"""What dies comes back, what is orphaned ends, what crashes for ever is shown: with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.supervise.rig import Rig, ended
from tests.waiting import until
from tunnel.supervise.places import find_all


def test_a_killed_device_comes_back_and_its_sibling_is_untouched(side: Rig) -> None:
    side.up()
    device, keeper = side.pid(), side.pid("keeper")
    os.kill(device, signal.SIGKILL)
    until(lambda: side.process()["pid"] not in (None, device), 15, side.status)
    now = side.process()
    assert now["restarts"] == 1
    assert now["last_exit"].startswith("killed by a signal")
    assert not now["crash_loop"]
    assert side.pid("keeper") == keeper
    assert "process-died process=device" in side.run("logs", "keeper").stdout


def test_a_killed_keeper_comes_back_and_still_keeps(side: Rig) -> None:
    side.up()
    device, keeper = side.pid(), side.pid("keeper")
    os.kill(keeper, signal.SIGKILL)
    until(lambda: side.process("keeper")["pid"] not in (None, keeper), 15, side.status)
    assert side.pid() == device
    os.kill(device, signal.SIGKILL)
    until(lambda: side.process()["pid"] not in (None, device), 15, side.status)


def test_a_crash_loop_is_shown_tried_again_and_left_when_mended(side: Rig) -> None:
    side.up()
    good = side.table.read_text()
    side.table.write_text("nonsense: [")
    os.kill(side.pid(), signal.SIGKILL)
    until(lambda: side.process()["crash_loop"], 20, side.status)
    shown = side.run("status")
    assert shown.returncode == 1
    assert "crash loop" in shown.stdout
    assert "process device keeps dying" in shown.stdout
    quiet = side.run("status", "-q")
    assert (quiet.returncode, quiet.stdout) == (1, "")
    assert side.process("keeper")["state"] == "RUNNING"
    side.table.write_text(good)
    until(lambda: side.status()["ready"], 40, side.status)


def test_up_killed_outright_takes_everything_along_in_order(side: Rig) -> None:
    up = side.start("up", side.table, "--as", "dmz")
    until(lambda: find_all(side.runtime) and side.status()["ready"], 20, "up is ready")
    pids = side.pids()
    up.kill()
    up.communicate()
    until(lambda: all(map(ended, pids)), 20, "everything ended")
    assert "stopping" in (side.runtime / "demo.dmz/log/device.log").read_text(), "the device was told, not killed"
    side.up()


def test_up_again_at_once_waits_for_the_one_on_its_way_out(side: Rig) -> None:
    up = side.start("up", side.table, "--as", "dmz")
    until(lambda: find_all(side.runtime) and side.status()["ready"], 20, "up is ready")
    up.kill()
    side.up()
    up.communicate()


def test_a_killed_supervisor_leaves_no_orphans_and_up_works_again(side: Rig) -> None:
    side.up()
    supervisord, *others = side.pids()
    os.kill(supervisord, signal.SIGKILL)
    until(lambda: all(map(ended, others)), 20, "its processes ended")
    gone = side.run("status")
    assert gone.returncode == 3
    assert "no table is running here" in gone.stderr
    assert (side.runtime / "demo.dmz/supervisor.sock").exists(), "the control: there is a stale socket"
    assert (side.runtime / "demo.dmz/supervisord.pid").exists(), "the control: there is a stale pid file"
    side.up()


def test_a_pid_file_of_a_dead_process_is_no_obstacle(side: Rig) -> None:
    folder = side.runtime / "demo.dmz"
    folder.mkdir(mode=0o700)
    record = {"name": "demo", "side": "dmz", "table": str(side.table), "pid": os.getpid(), "started": 1.0}
    (folder / "running.json").write_text(json.dumps(record))
    (folder / "lock").touch()
    assert side.run("status").returncode == 3, "a living pid that is another's is not taken for ours"
    side.up()


def test_an_orphaned_device_is_told_to_stop_by_the_next_up(side: Rig) -> None:
    (side.runtime / "demo.dmz").mkdir(mode=0o700)
    argv = [sys.executable, "-m", "tunnel.device", str(side.table), "--as", "dmz"]
    orphan = subprocess.Popen(argv, env=side.environment, stderr=subprocess.DEVNULL)
    until((side.runtime / "demo.dmz/device.sock").exists, 10, "the orphan answers")
    side.up()
    assert orphan.wait(10) == 0
    assert side.pid() != orphan.pid


def test_a_process_dies_with_its_parent_only_when_it_asked_to(tmp_path: Path) -> None:
    """The control: without `die_with_parent` the same grandchild lives on."""
    script = """
import os, subprocess, sys
from tunnel.supervise.child import die_with_parent
bound = sys.argv[1] == "bound"
child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent if bound else None)
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    pids = {}
    for how in ("bound", "free"):
        done = subprocess.run([sys.executable, "-c", script, how], stdout=subprocess.PIPE, text=True, check=False)
        pids[how] = int(done.stdout)
    until(lambda: ended(pids["bound"]), 5, "it ended with its parent")
    assert not ended(pids["free"])
    os.kill(pids["free"], signal.SIGKILL)


@pytest.mark.parametrize("name", ["two words", "semi;colon #hash", "100%(here)s", "grö\u00dfe", "'quo\"tes'"])
def test_odd_folders_do_no_harm(side: Rig, name: str) -> None:
    odd = side.folder / name
    odd.mkdir()
    side.table = odd / "demo.yaml"
    side.write_table()
    side.up()
    assert side.status()["file"] == str(side.table)


def test_nothing_of_the_supervisor_listens_on_the_network_or_is_open_to_others(side: Rig) -> None:
    side.up()
    folder = side.runtime / "demo.dmz"
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("supervisor.sock", "device.sock"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert "inet" not in (folder / "supervisord.conf").read_text()
    supervisord = side.status()["pid"]
    sockets = {os.readlink(f) for f in Path(f"/proc/{supervisord}/fd").iterdir() if f.exists()}
    listening = {f"socket:[{line.split()[9]}]" for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
    assert not sockets & listening


def test_children_do_not_hold_the_lock(side: Rig) -> None:
    side.up()
    for name in ("device", "keeper"):
        files = [os.readlink(f) for f in Path(f"/proc/{side.pid(name)}/fd").iterdir() if f.is_symlink()]
        assert not [f for f in files if f.endswith("/lock")], name
