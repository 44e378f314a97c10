"""`ztunnel tap` as a user meets it: how a message looks, when it ends, and what it leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.supervise.rig import Rig
from tests.waiting import until
from tunnel.cli.tap import line_of, readable


@pytest.mark.parametrize(
    ("first", "size", "shown"),
    [
        (b"", 0, ""),
        (b"hello", 5, '"hello"'),
        (b"hello", 9, '"hello"...'),
        (b"", 9, "..."),
        (b'say "so"\n', 9, r'"say \"so\"\n"'),
        ("grün".encode(), 5, '"grün"'),
        (b"gr\xc3", 5, '"gr"...'),
        (b"gr\xc3", 3, "x6772c3"),
        (b"\xe2\x82", 3, "xe282..."),
        (b"\x00\x01\xff", 3, "x0001ff"),
        (b"\x00\x01\xff", 10, "x0001ff..."),
        (b"\x1b[2Jhello", 9, "x1b5b324a68656c6c6f"),
        ("a\u202eb".encode(), 5, "x61e280ae62"),
    ],
)
def test_frames_are_readable_and_harm_no_terminal(first: bytes, size: int, shown: str) -> None:
    assert readable(first, size) == shown


def message(**changed: Any) -> dict[str, Any]:
    return {
        "time": 1_700_000_000.25,
        "direction": "in",
        "peer": "plant",
        "size": 9,
        "frame_count": 2,
        "frames": [[4, b"tick".hex()], [5, "0001020304"]],
        "whole": True,
        "certain": True,
    } | changed


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, '22:13:20.250Z in  for plant  2 frames 9 B  [4] "tick"  [5] x0001020304'),
        (
            {"direction": "out", "frame_count": 1, "frames": [[0, ""]], "size": 0},
            "22:13:20.250Z out from plant  1 frame 0 B  [0]",
        ),
        (
            {"frame_count": 20, "frames": [[1, "61"]], "size": 20},
            '22:13:20.250Z in  for plant  20 frames 20 B  [1] "a"  and 19 more frames',
        ),
        (
            {"frame_count": 3, "frames": [[1, "61"]], "size": 3, "whole": False},
            '22:13:20.250Z in  for plant  3+ frames 3+ B  [1] "a"  and 2+ more frames',
        ),
    ],
)
def test_lines(changed: dict[str, Any], line: str) -> None:
    assert line_of(message(**changed)) == line


def test_a_line_says_when_it_is_in_doubt() -> None:
    assert line_of(message(certain=False)).endswith("(or one of its batch: not all were handed on)")


@pytest.fixture(scope="module")
def push_pull(running: Rig) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """Both sides up and linked, with an application at each end of `tasks`."""
    running.up("plant")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    for socket, port in ((push, "tasks"), (pull, "tasks_out")):
        socket.setsockopt(zmq.SNDTIMEO, 15_000)
        socket.setsockopt(zmq.RCVTIMEO, 15_000)
        socket.connect(f"tcp://127.0.0.1:{running.ports[port]}")
    waited = running.run("wait", "tasks", "--for", "service", "--as", "dmz")
    assert waited.returncode == 0, waited.stderr
    yield push, pull
    context.destroy(linger=0)


def tapping(running: Rig, *arguments: str) -> subprocess.Popen[str]:
    """A `ztunnel tap` that looks already (stderr is in its stdout)."""
    process = running.start("tap", "tasks", *arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == "ztunnel: looking at route tasks; Ctrl-C ends it.\n"
    return process


def closed_taps(running: Rig) -> int:
    """How often the dmz's device has said so."""
    return (next(running.runtime.glob("*.dmz")) / "log" / "device.log").read_text().count("tap closed route=tasks")


def test_both_halves_show_what_crosses(running: Rig, push_pull: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]) -> None:
    push, pull = push_pull
    closed = closed_taps(running)
    near = tapping(running, "--as", "dmz", "--count", "2")
    far = tapping(running, "--as", "plant", "--count", "2", "--bytes", "3", "--json")
    for task in ([b"task", b"\x00\x01"], [b"another task"]):
        push.send_multipart(task)
        assert pull.recv_multipart() == task
    lines = near.communicate(timeout=30)[0].splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        'in  for plant  2 frames 6 B  [4] "task"  [2] x0001',
        'in  for plant  1 frame 12 B  [12] "another task"',
    ]
    told = [json.loads(line) for line in far.communicate(timeout=30)[0].splitlines()]
    assert [(one["direction"], one["peer"], one["frames"]) for one in told] == [
        ("out", "dmz", [{"size": 4, "hex": b"tas".hex()}, {"size": 2, "hex": "0001"}]),
        ("out", "dmz", [{"size": 12, "hex": b"ano".hex()}]),
    ]
    assert (near.returncode, far.returncode) == (0, 0)
    until(lambda: closed_taps(running) > closed, 2, "it took its tap off")


def test_it_says_how_much_it_left_out(running: Rig, push_pull: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]) -> None:
    push, pull = push_pull
    process = tapping(running, "--as", "dmz", "--json")
    for number in range(5000):
        push.send(b"%d" % number)
    for number in range(5000):
        assert pull.recv() == b"%d" % number
    assert process.stdout is not None
    shown = left_out = 0
    while shown + left_out < 5000:
        told = json.loads(process.stdout.readline())
        shown += "frames" in told
        left_out += told.get("left_out", {"in": 0})["in"]
    assert shown + left_out == 5000
    assert left_out > 1000
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_a_reader_that_went_away_ends_it(running: Rig, push_pull: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]) -> None:
    push, pull = push_pull
    process = tapping(running, "--as", "dmz")
    assert process.stdout is not None
    process.stdout.close()
    push.send(b"x")
    assert pull.recv() == b"x"
    assert process.wait(20) == 1


def test_what_cannot_be_looked_at(side: Rig) -> None:
    done = side.run("tap", "tasks")
    assert (done.returncode, done.stdout) == (3, "")
    side.up()
    done = side.run("tap", "nope")
    assert (done.returncode, done.stderr) == (2, "ztunnel: there is no route nope here.\n")
    assert side.run("tap", "tasks", "--bytes", "5000").returncode == 2
