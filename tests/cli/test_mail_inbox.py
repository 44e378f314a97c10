"""`ztunnel mail` at an smtp-server, and at kinds that cannot do what is asked."""

from __future__ import annotations

import json
import smtplib
from typing import Any

from tests.supervise.rig import Rig
from tests.waiting import free_port, until

SMALL, LARGE = b"Subject: small\r\n\tone\r\n\r\nHello\r\n", b"Subject: large\r\n\r\n" + b"x" * 70 * 20 + b"\r\n"


def begin(side: Rig) -> int:
    """The dmz side with an smtp-server, whose route takes no large mails, and an imap whose server is away."""
    port = free_port()
    (side.folder / "password").write_text("secret\n")
    (side.folder / "password").chmod(0o600)
    side.write_table(
        more=f"""\
  mails:
    pattern: pipeline
    from: dmz bind local
    to: plant bind tcp://127.0.0.1:{side.ports["more"]}
    max_message: 1KiB
bridges:
  alarms:
    side: dmz
    kind: smtp-server
    listen: tcp://127.0.0.1:{port}
    zmq: PUSH connect route:mails
    recipients:
      ups:
        match: ups@*
  box:
    side: dmz
    kind: imap
    connect: tcp://127.0.0.1:1
    login:
      user: ops
      password:
        file: password
    zmq: PUSH connect route:mails
"""
    )
    side.up("dmz")
    return port


def rows(side: Rig, *more: object) -> list[dict[str, Any]]:
    done = side.run("mail", "ls", "alarms", *more, "--json")
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout)["mails"])


def test_look_retry_drop(side: Rig) -> None:
    port = begin(side)
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as device:
        for mail in (SMALL, LARGE):
            device.sendmail("a@example.com", ["ups@example.com"], mail)
    until(lambda: [row["state"] for row in rows(side)] == ["queued", "dead"], 20, lambda: rows(side), every_s=0.2)
    waiting, dead = rows(side)
    assert (rows(side, "--state", "open"), rows(side, "--state", "dead")) == ([waiting], [dead])
    assert rows(side, "--state", "sent") == []
    assert rows(side, "--after", waiting["number"]) == [dead]
    assert len(rows(side, "--limit", 1)) == 1
    head, first, second, *_ = side.run("mail", "ls", "alarms").stdout.splitlines()
    assert head.split()[:3] == ["NUMBER", "STATE", "AGE"]
    assert (first.split()[1], second.split()[1]) == ("queued", "dead")
    shown = side.run("mail", "show", "alarms", waiting["number"]).stdout
    assert "to: ups@example.com  queued\n" in shown
    assert "  Subject: small" in shown
    assert "Hello" not in shown
    assert "why: " in side.run("mail", "show", "alarms", dead["number"]).stdout
    assert side.run("mail", "retry", "alarms", dead["number"]).stdout == "1 mails are tried again.\n"
    until(lambda: rows(side, "--state", "dead"), 20, "refused again", every_s=0.2)
    assert side.run("mail", "drop", "alarms", "--all").stdout == "1 mails dropped.\n"
    assert [row["number"] for row in rows(side)] == [waiting["number"]]
    for wrong in (("ls", "alarms", "--state", "odd"), ("show", "alarms", "99"), ("drop", "alarms", "99")):
        done = side.run("mail", *wrong)
        assert (done.returncode, "bug" in done.stderr) == (2, False), done.stderr
    assert side.run("mail", "drop", "alarms", waiting["number"]).stdout == "1 mails dropped.\n"
    assert rows(side) == []


def test_what_a_kind_cannot_do(side: Rig) -> None:
    begin(side)
    for do in ("pause", "resume"):
        done = side.run("mail", do, "alarms")
        sentence = "ztunnel: alarms is an smtp-server, which cannot be paused: it takes mail while it runs, "
        assert (done.returncode, done.stderr.startswith(sentence)) == (2, True)
    for words in (("ls", "box"), ("show", "box", "1"), ("retry", "box", "1"), ("drop", "box", "--all")):
        done = side.run("mail", *words)
        assert (done.returncode, done.stderr.startswith("ztunnel: box is an imap, which keeps no mail here")) == (
            2,
            True,
        )
    assert side.run("mail", "pause", "box").stdout == (
        "box fetches nothing more until `ztunnel mail resume box`, or its next start.\n"
    )
    assert side.run("mail", "resume", "box").stdout == "box fetches again.\n"
