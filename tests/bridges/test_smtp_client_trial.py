"""`ztunnel mail test` of an smtp-client: what each step finds, with a mail server that says what the test wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridges.mail import client_trial
from bridges.mail.fill import Filling
from bridges.mail.retry import Schedule
from tests.bridges.mail_rig import Rig, sending
from tests.bridges.mail_sink import Sink
from tests.bridges.rig import run
from tests.waiting import free_port
from tunnel.config.mail.smtp_client_plan import TemplatePlan
from tunnel.errors import UsageError
from tunnel.reactor import Reactor

TO = "b@example.com"
SLOW = Schedule(((60.0, 1000),))


async def tried(rig: Rig, **request: Any) -> dict[str, tuple[bool, str, str]]:
    """Step → ok, found, what to do."""
    told = await rig.command("mail-test", **{"address": TO, "from": "a@example.com", **request})
    assert told["fine"] is all(step["ok"] for step in told["steps"])
    assert [step["ok"] for step in told["steps"][:-1]] == [True] * (len(told["steps"]) - 1)
    assert all(step["todo"] for step in told["steps"] if not step["ok"])
    return {step["step"]: (step["ok"], step["found"], step["todo"]) for step in told["steps"]}


@pytest.mark.parametrize("socket", ["PULL", "SUB", "REP"])
def test_a_mail_that_is_sent(tmp_path: Path, socket: str) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, socket, relay=sink.port, allow_to=("*@x.org", "b@*")) as rig:
            steps = await tried(rig)
            assert list(steps) == ["allowed", "on disk", "server", "sent"]
            assert steps["allowed"][:2] == (True, "allow_to: b@* fits 'b@example.com'")
            assert steps["on disk"][:2] == (True, "mail 1, from a@example.com")
            assert steps["server"][:2] == (True, f"relay: 127.0.0.1:{sink.port}")
            assert steps["sent"][:2] == (True, f"250 2.0.0 taken, says 127.0.0.1:{sink.port}")
            (mail,) = sink.mails
            assert (mail.sender, mail.to) == ("a@example.com", [TO])
            assert b"Subject: ztunnel mail test of mails\r\n" in mail.content
            assert (rig.detail("taken"), rig.detail("sent"), rig.client.trials) == (1, 1, {})
        await sink.stop()

    run(body)


def test_beside_a_template_and_with_the_sender_of_the_table(tmp_path: Path) -> None:
    template = TemplatePlan(Filling("{what} is broken"), text=Filling("{what}"))

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, relay=sink.port, template=template, sender="t@example.com") as rig:
            steps = await tried(rig, **{"from": None})
            assert steps["on disk"][1] == "mail 1, from t@example.com, beside the template"
            assert steps["sent"][0]
            (mail,) = sink.mails
            assert mail.sender == "t@example.com"
            assert b"is broken" not in mail.content
        await sink.stop()

    run(body)


def test_what_servers_say_is_told(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        sink.say("RCPT", "550 5.1.1 nobody of that name", when=lambda address: address.startswith("gone"))
        sink.say("RCPT", "451 4.7.1 come again later", when=lambda address: address.startswith("grey"))
        async with sending(reactor, tmp_path, relay=sink.port, retry=SLOW) as rig:
            ok, found, todo = (await tried(rig, address="gone@example.com"))["sent"]
            assert (ok, found) == (False, "failed: 550 5.1.1 nobody of that name")
            assert "`ztunnel mail retry mails 1`" in todo
            ok, found, todo = (await tried(rig, address="grey@example.com"))["sent"]
            assert (ok, found) == (False, "deferred: 451 4.7.1 come again later")
            assert "`ztunnel mail show mails 2`" in todo
            assert [mail["state"] for mail in await rig.mails()] == ["failed", "deferred"]
        await sink.stop()

    run(body)


def test_nobody_there_and_a_login_that_is_refused(tmp_path: Path) -> None:
    port = free_port()

    async def body(reactor: Reactor) -> None:
        async with sending(reactor, tmp_path / "1", relay=port, retry=SLOW) as rig:
            ok, found, _ = (await tried(rig))["sent"]
            assert (ok, found.startswith(f"deferred: 127.0.0.1:{port}: ")) == (False, True)
        sink = await Sink().start()
        sink.say("EHLO", "550 5.7.1 not you")
        async with sending(reactor, tmp_path / "2", relay=sink.port) as rig:
            for _ in range(2):  # the second finds it paused already
                ok, found, todo = (await tried(rig))["sent"]
                assert (ok, found) == (False, f"paused: 127.0.0.1:{sink.port} said 550 5.7.1 not you")
                assert "`ztunnel mail resume mails`" in todo
        await sink.stop()

    run(body)


def test_a_pause_and_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_trial, "TRIAL_SENT_S", 0.5)

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, relay=sink.port, rate=(1, 60.0)) as rig:
            await rig.command("mail-pause")
            ok, found, _ = (await tried(rig))["sent"]
            assert (ok, found.startswith("paused: by `ztunnel mail pause`")) == (False, True)
            await rig.command("mail-resume")
            await rig.until(lambda: sink.mails)
            ok, found, todo = (await tried(rig))["sent"]
            assert (ok, found) == (False, "not tried within 0 s; 1 mails wait here")
            assert "rate:" in todo
        await sink.stop()

    run(body)


def test_straight_to_the_servers_of_a_domain(tmp_path: Path) -> None:
    from bridges.mail.troubles import NoMail

    async def lookup(domain: str) -> list[str]:
        if domain == "example.net":
            raise NoMail("the domain takes no mail")
        return ["127.0.0.1"]

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, lookup=lookup, direct_port=sink.port) as rig:
            steps = await tried(rig)
            assert steps["server"][1] == f"MX of example.com: 127.0.0.1:{sink.port}"
            assert steps["sent"][0]
            steps = await tried(rig, address="b@example.net")
            assert list(steps) == ["allowed", "on disk", "sent"]
            assert steps["sent"][:2] == (False, "failed: the domain takes no mail")
        await sink.stop()

    run(body)


def test_what_is_not_taken(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        port = free_port()
        async with sending(reactor, tmp_path, relay=port, allow_to=("*@example.com",), max_bytes=100) as rig:
            steps = await tried(rig, address="b@example.net")
            expected = "'b@example.net': no pattern of allow_to fits (*@example.com)"
            assert {step: told[:2] for step, told in steps.items()} == {"allowed": (False, expected)}
            assert (await tried(rig))["on disk"][1].endswith("; 100 is the most.")
            for wrong in ({"address": None}, {"address": "nobody"}, {"from": None}, {"from": "a\nb@example.com"}):
                with pytest.raises(UsageError):
                    await tried(rig, **wrong)
            assert (rig.detail("dead"), rig.detail("queue"), await rig.mails()) == (0, 0, [])

    run(body)


def test_a_spool_that_is_full(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with sending(reactor, tmp_path, relay=free_port(), max_spool=0) as rig:
            ok, found, _ = (await tried(rig))["on disk"]
            assert (ok, found) == (False, "0 bytes of mails lie here, which is all that spool: max lets.")

    run(body)
