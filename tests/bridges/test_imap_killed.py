"""kill -9 at any moment between fetching a mail and marking it: none is lost, and what comes twice has the same id."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
import zmq

from tests.bridges.mailboxes import mail, subject
from tests.faults.rig import FULL
from tests.servers import Dovecot
from tests.tunnel_pair import ROOT, Tunnel
from tests.waiting import elapse, until
from tunnel.control import ask
from tunnel.errors import NotRunningError

KILLS = 50 if FULL else 8
MAILS = 40
"""Come before each start."""


class World:
    """A mailbox, the bridge's process, and the application that answers."""

    def __init__(self, folder: Path, dovecot: Dovecot, after: Any) -> None:
        self.tunnel = Tunnel(folder)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.application = self.context.socket(zmq.ROUTER)
        self.application.bind("tcp://127.0.0.1:*")
        password = folder / "password"
        password.write_text(dovecot.password)
        password.chmod(0o600)
        bridge = {
            "side": "plant",
            "kind": "imap",
            "connect": f"tcp://127.0.0.1:{dovecot.port}",
            "tls": {"mode": "none"},
            "login": {"user": dovecot.user, "password": {"file": str(password)}},
            "after": after,
            "since": "all",
            "zmq": f"REQ connect {self.application.last_endpoint.decode()}",
        }
        route = {"pattern": "pipeline", "from": "dmz bind local", "to": "plant bind local"}
        self.tunnel.write({"r": route}, bridges={"box": bridge})
        self.came: Counter[tuple[str, str]] = Counter()
        """(id, subject) → times."""
        self.repeats = 0
        """Of the process that runs now."""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *code: str) -> None:
        """`code`: how Python is called, where it is not the bridge as it is."""
        self.repeats = 0
        table = [str(self.tunnel.table), "--as", "plant", "--bridge", "box"]
        command = [sys.executable, *(code or ("-m", "bridges.process")), *table]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self.tunnel.environment)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def status(self) -> dict[str, Any]:
        for control in self.tunnel.runtime.glob("*/bridge-*.sock"):
            try:
                return ask(control, "status", timeout_s=5.0)
            except NotRunningError:
                break
        return {}

    def detail(self) -> dict[str, Any]:
        return dict(self.status().get("detail", {}))

    def look(self, *, answer: bool = True) -> int:
        """How many messages were there."""
        count = 0
        while self.application.poll(0):
            route, number, empty, _topic, meta, raw = self.application.recv_multipart()
            key = json.loads(meta)["id"], subject(raw)
            self.repeats += self.came[key] > 0
            self.came[key] += 1
            if answer:
                self.application.send_multipart([route, number, empty, b""])
            count += 1
        return count

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.context.destroy(linger=0)
        self.tunnel.close()


@pytest.fixture(params=["seen", {"move": "Done"}], ids=["seen", "move"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[World, Dovecot]]:
    with Dovecot(tmp_path) as dovecot:
        made = World(tmp_path, dovecot, request.param)
        try:
            yield made, dovecot
        finally:
            made.close()


@pytest.mark.timeout(600)
def test_kill_9_between_hand_over_and_mark(world: tuple[World, Dovecot]) -> None:
    made, dovecot = world
    dice = random.Random(7)
    for kill in range(KILLS):
        dovecot.deliver(mail(kill * MAILS + number) for number in range(MAILS))
        made.start()
        seen, enough = 0, dice.randrange(1, MAILS)
        answers = dice.random() < 0.8  # else: killed between hand-over and answer
        deadline = time.monotonic() + 30
        while seen < enough:
            seen += made.look(answer=answers)
            assert time.monotonic() < deadline, made.detail()
        if dice.random() < 0.5:
            elapse(dice.random() * 0.05)  # from the answer to the mark, and a little beyond
        told = made.detail() if kill % 4 == 0 else None
        made.kill()
        if told is not None:
            assert made.repeats <= told["may_repeat"] + made.look(answer=False)
        made.look(answer=answers)
    made.start()
    total = KILLS * MAILS
    until(lambda: made.look() >= 0 and len(made.came) == total, 60, lambda: (len(made.came), made.detail()))
    until(lambda: made.look() >= 0 and _settled(made.detail()), 30, made.detail)
    assert {subject for _, subject in made.came} == {str(number) for number in range(total)}
    assert made.detail()["may_repeat"] >= made.repeats
    if made.tunnel.table.read_text().count("move:"):
        assert (len(dovecot.uids("Done")), dovecot.uids()) == (total, [])
    else:
        assert len(dovecot.uids(criteria="SEEN")) == total
    repeated = sum(times - 1 for times in made.came.values())
    print(f"{KILLS} kills, {total} mails: 0 lost, {repeated} came again")


def _settled(detail: dict[str, Any]) -> bool:
    return all(folder["backlog"] == folder["to_mark"] == 0 for folder in detail["folders"].values())


PLANTED = """
import sys
from bridges.mail import bookkeeping
from bridges.process import main
note = bookkeeping.Books.note
def early(books, folder, uidvalidity, mails):
    taken = [mail._replace(state=bookkeeping.State.TAKEN) for mail in mails]
    return note(books, folder, uidvalidity, taken)
bookkeeping.Books.note = early
sys.exit(main(sys.argv[1:]))
"""
"""A bridge that writes a mail down as taken when it is handed over, and not when it is answered for."""


@pytest.mark.parametrize("planted", [False, True])
def test_a_bridge_that_wrote_too_early_would_lose(world: tuple[World, Dovecot], planted: bool) -> None:
    made, dovecot = world
    dovecot.deliver(mail(number) for number in range(5))
    made.start(*(["-c", PLANTED] if planted else []))
    until(lambda: made.look(answer=False) >= 0 and len(made.came) == 5, 30, made.detail)
    made.kill()
    made.start()
    until(lambda: made.look() >= 0 and made.detail().get("marked") == 5, 30, made.detail)
    assert made.repeats == (0 if planted else 5)  # nobody has answered for these five, and they are marked
    assert made.detail()["may_repeat"] == made.repeats


def test_through_a_tunnel_to_a_worker_on_the_other_side(tmp_path: Path) -> None:
    """PUSH at a route of this box; the process is told to stop, and has marked what was handed over."""
    with Dovecot(tmp_path) as dovecot:
        made = World(tmp_path, dovecot, {"keyword": "$Handed"})
        tunnel = made.tunnel
        try:
            out = tunnel.tcp()
            table = yaml.safe_load(tunnel.table.read_text())
            route = {"pattern": "pipeline", "from": "plant bind local", "to": f"dmz bind {out}"}
            box = table["bridges"]["box"] | {"zmq": "PUSH connect route:r"}
            tunnel.write({"r": route}, bridges={"box": box})
            worker = made.context.socket(zmq.PULL)
            worker.connect(out)
            tunnel.start()
            made.start()
            dovecot.deliver(mail(number, 3000) for number in range(30))
            came: set[str] = set()

            def look() -> bool:
                while worker.poll(0):
                    topic, meta, raw = worker.recv_multipart()
                    assert (topic, json.loads(meta)["size"]) == (b"INBOX", len(raw))
                    came.add(subject(raw))
                return len(came) == 30

            until(look, 30, made.status)
            until(lambda: made.detail().get("marked") == 30, 20, made.status)
            assert made.process is not None
            made.process.send_signal(signal.SIGTERM)
            assert made.process.wait(15) == 0
            assert len(dovecot.uids(criteria="KEYWORD $Handed")) == 30
        finally:
            made.close()
