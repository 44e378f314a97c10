"""The whole way of a mail: an unmodified client at one side, an smtp-server, a spooled route over a link that is cut,
an smtp-client, a real Postfix at the other side. Byte for byte, signature and all; and then with everybody killed.

FAULTS=full: 20 kills of each process, and as many cuts.
"""

from __future__ import annotations

import base64
import contextlib
import random
import smtplib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.bridges.mail_sink import sinking
from tests.faults.rig import FULL
from tests.relay import Relay
from tests.servers import Postfix, program
from tests.tunnel_pair import ROOT, Tunnel
from tests.waiting import free_port, until
from tunnel.control import ask
from tunnel.errors import NotRunningError

KILLS: Final = 20 if FULL else 1
LINE: Final = "x" * 70 + "\r\n"
MAILS: Final = 600 if FULL else 60

ROUTE: Final = {"pattern": "pipeline", "from": "plant bind local", "to": "dmz bind local", "delivery": "spooled"}


class World:
    """Two devices, a relay on their link, and a bridge for mail at each side; each a process that can be killed."""

    def __init__(self, folder: Path, relay_port: int) -> None:
        self.tunnel = tunnel = Tunnel(folder)
        self.port = free_port()
        self.link = Relay(("127.0.0.1", tunnel.link_port))
        listen = f"dmz tcp://127.0.0.1:{tunnel.link_port}"
        tunnel.write(
            {
                "mail": {
                    "pattern": "pipeline",
                    "from": "plant bind local",
                    "to": "dmz bind local",
                    "delivery": "spooled",
                }
            },
            links=[{"listen": listen, "dial": f"plant tcp://127.0.0.1:{self.link.port}"}],
            bridges={
                "incoming": {
                    "side": "plant",
                    "kind": "smtp-server",
                    "listen": f"tcp://127.0.0.1:{self.port}",
                    "zmq": "PUSH connect route:mail",
                    "recipients": {"outside": {"match": "*@example.com"}},
                },
                "outgoing": {
                    "side": "dmz",
                    "kind": "smtp-client",
                    "zmq": "PULL connect route:mail",
                    "relay": f"tcp://127.0.0.1:{relay_port}",
                    "allow_to": "*@example.com",
                    "retry": "1s*20,1m",
                },
            },
        )
        self._sides = {"incoming": "plant", "outgoing": "dmz"}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.log = folder / "bridges.log"

    def start_bridge(self, name: str) -> None:
        side = self._sides[name]
        command = [sys.executable, "-m", "bridges.process", str(self.tunnel.table), "--as", side, "--bridge", name]
        with self.log.open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, cwd=ROOT, env=self.tunnel.environment, stdout=log, stderr=log
            )
        until(lambda: self.status(name), 30, lambda: f"{name}: {self.log.read_text()[-3000:]}")

    def status(self, name: str) -> dict[str, Any]:
        """{} while it does not answer."""
        folder = self.tunnel.runtime / f"{self.tunnel.name}.{self._sides[name]}"
        for control in folder.glob("bridge-*.sock"):
            with contextlib.suppress(NotRunningError):
                return ask(control, "status", timeout_s=5.0)
        return {}

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self._processes[name].wait()

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self.link.close()
        self.tunnel.close()
        assert "Traceback" not in self.log.read_text(), self.log.read_text()[-4000:]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[[int], World]]:
    worlds: list[World] = []

    def make(relay_port: int) -> World:
        worlds.append(World(tmp_path, relay_port))
        world = worlds[-1]
        world.tunnel.start()
        for name in ("outgoing", "incoming"):
            world.start_bridge(name)
        return world

    yield make
    for world in worlds:
        world.close()


