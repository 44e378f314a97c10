"""The tables with bridges do what their comments say: both sides up, an old device or server here, 0MQ there.

The tables are those that ship, moved to free ports of loopback (test_listening.py).
"""

from __future__ import annotations

import json
import re
import smtplib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
import zmq

from tests.bridges.mail_sink import sinking
from tests.configs.test_configs import BRIDGED
from tests.configs.test_listening import Moved
from tests.servers import Dovecot
from tests.supervise.rig import rig
from tests.waiting import until

WITHIN_S = 20


class Running(Moved):
    """... and sockets that are closed at the end."""

    def __init__(self, name: str, here: Any, opened: ExitStack) -> None:
        super().__init__(name, here, "", opened)
        self._opened = opened
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        opened.callback(self._context.destroy, linger=0)

    def soon(self, key: str) -> None:
        """This time of the table is short, so that the test is."""
        text, changed = re.subn(rf"( {key}): .*", r"\1: 300ms", self.rig.table.read_text())
        assert changed == 1
        self.rig.table.write_text(text)

    def zmq(self, kind: int, port: str, *, bind: bool = False) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.setsockopt(zmq.RCVTIMEO, WITHIN_S * 1000)
        made.setsockopt(zmq.SNDTIMEO, WITHIN_S * 1000)
        (made.bind if bind else made.connect)(f"tcp://127.0.0.1:{self.port(port)}")
        return made

    def device(self, port: str) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port(port)), timeout=WITHIN_S)
        self._opened.callback(made.close)
        return made

    def server(self, port: str, serve: Callable[[socket.socket], None]) -> None:
        """An old server: `serve` has its first connection, in a thread; it is open until the end."""
        over = threading.Event()
        listener = socket.create_server(("127.0.0.1", self.port(port)))
        listener.settimeout(WITHIN_S)

        def accept() -> None:
            with listener, listener.accept()[0] as connection:
                connection.settimeout(WITHIN_S)
                serve(connection)
                over.wait(WITHIN_S)

        thread = threading.Thread(target=accept)
        thread.start()
        self._opened.callback(thread.join, WITHIN_S)
        self._opened.callback(over.set)

    def served(self, route: str, side: str) -> None:
        """The application that answers is connected."""
        done = self.rig.run("wait", route, "--for", "service", "--as", side)
        assert done.returncode == 0, done.stderr

    def bridge(self, side: str = "plant") -> dict[str, Any]:
        (found,) = self.rig.status(side)["bridges"]
        return dict(found)


