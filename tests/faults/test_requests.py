"""Clients that vanish and services that restart: the others go on, what is lost is counted or within the figures."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.apps import App, settled
from tests.faults.rig import QUICK, Rig
from tests.journal import compare_requests
from tests.waiting import until


def orders(rig: Rig) -> str:
    return f"""
orders:
  pattern: reqrep
  from: dmz bind {rig.ipc("orders")}
  to: plant connect {rig.ipc("service")}
  max_age: never
"""


def start(rig: Rig, **how: Sequence[str]) -> App:
    """The rig with one route; gives the service."""
    rig.write_routes(orders(rig))
    rig.start(**how)
    return rig.apps.start("rep", f"bind {rig.ipc('service')}", name="service")


def receives_more(app: App, count: int) -> None:
    """The application goes on: it gets that many more messages."""
    goal = app.received() + count
    until(lambda: app.received() >= goal, 20, lambda: f"{app.options.name} received {goal}: {app.received()}")


def let_clients_vanish(rig: Rig, service: App) -> App:
    """Ten clients ask a sleeping service and are killed; then it wakes. Gives the client that stayed."""
    stayed = rig.apps.start("req", f"connect {rig.ipc('orders')}", name="stayed", started=True)
    until(lambda: stayed.received() > 20, 20, "requests are answered")
    service.suspend()
    gone = rig.apps.start("req", f"connect {rig.ipc('orders')}", name="gone", clients=10, started=True)
    # the one that stays waits for its answer by now: what it sent, and one of each that goes
    until(lambda: rig.dmz.route("orders")["messages_in"] == stayed.sent() + 10, 20, "all are under way")
    gone.kill()
    rig.peers("dmz", "orders", 1)  # a reply that comes before is handed to a connection that is about to end
    service.resume()
    until(lambda: len(service.journal.of("R")) == 11, 20, "the requests of the dead are carried out")
    return stayed


def test_req_clients_that_vanish_are_counted_and_disturb_nobody(rig: Rig) -> None:
    service = start(rig)
    stayed = let_clients_vanish(rig, service)
    until(lambda: rig.dmz.dropped("orders").total() == 10, 10, lambda: f"ten counted: {rig.dmz.dropped('orders')}")
    receives_more(stayed, 100)
    stayed.stop()
    settled(stayed.received, 1, 10)
    requests = compare_requests(stayed.journal, service.journal)
    assert requests.clean, requests


def test_vanished_clients_go_uncounted_without_mandatory(rig: Rig) -> None:
    service = start(rig, without=["mandatory"])
    stayed = let_clients_vanish(rig, service)
    receives_more(stayed, 100)
    assert rig.dmz.dropped("orders").total() == 0


def answer_a_dead_half(rig: Rig, **how: Sequence[str]) -> tuple[App, App]:
    """Requests wait at a service while their half is killed; it answers when others have connected to the new half.

    libzmq mostly numbers the clients of a ROUTER from the same number in every process (4.3.5, measured), so the new
    half's clients have the routing ids of the old one's. Gives the new clients and the service.
    """
    clients = 8
    service = start(rig, limits=QUICK, **how)
    old = rig.apps.start("req", f"connect {rig.ipc('orders')}", name="old", clients=clients, started=True)
    until(lambda: old.received() > 50, 20, "requests are answered")
    service.suspend()
    settled(lambda: rig.plant.route("orders")["messages_out"], 1, 10)
    old.kill()
    rig.relay.refuse()
    rig.dmz.kill()
    rig.relay.cut()
    until(lambda: not rig.plant.link_is("up"), 10, "the other half noticed")
    service.resume()
    until(lambda: rig.plant.route("orders")["unacked_bytes"] > 0, 10, "the late replies wait for the link")
    rig.dmz.start(limits=QUICK, **how)
    new = rig.apps.start("req", f"connect {rig.ipc('orders')}", name="new", clients=clients, started=True, most=clients)
    until(lambda: new.sent() == clients, 20, "the new clients have asked")
    rig.relay.heal()
    until(lambda: rig.plant.link_is("up"), 20, "the new half is reached")
    settled(lambda: (new.received(), new.journal.count("W")), 2, 20)
    return new, service


def test_late_replies_to_a_killed_half_reach_no_other_client(rig: Rig) -> None:
    new, service = answer_a_dead_half(rig)
    requests = compare_requests(new.journal, service.journal)
    assert requests.clean, requests
    assert requests.asked == 8
    assert late_replies_at(rig, new) == 0
    assert rig.plant.dropped("orders")["peer_restart"] >= 8, rig.plant.dropped("orders")


def late_replies_at(rig: Rig, new: App) -> int:
    """Replies to the old clients that the new half got: given to a new one with the same id, or to nobody."""
    return new.journal.count("W") + rig.dmz.dropped("orders")["unreachable"]


def test_late_replies_reach_the_wrong_clients_when_they_are_kept(rig: Rig) -> None:
    new, _ = answer_a_dead_half(rig, without=["stale_replies"])
    assert late_replies_at(rig, new) >= 8, f"the control shows nothing: {rig.told()}"


SIZE = 65_536
IN_BUFFERS = 2 * 212_992 // SIZE + 4
"""Requests of SIZE that a unix socket's buffers and libzmq's own hold while the reader sleeps."""


def restart_service(rig: Rig, **how: list[str]) -> list[tuple[str, int]]:
    """Kills a sleeping service with requests queued before it, starts it anew; gives the requests never answered."""
    service = start(rig, **how)
    client = rig.apps.start("dealer", f"connect {rig.ipc('orders')}", name="d", clients=1000, size=SIZE, most=300)
    rig.apps.opened()
    until(lambda: rig.plant.route("orders")["endpoints"][0]["peers"] == 1, 10, "the service is connected")
    service.suspend()
    client.go()
    until(lambda: client.sent() == 300, 20, "all requests were sent")
    settled(lambda: rig.plant.route("orders")["messages_out"], 1, 10)
    service.kill()
    heir = rig.apps.start("rep", f"bind {rig.ipc('service')}", name="heir")
    settled(lambda: (heir.received(), client.received()), 2, 30)
    requests = compare_requests(client.journal, heir.journal)
    assert requests.faults[1:] == (0, 0, 0), requests
    return requests.unanswered


def test_restarted_service_loses_only_what_was_in_its_own_buffers(rig: Rig) -> None:
    lost = restart_service(rig)
    assert len(lost) <= IN_BUFFERS, lost


def test_restarted_service_loses_the_queue_too_with_immediate(rig: Rig) -> None:
    lost = restart_service(rig, without=["queueing"])
    assert len(lost) > IN_BUFFERS, f"the control shows nothing: {lost}"


def test_req_clients_come_back_each_time_their_service_restarts(rig: Rig) -> None:
    service = start(rig)
    clients, rounds = 4, 3
    client = rig.apps.start("req", f"connect {rig.ipc('orders')}", name="c", clients=clients, timeout_s=2, started=True)
    for _ in range(rounds):
        receives_more(client, 100)
        service.kill()
        service = rig.apps.start("rep", f"bind {rig.ipc('service')}")
    receives_more(client, 100)
    client.stop()
    settled(client.received, 2.5, 20)
    lost = client.sent() - client.received()
    assert lost <= rounds * clients, f"{lost} requests lost over {rounds} restarts of {clients} clients' service"
    assert client.journal.count("W") == 0


@pytest.mark.parametrize("limited", [True, False])
def test_oversize_message_is_refused_counted_and_logged(rig: Rig, limited: bool) -> None:
    """`limited` False is the control: without the limit the message crosses."""
    rig.write_routes(f"""
