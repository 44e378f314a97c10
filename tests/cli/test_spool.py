"""`ztunnel spool` as a user meets it, and what `status` says of a spooled route."""

from __future__ import annotations

import json
import socket

import zmq

from tests.supervise.rig import Rig
from tests.waiting import until


def test_look_drop_and_flush(side: Rig) -> None:
    port = side.ports["more"]
    side.write_table(
        more=f"""\
  kept:
    pattern: pipeline
    delivery: spooled
    from: dmz bind tcp://127.0.0.1:{port}
    to: plant bind tcp://127.0.0.1:1
"""
    )
    assert side.run("spool", "ls").returncode == 3
    side.up("dmz")
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.connect(f"tcp://127.0.0.1:{port}")
        for number in range(3):
            push.send_multipart([b"task", b"%d" % number])
            until(lambda n=number: spool(side)["messages"] == n + 1, 10, lambda: spool(side))
    done = side.run("spool", "ls")
    head, line = done.stdout.splitlines()
    assert head.split() == ["ROUTE", "FOR", "STATE", "ROWS", "MESSAGES", "BYTES", "OF", "OLDEST", "WHY"]
    assert line.split()[:5] == ["kept", "plant", "ok", "3", "3"]
    assert json.loads(side.run("spool", "ls", "--json").stdout)["spools"][0]["rows"] == 3
    rows = json.loads(side.run("spool", "ls", "kept", "--json").stdout)["rows"]
    assert [row["messages"] for row in rows] == [1, 1, 1]
    assert len(side.run("spool", "ls", "kept").stdout.splitlines()) == 4
    done = side.run("spool", "show", "kept", rows[1]["number"])
    assert done.stdout.splitlines()[1] == '  [4] "task"  [1] "1"'
    assert side.run("spool", "drop", "kept").returncode == 2
    assert side.run("spool", "drop", "kept", "--all", "--older-than", "soon").returncode == 2
    assert side.run("spool", "drop", "kept", rows[1]["number"]).stdout == "1 messages dropped.\n"
    assert side.run("spool", "drop", "kept", "--all", "--older-than", "1h").stdout == "0 messages dropped.\n"
    assert side.run("spool", "flush", "kept").stdout == f"On disk through row {rows[2]['number']}.\n"
    assert side.run("spool", "ls", "tasks").returncode == 2
    assert spool(side)["rows"] == 2


def spool(side: Rig) -> dict[str, int]:
    return dict(side.status()["routes"]["kept"]["spools"]["plant"])


def test_a_bridge_that_spools_is_asked_itself(side: Rig) -> None:
    port = side.ports["more"]
    side.write_table(
        more=f"""\
bridges:
  scales:
    side: dmz
    kind: tcp-server
    listen: tcp://127.0.0.1:{port}
    accept: spooled
    ack: "ok\\n"
    zmq: DEALER connect ipc://nobody-answers
"""
    )
    side.up("dmz")
    with socket.create_connection(("127.0.0.1", port)) as device:
        device.sendall(b"12.5 kg\n13 kg\n")
        answers = device.makefile("rb")
        assert [answers.readline(), answers.readline()] == [b"ok\n", b"ok\n"]
    (told,) = json.loads(side.run("spool", "ls", "--json").stdout)["spools"]
    assert (told["route"], told["rows"], told["state"]) == ("bridge-scales", 2, "ok")
    rows = json.loads(side.run("spool", "ls", "bridge-scales", "--json").stdout)["rows"]
    shown = side.run("spool", "show", "bridge-scales", rows[0]["number"]).stdout
    assert shown.splitlines()[1] == '  [7] "12.5 kg"'
    assert side.run("spool", "drop", "bridge-scales", "--all").stdout == "2 messages dropped.\n"
    assert json.loads(side.run("spool", "ls", "bridge-scales", "--json").stdout)["rows"] == []
    assert side.run("spool", "ls", "bridge-scale").returncode == 2
