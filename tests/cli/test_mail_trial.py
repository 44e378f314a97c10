"""`ztunnel mail test` as a user meets it, at a bridge that runs: steps, exit codes, JSON, logins."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import bcrypt
import zmq

from tests.bridges.mail_sink import sinking
from tests.carriers.certificates import Authority
from tests.cli.terminal import typed
from tests.supervise.rig import Rig
from tests.waiting import free_port


def begin(side: Rig, *, more: str = "", to: str | None = None) -> int:
    """The dmz side with an smtp-server; its port."""
    port = free_port()
    side.write_table(
        more=f"""\
bridges:
  alarms:
    side: dmz
    kind: smtp-server
    listen: tcp://127.0.0.1:{port}
    hostname: alarms.example
    zmq: {to or f"PUSH bind tcp://127.0.0.1:{side.ports['more']}"}
    recipients:
      ups:
        match: ups@*
{more}"""
    )
    side.up("dmz")
    return port


def told(side: Rig, *more: object) -> tuple[int, dict[str, Any]]:
    done = side.run("mail", "test", *more, "--json")
    return done.returncode, json.loads(done.stdout)


def test_steps_and_exit_codes(side: Rig) -> None:
    assert side.run("mail", "test", "ups@example.com").returncode == 3
    begin(side)
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.connect(f"tcp://127.0.0.1:{side.ports['more']}")
        done = side.run("mail", "test", "alarms", "ups+west@example.com", "--from", "me@example.com")
        assert done.returncode == 0, done.stdout + done.stderr
        head, *lines, empty, last = done.stdout.splitlines()
        assert (head.split(), empty) == (["STEP", "FOUND", "WHAT", "TO", "DO"], "")
        assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["ok"] * 5
        assert last == "bridge alarms: every step is ok."
        assert pull.poll(10_000)
        _, meta, raw = pull.recv_multipart()
        assert json.loads(meta)["from"] == "me@example.com"
        assert b"Subject: ztunnel mail test of alarms\r\n" in raw
        assert told(side, "ups@example.com")[0] == 0
    code, found = told(side, "nobody@example.com")
    assert (code, found["bridge"], found["side"], found["ok"]) == (1, "alarms", "dmz", False)
    (step,) = found["steps"]
    assert step["found"] == "nobody@example.com: 550 5.1.1 nobody of that name here"
    done = side.run("mail", "test", "nobody@example.com")
    assert "NOT OK" in done.stdout
    assert done.stdout.endswith("bridge alarms: mend the first step that is not ok.\n")


WRONG = (
    ("letters", "ups@example.com"),
    ("ups@example.com", "alarms"),
    ("alarms", "ups"),
    ("alarms",),
    ("alarms", "ups@example.com", "--from", "me"),
    ("alarms", "ups@example.com\nRCPT"),
    ("alarms", "ups@example.com", "--user", "ann"),
)


def test_wrong_words(side: Rig) -> None:
    begin(side)
    for wrong in WRONG:
        done = side.run("mail", "test", *wrong, stdin=subprocess.DEVNULL)
        assert done.returncode == 2, (wrong, done.stdout + done.stderr)
        assert done.stderr.startswith("ztunnel: ")
        assert "bug" not in done.stderr


def test_a_password_comes_from_a_variable_or_a_terminal(side: Rig, tmp_path: Path) -> None:
    files = Authority(tmp_path).issue()
    files.key.chmod(0o600)
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
    (tmp_path / "users").write_text(f"ann:{hashed}\n")
    begin(
        side,
        more=f"""\
    tls:
      cert: {files.cert}
      key: {files.key}
    users: {tmp_path}/users
    require_login: true
""",
    )
    code, found = told(side, "ups@example.com")
    assert (code, found["steps"][-1]["step"], found["steps"][-1]["todo"]) == (1, "login", "say --user NAME")
    for password, expected in (("right", "taken"), ("wrong", "refused")):
        side.environment["ZTUNNEL_MAIL_PASSWORD"] = password
        code, found = told(side, "ups@example.com", "--user", "ann")
        assert expected in [step["step"] for step in found["steps"]], found
    del side.environment["ZTUNNEL_MAIL_PASSWORD"]
    words = ["mail", "test", "ups@example.com", "--user", "ann", "--json"]
    _, stdout = typed(words, [("Password", "right")], side.environment, side.folder)
    assert "taken" in [step["step"] for step in json.loads(stdout)["steps"]]


def test_an_smtp_client(side: Rig) -> None:
    with sinking() as sink:
        side.write_table(
            more=f"""\
bridges:
  post:
    side: dmz
    kind: smtp-client
    zmq: PULL bind tcp://127.0.0.1:{side.ports["more"]}
    relay: tcp://127.0.0.1:{sink.port}
    allow_to: '*@example.com'
"""
        )
        side.up("dmz")
        assert side.run("mail", "test", "b@example.com").returncode == 2  # there is no from: in the table
        code, found = told(side, "b@example.com", "--from", "a@example.com")
        assert (code, [step["step"] for step in found["steps"]]) == (0, ["allowed", "on disk", "server", "sent"])
        assert [mail.to for mail in sink.mails] == [["b@example.com"]]
        sink.say("RCPT", "550 5.1.1 nobody \x1b[31mof that name")
        done = side.run("mail", "test", "post", "c@example.com", "--from", "a@example.com")
        assert done.returncode == 1
        assert "550 5.1.1" in done.stdout
        assert "\x1b" not in done.stdout
