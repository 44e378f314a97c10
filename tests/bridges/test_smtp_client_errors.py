"""smtp-client and servers that do not do what one would like: refuse, defer, cut, stall, want a login."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from bridges.mail import limits
from bridges.mail.limits import SEND_READY
from bridges.mail.retry import Schedule
from bridges.mail.troubles import NoMail
from tests.bridges.mail_disk import abandoned
from tests.bridges.mail_rig import RAW, Rig, sending
from tests.bridges.mail_sink import Sink
from tests.bridges.rig import run
from tunnel.config.mail.smtp_client_plan import LoginPlan
from tunnel.config.plan import Secret, TlsPlan
from tunnel.reactor import Reactor

LATE = Schedule(((1000.0, 1),))
LOGIN = LoginPlan("me", Secret("hunter2 ünd"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    ca = trustme.CA()
    folder = tmp_path_factory.mktemp("ca")
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("mail.example.com").configure_cert(context)
    return folder / "ca.pem", context


def quick(monkeypatch: pytest.MonkeyPatch, **values: float) -> None:
    """Limits that make a test short, where they are used."""
    for name, value in values.items():
        assert hasattr(limits, name)
        for module in ("dispatch", "destination", "worker", "sending", "intake", "limits"):
            monkeypatch.setattr(f"bridges.mail.{module}.{name}", value, raising=False)


# --- what servers say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DOT"])
def test_4xx_is_tried_again_and_5xx_never(tmp_path: Path, step: str) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        if step == "DOT":
            sink.do_at_dot("451 4.3.0 not now", "452 4.3.1 still not", None, "554 5.7.1 we do not like it")
        else:
            sink.say(step, "451 4.3.0 not now", times=1)
            sink.say(step, "452 4.3.1 still not", times=1)
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            rig.send(id="one")
            await rig.until(lambda: rig.detail("sent") == 1)
            assert (rig.detail("deferred"), rig.detail("failed"), len(sink.mails)) == (2, 0, 1)
            assert sink.connections == 1
            if step != "DOT":
                sink.say(step, "554 5.7.1 we do not like it", times=1)
            rig.send(id="two")
            await rig.until(lambda: rig.detail("failed") == 1)
            (dead,) = await rig.mails("dead")
            assert (dead["id"], dead["state"], dead["why"]) == ("two", "failed", "554 5.7.1 we do not like it")
            rig.send(id="three")  # on the same connection, after RSET
            await rig.until(lambda: rig.detail("sent") == 2)
            assert sink.connections == 1
            assert sink.resets >= 1
            assert len(sink.mails) == 2
            assert await rig.command("mail-retry", numbers=[dead["number"]]) == {"count": 1, "refused": []}
            await rig.until(lambda: rig.detail("sent") == 3)
            assert (rig.detail("dead"), rig.detail("bytes"), rig.detail("queue")) == (0, 0, 0)
        await sink.stop()

    run(body)


def test_only_refused_recipients_fail_and_only_deferred_ones_are_tried_again(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        sink.say("RCPT", "550 5.1.1 nobody", when=lambda address: address.startswith("gone"))
        sink.say("RCPT", "450 4.2.0 greylisted", when=lambda address: address.startswith("later"), times=2)
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            rig.send(to=["b@example.com", "gone@example.com", "later@example.com"])
            await rig.until(lambda: rig.detail("sent") == 2)
            assert [sorted(mail.to) for mail in sink.mails] == [["b@example.com"], ["later@example.com"]]
            assert (rig.detail("deferred"), rig.detail("failed")) == (2, 1)
            (dead,) = await rig.mails("dead")
            shown = (await rig.command("mail-show", number=dead["number"]))["mail"]["states"]
            assert [(one["address"], one["state"]) for one in shown] == [
                ("b@example.com", "sent"),
                ("gone@example.com", "failed"),
                ("later@example.com", "sent"),
            ]
        await sink.stop()

    run(body)


def test_the_line_lost_after_the_final_dot_is_unknown_and_the_same_mail_goes_again(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        sink.do_at_dot("cut")
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            rig.send(id="one")
            await rig.until(lambda: rig.detail("sent") == 1)
            assert (rig.detail("unknown"), rig.detail("may_repeat")) == (1, 1)
            assert [mail.content for mail in sink.mails] == [RAW, RAW]
            assert await rig.mails() == []
        await sink.stop()

    run(body)


def test_the_line_lost_in_the_middle_of_a_mail_is_no_repeat(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        heard = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 hello\r\n")
            for reply in (b"250 hello", b"250 ok", b"250 ok", b"354 go on"):
                await reader.readline()
                writer.write(reply + b"\r\n")
            heard.extend(await reader.readexactly(100_000))
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with sending(reactor, tmp_path, relay=port, retry=LATE) as rig:
            rig.send(RAW + (b"x" * 98 + b"\r\n") * 200_000, id="large")
            await rig.until(lambda: rig.detail("deferred") == 1, 20)
            assert (rig.detail("unknown"), rig.detail("may_repeat")) == (0, 0)
            assert "in the middle of the mail" in (await rig.mails())[0]["why"]
        server.close()

    run(body)


def test_a_server_that_says_no_in_the_middle_of_a_mail(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 hello\r\n")
            for reply in (b"250 hello", b"250 ok", b"250 ok", b"354 go on"):
                await reader.readline()
                writer.write(reply + b"\r\n")
            await reader.readexactly(100_000)
            writer.write(b"552 5.3.4 too large for us\r\n")
            while await reader.read(65536):
                pass

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with sending(reactor, tmp_path, relay=port) as rig:
            rig.send(RAW + (b"x" * 98 + b"\r\n") * 200_000, id="large")
            await rig.until(lambda: rig.detail("failed") == 1, 20)
            assert (await rig.mails("dead"))[0]["why"] == "552 5.3.4 too large for us"
        server.close()

    run(body)


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        held = asyncio.Event()

        async def stall() -> None:
            await held.wait()

        sink.do_at_dot(stall)
        async with sending(reactor, tmp_path, relay=sink.port, timeout_s=0.5) as rig:
            rig.send(id="one")
            await rig.until(lambda: rig.detail("unknown") == 1)
            await rig.until(lambda: rig.detail("sent") == 1)
        held.set()
        await sink.stop()

    run(body)


@pytest.mark.parametrize("silent", ["greeting", "mail"])
def test_a_silent_server(tmp_path: Path, silent: str) -> None:
    async def body(reactor: Reactor) -> None:
        done = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if silent == "mail":
                writer.write(b"220 hello\r\n")
                await reader.readline()
                writer.write(b"250 hello\r\n")
            await done.wait()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with sending(reactor, tmp_path, relay=port, timeout_s=0.3, retry=LATE) as rig:
            rig.send()
            await rig.until(lambda: rig.detail("deferred") == 1)
            assert "in time" in (await rig.mails())[0]["why"]
        done.set()
        server.close()

    run(body)


def test_words_of_a_server_cannot_forge_a_line(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        sink.say("RCPT", "550-first\r\n550 sec\x1bond \x07" + "x" * 4000)
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            rig.send()
            await rig.until(lambda: rig.detail("failed") == 1)
            why = (await rig.mails("dead"))[0]["why"]
            assert why.isprintable()
            assert why.startswith("550 first")
            assert len(why) <= limits.SEND_WORDS
        await sink.stop()

    run(body)


def test_a_connection_that_died_while_it_was_idle_costs_no_attempt(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, relay=sink.port, retry=LATE) as rig:
            rig.send(id="one")
            await rig.until(lambda: rig.detail("sent") == 1)
            sink.cut()
            rig.send(id="two")
            await rig.until(lambda: rig.detail("sent") == 2)
            sink.say("MAIL", "421 4.7.0 enough of you", times=1)
            rig.send(id="three")
            await rig.until(lambda: rig.detail("sent") == 3)
            assert (rig.detail("deferred"), len(sink.mails)) == (0, 3)
        await sink.stop()

    run(body)


@pytest.mark.parametrize("utf8", [True, False])
def test_an_address_beyond_ascii(tmp_path: Path, utf8: bool) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink(utf8=utf8).start()
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            rig.send(to=["jürgen@example.com"])
            rig.send(to=["b@example.com"], utf8=True)
            await rig.until(lambda: rig.detail("sent" if utf8 else "failed") == 2)
            if utf8:
                assert sorted(mail.to[0] for mail in sink.mails) == ["b@example.com", "jürgen@example.com"]
                assert all("SMTPUTF8" in mail.options for mail in sink.mails)
            else:
                assert all("SMTPUTF8" in mail["why"] for mail in await rig.mails("dead"))
                rig.send()
                await rig.until(lambda: rig.detail("sent") == 1)
        await sink.stop()

    run(body)


def test_a_server_of_before_ehlo(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        sink.say("EHLO", "500 what?")
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            rig.send()
            await rig.until(lambda: rig.detail("sent") == 1)
            assert sink.mails[0].options == []
        await sink.stop()

    run(body)


def test_garbage_in_place_of_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch, SEND_REST_MIN_S=0.02, SEND_REST_MAX_S=0.05)
    answers = [
        b"\xff\xfe\r\n",
        b"HTTP/1.1 400\r\n",
        b"220-" + b"x" * 200_000,
        b"220-a\r\n" * 9000,
        b"\0" * 5000 + b"\n",
    ]

    async def body(reactor: Reactor) -> None:
        said = 0

        async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal said
            writer.write(answers[said % len(answers)])
            said += 1
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with sending(reactor, tmp_path, relay=port) as rig:
            rig.send()
            await rig.until(lambda: said >= 2 * len(answers))
            assert rig.status()["state"] in ("retrying", "connecting")
            (mail,) = await rig.mails()
            assert mail["why"].isprintable()
        server.close()

    run(body)


# --- configuration ---------------------------------------------------------------------------------------------------


async def paused_then_resumed(rig: Rig, sink: Sink, words: str, mend: Any) -> None:
    rig.send(id="one")
    await rig.until(lambda: rig.status()["state"] == "paused")
    assert words in rig.status()["reason"]
    rig.send(id="two")
    await rig.until(lambda: rig.detail("taken") == 2)
    before = sink.connections
    assert [(mail["state"], mail["attempts"]) for mail in await rig.mails()] == [("queued", 0)] * 2
    assert rig.status()["state"] == "paused"
    assert sink.connections == before  # nobody tries for a while
    mend()
    await rig.command("mail-resume")
    await rig.until(lambda: rig.detail("sent") == 2)
    assert rig.status()["state"] == "up"


@pytest.mark.parametrize(
    ("step", "says"),
    [("GREETING", "554 5.7.1 not you"), ("EHLO", "550 5.7.1 who are you"), ("MAIL", "530 5.7.0 authenticate first")],
)
def test_5xx_to_what_we_are_pauses(tmp_path: Path, step: str, says: str) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        sink.say(step, says)
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            await paused_then_resumed(rig, sink, says, sink.rules.clear)
        await sink.stop()

    run(body)


def test_a_login_that_is_refused_pauses(tmp_path: Path, authority: tuple[Path, ssl.SSLContext]) -> None:
    ca, context = authority

    async def body(reactor: Reactor) -> None:
        sink = await Sink(tls=context, login=("me", "another")).start()
        tls = TlsPlan(ca=ca, server_name="mail.example.com")

        def mend() -> None:
            sink.login = (LOGIN.user, LOGIN.password.reveal())

        async with sending(reactor, tmp_path, relay=sink.port, tls=tls, login=LOGIN) as rig:
            await paused_then_resumed(rig, sink, "refuses the login", mend)
            assert "hunter2" not in str(rig.status()) + repr(rig.client.plan)
            assert all(sink.over_tls)
        await sink.stop()

    run(body)


def test_tls_that_is_wanted_and_not_offered_pauses(tmp_path: Path, authority: tuple[Path, ssl.SSLContext]) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, relay=sink.port, login=LOGIN) as rig:
            rig.send()
            await rig.until(lambda: rig.status()["state"] == "paused")
            assert "STARTTLS" in rig.status()["reason"]
            assert sink.logins == []
        await sink.stop()

    run(body)


def test_paused_by_the_server_it_is_tried_again_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch, SEND_PAUSE_S=0.2)

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        sink.say("GREETING", "554 not you", times=3)
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            rig.send()
            await rig.until(lambda: rig.detail("sent") == 1)
            assert sink.connections == 4
            assert rig.detail("deferred") == 0
        await sink.stop()

    run(body)


def test_paused_by_a_person_over_a_restart(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            await rig.command("mail-pause")
            rig.send()
            await rig.until(lambda: rig.detail("taken") == 1)
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            assert rig.status()["state"] == "paused"
            assert sink.connections == 0
            await rig.command("mail-resume")
            await rig.until(lambda: rig.detail("sent") == 1)
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            assert rig.status()["state"] == "idle"
        await sink.stop()

    run(body)


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["offered", "starttls", "implicit"])
def test_tls(tmp_path: Path, authority: tuple[Path, ssl.SSLContext], mode: str) -> None:
    ca, context = authority

    async def body(reactor: Reactor) -> None:
        sink = await Sink(tls=context, implicit=mode == "implicit").start()
        tls = TlsPlan(ca=ca, server_name="mail.example.com")
        async with sending(reactor, tmp_path, relay=sink.port, tls=tls, tls_mode=mode) as rig:
            rig.send()
            await rig.until(lambda: rig.detail("sent") == 1)
            assert sink.over_tls == [True]
        async with sending(
            reactor, tmp_path / "2", relay=sink.port, tls=replace(tls, server_name=None), tls_mode=mode
        ) as rig:
            rig.send()
            await rig.until(lambda: rig.status()["state"] == "retrying")
            assert "no TLS" in rig.status()["reason"]
        if mode == "offered":  # nothing is said of certificates
            async with sending(reactor, tmp_path / "3", relay=sink.port) as rig:
                rig.send()
                await rig.until(lambda: rig.detail("sent") == 1)
                assert sink.over_tls == [True, True]
        assert len(sink.mails) == (2 if mode == "offered" else 1)
        await sink.stop()

    run(body)


# --- away, and back --------------------------------------------------------------------------------------------------


def test_a_relay_that_is_away_is_tried_again_and_then_everything_goes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch, SEND_REST_MIN_S=0.05, SEND_REST_MAX_S=0.1)

    async def body(reactor: Reactor) -> None:
        sink = Sink()
        async with sending(reactor, tmp_path, relay=sink.port, retry=LATE) as rig:
            for number in range(20):
                rig.send(id=str(number))
            await rig.until(lambda: rig.detail("deferred") >= 3)
            assert rig.status()["state"] == "retrying"
            await sink.start()
            await rig.until(lambda: rig.detail("sent") == 20)
            assert rig.status()["state"] == "up"
        await sink.stop()

    run(body)


def test_what_waits_for_its_time_goes_when_the_relay_is_there_after_a_restart(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = Sink()
        async with sending(reactor, tmp_path, relay=sink.port, retry=LATE) as rig:
            rig.send(id="one")
            await rig.until(lambda: rig.detail("deferred") == 1)
        await sink.start()
        async with sending(reactor, tmp_path, relay=sink.port, retry=LATE) as rig:
            assert (rig.detail("queue"), rig.detail("sent")) == (1, 0)
            rig.send(id="two")
            await rig.until(lambda: rig.detail("sent") == 2)
        await sink.stop()

    run(body)


@pytest.mark.parametrize(("host", "words"), [("localhost", ""), ("nowhere.invalid", "resolve")])
def test_a_relay_by_name(tmp_path: Path, host: str, words: str) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, relays=(f"tcp://{host}:{sink.port}",)) as rig:
            rig.send()
            if words:
                await rig.until(lambda: words in rig.status()["reason"], 20)
            else:
                await rig.until(lambda: rig.detail("sent") == 1)
        await sink.stop()

    run(body)


def test_relays_are_tried_in_turn(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        relays = ("tcp://127.0.0.1:1", f"tcp://127.0.0.1:{sink.port}")
        async with sending(reactor, tmp_path, relays=relays) as rig:
            rig.send()
            await rig.until(lambda: rig.detail("sent") == 1)
        await sink.stop()

    run(body)


# --- straight to each domain's servers -------------------------------------------------------------------------------


def test_a_domain_that_does_not_answer_leaves_the_others_their_turn(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()

        async def lookup(domain: str) -> list[str]:
            if domain == "slow.example":
                await asyncio.sleep(3600)
            return ["127.0.0.1"]

        async with sending(reactor, tmp_path, lookup=lookup, direct_port=sink.port) as rig:
            for number in range(2 * SEND_READY):
                rig.send(to=f"{number}@slow.example")
            await rig.until(lambda: rig.detail("queue") == 2 * SEND_READY)
            rig.send(to="b@quick.example")
            await rig.until(lambda: sink.mails)
        await sink.stop()

    run(body)


def test_direct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch, SEND_REST_MIN_S=0.05, SEND_REST_MAX_S=0.1)

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()

        async def lookup(domain: str) -> list[str]:
            if domain == "none.example":
                raise NoMail("the domain 'none.example' takes no mail (null MX)")
            return {"away.example": ["127.0.0.9"], "two.example": ["127.0.0.9", "127.0.0.1"]}.get(domain, ["127.0.0.1"])

        to = ["a@one.example", "b@TWO.example", "c@none.example", "d@away.example", "e@one.example"]
        async with sending(reactor, tmp_path, "REP", lookup=lookup, direct_port=sink.port, result=True) as rig:
            told = await rig.ask(to=to)
            assert {address: one["state"] for address, one in told["to"].items()} == {
                "a@one.example": "sent",
                "b@TWO.example": "sent",
                "c@none.example": "failed",
                "d@away.example": "deferred",
                "e@one.example": "sent",
            }
            assert sorted(sorted(mail.to) for mail in sink.mails) == [
                ["a@one.example", "e@one.example"],
                ["b@TWO.example"],
            ]
            assert list(rig.detail("troubles")) == ["away.example"]
            assert rig.status()["state"] == "up"
        await sink.stop()

    run(body)


# --- time, space -----------------------------------------------------------------------------------------------------


def test_a_rate(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        times: list[float] = []

        async def note() -> None:
            times.append(asyncio.get_running_loop().time())

        sink.do_at_dot(*[note] * 12)
        async with sending(reactor, tmp_path, relay=sink.port, rate=(4, 0.5)) as rig:
            for number in range(12):
                rig.send(id=str(number))
            await rig.until(lambda: rig.detail("sent") == 12)
            assert all(later - first >= 0.45 for first, later in zip(times, times[4:], strict=False))
            assert sink.connections <= 4
        await sink.stop()

    run(body)


def test_what_is_not_sent_in_time_fails_with_the_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch, SEND_TIDY_S=0.1)

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        sink.say("RCPT", "451 4.2.2 mailbox is full")
        async with sending(reactor, tmp_path, relay=sink.port, expire_s=0.5, expire_dead_s=1.0) as rig:
            rig.send()
            await rig.until(lambda: rig.detail("dead") == 1)
            (dead,) = await rig.mails("dead")
            assert dead["why"] == "not sent in time: 451 4.2.2 mailbox is full"
            await rig.until(lambda: rig.detail("dead") == 0)
            assert (rig.detail("forgotten"), rig.detail("bytes")) == ({"dead": 1}, 0)
        await sink.stop()

    run(body)


def test_a_full_spool_is_felt_by_whoever_sends_and_loses_nothing(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        raw = RAW + (b"x" * 998 + b"\r\n") * 50
        async with sending(reactor, tmp_path, relay=sink.port, max_spool=1_000_000, hwm=4, app_hwm=4) as rig:
            await rig.command("mail-pause")
            sent = 0
            for _ in range(400):
                if not rig.app.poll(50, 2):
                    break
                rig.send(raw, id=str(sent))
                sent += 1
                await asyncio.sleep(0)
                if rig.detail("bytes") >= 1_000_000:
                    await asyncio.sleep(0.01)
            assert 20 <= sent < 200
            assert rig.detail("bytes") < 2_500_000
            await rig.command("mail-resume")
            await rig.until(lambda: rig.detail("sent") == sent, 30)
            assert len({mail.content for mail in sink.mails}) == 1
            assert len(sink.mails) == sent
        await sink.stop()

    run(body)


def test_a_disk_that_fails_stops_the_reading_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch, TAKE_AGAIN_S=0.05)

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            monkeypatch.setattr(rig.client.outbox.db, "has_space", lambda _: False)
            rig.send(id="one")
            await rig.until(lambda: "nearly full" in rig.status()["reason"])
            rig.send(id="two")
            monkeypatch.undo()
            await rig.until(lambda: rig.detail("sent") == 2)
            await rig.until(lambda: rig.status()["state"] == "up")
            file = rig.client.outbox.db.path
            file.rename(file.with_suffix(".away"))  # the next order that has to open it fails
            await abandoned(rig.client.outbox.db)
            rig.send(id="three")
            await rig.until(lambda: "vanished" in rig.status()["reason"])
            file.with_suffix(".away").rename(file)
            await rig.until(lambda: rig.detail("sent") == 3)
        await sink.stop()

    run(body)


def test_who_asks_hears_that_the_disk_fails(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        async with sending(reactor, tmp_path, "REP", relay=1) as rig:
            rig.client.outbox.db.has_space = lambda _: False  # type: ignore[method-assign]
            told = await rig.ask(id="x")
            assert (told["state"], told["id"]) == ("failed", "x")
            del rig.client.outbox.db.has_space
            assert (await rig.ask(id="x"))["state"] == "queued"

    run(body)


# --- commands --------------------------------------------------------------------------------------------------------


def test_a_refused_message_goes_once_the_table_lets_it(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, relay=sink.port, allow_to=("*@example.org",)) as rig:
            rig.send()
            await rig.until(lambda: rig.detail("dead") == 1)
            told = await rig.command("mail-retry", all=True)
            assert told["count"] == 0
            assert "allow_to" in told["refused"][0]["why"]
        async with sending(reactor, tmp_path, relay=sink.port, allow_to=("*@example.com",)) as rig:
            assert rig.detail("dead") == 1
            assert (await rig.command("mail-retry", all=True)) == {"count": 1, "refused": []}
            await rig.until(lambda: rig.detail("sent") == 1)
            assert (rig.detail("dead"), rig.detail("bytes")) == (0, 0)
        await sink.stop()

    run(body)


def test_dropping(tmp_path: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            await rig.command("mail-pause")
            for number in range(3):
                rig.send(id=str(number))
            await rig.until(lambda: rig.detail("queue") == 3)
            first, *_ = await rig.mails()
            shown = await rig.command("mail-show", number=first["number"])
            assert shown["headers"][2] == ["Subject", "one"]
            assert shown["mail"]["states"][0]["state"] == "queued"
            assert await rig.command("mail-drop", numbers=[first["number"]]) == {"count": 1, "busy": 0}
            assert await rig.command("mail-drop", all=True) == {"count": 0, "busy": 0}  # only what failed
            await rig.command("mail-resume")
            await rig.until(lambda: rig.detail("sent") == 2)
            assert (rig.detail("queue"), rig.detail("bytes"), len(sink.mails)) == (0, 0, 2)
        await sink.stop()

    run(body)
