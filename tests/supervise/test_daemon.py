"""The private supervisord with several processes: added, changed, removed, crashing, each without the others."""

from __future__ import annotations

import configparser
import json
import os
import sys
from pathlib import Path

import pytest

from tests.supervise.rig import Rig, ended
from tests.waiting import until
from tunnel.errors import LocalError, UsageError
from tunnel.limits import CRASH_LOOP
from tunnel.programs import Program
from tunnel.supervise import daemon
from tunnel.supervise.daemon import Supervisor, configuration
from tunnel.supervise.places import find_all


def sleeper(name: str, *words: str) -> Program:
    return Program(name, (sys.executable, "-c", "import time; time.sleep(600)", *words), stop_wait_s=2)


def device(side: Rig) -> Program:
    table = json.loads((side.runtime / "demo.dmz/programs.json").read_text())
    return Program(**{**table["device"], "argv": tuple(table["device"]["argv"])})


def test_the_configuration_names_every_program_and_no_path() -> None:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read_string(configuration([sleeper("a"), sleeper("b", "100% ; odd #")]))
    assert [s for s in parser.sections() if s.startswith("program:")] == ["program:a", "program:b"]
    assert parser["unix_http_server"]["file"] == "supervisor.sock"
    assert parser["unix_http_server"]["chmod"] == "0600"
    assert not [s for s in parser.sections() if "inet" in s]
    assert "odd" not in configuration([sleeper("b", "100% ; odd #")])
    alone = configuration([sleeper("b")]).partition("[program:b]")[2]
    assert alone == configuration([sleeper("a"), sleeper("b")]).partition("[program:b]")[2]


def test_a_program_that_differs_in_anything_has_another_fingerprint() -> None:
    programs = [
        sleeper("a"),
        sleeper("b"),
        sleeper("a", "x"),
        Program("a", sleeper("a").argv, {"X": "1"}, stop_wait_s=2),
        Program("a", sleeper("a").argv, stop_wait_s=3),
    ]
    assert len({p.fingerprint for p in programs}) == len(programs)
    assert sleeper("a").fingerprint == sleeper("a").fingerprint


def test_processes_come_change_and_go_without_touching_others(side: Rig) -> None:
    side.up()
    (running,) = find_all(side.runtime)
    supervisor = Supervisor(running)
    own = device(side)
    untouched = (side.pid(), side.pid("keeper"))
    assert supervisor.take_in([own]) == {"added": [], "changed": [], "removed": []}
    assert supervisor.take_in([own, sleeper("a"), sleeper("b")])["added"] == ["a", "b"]
    until(lambda: side.process("a")["state"] == side.process("b")["state"] == "RUNNING", 10, side.status)
    a, b = side.pid("a"), side.pid("b")
    assert supervisor.take_in([own, sleeper("a", "50% new"), sleeper("b")])["changed"] == ["a"]
    until(lambda: "50% new" in Path(f"/proc/{side.pid('a')}/cmdline").read_text(), 10, side.status)
    assert ended(a)
    assert supervisor.take_in([own, sleeper("b")])["removed"] == ["a"]
    assert [p["name"] for p in supervisor.processes()] == ["b", "device", "keeper"]
    assert side.pid("b") == b
    assert (side.pid(), side.pid("keeper")) == untouched


@pytest.mark.parametrize(
    ("argv", "how"),
    [
        ((sys.executable, "-c", "raise SystemExit(3)"), "exit status 3"),
        (("/no/such/program",), "exit status 127"),
        ((sys.executable, "-c", "import os; os.abort()"), "killed by a signal"),
    ],
)
def test_one_that_keeps_dying_is_told_and_its_siblings_run_on(side: Rig, argv: tuple[str, ...], how: str) -> None:
    side.up()
    (running,) = find_all(side.runtime)
    untouched = side.pid()
    Supervisor(running).take_in([device(side), Program("bad", argv)])
    until(lambda: any(p["crash_loop"] for p in side.status()["processes"]), 30, side.status)
    bad = side.process("bad")
    assert bad["last_exit"].startswith(how)
    assert bad["restarts"] >= CRASH_LOOP - 1
    assert f"process bad keeps dying ({bad['last_exit']})" in " ".join(side.status()["degraded"])
    assert side.pid() == untouched
    assert not side.process()["crash_loop"]


def test_a_start_that_fails_early_ends_up_d_with_its_last_words(side: Rig) -> None:
    folder = side.runtime / "demo.dmz"
    folder.mkdir(mode=0o700)
    (folder / "device.sock").write_text("not a socket")
    done = side.run("up", side.table, "--as", "dmz", "-d")
    assert done.returncode == 1
    assert "process device keeps dying" in done.stderr
    assert "The device's last words" in done.stderr
    (folder / "device.sock").unlink()
    until(lambda: side.status()["ready"], 40, side.status)


def test_a_broken_configuration_is_told_by_up(side: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunnel.config import read_plan
    from tunnel.supervise.up import detached

    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", str(side.runtime))
    monkeypatch.setattr(daemon, "_HEAD", daemon._HEAD + "[program:broken]\n")
    with pytest.raises(LocalError, match=r"ended by itself \(exit status 2\)[\s\S]*program:broken"):
        detached(read_plan(side.table, "dmz"), 10)


def test_restart_of_an_unknown_process(side: Rig) -> None:
    side.up()
    (running,) = find_all(side.runtime)
    with pytest.raises(UsageError, match="there is no process nonsense"):
        Supervisor(running).restart("nonsense")


def test_logs_are_bounded(side: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "PROCESS_LOG_BYTES", 20_000)
    side.up()
    (running,) = find_all(side.runtime)
    flood = "import sys\nwhile True: sys.stdout.write('x' * 999 + chr(10))"
    Supervisor(running).take_in([device(side), Program("flood", (sys.executable, "-c", flood))])
    log = running.folder / "log"
    until(lambda: (log / "flood.log.3").exists(), 20, lambda: os.listdir(log))
    Supervisor(running).take_in([device(side)])
    sizes = {file.name: file.stat().st_size for file in log.glob("flood.log*")}
    assert len(sizes) <= 4
    assert max(sizes.values()) < 200_000, sizes
