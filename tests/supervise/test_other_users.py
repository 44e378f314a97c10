"""Sides of other users: whose records are believed, and that root looks after them without being tricked by them."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.supervise.rig import ROOT, ZTUNNEL, Rig, ended
from tests.waiting import until
from tunnel.errors import LocalError, NotRunningError
from tunnel.limits import RECORD_BYTES
from tunnel.supervise import places

NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to another user")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder where everybody may make a folder, as in /run/ztunnel (1775)."""
    with tempfile.TemporaryDirectory(prefix="zt") as made:
        os.chmod(made, 0o1777)
        monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", made)
        yield Path(made)


def record(**other: Any) -> dict[str, Any]:
    fields = {"name": "t", "side": "dmz", "table": "/t.yaml", "pid": os.getpid(), "started": 1.0, "roots": {}}
    return fields | other


def planted(root: Path, *, uid: int | None = None, called: str = "t.dmz", **other: Any) -> Path:
    """A folder with a record and a lock that is held from now on, by this process."""
    folder = root / called
    folder.mkdir(mode=0o700)
    (folder / "running.json").write_text(json.dumps(record(**other)))
    (folder / "lock").touch()
    fcntl.flock(os.open(folder / "lock", os.O_RDWR), fcntl.LOCK_EX)
    if uid is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, uid, uid)
    return folder


def ztunnel(root: Path, *arguments: str, within_s: float = 60, **other: Any) -> subprocess.CompletedProcess[str]:
    environment = {key: text for key, text in os.environ.items() if not key.startswith(("ZTUNNEL_", "XDG_"))}
    environment |= {"ZTUNNEL_RUNTIME_DIR": str(root), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*ZTUNNEL, *arguments], env=environment, capture_output=True, text=True, timeout=within_s, check=False, **other
    )


