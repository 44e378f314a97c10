"""What a status means: degraded or not, exit codes, rates, stages; on answers made up here."""

from __future__ import annotations

from typing import Any

import pytest

from tunnel.cli.show import amount, duration, print_status
from tunnel.supervise.stages import missing_of
from tunnel.supervise.status import Rates, closed, degraded, exit_code, silent
from tunnel.supervise.up import is_ready, summary


def process(name: str = "device", state: str = "RUNNING", **other: Any) -> dict[str, Any]:
    defaults = {"pid": 7, "uptime_s": 3, "restarts": 0, "crash_loop": False, "next_try_s": None, "last_exit": None}
    return {"name": name, "state": state, **defaults, **other}


def route(state: str = "ready", **other: Any) -> dict[str, Any]:
    defaults = {
        "pattern": "pipeline",
        "end": "from",
        "reason": "",
        "dropped": {},
        "unacked_bytes": 0,
        "window_bytes": 4096,
    }
    counts = {"messages_in": 0, "bytes_in": 0, "messages_out": 0, "bytes_out": 0, "remote_applications": 0}
    endpoint = {"address": "tcp://127.0.0.1:5555", "state": "bound", "peers": 0, "reason": ""}
    return {"state": state, **defaults, **counts, "endpoints": [endpoint], **other}


def status(**other: Any) -> dict[str, Any]:
    defaults = {"table": "demo", "file": "/t/demo.yaml", "side": "dmz", "ready": True, "error": None}
    port = {
        "address": "tcp://*:9440",
        "state": "listening",
        "reason": "",
        "connections": 2,
        "refused": {"key": 3, "address": 0},
    }
    link = {"peer": "plant", "state": "up", "reason": "", "rtt_ms": 1.25, "resumes": 0, "redials": 0}
    made = {
        **defaults,
        "processes": [process(), process("keeper")],
        "links": [link],
        "ports": [port],
        "carriers": [],
        "bridges": [],
        "routes": {"tasks": route()},
        **other,
    }
    made["degraded"] = degraded(made)
    return made


def test_all_is_well() -> None:
    now = status()
    assert now["degraded"] == []
    assert is_ready(now)
    assert exit_code(now, strict=True) == 0
    assert summary(now) == "demo side dmz: 1 of 1 routes ready, link to plant up"


LINK_DOWN = {
    "peer": "plant",
    "state": "down",
    "reason": "refused: no such key.",
    "rtt_ms": None,
    "resumes": 0,
    "redials": 4,
}
PORT_SHUT = {
    "address": "tcp://*:9440",
    "state": "retrying",
    "reason": "address in use",
    "connections": 0,
    "refused": {},
}
CRASHING = process(state="EXITED", crash_loop=True, last_exit="exit status 2", next_try_s=3.6)


@pytest.mark.parametrize(
    ("change", "sentence", "codes"),
    [
        ({"links": [LINK_DOWN]}, "link to plant is down: refused: no such key.", (0, 1)),
        ({"ports": [PORT_SHUT]}, "link port tcp://*:9440 is not open: address in use.", (0, 1)),
        ({"routes": {"tasks": route("waiting", reason="no link")}}, "route tasks is waiting: no link.", (0, 1)),
        ({"routes": {"tasks": route("refused")}}, "route tasks is refused.", (0, 1)),
        ({"processes": [process(), process("keeper", "EXITED")]}, "process keeper is EXITED.", (0, 1)),
        ({"processes": [process(state="STOPPED")]}, "process device is STOPPED.", (1, 1)),
        ({"processes": [CRASHING]}, "process device keeps dying (exit status 2), next try in 4 s.", (1, 1)),
        ({"error": "it did not answer."}, "it did not answer.", (3, 3)),
        ({"error": "it is not running.", "processes": [CRASHING]}, "it is not running.", (1, 1)),
    ],
)
def test_what_is_not_well_is_said_and_has_its_exit_code(
    change: dict[str, Any], sentence: str, codes: tuple[int, int]
) -> None:
    now = status(**change)
    assert sentence in now["degraded"]
    assert (exit_code(now, strict=False), exit_code(now, strict=True)) == codes


@pytest.mark.parametrize(
    ("kind", "state", "ready", "well"),
    [
        ("tcp-server", "listening", True, True),
        ("tcp-server", "retrying", False, False),
        ("tcp-server", "silent", False, False),
        ("tcp-client", "retrying", True, False),  # its server may come later
        ("tcp-client", "idle", True, True),
    ],
)
def test_a_bridge_that_should_listen_and_does_not(kind: str, state: str, ready: bool, well: bool) -> None:
    now = status(bridges=[{"name": "old", "kind": kind, "state": state, "reason": "in use."}])
    assert is_ready(now) is ready
    assert closed(now) == ([] if ready else [f"bridge old is {state}: in use."])
    assert now["degraded"] == ([] if well else [f"bridge old is {state}: in use."])


