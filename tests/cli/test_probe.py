"""`ztunnel probe` as a user meets it: exit codes, last line, JSON (the steps: test_steps.py, interop/test_probe.py)."""

from __future__ import annotations

import json

import zmq

from tests.supervise.rig import Rig
from tests.waiting import until


def test_exit_codes_and_the_last_line(side: Rig) -> None:
    assert side.run("probe", "tasks").returncode == 3
    side.up("dmz")
    done = side.run("probe", "tasks")
    assert done.returncode == 1
    assert "NOT OK" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("route tasks: no message can cross now")
    done = side.run("probe", "nope")
    assert (done.returncode, done.stderr) == (2, "ztunnel: there is no route nope here.\n")
    side.up("plant")
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        push.connect(f"tcp://127.0.0.1:{side.ports['tasks']}")
        pull.connect(f"tcp://127.0.0.1:{side.ports['tasks_out']}")
        until(lambda: side.run("probe", "tasks", "--as", "plant").returncode == 0, 30, "all is well")
        done = side.run("probe", "tasks", "--as", "plant")
        assert done.stdout.splitlines()[-1] == "route tasks: a message can cross now."
        told = json.loads(side.run("probe", "tasks", "--as", "dmz", "--json").stdout)
    assert (told["route"], told["side"], told["ok"]) == ("tasks", "dmz", True)
    assert [step["ok"] for step in told["steps"]] == [True] * len(told["steps"])
    assert told["steps"][0].keys() == {"step", "ok", "found", "todo"}
