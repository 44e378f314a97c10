"""kill -9 of an smtp-server at each point of a mail's way: nothing that was told to be taken is lost, and what comes
twice bears the same id.

The client does as mail servers do: a mail without a 250 is sent again. FAULTS=full: 50 kills at each point.
"""

from __future__ import annotations

import json
import smtplib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.bridges.rig import BridgeProcess, process
from tests.faults.rig import FULL
from tests.waiting import free_port, until

KILLS = 50 if FULL else 3


class Application:
    """A service that answers for every mail, at a fixed address."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self._socket.bind(self.endpoint)
        self.came: list[tuple[str, bytes]] = []
        """(id, raw)."""

    def serve(self) -> int:
        """Answer what is there; how much came so far."""
        while self._socket.poll(0):
            peer, number, empty, _topic, meta, raw = self._socket.recv_multipart()
            self.came.append((json.loads(meta)["id"], raw))
            self._socket.send_multipart([peer, number, empty])
        return len(self.came)

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def application() -> Iterator[Application]:
    made = Application()
    yield made
    made.close()


def send(bridge: BridgeProcess, raw: bytes) -> bool:
    """Whether the client heard 250."""
    try:
        with smtplib.SMTP("127.0.0.1", bridge.port, timeout=20) as client:
            client.sendmail("a@example.com", ["ups@example.com"], raw)
    except (smtplib.SMTPException, OSError):
        return False
    return True


@pytest.mark.parametrize("point", ["durable", "told", "answered"])
def test_killed(tmp_path: Path, application: Application, point: str) -> None:
    bridge = {
        "kind": "smtp-server",
        "zmq": f"DEALER connect {application.endpoint}",
        "recipients": {"all": {"match": "*@*"}},
        "hostname": "mail.test",
    }
    told = tmp_path / "told"
    sent: list[bytes] = []
    with process(tmp_path, bridge, module="tests.bridges.mail.dying") as running:
        for number in range(KILLS):
            running.environment = {"ZT_DIE_AT": point, "ZT_TOLD": str(told)}
            running.kill()
            running.start()
            raw = b"Subject: %d\r\n\r\nmail\r\n" % number
            heard = send(running, raw)
            assert heard is (point != "durable") or point == "answered"
            told.touch()
            until(lambda: application.serve() >= 0 and running.process.poll() is not None, 20, "it lives")
            told.unlink()
            running.environment = {}
            running.start()
            while not heard:  # as every mail server would
                heard = send(running, raw)
            sent.append(raw)
            until(lambda: application.serve() and {raw for _, raw in application.came} >= set(sent), 20, "it is lost")
            until(lambda: application.serve() and running.status()["detail"]["spool"]["bytes"] == 0, 20, running.status)
    ids: dict[bytes, set[str]] = {}
    for mail_id, raw in application.came:
        ids.setdefault(raw, set()).add(mail_id)
    assert set(ids) == set(sent)
    assert all(len(known) == 1 for known in ids.values())
    repeats = Counter(raw for _, raw in application.came)
    if point == "answered":
        assert sum(repeats.values()) - len(repeats) >= KILLS // 2  # the other process had been answered for it
    else:
        assert set(repeats.values()) == {1}
