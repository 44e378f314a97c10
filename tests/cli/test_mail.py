"""`ztunnel mail` as a user meets it: a relay that is away, then one that refuses."""

from __future__ import annotations

import json
from typing import Any

import zmq

from tests.bridges.mail_rig import RAW
from tests.bridges.mail_sink import sinking
from tests.supervise.rig import Rig
from tests.waiting import until


def begin(side: Rig, relay: int) -> None:
    side.write_table(
        more=f"""\
  mails:
    pattern: pipeline
    from: plant bind tcp://127.0.0.1:1
    to: dmz bind local
bridges:
  post:
    side: dmz
    kind: smtp-client
    zmq: PULL bind tcp://127.0.0.1:{side.ports["more"]}
    relay: tcp://127.0.0.1:{relay}
    allow_to: '*@example.com'
"""
    )
    side.up("dmz")


def send(push: zmq.Socket[bytes], mail_id: str, to: str = "b@example.com") -> None:
    push.send_multipart([json.dumps({"from": "a@example.com", "to": to, "id": mail_id}).encode(), RAW])


def detail(side: Rig) -> dict[str, Any]:
    (bridge,) = side.status()["bridges"]
    return dict(bridge["detail"])


def rows(side: Rig, *more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(side.run("mail", "ls", *more, "--json").stdout)["mails"]
    return found


def test_look_retry_drop_pause(side: Rig) -> None:
    assert side.run("mail", "ls").returncode == 3
    with sinking() as sink, zmq.Context() as context, context.socket(zmq.PUSH) as push:
        sink.say("RCPT", "550 5.1.1 nobody of that name", when=lambda address: address.startswith("gone"))
        begin(side, sink.port)
        assert side.run("mail", "pause").stdout == "post sends nothing more until `ztunnel mail resume post`.\n"
        push.connect(f"tcp://127.0.0.1:{side.ports['more']}")
        send(push, "first")
        send(push, "second", "gone@example.com")
        send(push, "third", "x@example.net")
        until(lambda: detail(side).get("queue") == 2 and detail(side)["dead"] == 1, 20, lambda: detail(side))
        done = side.run("mail", "ls")
        head, *lines = done.stdout.splitlines()
        assert head.split() == ["NUMBER", "STATE", "AGE", "SIZE", "ATTEMPTS", "NEXT", "IN", "FROM", "TO", "WHY"]
        assert [line.split()[1] for line in lines] == ["queued", "queued", "refused"]
        assert "degraded" in side.run("status").stdout
        assert "paused" in side.run("status").stdout
        assert side.run("mail", "resume", "post").stdout == "post sends again.\n"
        until(lambda: detail(side)["failed"] == 1 and detail(side)["sent"] == 1, 20, lambda: detail(side))
        dead, refused = rows(side, "post")
        assert (dead["id"], dead["why"]) == ("second", "550 5.1.1 nobody of that name")
        shown = side.run("mail", "show", dead["number"]).stdout
        assert "to: gone@example.com  failed  550 5.1.1 nobody of that name" in shown
        assert "  Subject: one" in shown
        assert "Hello" not in shown
        assert "frames: " in side.run("mail", "show", "post", refused["number"]).stdout
        done = side.run("mail", "retry", "post", refused["number"])
        assert (done.returncode, "allow_to" in done.stdout) == (1, True)
        sink.rules.clear()
        assert side.run("mail", "retry", dead["number"]).stdout == "1 mails are tried again.\n"
        until(lambda: detail(side)["sent"] == 2, 20, lambda: detail(side))
        assert side.run("mail", "drop", "--all").stdout == "1 mails dropped.\n"
        assert rows(side) == []
        assert [row["id"] for row in rows(side, "--state", "sent")] == ["first", "second"]


WRONG = (
    ("ls", "letters"),
    ("ls", "--state", "odd"),
    ("show",),
    ("show", "1"),
    ("show", "post", "one"),
    ("retry",),
    ("retry", "1", "--all"),
    ("drop", "99"),
)


def test_wrong_words(side: Rig) -> None:
    begin(side, 1)
    for wrong in WRONG:
        done = side.run("mail", *wrong)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "bug" not in done.stderr
