"""`probe` on real devices: every step that can fail is made to fail, and is then told; no application notices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
import zmq

from tests.interop.test_tap import Look
from tests.relay import Relay
from tests.tunnel_pair import Tunnel
from tests.waiting import until
from tunnel.cli.steps import Step, steps_of
from tunnel.control import ask
from tunnel.errors import UsageError


def probe(tunnel: Tunnel, side: str, route: str) -> dict[str, Step]:
    facts = ask(tunnel.devices[side].control, "probe", 8, route=route)
    steps = {step.step: step for step in steps_of(facts)}
    assert all(step.todo for step in steps.values() if not step.ok)
    return steps


def wrong(tunnel: Tunnel, side: str, route: str) -> list[str]:
    return [name for name, step in probe(tunnel, side, route).items() if not step.ok]


def until_wrong(tunnel: Tunnel, side: str, route: str, names: list[str], within_s: float = 15) -> dict[str, Step]:
    """Waits until exactly these steps are not ok; the steps then."""
    steps: dict[str, Step] = {}

    def so() -> bool:
        steps.clear()
        steps.update(probe(tunnel, side, route))
        return [name for name, step in steps.items() if not step.ok] == names

    until(so, within_s, lambda: f"{names} not ok; {steps}")
    return steps


def tasks(tunnel: Tunnel, **more: Any) -> tuple[str, str]:
    near, far = tunnel.tcp(), tunnel.tcp()
    route = {"pattern": "pipeline", "from": f"dmz bind {near}", "to": f"plant bind {far}"} | more
    tunnel.write({"tasks": route})
    return near, far


def test_all_is_well_and_no_application_notices(tunnel: Tunnel) -> None:
    near, far = tasks(tunnel)
    tunnel.start()
    tunnel.app(zmq.PUSH, "connect", near)
    pull = tunnel.app(zmq.PULL, "connect", far, {zmq.RCVTIMEO: 200})
    look = Look(tunnel, "plant", "tasks")
    for side, other in (("dmz", "plant"), ("plant", "dmz")):
        steps = until_wrong(tunnel, side, "tasks", [])
        assert steps[f"link with {other}"].found.startswith("up and answering, round trip ")
        assert steps[f"applications at {other}"].found == "1 connected"
        assert steps["losses"].found == "none"
    assert probe(tunnel, "dmz", "tasks")["room towards plant"].ok
    assert probe(tunnel, "plant", "tasks")["handed on here"].found == "nothing waits"
    with pytest.raises(zmq.Again):
        pull.recv()
    look.poll()
    assert (look.messages, look.left_out) == ([], 0)
    assert tunnel.route("plant", "tasks")["messages_out"] == 0


def test_nobody_is_there(tunnel: Tunnel) -> None:
    near, far = tasks(tunnel)
    tunnel.start()
    steps = until_wrong(tunnel, "dmz", "tasks", ["applications here", "applications at plant"])
    assert steps["applications here"].todo == f"start a PUSH socket that connects to {near}"
    assert "`ztunnel probe tasks` at plant" in steps["applications at plant"].todo
    tunnel.app(zmq.PULL, "connect", far)
    until_wrong(tunnel, "dmz", "tasks", ["applications here"])
    until_wrong(tunnel, "plant", "tasks", ["applications at dmz"])


def test_the_wrong_application(tunnel: Tunnel) -> None:
    near, _ = tasks(tunnel)
    tunnel.start()
    tunnel.app(zmq.SUB, "connect", near)
    step: list[Step] = []

    def told() -> bool:
        step[:] = [probe(tunnel, "dmz", "tasks")["applications here"]]
        return "it did not prove to be a PUSH socket" in step[0].found

    until(told, 15, lambda: f"told in words: {step}")
    assert not step[0].ok
    assert "each is a PUSH socket" in step[0].todo


def test_an_address_in_use(tunnel: Tunnel) -> None:
    near, _ = tasks(tunnel)
    tunnel.app(zmq.PULL, "bind", near)
    tunnel.start(wait=False)
    until(lambda: tunnel.devices["dmz"].try_status(), 20, "the device answers")
    step = probe(tunnel, "dmz", "tasks")["local socket"]
    assert not step.ok
    assert near in step.found
    assert "free the address" in step.todo


def test_the_other_side_is_away(tunnel: Tunnel) -> None:
    near, _ = tasks(tunnel)
    tunnel.app(zmq.PUSH, "connect", near)
    tunnel.devices["dmz"].start()
    until(lambda: tunnel.devices["dmz"].try_status(), 20, "the device answers")
    unmet = ["link with plant", "route agreed with plant", "applications at plant"]
    steps = until_wrong(tunnel, "dmz", "tasks", unmet)
    assert [steps[name].ok for name in unmet] == [False, None, None]
    assert "`ztunnel doctor` there" in steps["link with plant"].todo
    tunnel.devices["plant"].start()
    tunnel.up()
    until_wrong(tunnel, "dmz", "tasks", ["applications at plant"])
    tunnel.devices["dmz"].kill()
    until(lambda: not probe(tunnel, "plant", "tasks")["link with dmz"].ok, 20, "the dialler notices")
    assert "doctor" in probe(tunnel, "plant", "tasks")["link with dmz"].todo


def test_a_link_that_is_up_and_carries_nothing(tunnel: Tunnel) -> None:
    """Long before the link is found dead, for that takes 15 s."""
    tasks(tunnel)
    with Relay(("127.0.0.1", tunnel.link_port)) as relay:
        table = yaml.safe_load(tunnel.table.read_text())
        table["links"][0]["dial"] = [f"plant {relay.address}"]
        tunnel.table.write_text(yaml.safe_dump(table))
        tunnel.start()
        assert probe(tunnel, "dmz", "tasks")["link with plant"].ok
        relay.black_hole()
        step = probe(tunnel, "dmz", "tasks")["link with plant"]
        assert (step.ok, step.found) == (False, "up, but nothing came back on its control and data lane just now")
        relay.heal()
        until(lambda: probe(tunnel, "dmz", "tasks")["link with plant"].ok, 15, "it answers again")


def test_tables_that_differ(tunnel: Tunnel) -> None:
    near, _ = tasks(tunnel)
    tunnel.devices["dmz"].start()
    until(lambda: (tunnel.devices["dmz"].try_status() or {}).get("ready"), 20, "dmz is ready")
    tasks(tunnel, delivery="live")
    tunnel.devices["plant"].start()
    tunnel.up()
    steps = probe(tunnel, "plant", "tasks")
    assert (steps["link with dmz"].ok, steps["route agreed with dmz"].ok) == (True, False)
    assert "delivery" in steps["route agreed with dmz"].found
    assert steps["applications at dmz"].ok is None
    assert near


def test_a_consumer_that_stands_still(tunnel: Tunnel) -> None:
    near, far = tasks(tunnel, window="1MiB")
    tunnel.start()
    push = tunnel.app(zmq.PUSH, "connect", near, {zmq.SNDTIMEO: 1000})
    tunnel.app(zmq.PULL, "connect", far, {zmq.RCVHWM: 1, zmq.RCVBUF: 4096})
    tunnel.peers("plant", "tasks", 1)
    until_full(push)
    steps = until_wrong(tunnel, "dmz", "tasks", ["room towards plant"])
    assert "not moving for 3 s: nothing more is read here" in steps["room towards plant"].found
    steps = until_wrong(tunnel, "plant", "tasks", ["handed on here"])
    assert "none was taken for 3 s" in steps["handed on here"].found


def until_full(push: zmq.Socket[bytes]) -> None:
    """Sends until nothing is taken any more."""
    while push.poll(1000, zmq.POLLOUT):
        push.send(bytes(20_000))


@pytest.fixture
def spawn() -> Iterator[Callable[[Callable[[threading.Event], None]], None]]:
    """Runs functions in threads until the test ends; each is given the event that says so."""
    stop, threads = threading.Event(), list[threading.Thread]()

    def start(work: Callable[[threading.Event], None]) -> None:
        threads.append(threading.Thread(target=work, args=(stop,)))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join(20)


def test_a_slow_consumer_is_no_fault(
    tunnel: Tunnel, spawn: Callable[[Callable[[threading.Event], None]], None]
) -> None:
    near, far = tasks(tunnel, window="64KiB")
    tunnel.start()
    push = tunnel.app(zmq.PUSH, "connect", near, {zmq.SNDTIMEO: 100, zmq.SNDHWM: 10})
    pull = tunnel.app(zmq.PULL, "connect", far, {zmq.RCVTIMEO: 100, zmq.RCVHWM: 1, zmq.RCVBUF: 4096})

    def send(stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                push.send(bytes(20_000))
            except zmq.Again:
                continue

    def take(stop: threading.Event) -> None:
        while not stop.wait(0.005):
            try:
                pull.recv()
            except zmq.Again:
                continue

    spawn(send)
    spawn(take)
    tunnel.until_route("dmz", "tasks", lambda route: route["unacked_bytes"] >= route["window_bytes"])
    until_wrong(tunnel, "dmz", "tasks", [])
    until_wrong(tunnel, "plant", "tasks", [])


def test_topics(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    tunnel.write({"ticks": {"pattern": "pubsub", "from": f"plant bind {near}", "to": f"dmz bind {far}"}})
    tunnel.start()
    tunnel.app(zmq.PUB, "connect", near)
    sub = tunnel.app(zmq.SUB, "connect", far)
    steps = until_wrong(tunnel, "plant", "ticks", ["topics wanted by dmz"])
    assert "until then nothing crosses" in steps["topics wanted by dmz"].todo
    until_wrong(tunnel, "dmz", "ticks", ["topics told to plant"])
    sub.setsockopt(zmq.SUBSCRIBE, b"a")
    sub.setsockopt(zmq.SUBSCRIBE, b"b")
    assert until_wrong(tunnel, "plant", "ticks", [])["topics wanted by dmz"].found == "2 topics"
    assert until_wrong(tunnel, "dmz", "ticks", [])["topics told to plant"].found == "2 topics"


def test_losses_while_they_happen(tunnel: Tunnel, spawn: Callable[[Callable[[threading.Event], None]], None]) -> None:
    near, _ = tasks(tunnel, max_message="1KiB")
    tunnel.start()
    push = tunnel.app(zmq.PUSH, "connect", near, {zmq.SNDTIMEO: 100})

    def send(stop: threading.Event) -> None:
        while not stop.wait(0.05):
            push.send(bytes(5000))

    spawn(send)
    tunnel.until_route("dmz", "tasks", lambda route: route["dropped"].get("too_large"))
    step = probe(tunnel, "dmz", "tasks")["losses"]
    assert not step.ok
    assert "too_large" in step.found
    assert "max_message" in step.todo


def test_losses_of_before_are_told_and_do_no_harm(tunnel: Tunnel) -> None:
    near, _ = tasks(tunnel, max_message="1KiB")
    tunnel.start()
    tunnel.app(zmq.PUSH, "connect", near).send(bytes(5000))
    tunnel.until_route("dmz", "tasks", lambda route: route["dropped"].get("too_large"))
    step = probe(tunnel, "dmz", "tasks")["losses"]
    assert (step.ok, step.found) == (
        True,
        "none now; since the start: 1 too_large (they were larger than `max_message`)",
    )


def test_there_is_no_such_route(tunnel: Tunnel) -> None:
    tasks(tunnel)
    tunnel.devices["dmz"].start()
    until(lambda: tunnel.devices["dmz"].try_status(), 20, "the device answers")
    with pytest.raises(UsageError, match="there is no route nope here"):
        probe(tunnel, "dmz", "nope")


def test_two_at_the_same_time(tunnel: Tunnel) -> None:
    near, far = tasks(tunnel)
    tunnel.start()
    tunnel.app(zmq.PUSH, "connect", near)
    tunnel.app(zmq.PULL, "connect", far)
    until_wrong(tunnel, "dmz", "tasks", [])
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(wrong(tunnel, "dmz", "tasks"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [[]] * 4
