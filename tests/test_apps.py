"""The counting applications, without a tunnel between them: exact over a plain 0MQ connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps import Apps
from tests.journal import compare, compare_requests
from tests.waiting import free_port, until


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Apps]:
    apps = Apps(tmp_path)
    yield apps
    apps.close()


def test_push_to_pull_and_a_killed_receiver_keeps_its_journal(apps: Apps) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    pull = apps.start("pull", f"bind {address}")
    push = apps.start("push", f"connect {address}", name="p", rate=5000, most=2000, started=True)
    until(lambda: pull.received() >= 2000, 20, lambda: pull.received())
    assert compare(push.journal.of("S"), pull.journal.of("R")).clean
    pull.kill()
    assert pull.received() == 2000


def test_publisher_greets_until_told_to_go(apps: Apps) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    pub = apps.start("pub", f"bind {address}", topics=["a", "b"], rate=2000, most=501)
    sub = apps.start("sub", f"connect {address}", topics=["a", "b"])
    until(lambda: set(sub.journal.of("H")) == {"a", "b"}, 20, "both topics greeted")
    pub.go()
    until(lambda: sub.received() >= 501, 20, lambda: sub.received())
    verdict = compare(pub.journal.of("S"), sub.journal.of("R"))
    assert verdict.clean, verdict
    assert {key: len(seqs) for key, seqs in sub.journal.of("R").items()} == {"a": 251, "b": 250}


@pytest.mark.parametrize("role", ["req", "dealer"])
def test_requests(apps: Apps, role: str) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    rep = apps.start("rep", f"bind {address}")
    client = apps.start(role, f"connect {address}", name="c", clients=3, rate=3000, started=True)
    until(lambda: client.received() >= 500, 20, lambda: client.received())
    client.stop()
    until(lambda: client.received() == client.sent(), 10, "all answered")
    requests = compare_requests(client.journal, rep.journal)
    assert requests.clean, requests
    assert requests.asked >= 500


def test_a_request_without_an_answer_is_noted_and_the_client_goes_on(apps: Apps) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    rep = apps.start("rep", f"bind {address}")
    client = apps.start("req", f"connect {address}", name="c", timeout_s=0.3, started=True)
    until(lambda: client.received() >= 5, 20, "some replies")
    rep.suspend()
    until(lambda: client.journal.count("T") >= 2, 10, "two timeouts")
    rep.resume()
    more = client.received() + 5
    until(lambda: client.received() >= more, 10, "replies again")
    client.stop()
    requests = compare_requests(client.journal, rep.journal)
    assert len(requests.unanswered) >= 2
    assert not requests.mistaken


def test_pair_counts_both_directions_and_the_monitor_tells_of_a_lost_peer(apps: Apps) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    one = apps.start("pair", f"bind {address}", name="one", most=300, started=True, monitor=True)
    other = apps.start("pair", f"connect {address}", name="other", most=300, started=True)
    until(lambda: one.received() == 300 and other.received() == 300, 20, "300 each way")
    assert compare(one.journal.of("S"), other.journal.of("R")).clean
    assert compare(other.journal.of("S"), one.journal.of("R")).clean
    assert "DISCONNECTED" not in one.journal.of("E")
    other.quit()
    until(lambda: "DISCONNECTED" in one.journal.of("E"), 10, "the monitor told of the disconnect")