def test_a_keeper_in_its_first_second_is_no_trouble() -> None:
    now = status(processes=[process(), process("keeper", "STARTING")])
    assert now["degraded"] == []
    assert is_ready(now)
    assert not is_ready(status(processes=[process(state="STARTING")]))


def test_only_what_is_not_open_keeps_up_from_being_ready() -> None:
    assert closed(status(routes={"tasks": route("waiting", reason="no link")})) == []
    assert closed(status(routes={"tasks": route("down", reason="in use")}, ports=[PORT_SHUT])) == [
        "route tasks is down: in use.",
        "link port tcp://*:9440 is not open: address in use.",
    ]


def test_rates_are_between_two_looks_and_never_negative() -> None:
    rates = Rates()
    assert rates.of(status(), 10.0) == {"tasks": {"in": 0.0, "out": 0.0}}
    busy = status(routes={"tasks": route(messages_in=100, messages_out=50), "new": route(messages_in=9)})
    assert rates.of(busy, 12.0) == {"tasks": {"in": 50.0, "out": 25.0}, "new": {"in": 0.0, "out": 0.0}}
    assert rates.of(status(), 13.0) == {"tasks": {"in": 0.0, "out": 0.0}}, "a device that began anew"


PEER = [{"address": "tcp://127.0.0.1:5555", "state": "connected", "peers": 1, "reason": ""}]


@pytest.mark.parametrize(
    ("made", "reached"),
    [
        (route("down"), []),
        (route("waiting"), ["local"]),
        (route("refused"), ["local"]),
        (route("ready"), ["local", "link"]),
        (route("ready", endpoints=PEER), ["local", "link"]),
        (route("ready", remote_applications=1), ["local", "link", "service"]),
        (route("ready", end="to", remote_applications=1), ["local", "link"]),
        (route("ready", end="to", endpoints=PEER), ["local", "link", "service"]),
        (route("ready", pattern="pubsub", endpoints=PEER), ["local", "link", "service"]),
        (route("ready", pattern="pubsub", end="to", remote_applications=1), ["local", "link", "service"]),
        (route("ready", pattern="pair", end="to", remote_applications=1), ["local", "link", "service"]),
        (route("ready", pattern="pair", end="from", endpoints=PEER), ["local", "link"]),
    ],
)
def test_stages(made: dict[str, Any], reached: list[str]) -> None:
    now = status(routes={"tasks": made})
    assert [stage for stage in ("local", "link", "service") if missing_of(now, "tasks", stage) is None] == reached


def test_an_unknown_route_is_not_there_yet() -> None:
    assert missing_of(status(routes={}, error="it did not answer."), "tasks", "local") == "it did not answer."


def test_rendering_names_everything_that_counts(capsys: pytest.CaptureFixture[str]) -> None:
    gone = [{"address": "tcp://b:1", "state": "retrying", "peers": 0, "reason": "nobody answers"}]
    reason = "tcp://b:1: nobody answers; one of two sides is away"
    dropped = route("ready", dropped={"expired": 3, "too large": 0}, reason=reason, endpoints=gone)
    print_status(status(routes={"tasks": dropped}, processes=[CRASHING], links=[LINK_DOWN]))
    shown = capsys.readouterr().out
    for words in (
        "crash loop",
        "expired 3",
        "key 3",
        "! link to plant is down",
        "· route tasks: one of two sides is away",
    ):
        assert words in shown
    assert "too large" not in shown
    assert shown.count("nobody answers") == 1
    assert "\x1b" not in shown
    assert all(line == line.rstrip() for line in shown.splitlines())


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(("size", "shown"), [(0, "0 B"), (1023, "1023 B"), (4096, "4.0 KiB"), (1 << 40, "1024.0 GiB")])
def test_amounts(size: float, shown: str) -> None:
    assert amount(size) == shown


def test_silent_is_who_runs_and_does_not_answer() -> None:
    mute = {"name": "scale", "kind": "tcp-server", "state": "silent", "reason": "does not answer"}
    carrier = {"name": "ssh-1", "role": "dial", "scheme": "ssh", "state": "silent", "reason": "does not answer"}
    all_run = [process(), process("ssh-1"), process("bridge-scale"), process("keeper")]
    assert silent(status()) == []
    assert silent(status(error="no answer")) == ["device"]
    assert silent(status(processes=all_run, carriers=[carrier], bridges=[mute])) == ["ssh-1", "bridge-scale"]
    # one that died is started again by the keeper, and is no reason to end its siblings
    died = [process(), process("bridge-scale", "EXITED"), process("keeper")]
    assert silent(status(processes=died, bridges=[mute])) == []
    assert silent(status(processes=[], error="supervisord does not answer")) == ["supervisord"]