def signed(number: int) -> tuple[bytes, Callable[[bytes], bool]]:
    """A mail with a DKIM signature, and what verifies it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    mail = (
        b"From: me@plant.example\r\nTo: you@example.com\r\nSubject: number %d\r\nMessage-ID: <%d@plant.example>\r\n\r\n"
        b".a dot\r\n..\r\nGr\xc3\xbc\xc3\x9fe, \xff\x80\r\n\r\n   \r\n" % (number, number)
    )
    mail += b"z" * 900 + b"\r\n" + b"end\r\n" * 40_000  # too long for the database
    mail = dkim.sign(mail, b"s", b"plant.example", secret, include_headers=[b"From", b"To", b"Subject"]) + mail
    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
    return mail, lambda came: bool(dkim.verify(came, dnsfunc=lambda *_, **__: record))


def test_a_mail_crosses_a_link_that_is_cut_byte_for_byte(tmp_path: Path, made: Callable[[int], World]) -> None:
    mail, verifies = signed(1)
    file = tmp_path / "mail.eml"
    file.write_bytes(mail)
    with Postfix(tmp_path / "postfix") as postfix:
        world = made(postfix.port)
        world.link.refuse()
        world.link.cut()
        server = f"127.0.0.1:{world.port}"
        with smtplib.SMTP("127.0.0.1", world.port, timeout=20) as client:  # swaks would change the mail's bytes
            client.sendmail("me@plant.example", ["you@example.com"], mail)
        swaks = [program("swaks"), "--server", server, "--to", "you@example.com", "--header", "Subject: by swaks"]
        assert subprocess.run(swaks, capture_output=True, timeout=60).returncode == 0
        until(lambda: world.status("incoming")["detail"]["spool"]["rows"] == 0, 20, lambda: world.status("incoming"))
        assert world.status("outgoing")["detail"]["taken"] == 0  # it lies on the plant's disk, spooled by the route
        world.link.heal()
        until(lambda: len(postfix.mails()) == 2, 60, lambda: (world.status("outgoing"), postfix.tail()))
        came = next(found for found in postfix.mails() if b"by swaks" not in found)
    assert came.endswith(mail.replace(b"\r\n", b"\n"))
    header, _, own = came.partition(b"DKIM-Signature:")
    assert header.count(b"Received:") == 1  # Postfix's own
    assert verifies((b"DKIM-Signature:" + own).replace(b"\n", b"\r\n"))
    assert not verifies((b"DKIM-Signature:" + own).replace(b"\n", b"\r\n").replace(b"end\r\n", b"END\r\n", 1))


def test_postfix_delivers_to_us_and_we_to_postfix(tmp_path: Path, made: Callable[[int], World]) -> None:
    """A mail server on either side, each with its own retries; the link is cut in between."""
    with Postfix(tmp_path / "outside") as outside:
        world = made(outside.port)
        with Postfix(tmp_path / "inside", relay_to=world.port) as inside:
            for number in range(40):
                if number == 10:
                    world.link.cut()
                if number == 20:
                    world.kill("incoming")  # Postfix keeps what it cannot hand over
                if number == 30:
                    world.start_bridge("incoming")
                with smtplib.SMTP("127.0.0.1", inside.port, timeout=20) as client:
                    client.sendmail("me@plant.example", ["you@example.com"], f"Subject: n{number}\r\n\r\nbody\r\n")
            wanted = {f"Subject: n{number}\n".encode() for number in range(40)}

            def missing() -> set[bytes]:
                came = b"".join(outside.mails())
                return {subject for subject in wanted if subject not in came}

            until(lambda: not missing(), 90, lambda: (missing(), inside.tail(), world.status("outgoing")))
            assert len(outside.mails()) == 40


class Program(threading.Thread):
    """Sends numbered mails; one without a 250 is sent again until it has one."""

    def __init__(self, port: int, name: str, count: int) -> None:
        super().__init__(daemon=True)
        self.label = name
        self.heard = 0
        self._port = port
        self._count = count

    def run(self) -> None:
        while self.heard < self._count:
            mail = f"Subject: {self.label}-{self.heard}\r\n\r\n{random.randrange(40) * LINE}".encode()
            while not self._send(mail):
                threading.Event().wait(0.05)
            self.heard += 1

    def _send(self, mail: bytes) -> bool:
        try:
            with smtplib.SMTP("127.0.0.1", self._port, timeout=20) as client:
                client.sendmail("me@plant.example", ["you@example.com"], mail)
        except (smtplib.SMTPException, OSError):
            return False
        return True


@pytest.mark.timeout(600 if FULL else 240)
def test_whoever_is_killed_no_mail_is_lost(made: Callable[[int], World], tmp_path: Path) -> None:
    port = free_port()
    with sinking(port) as server:
        world = made(port)
        programs = [Program(world.port, name, MAILS // 2) for name in ("a", "b")]
        for one in programs:
            one.start()
        killings = ["incoming", "outgoing", "plant", "dmz", "cut"] * KILLS
        random.shuffle(killings)
        for number, who in enumerate(killings):
            share = MAILS * (number + 1) // (len(killings) + 1)
            until(lambda share=share: sum(one.heard for one in programs) >= share, 60, who)  # type: ignore[misc]
            if who == "cut":
                world.link.cut()
            elif who in ("plant", "dmz"):
                world.tunnel.devices[who].kill()
                world.tunnel.devices[who].start()
            else:
                world.kill(who)
                world.start_bridge(who)
        for one in programs:
            one.join(60)
            assert one.heard == MAILS // 2
        wanted = {f"{name}-{number}" for name in ("a", "b") for number in range(MAILS // 2)}

        def subjects() -> Counter[str]:
            return Counter(mail.content.split(b"\r\n")[0].removeprefix(b"Subject: ").decode() for mail in server.mails)

        until(lambda: set(subjects()) == wanted, 120, lambda: (wanted - set(subjects()), world.status("outgoing")))
        again = sum(subjects().values()) - len(wanted)
        counted = world.status("outgoing")["detail"]
    # an id that came before is not sent again: only what a server had answered a process that was then killed repeats
    print(f"{MAILS} mails, {len(killings)} faults: 0 lost, {again} came again; last outgoing: {counted}")
    assert again <= KILLS * 8
