"""Little talk on streams goes ahead of its bookkeeping: no byte of it, or beside it, is lost for that."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.streams import Service, connected, echo, exactly
from tests.tunnel_pair import Tunnel

SIZES = (1, 2, 40, 500, 4000, 4085, 5000, 100_000)
"""About the largest record that goes ahead, too."""


@pytest.fixture
def entry(tmp_path: Path) -> Iterator[tuple[Tunnel, str]]:
    tunnel, service = Tunnel(tmp_path), Service(echo)
    entry = tunnel.tcp()
    tunnel.write({"s": {"pattern": "stream", "from": f"plant bind {entry}", "to": f"dmz connect {service.address}"}})
    try:
        tunnel.start()
        yield tunnel, entry
    finally:
        service.close()
        tunnel.close()


def talk(entry: str, seed: int, rounds: int) -> None:
    """Connections that come and go, each with some talk; what is said is said back."""
    drawn = random.Random(seed)
    for _ in range(rounds):
        with connected(entry) as client:
            for _ in range(drawn.randrange(1, 30)):
                said = os.urandom(drawn.choice(SIZES) if drawn.random() < 0.3 else drawn.randrange(1, 100))
                client.sendall(said)
                assert exactly(client, len(said)) == said


def test_one_that_talks_goes_ahead(entry: tuple[Tunnel, str]) -> None:
    tunnel, address = entry
    with connected(address) as client:
        for number in range(500):
            client.sendall(b"%d" % number)
            assert exactly(client, len(b"%d" % number)) == b"%d" % number
    for side in tunnel.sides:
        told = tunnel.until_route(side, "s", lambda route: route["connections"] == 0)
        assert told["batches_ahead"] > 300  # of about 1,000, each way
        assert told["messages_in"] == told["messages_out"] == 500
        assert told["bytes_in"] == told["bytes_out"] == 10 + 180 + 1200


def test_many_that_talk_come_and_go_beside_one_that_does_not_stop(entry: tuple[Tunnel, str]) -> None:
    """Descriptors are used again and again: bytes written past a connection would come to another one."""
    tunnel, address = entry
    with ThreadPoolExecutor(8) as pool:
        talks = [pool.submit(talk, address, seed, 25) for seed in range(7)]
        with connected(address) as client:
            while not all(done.done() for done in talks):
                said = os.urandom(300_000)
                client.sendall(said)
                assert exactly(client, len(said)) == said
        for done in talks:
            done.result()
    for side in tunnel.sides:
        told = tunnel.until_route(side, "s", lambda route: route["connections"] == 0)
        assert told["batches_ahead"] > 0
        assert (told["ended"], told["refused"]) == ({}, {})