def read(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = connection.recv(size - len(found))
        assert more, found
        found += more
    return found


@pytest.fixture
def table(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    with rig(tmp_path) as here, ExitStack() as opened:
        yield Running(request.param, here, opened)


TRIED = ("scale", "hl7", "plc", "displays", "service", "alarms", "reports", "notify", "mail-relay", "tickets")


def only(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("table", [name], indirect=True)


def test_every_table_with_a_bridge_is_tried() -> None:
    assert {f"{name}.yaml" for name in TRIED} == set(BRIDGED)


@only("scale")
def test_a_line_of_a_scale_is_a_message(table: Running) -> None:
    table.up()
    worker = table.zmq(zmq.PULL, "dmz 5557")
    first = table.device("link 4001")
    first.sendall(b"12.5 kg\r\n13")
    meta, weight = worker.recv_multipart()
    assert weight == b"12.5 kg"
    assert json.loads(meta)["peer"] == "127.0.0.1"
    again = table.device("link 4001")  # it was switched off and on
    again.sendall(b"14 kg\n")
    assert worker.recv_multipart()[1] == b"14 kg"
    assert first.recv(1) == b""
    assert (table.bridge()["frames_in"], table.bridge()["ended"]) == (2, {"takeover": 1})
    assert "bridge-scales started kind=tcp-server" in table.rig.run("logs", "bridge-scales", "--as", "plant").stdout
    restarted = table.rig.run("restart", "bridge-scales", "--as", "plant")
    assert restarted.returncode == 0, restarted.stderr
    table.device("link 4001").sendall(b"15 kg\n")
    assert worker.recv_multipart()[1] == b"15 kg"


@only("hl7")
def test_a_result_is_acknowledged_when_the_archive_has_it(table: Running) -> None:
    table.soon("timeout")
    table.up()
    archive = table.zmq(zmq.REP, "to 5555", bind=True)
    table.served("results", "plant")
    analyser = table.device("link 2575")
    analyser.sendall(b"\x0bMSH|^~\\&|LAB\rOBX|1\r\x1c\r")
    assert archive.recv() == b"MSH|^~\\&|LAB\rOBX|1\r"
    archive.send(b"stored")
    ack = b"\x0bMSH|^~\\&|ARCHIVE||||||ACK||P|2.3\rMSA|AA|\r\x1c\r"
    assert read(analyser, len(ack)) == ack
    analyser.sendall(b"\x0bMSH|2\x1c\r")
    assert archive.recv() == b"MSH|2"  # ... and says nothing
    assert read(analyser, len(ack)) == ack.replace(b"AA", b"AE")
    assert table.bridge()["detail"]["timeouts"] == 1


@only("plc")
def test_replies_find_their_questions_by_the_transaction(table: Running) -> None:
    heard = threading.Event()

    def controller(connection: socket.socket) -> None:
        first, second = read(connection, 12), read(connection, 12)
        heard.set()
        for question in (second, first):  # in whatever order it likes
            connection.sendall(question[:2] + b"\0\0\0\5\1\3\2" + question[8:10])

    table.server("link 502", controller)
    table.up()
    clients = [table.zmq(zmq.REQ, "dmz 5555") for _ in range(2)]
    for number, client in enumerate(clients):
        client.send(bytes([0x10, number]) + b"\0\0\0\6\1\3" + bytes([0, number, 0, 1]))
    for number, client in enumerate(clients):
        assert client.recv() == bytes([0x10, number]) + b"\0\0\0\5\1\3\2" + bytes([0, number])
    assert heard.is_set()
    assert (table.bridge()["state"], table.bridge()["frames_out"]) == ("up", 2)


@only("displays")
def test_every_display_shows_what_is_published(table: Running) -> None:
    table.up()
    displays = [table.device("link 4100") for _ in range(2)]
    until(lambda: table.bridge()["connections"] == 2, WITHIN_S, table.bridge)
    publisher = table.zmq(zmq.XPUB, "dmz 5556")
    assert publisher.recv() == b"\x01platform."
    publisher.send_multipart([b"depot.1", b"not for passengers"])
    publisher.send_multipart([b"platform.4", b"12:03 Bern"])
    for display in displays:
        assert read(display, 12) == b"12:03 Bern\r\n"


@only("service")
def test_lines_are_answered_in_their_order(table: Running) -> None:
    table.soon("timeout")
    table.up()
    service = table.zmq(zmq.ROUTER, "to 5555", bind=True)
    table.served("stock", "dmz")
    program = table.device("link 7000")
    program.sendall(b"bolts\nnuts\n")
    questions = [service.recv_multipart() for _ in range(2)]
    for *envelope, what in reversed(questions):
        service.send_multipart([*envelope, what.upper()])
    assert read(program, 11) == b"BOLTS\nNUTS\n"
    program.sendall(b"screws\n")
    assert service.recv_multipart()[-1] == b"screws"
    late = b"ERROR no answer in time\n"
    assert read(program, len(late)) == late
    assert table.bridge("dmz")["detail"]["timeouts"] == 1


@only("alarms")
def test_an_alarm_of_a_ups_is_published(table: Running) -> None:
    table.up()
    screen = table.zmq(zmq.SUB, "dmz 5558")
    screen.setsockopt(zmq.SUBSCRIBE, b"alarm.ups.")
    alarm = b"Subject: on battery\r\n\r\nUPS 7\r\n"
    for _ in range(100):  # until the subscription has crossed
        with smtplib.SMTP("127.0.0.1", table.port("link 25"), timeout=WITHIN_S) as device:
            device.sendmail("ups@local.invalid", ["ups+west@alarms.example"], alarm)
        if screen.poll(200):
            break
    topic, meta, raw = screen.recv_multipart()
    assert (topic, raw) == (b"alarm.ups.west", alarm)
    assert json.loads(meta)["parsed"]["headers"]["subject"] == ["on battery"]
    with (
        smtplib.SMTP("127.0.0.1", table.port("link 25"), timeout=WITHIN_S) as device,
        pytest.raises(smtplib.SMTPRecipientsRefused),
    ):
        device.sendmail("ups@local.invalid", ["boss@alarms.example"], alarm)


@only("reports")
def test_a_report_becomes_a_mail(table: Running) -> None:
    table.up()
    table.served("reports", "plant")
    application = table.zmq(zmq.REQ, "dmz 5555")
    alarm = {"id": "pump-3/1207", "to": "ops@example.com", "host": "pump-3", "what": "smoke", "more": ["cabinet 4"]}
    with sinking(table.port("link 587")) as server:
        for to in ("ops@example.com", "ops@example.com", "spam@example.net"):
            application.send_json(alarm | {"to": to} | ({} if to == alarm["to"] else {"id": "2"}))
            told = application.recv_json()
            assert told["state"] == ("queued" if to == alarm["to"] else "refused")
        assert "allow_to" in told["error"]
        until(lambda: table.bridge()["detail"]["sent"] == 1, WITHIN_S, table.bridge)
        (mail,) = server.mails
    assert (mail.sender, mail.to) == ("alarms@plant.example.com", ["ops@example.com"])
    assert b"Subject: pump-3: smoke\r\n" in mail.content
    assert b'pump-3 reports smoke.\r\n["cabinet 4"]\r\n' in mail.content
    assert table.bridge()["detail"]["repeated"] == 1


@only("notify")
def test_an_event_becomes_a_mail(table: Running) -> None:
    table.up()
    program = table.zmq(zmq.PUB, "plant 5556")
    event = {"host": "pump-3", "what": "smoke", "id": "pump-3/1207"}
    with sinking(table.port("link 25")) as server:

        def published() -> bool:  # until the subscription has crossed; the same id is one mail
            program.send_multipart([b"news.pump", json.dumps(event | {"id": "other"}).encode()])
            program.send_multipart([b"alarm.pump", json.dumps(event).encode()])
            return bool(server.mails)

        until(published, WITHIN_S, lambda: table.bridge("dmz"), every_s=0.1)
        (mail,) = server.mails
    assert (mail.sender, mail.to) == ("plant@example.com", ["ops@example.com"])
    assert b"Subject: pump-3: smoke\r\n" in mail.content


@only("mail-relay")
def test_a_mail_crosses_the_tunnel_byte_for_byte(table: Running) -> None:
    table.up()
    mail = b"Subject: to the outside\r\nX-Odd: \xff\r\n\r\n.dots\r\n..\r\nend\r\n"
    with sinking(table.port("link 587")) as server:
        with smtplib.SMTP("127.0.0.1", table.port("link 25"), timeout=WITHIN_S) as program:
            program.sendmail("me@plant.invalid", ["you@example.com"], mail)
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                program.sendmail("me@plant.invalid", ["you@elsewhere.org"], mail)
        until(lambda: server.mails, WITHIN_S, lambda: table.bridge("dmz"))
        (came,) = server.mails
    assert (came.sender, came.to, came.content) == ("me@plant.invalid", ["you@example.com"], mail)


@only("tickets")
def test_a_ticket_comes_to_a_worker_and_is_moved(table: Running) -> None:
    server = Dovecot(table.rig.folder)
    server.tls_port = table.port("link 993")
    said = yaml.safe_load(table.rig.table.read_text())
    bridge = said["bridges"]["tickets"]
    bridge["login"]["user"] = server.user  # and who the server is, which the machine's authorities do not know
    bridge["tls"] = {"ca": str(server.ca), "server_name": "localhost"}
    bridge["max_message"] = "4KiB"
    table.rig.table.write_text(yaml.safe_dump(said))
    with server:
        server.append(b"Subject: the first\r\n\r\nIt is broken.\r\n")
        table.up()
        worker = table.zmq(zmq.PULL, "dmz 5557")
        topic, meta, raw = worker.recv_multipart()
        assert (topic, raw) == (b"INBOX", b"Subject: the first\r\n\r\nIt is broken.\r\n")
        assert json.loads(meta)["parsed"]["text"] == "It is broken.\r\n"
        server.append(b"Subject: too large\r\n\r\n" + b"x" * 8000 + b"\r\n", b"Subject: the second\r\n\r\n\r\n")
        assert worker.recv_multipart()[2].startswith(b"Subject: the second\r\n")
        until(lambda: len(server.uids("Done")) == 2, WITHIN_S, table.bridge, every_s=0.2)
        until(lambda: len(server.uids("Failed")) == 1, WITHIN_S, table.bridge, every_s=0.2)
        assert server.uids() == []
        done = table.rig.run("mail", "test", "--as", "plant", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "the half answers for a mail" in json.loads(done.stdout)["steps"][-1]["found"]