class TestRecords:
    def test_the_control(self, root: Path) -> None:
        planted(root)
        (found,) = places.find_all()
        assert (found.name, found.side, found.alive, found.owner) == ("t", "dmz", True, os.geteuid())

    @pytest.mark.parametrize(
        "wrong",
        [
            {"name": "u"},
            {"side": "plant"},
            {"name": 1},
            {"table": "t.yaml"},
            {"table": None},
            {"pid": True},
            {"pid": 0},
            {"pid": 1},
            {"pid": -1},
            {"pid": 1 << 40},
            {"pid": "7"},
            {"started": float("nan")},
            {"started": float("inf")},
            {"started": 10**400},
            {"started": -1},
            {"roots": None},
            {"roots": {"ZTUNNEL_STATE_DIR": "state"}},
        ],
    )
    def test_one_that_is_not_sane_is_passed_over(self, root: Path, wrong: dict[str, Any]) -> None:
        planted(root, **wrong)
        assert places.find_all(dead_too=True) == []

    @pytest.mark.parametrize(
        "text", ["", "[]", "null", "[" * 9000, "\xff", json.dumps(record(more="x" * RECORD_BYTES)), "1" * 9000]
    )
    def test_rubbish_is_passed_over(self, root: Path, text: str) -> None:
        (planted(root) / "running.json").write_text(text, encoding="latin-1")
        assert places.find_all(dead_too=True) == []

    def test_no_link_is_followed_and_no_pipe_waited_for(self, root: Path) -> None:
        folder = planted(root)
        kept = (folder / "running.json").rename(root / "kept")
        (folder / "running.json").symlink_to(kept)
        assert places.read_record(folder) is None
        (folder / "running.json").unlink()
        os.mkfifo(folder / "running.json")
        assert places.read_record(folder) is None
        (folder / "running.json").unlink()
        kept.rename(folder / "running.json")
        assert places.read_record(folder) is not None
        (folder / "lock").unlink()
        os.mkfifo(folder / "lock")
        assert places.find_all() == []
        folder.rename(root / "elsewhere")
        (root / "t.dmz").symlink_to(root / "elsewhere")
        assert places.read_record(root / "t.dmz") is None

    def test_other_variables_are_not_taken_from_it(self, root: Path) -> None:
        planted(root, roots={"ZTUNNEL_STATE_DIR": "/state", "LD_PRELOAD": "/evil.so"})
        assert places.find("t").roots == {"ZTUNNEL_STATE_DIR": "/state"}

    @as_root
    @pytest.mark.parametrize("wrong", [{"table": "/\x1b[2J"}, {"name": "a\nb"}, {"roots": {"ZTUNNEL_IPC_DIR": "/\0"}}])
    def test_what_others_write_is_not_put_on_roots_screen(self, root: Path, wrong: dict[str, Any]) -> None:
        planted(root, called=f"{wrong.get('name', 't')}.dmz", uid=NOBODY.pw_uid, **wrong)
        assert places.find_all(dead_too=True) == []

    @as_root
    def test_a_file_of_another_user_in_it_is_not_read(self, root: Path) -> None:
        folder = planted(root, uid=NOBODY.pw_uid)
        assert [side.owner for side in places.find_all()] == [NOBODY.pw_uid]
        os.chown(folder / "lock", 0, 0)
        assert places.find_all() == []
        os.chown(folder / "running.json", 0, 0)
        assert places.find_all(dead_too=True) == []

    @as_root
    def test_only_root_sees_those_of_others(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        planted(root, uid=NOBODY.pw_uid)
        planted(root, called="mine.dmz", name="mine")
        assert [side.name for side in places.find_all()] == ["mine", "t"]
        for uid, names in ((NOBODY.pw_uid, ["t"]), (4711, [])):
            monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
            assert [side.name for side in places.find_all()] == names


@as_root
class TestRoot:
    @pytest.fixture
    def victim(self) -> Iterator[subprocess.Popen[bytes]]:
        """A process of root's, that a stranger would like to see dead."""
        sleeper = subprocess.Popen(["sleep", "60"])
        yield sleeper
        sleeper.kill()
        sleeper.wait()

    def test_down_ends_no_process_that_a_planted_record_names(
        self, root: Path, victim: subprocess.Popen[bytes]
    ) -> None:
        planted(root, uid=NOBODY.pw_uid, pid=victim.pid)
        done = ztunnel(root, "down", "t")
        assert done.returncode == 1
        assert "is another user's process: that one is left alone" in done.stderr
        assert "kill -9" not in done.stderr
        assert victim.poll() is None

    def test_the_control_is_ended(self, root: Path, victim: subprocess.Popen[bytes]) -> None:
        """The same record, where it is root's own."""
        planted(root, pid=victim.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            ztunnel(root, "down", "t", within_s=5)
        assert victim.wait(5) == -signal.SIGTERM

    @pytest.mark.parametrize("arguments", [["logs"], ["logs", "-t", "t", "device"]])
    def test_logs_are_read_with_the_eyes_of_their_owner(self, root: Path, arguments: list[str]) -> None:
        folder = planted(root, uid=NOBODY.pw_uid)
        (folder / "log").mkdir()
        secret = root / "secret"
        secret.write_text("root's secret\n")
        secret.chmod(0o600)
        (folder / "log/device.log").symlink_to(secret)
        done = ztunnel(root, *arguments)
        assert "root's secret" not in done.stdout + done.stderr
        secret.chmod(0o644)
        assert "root's secret" in ztunnel(root, *arguments).stdout

    def test_the_process_becomes_that_user_for_good(self, root: Path) -> None:
        planted(root, uid=NOBODY.pw_uid, roots={"ZTUNNEL_STATE_DIR": "/state"})
        script = """
import os
from tunnel.cli.pick import running_side
running_side("t", None)
print(os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"], os.environ["ZTUNNEL_STATE_DIR"])
try:
    os.setuid(0)
except PermissionError:
    print("no way back")
"""
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
        uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
        groups = os.getgrouplist(NOBODY.pw_name, gid)
        assert done.stdout.splitlines() == [
            f"{(uid, uid, uid)} {(gid, gid, gid)} {groups} {NOBODY.pw_dir} /state",
            "no way back",
        ], done.stderr

    def test_a_user_without_account_is_told(self, root: Path) -> None:
        planted(root, uid=4711)
        done = ztunnel(root, "status", "t")
        assert done.returncode == 1
        assert "uid 4711, who has no account on this machine" in done.stderr

    def test_ls_shows_them_and_asks_none(self, root: Path) -> None:
        planted(root, uid=NOBODY.pw_uid)
        done = ztunnel(root, "ls")
        head, row = done.stdout.splitlines()
        assert head.split() == ["TABLE", "SIDE", "STATE", "PID", "UPTIME", "FILE", "USER"]
        assert row.split()[:3] + row.split()[-2:] == ["t", "dmz", "running", "/t.yaml", "nobody"]
        (found,) = json.loads(ztunnel(root, "ls", "--json").stdout)
        assert (found["state"], found["user"]) == ("running", "nobody")

    def test_no_table_that_another_user_names_is_run(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "t.yaml").write_text("version: 1\n")
        planted(root, uid=NOBODY.pw_uid, table=str(tmp_path / "t.yaml"))
        for arguments in (["up"], ["up", "t"], ["check"], ["check", "t"]):
            done = ztunnel(root, *arguments, cwd="/")
            assert done.returncode == 2
            assert "t.yaml:" not in done.stderr
            assert "none is running" in done.stderr or "there is no file t" in done.stderr

    def test_up_in_a_folder_of_another_user_says_who_runs_it(self, root: Path) -> None:
        folder = planted(root, uid=NOBODY.pw_uid)
        with pytest.raises(LocalError, match=r"t \(side dmz, /t.yaml\) is run by the user nobody already: ") as caught:
            places.prepare(folder)
        assert "`ztunnel down t --as dmz` ends it, as root or as nobody" in str(caught.value)
        (folder / "lock").unlink()
        with pytest.raises(LocalError, match=f"belongs to another user, nobody: .* `rm -r {folder}` makes room"):
            places.prepare(folder)

    def test_systemctl_is_named_where_the_unit_runs_it(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = planted(root, uid=os.geteuid())
        running = places.read_record(folder)
        assert running is not None
        assert places._stopping(running) == "ztunnel down t --as dmz"
        cgroup = "0::/system.slice/system-ztunnel.slice/ztunnel@t.service\n"
        monkeypatch.setattr(Path, "read_text", lambda path: cgroup if path.name == "cgroup" else "")
        assert places._stopping(running) == "systemctl stop ztunnel@t"
        cgroup = "0::/system.slice/system-ztunnel.slice/ztunnel@the-file.service/sub\n"
        assert places.unit_of(running) == "ztunnel@the-file"
        cgroup = "0::/user.slice/ztunnel@\x1b[2J.service\n"
        assert places.unit_of(running) is None

    def test_roots_own_up_beside_them(self, root: Path) -> None:
        os.chmod(root, 0o1775)
        os.chown(root, 0, NOBODY.pw_gid)
        planted(root, uid=NOBODY.pw_uid)
        places.prepare(root / "mine.dmz")
        assert (root / "mine.dmz").stat().st_mode & 0o777 == 0o700

    def test_a_folder_of_root_is_not_used_by_others(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        places.prepare(root / "t.dmz")
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY.pw_uid)
        with pytest.raises(LocalError, match=f"belongs to another user, root: root removes it .`rm -r {root}/t.dmz`"):
            places.prepare(root / "t.dmz")


class NobodysRig(Rig):
    """A side whose `up` is run by nobody; every other command by root, who is told the runtime folder only. All by the
    same Python, as where ztunnel is installed."""

    def __init__(self, folder: Path, runtime: Path, python: Path) -> None:
        super().__init__(folder, runtime)
        self.python = python
        (folder / "state").mkdir()
        for path in (folder, *folder.rglob("*"), runtime):
            os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
        os.chown(runtime, 0, 0)
        os.chmod(runtime, 0o1777)

    def up(self, side: str = "dmz") -> None:
        done = subprocess.run(
            [self.python, "-m", "tunnel.cli", "up", self.table, "--as", side, "-d"],
            env=self.environment | {"HOME": "/", "ZTUNNEL_IPC_DIR": str(self.folder / "ipc")},
            cwd="/",
            user=NOBODY.pw_uid,
            group=NOBODY.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for name in ("ZTUNNEL_STATE_DIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
            self.environment.pop(name, None)

    def run(self, *arguments: object, within_s: float = 60, **other: Any) -> subprocess.CompletedProcess[str]:
        command = [self.python, "-m", "tunnel.cli", *map(str, arguments)]
        return subprocess.run(
            command, env=self.environment, cwd="/", capture_output=True, text=True, timeout=within_s, check=False
        )


@pytest.fixture
def python() -> Iterator[Path]:
    """A Python with our libraries that nobody, too, can run: this one may lie in root's home."""
    with tempfile.TemporaryDirectory(prefix="zt") as made:
        os.chmod(made, 0o755)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        for base in (Path(sys.executable).resolve(), Path("/usr/bin") / version):
            folder = Path(made) / base.parent.name
            site = folder / "lib" / version / "site-packages"
            site.mkdir(parents=True, exist_ok=True)
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
            (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
            (folder / "bin/python").unlink(missing_ok=True)
            (folder / "bin/python").symlink_to(base)
            command = [folder / "bin/python", "-c", "import tunnel.cli, zmq, pydantic"]
            try:
                subprocess.run(command, cwd=ROOT, user=NOBODY.pw_uid, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                continue
            yield folder / "bin/python"
            return
        pytest.skip("the user nobody can run no Python that has our libraries")


@as_root
def test_root_looks_after_a_side_of_another_user(python: Path, root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="zt") as made:
        os.chmod(made, 0o755)
        side = NobodysRig(Path(made), root, python)
        try:
            side.up()
            (running,) = places.find_all(root)
            pids = side.pids()
            assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids} == {NOBODY.pw_uid}
            now = json.loads(side.run("status", "--json").stdout)
            assert [process["name"] for process in now["processes"]] == ["device", "keeper"], now
            assert "device started side=dmz" in side.run("logs").stdout
            reloaded = side.run("reload")
            assert (reloaded.returncode, reloaded.stdout) == (0, "nothing changes\n"), reloaded.stderr
            side.write_table(more=side.more())
            reloaded = side.run("reload")
            assert (reloaded.returncode, reloaded.stdout) == (0, "route news added\n"), reloaded.stderr
            assert side.run("wait", "news", "--for", "local").returncode == 0
            probed = side.run("probe", "tasks")
            assert (probed.returncode, "link with plant" in probed.stdout) == (1, True), probed.stderr
            looked = json.loads(side.run("doctor", "--json").stdout)
            assert {one["what"]: one["state"] for one in looked}["table"] == "ok", looked
            assert side.run("spool", "ls").returncode == 0
            assert side.run("top", "--count", "1").returncode == 0
            assert side.run("restart", "device").returncode == 0
            twice = side.run("up", side.table, "--as", "dmz")
            assert twice.returncode == 1
            assert "is run by the user nobody already" in twice.stderr
            assert {path.owner() for path in running.folder.rglob("*")} == {"nobody"}, "root left nothing there"
            pids = side.pids()
            down = side.run("down", "demo")
            assert (down.returncode, down.stdout) == (0, "stopped: demo side dmz\n"), down.stderr
            until(lambda: all(map(ended, pids)), 10, "all are gone")
            with pytest.raises(NotRunningError):
                places.find("demo")
        finally:
            side.clean()
