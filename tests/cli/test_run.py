"""The commands that run things, as a user meets them: real processes, exit codes, sentences."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.supervise.rig import ZTUNNEL, Rig, ended
from tests.waiting import until
from tunnel.cli.run import down
from tunnel.supervise.places import Running, find_all


def ready(side: Rig, name: str = "dmz") -> bool:
    return any(r.side == name for r in find_all(side.runtime)) and bool(side.status(name)["ready"])


class TestUpAndDown:
    def test_up_detached_returns_when_ready_and_down_leaves_nothing(self, side: Rig) -> None:
        done = side.run("up", side.table, "--as", "dmz", "-d")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("ready: demo side dmz: the local sockets of 1 routes are open")
        with socket.create_connection(("127.0.0.1", side.ports["tasks"]), timeout=5):
            pass
        pids = side.pids()
        assert len(pids) == 3
        down = side.run("down")
        assert (down.returncode, down.stdout) == (0, "stopped: demo side dmz\n")
        assert all(map(ended, pids))
        assert not list(side.runtime.glob("*/*.sock"))
        again = side.run("down")
        assert again.returncode == 3
        assert "no table is running here" in again.stderr

    @pytest.mark.parametrize("unit", [None, "ztunnel@the-file"])
    def test_down_says_that_systemd_starts_it_again(
        self, unit: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        side = Running(tmp_path, "t", "dmz", tmp_path / "t.yaml", os.getpid(), 1.0)

        def unit_of(running: Running) -> str | None:
            asked.append("unit")
            return unit

        monkeypatch.setattr("tunnel.cli.run.running_side", lambda *_: side)
        monkeypatch.setattr("tunnel.supervise.places.unit_of", unit_of)
        monkeypatch.setattr("tunnel.supervise.daemon.Supervisor.shut_down", lambda _: asked.append("end"))
        down()
        assert asked == ["unit", "end"], "the cgroup is gone afterwards"
        more = f"systemd starts it again in 3 s; `systemctl stop {unit}` keeps it down\n" if unit else ""
        assert capsys.readouterr().out == f"stopped: t side dmz\n{more}"

    def test_both_sides_on_one_machine_link_up(self, side: Rig) -> None:
        side.up("dmz")
        side.up("plant")
        for name in ("dmz", "plant"):
            waited = side.run("wait", "tasks", "--for", "link", "--as", name)
            assert (waited.returncode, waited.stderr) == (0, "")
            quiet = side.run("status", "-q", "--as", name)
            assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", ""), side.status(name)
        ambiguous = side.run("status")
        assert ambiguous.returncode == 2
        assert "say --as dmz or --as plant" in ambiguous.stderr
        listed = json.loads(side.run("ls", "--json").stdout)
        assert [(f["table"], f["side"], f["state"]) for f in listed] == [
            ("demo", "dmz", "ready"),
            ("demo", "plant", "ready"),
        ]
        assert side.run("down", "demo", "--as", "plant").returncode == 0
        until(lambda: side.run("status", "-q").returncode == 1, 30, "the link's end is noticed")

    def test_up_twice_is_refused_and_harms_nothing(self, running: Rig) -> None:
        pids = running.pids()
        for arguments in (["-d"], []):
            done = running.run("up", running.table, "--as", "dmz", *arguments)
            assert done.returncode == 1
            assert f"demo (side dmz, {running.table}) is up already, pid {pids[0]}" in done.stderr
            assert done.stderr.count("\n") == 1
        assert running.pids() == pids

    def test_two_at_the_same_moment_are_one(self, side: Rig) -> None:
        both = [side.start("up", side.table, "--as", "dmz", "-d") for _ in range(2)]
        codes = sorted(process.wait(60) for process in both)
        said = [process.communicate()[0] for process in both]
        assert codes == [0, 1], said
        assert len(find_all(side.runtime)) == 1

    def test_the_same_name_from_another_path_is_refused(self, running: Rig) -> None:
        other = running.folder / "other.yaml"
        running.write_table(other)
        done = running.run("up", other, "--as", "dmz", "-d")
        assert done.returncode == 2
        assert f"a table named demo runs here already as side dmz, from {running.table}" in done.stderr

    def test_a_wrong_table_starts_nothing(self, side: Rig) -> None:
        side.write_table(more="  broken:\n    pattern: reqrap\n")
        done = side.run("up", side.table, "--as", "dmz", "-d")
        assert done.returncode == 2
        assert done.stderr.startswith(f"{side.table}:1")
        assert "routes.broken.pattern: 'reqrap' is no pattern" in done.stderr
        assert not (side.runtime / "demo.dmz").exists()

    def test_no_such_table(self, side: Rig) -> None:
        done = side.run("up", "nothing")
        assert done.returncode == 2
        assert "there is no file nothing" in done.stderr
        assert "which table?" in side.run("up").stderr

    def test_an_address_in_use_is_told_tried_again_and_taken(self, side: Rig) -> None:
        with socket.create_server(("127.0.0.1", side.ports["tasks"])):
            done = side.run("up", side.table, "--as", "dmz", "-d", "--timeout", "6")
            assert done.returncode == 1
            assert "started, but not ready: route tasks is down" in done.stderr
            assert f"tcp://127.0.0.1:{side.ports['tasks']}" in done.stderr
            assert side.run("wait", "tasks", "--for", "local", "--timeout", "0.2").returncode == 1
        waited = side.run("wait", "tasks", "--for", "local", "--timeout", "30")
        assert (waited.returncode, waited.stderr) == (0, "")

    def test_a_runtime_folder_that_cannot_be_made(self, side: Rig) -> None:
        side.environment["ZTUNNEL_RUNTIME_DIR"] = "/proc/nowhere"
        done = side.run("up", side.table, "--as", "dmz", "-d")
        assert done.returncode == 1
        assert "the runtime folder /proc/nowhere/demo.dmz cannot be used" in done.stderr

    def test_a_name_stands_for_a_running_table(self, side: Rig) -> None:
        side.up()
        assert side.run("status", "demo").returncode == 0
        assert side.run("status", side.table).returncode == 0
        assert side.run("status", "demo.yaml").returncode == 0
        assert side.run("status", "other").returncode == 3
        side.table.unlink()  # what runs is found and ended without its table
        assert side.run("status", side.table).returncode == 0
        assert side.run("down", "demo").returncode == 0


class TestForeground:
    def test_logs_ready_and_an_orderly_end(self, side: Rig) -> None:
        up = side.start("up", side.table, "--as", "dmz")
        assert up.stdout is not None
        lines = []
        for line in up.stdout:
            lines.append(line)
            if line.startswith("ready: demo side dmz"):
                break
        assert any(" info  device started side=dmz" in line for line in lines)
        pids = side.pids()
        up.send_signal(signal.SIGINT)
        rest, _ = up.communicate(timeout=30)
        assert up.returncode == 0
        assert rest.startswith("stopping")
        assert " info  device stopping side=dmz" in rest
        assert rest.endswith("stopped.\n")
        assert all(map(ended, pids))

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_other_signals_end_it_in_order_too(self, side: Rig, number: signal.Signals) -> None:
        up = side.start("up", side.table, "--as", "dmz")
        until(lambda: ready(side), 20, "ready")
        up.send_signal(number)
        assert up.wait(30) == 0
        assert not find_all(side.runtime)
        up.communicate()

    def test_ctrl_c_of_a_terminal_reaches_the_device_only_in_order(self, side: Rig) -> None:
        """The whole foreground group gets SIGINT there; the device must not take it as a kill of its own."""
        up = side.start("up", side.table, "--as", "dmz", process_group=0)
        until(lambda: ready(side), 20, "ready")
        pids = side.pids()
        assert all(os.getpgid(pid) != up.pid for pid in pids)
        os.killpg(up.pid, signal.SIGINT)
        assert up.wait(30) == 0
        up.communicate()

    def test_down_from_elsewhere_is_an_orderly_end(self, side: Rig) -> None:
        up = side.start("up", side.table, "--as", "dmz")
        until(lambda: ready(side), 20, "ready")
        assert side.run("down").returncode == 0
        said, _ = up.communicate(timeout=30)
        assert up.returncode == 0
        assert said.endswith("stopped.\n")

    def test_a_killed_supervisor_is_told(self, side: Rig) -> None:
        up = side.start("up", side.table, "--as", "dmz")
        until(lambda: ready(side), 20, "ready")
        os.kill(side.status()["pid"], signal.SIGKILL)
        said, _ = up.communicate(timeout=30)
        assert up.returncode == 1
        assert "ended by itself (killed by signal 9)" in said

    def test_why_it_is_not_ready_yet_is_said(self, side: Rig) -> None:
        with socket.create_server(("127.0.0.1", side.ports["tasks"])):
            up = side.start("up", side.table, "--as", "dmz")
            assert up.stdout is not None
            assert any(line.startswith("not ready yet: route tasks is down") for line in up.stdout)
        assert any(line.startswith("ready: demo side dmz") for line in up.stdout)
        up.terminate()
        up.communicate()
        assert up.returncode == 0

    def test_systemd_hears_ready_status_watchdog_and_stopping(self, side: Rig, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            address = f"\0ztunnel-test-{os.getpid()}-{time.monotonic_ns()}"
            systemd.bind(address)
            systemd.settimeout(20)
            notify = {"NOTIFY_SOCKET": "@" + address[1:], "WATCHDOG_USEC": "1000000"}
            up = side.start("up", side.table, "--as", "dmz", env=notify)
            heard: list[str] = []
            while heard.count("WATCHDOG=1") < 3 or "READY=1" not in heard:
                heard.append(systemd.recv(4096).decode())
            assert "STATUS=demo side dmz: 0 of 1 routes ready, link to plant down" in heard
            os.kill(side.pid(), signal.SIGSTOP)  # a device that hangs is not vouched for
            until(lambda: side.status()["error"], 10, "it hangs")
            _hear(systemd, 0.0)
            assert "WATCHDOG=1" not in _hear(systemd, 2.5)
            os.kill(side.pid(), signal.SIGCONT)
            up.terminate()
            systemd.settimeout(20)
            while systemd.recv(4096) != b"STOPPING=1":
                pass
            assert up.wait(30) == 0
            up.communicate()

    def test_a_detached_side_outlives_its_terminal(self, side: Rig) -> None:
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(side.folder)
            os.execve(ZTUNNEL[0], [*ZTUNNEL, "up", str(side.table), "--as", "dmz", "-d"], side.environment)
        until(lambda: ready(side), 30, "ready")
        pids = side.pids()
        os.close(terminal)
        os.waitpid(pid, 0)
        assert ready(side)
        assert side.pids() == pids
        assert all(os.getsid(p) != pid for p in pids)


class TestStatus:
    def test_the_shape(self, running: Rig) -> None:
        now = json.loads(running.run("status", "--json").stdout)
        assert now["side"] == "dmz"
        for process in now["processes"]:
            assert {"name", "state", "pid", "uptime_s", "restarts", "crash_loop", "next_try_s", "last_exit"} <= set(
                process
            )
        assert [p["name"] for p in now["processes"]] == ["device", "keeper"]
        (link,) = now["links"]
        assert {"peer", "state", "rtt_ms", "resumes", "redials"} <= set(link)
        route = now["routes"]["tasks"]
        assert {"pattern", "end", "state", "reason", "endpoints", "dropped", "unacked_bytes", "window_bytes"} <= set(
            route
        )
        assert {"messages_in", "bytes_in", "messages_out", "bytes_out"} <= set(route)
        assert {"address", "state", "peers", "reason"} <= set(route["endpoints"][0])
        assert (route["state"], link["state"]) == ("waiting", "down")
        assert now["error"] is None
        assert "link to plant is down" in " ".join(now["degraded"])

    def test_for_people_it_is_a_plain_table(self, running: Rig) -> None:
        shown = running.run("status")
        assert shown.returncode == 0
        assert "\x1b" not in shown.stdout
        words = [line.split() for line in shown.stdout.splitlines()]
        assert next(w for w in words if w[:2] == ["tasks", "pipeline"])[:4] == ["tasks", "pipeline", "from", "waiting"]
        assert "! route tasks is waiting: no link with plant." in shown.stdout
        assert running.run("status", "-q").returncode == 1

    def test_a_device_that_hangs_does_not_hold_up_the_answer(self, side: Rig) -> None:
        side.up()
        device = side.pid()
        os.kill(device, signal.SIGSTOP)
        try:
            began = time.monotonic()
            done = side.run("status", "--json")
            took_s = time.monotonic() - began
            assert done.returncode == 3
            now = json.loads(done.stdout)
            assert now["routes"] == {}
            assert "did not answer within" in now["error"]
            assert [(p["name"], p["state"]) for p in now["processes"]][:1] == [("device", "RUNNING")]
            assert took_s < 3.0, "1 s to answer, the rest for a Python to start on a busy machine"
            assert side.run("status", "-q").returncode == 3
        finally:
            os.kill(device, signal.SIGCONT)
        until(lambda: side.run("status").returncode == 0, 10, "it answers again")

    def test_a_supervisor_that_hangs_does_not_hold_up_the_answer_either(self, side: Rig) -> None:
        side.up()
        supervisord = side.status()["pid"]
        os.kill(supervisord, signal.SIGSTOP)
        try:
            began = time.monotonic()
            done = side.run("status", "--json")
            took_s = time.monotonic() - began
            now = json.loads(done.stdout)
            assert done.returncode == 3
            assert list(now["routes"]) == ["tasks"], "the device answers for itself"
            assert (now["processes"], "does not answer" in now["error"]) == ([], True)
            assert took_s < 3.0
        finally:
            os.kill(supervisord, signal.SIGCONT)

    def test_ls(self, side: Rig) -> None:
        assert side.run("ls").stdout == "no table is running here for this user.\n"
        assert side.run("ls", "--json").stdout == "[]\n"
        side.up()
        head, row = side.run("ls").stdout.splitlines()
        assert head.split() == ["TABLE", "SIDE", "STATE", "PID", "UPTIME", "FILE"]
        assert row.split()[:3] == ["demo", "dmz", "degraded"]
        (found,) = json.loads(side.run("ls", "--json").stdout)
        assert found["file"] == str(side.table)

    def test_top_without_a_terminal_prints_each_look(self, running: Rig) -> None:
        done = running.run("top", "--count", "2", "--interval", "0.1")
        assert done.returncode == 0
        assert done.stdout.count("demo side dmz:") == 2
        assert "0/s" in done.stdout


class TestParts:
    def test_restart(self, side: Rig) -> None:
        side.up()
        device, keeper = side.pid(), side.pid("keeper")
        done = side.run("restart", "device")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("ready: ")
        assert side.pid() != device
        assert side.pid("keeper") == keeper
        assert side.process()["restarts"] == 0, "a restart that was asked for is no crash"
        wrong = side.run("restart", "nonsense")
        assert wrong.returncode == 2
        assert "there is no process nonsense" in wrong.stderr
        assert "there are device, keeper" in wrong.stderr

    def test_logs(self, side: Rig) -> None:
        side.up()
        assert " info  device started side=dmz" in side.run("logs").stdout
        assert " info  device started side=dmz" in side.run("logs", "device", "-t", "demo").stdout
        assert "spawned: 'device'" in side.run("logs", "supervisord").stdout
        assert side.run("logs", "-n", "0").stdout == ""
        wrong = side.run("logs", "nonsense")
        assert wrong.returncode == 2
        assert "no log of nonsense" in wrong.stderr
        side.run("down")
        assert " info  device stopping" in side.run("logs").stdout, "the last words are read when it is down"

    def test_logs_follow(self, side: Rig) -> None:
        side.up()
        follow = side.start("logs", "-f", "-n", "0")
        assert follow.stdout is not None
        until(lambda: "log/device.log" in str(_open_files(follow.pid)), 10, "it follows")
        assert side.run("restart", "device").returncode == 0
        assert any(" info  device stopping" in line for line in follow.stdout)
        assert any(" info  device started" in line for line in follow.stdout)
        follow.send_signal(signal.SIGINT)
        assert follow.wait(10) == 0
        follow.communicate()

    def test_reload_touches_what_changed(self, side: Rig) -> None:
        side.up()
        pids = side.pids()
        assert side.run("reload").stdout == "nothing changes\n"
        side.write_table(more=side.more())
        dry = side.run("reload", "--dry-run")
        assert (dry.returncode, dry.stdout) == (0, "would change: route news added\n")
        assert list(side.status()["routes"]) == ["tasks"]
        done = side.run("reload", "--json")
        assert json.loads(done.stdout)["changes"] == ["route news added"]
        assert sorted(side.status()["routes"]) == ["news", "tasks"]
        assert side.pids() == pids

    def test_reload_of_a_wrong_table_changes_nothing(self, side: Rig) -> None:
        side.up()
        side.table.write_text("version: 1\nnonsense: true\n")
        done = side.run("reload")
        assert done.returncode == 2
        assert "demo.yaml:2:1" in done.stderr
        assert list(side.status()["routes"]) == ["tasks"]

    def test_wait(self, running: Rig) -> None:
        assert running.run("wait", "tasks", "--for", "local").returncode == 0
        late = running.run("wait", "tasks", "--for", "link", "--timeout", "0.3")
        assert late.returncode == 1
        assert "route tasks after 0.3 s: it is waiting: no link with plant." in late.stderr
        wrong = running.run("wait", "nonsense")
        assert wrong.returncode == 2
        assert "there is no route nonsense at side dmz; there are tasks" in wrong.stderr

    def test_wait_for_a_service_needs_one(self, side: Rig) -> None:
        import zmq

        side.up("dmz")
        side.up("plant")
        for name in ("dmz", "plant"):
            assert side.run("wait", "tasks", "--for", "link", "--as", name).returncode == 0
            late = side.run("wait", "tasks", "--for", "service", "--timeout", "0.3", "--as", name)
            assert late.returncode == 1, late.stdout
            assert "no application is connected that serves it" in late.stderr
        with zmq.Context() as context, context.socket(zmq.PULL) as worker:
            worker.connect(f"tcp://127.0.0.1:{side.ports['tasks_out']}")
            for name in ("dmz", "plant"):
                done = side.run("wait", "tasks", "--for", "service", "--as", name)
                assert (done.returncode, done.stderr) == (0, "")


class TestDoctor:
    def test_it_finds_this_machine_fit_and_the_peer_away(self, side: Rig) -> None:
        done = side.run("doctor", side.table, "--as", "plant", "--json")
        found = {f["what"]: f for f in json.loads(done.stdout)}
        assert found["libzmq"]["state"] == "ok"
        assert "CURVE" in found["libzmq"]["detail"]
        assert found["table"]["state"] == "ok"
        assert found["runtime folder"]["state"] == "ok"
        assert found["dial dmz"]["state"] == "warn"
        assert "is the other side up" in found["dial dmz"]["remedy"]
        side.up("dmz")
        now = {f["what"]: f for f in json.loads(side.run("doctor", side.table, "--as", "plant", "--json").stdout)}
        assert now["dial dmz"]["state"] == "ok"

    def test_what_would_keep_it_from_working_is_exit_1(self, side: Rig) -> None:
        (side.folder / "keys/plant.key_secret").chmod(0o644)
        done = side.run("doctor", side.table, "--as", "plant")
        assert done.returncode == 1
        assert "chmod 600" in done.stdout
        side.environment["ZTUNNEL_RUNTIME_DIR"] = "/dev/null/nowhere"
        done = side.run("doctor", "--json")
        assert done.returncode == 1
        assert {f["what"]: f["state"] for f in json.loads(done.stdout)}["runtime folder"] == "bad"

    def test_it_makes_nothing(self, side: Rig) -> None:
        side.run("doctor", side.table, "--as", "dmz")
        assert not list(side.runtime.iterdir())


def _hear(systemd: socket.socket, seconds: float) -> list[str]:
    """Everything that is said within so many seconds."""
    heard, deadline = [], time.monotonic() + seconds
    while True:
        systemd.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            heard.append(systemd.recv(4096).decode())
        except TimeoutError:
            return heard


def _open_files(pid: int) -> list[str]:
    return [os.readlink(f) for f in Path(f"/proc/{pid}/fd").iterdir() if f.is_symlink()]