weights:
  pattern: pipeline
  from: plant bind {rig.ipc("weights")}
  to: dmz bind {rig.ipc("workers")}
  max_message: 64KiB
""")
    rig.start(without=[] if limited else ["max_message"])
    sizes = {"large": 100_000, "huge": 5_000_000} if limited else {"large": 100_000}
    pull = rig.apps.start("pull", f"connect {rig.ipc('workers')}")
    address = f"connect {rig.ipc('weights')}"
    good = rig.apps.start("push", address, name="good", rate=200, started=True)
    until(lambda: pull.received() > 20, 20, "small ones cross")
    for name, size in sizes.items():
        sender = rig.apps.start("push", address, name=name, size=size, most=3, started=True)
        until(lambda sender=sender: sender.sent() == 3, 10, "the large ones were sent")
    if not limited:
        until(lambda: len(pull.journal.of("R").get("large", [])) == 3, 10, lambda: f"they cross: {rig.told()}")
        return
    until(lambda: rig.plant.dropped("weights")["too_large"] == 6, 10, lambda: f"counted: {rig.plant.dropped()}")
    receives_more(pull, 50)
    good.stop()
    settled(pull.received, 1, 10)
    received = pull.journal.of("R")
    assert set(received) == {"good"}
    assert received["good"] == good.journal.of("S")["good"]
    log = rig.plant.log_text()
    assert any("message-too-large" in line and "route=weights" in line for line in log.splitlines()), log[-2000:]
