"""The pure parts of mail on its way out: raw mails, templates, the schedule; and what libraries do without us."""

from __future__ import annotations

import asyncio
import re
import smtplib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import default
from typing import Any

import aiosmtplib
import pytest
from aiosmtplib.email import quote_address
from hypothesis import given
from hypothesis import strategies as st

from bridges.mail.addresses import AddressError, checked
from bridges.mail.compose import ComposeError, compose, mailbox, message_id
from bridges.mail.fill import FillError, Filling
from bridges.mail.mx import in_order
from bridges.mail.raw import RawError, head_length, header, prepared
from bridges.mail.retry import Rate, Rest, Schedule
from bridges.mail.troubles import NoMail
from tunnel.config.mail.smtp_client_plan import TemplatePlan

RAW = b"Subject: one\r\n\r\nHello.\r\n"

# --- raw mails -------------------------------------------------------------------------------------------------------


BODIES = (b"", b"a\r\n", b".\r\n", b"\r\n\r\n", bytes(range(128, 256)) + b"\r\n", b"x" * 5000 + b"\r\n")
NO_MAILS = (
    b"",
    b"\r\n",
    b"hello\r\n",
    b" folded: first\r\n",
    b"Sub ject: x\r\n",
    b"Subject: a\x0bb\r\n",
    b"Bcc: a@b\r\n",
    b"\0",
)


@pytest.mark.parametrize("body", BODIES)
def test_a_right_mail_is_not_touched(body: bytes) -> None:
    raw = RAW + body
    assert prepared(raw, normalise=False) is raw


@pytest.mark.parametrize(
    ("raw", "out"),
    [
        (b"Subject: one\r\n\r\nHello.", b"Subject: one\r\n\r\nHello.\r\n"),
        (b"bcc: a@b\r\nSubject: one\r\n\r\nHi\r\n", b"Subject: one\r\n\r\nHi\r\n"),
        (b"Subject: one\r\nBcc: a@b,\r\n c@d,\r\n\te@f\r\n\r\nHi\r\n", b"Subject: one\r\n\r\nHi\r\n"),
        (b"Subject: one\r\nBCC :\r\n a@b\r\nX: y\r\n\r\nHi\r\n", b"Subject: one\r\nX: y\r\n\r\nHi\r\n"),
        (b"Subject: one\r\nResent-Bcc: a@b\r\n", b"Subject: one\r\n"),
        (b"Subject: a\r\n Bcc: b\r\n\r\nBcc: c\r\n", b"Subject: a\r\n Bcc: b\r\n\r\nBcc: c\r\n"),
        (b"X-Bcc: a@b\r\nBccs: c\r\n\r\n", b"X-Bcc: a@b\r\nBccs: c\r\n\r\n"),
    ],
)
def test_what_is_changed(raw: bytes, out: bytes) -> None:
    assert prepared(raw, normalise=False) == out


@pytest.mark.parametrize("bare", [b"\n", b"\r", b"\n\r", b"\r\r\n", b"\n\n"])
def test_bare_newlines(bare: bytes) -> None:
    raw = RAW + b"a" + bare + b"b\r\n"
    with pytest.raises(RawError, match="stands alone at byte"):
        prepared(raw, normalise=False)
    assert re.search(rb"\r(?!\n)|(?<!\r)\n", prepared(raw, normalise=True)) is None


@pytest.mark.parametrize("raw", NO_MAILS)
def test_no_mail(raw: bytes) -> None:
    with pytest.raises(RawError):
        prepared(raw, normalise=False)


def test_the_hop_goes_on_top() -> None:
    assert prepared(RAW, normalise=False, hop="plant") == b"X-Ztunnel-Hop: plant\r\n" + RAW


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"Bcc: x", b":", b" ", b"\0"]), max_size=30))
def test_whatever_comes_every_line_ends_with_crlf_or_it_is_refused(pieces: list[bytes]) -> None:
    for normalise in (False, True):
        try:
            out = prepared(RAW + b"".join(pieces), normalise=normalise)
        except RawError:
            continue
        assert re.search(rb"\r(?!\n)|(?<!\r)\n", out) is None
        assert out.endswith(b"\r\n")
        assert b"\0" not in out


def test_headers() -> None:
    raw = b"A: 1\r\nsubject: b\r\n c\r\n\r\nSubject: body\r\n"
    assert (header(raw, "Subject"), header(raw, "From"), head_length(raw)) == ("b c", "", 22)


# --- templates -------------------------------------------------------------------------------------------------------

DATA: dict[str, Any] = {"a": {"b": [1, "zwei"]}, "n": None, "t": True, "s": "text", "f": 1.5, "to": ["x@y", "z@y"]}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{s}", "text"),
        ("{a.b.1}{a.b.0}", "zwei1"),
        ("{n}|{t}|{f}", "|true|1.5"),
        ("{a}", '{"b": [1, "zwei"]}'),
        ("{{s}}", "{s}"),
        ("{missing?}!", "!"),
        ("{a.b.9?}", ""),
        ("no field", "no field"),
    ],
)
def test_filling(text: str, found: str) -> None:
    assert Filling(text).fill(DATA) == found


@pytest.mark.parametrize("text", ["{s", "s}", "{}", "{a b}", "{a..b}", "{?}", "{a{b}}"])
def test_no_template(text: str) -> None:
    with pytest.raises(ValueError, match=r"brace|names no field"):
        Filling(text)


@pytest.mark.parametrize("text", ["{x}", "{a.x}", "{a.b.2}", "{s.t}", "{a.b.-1}"])
def test_a_field_that_is_not_there(text: str) -> None:
    with pytest.raises(FillError, match="the JSON has none"):
        Filling(text).fill(DATA)


def test_several() -> None:
    assert Filling("{to}").several(DATA) == ["x@y", "z@y"]
    assert Filling("{s}@y").several(DATA) == ["text@y"]
    assert Filling("{n}").several(DATA) == []


TEMPLATE = TemplatePlan(Filling("{subject}"), Filling("{text}"), sender=Filling("{from?}"), attachments=True)
INJECTED = ("\r\nBcc: evil@example.com", "\nX: y", "\rX: y", "\0", "\x0b", "\x85", "\u2028x", "\x1b[31m", "\ud800")


def made(frames: tuple[bytes, ...] = (), **data: Any) -> bytes:
    said = {"from": "a@example.com", "to": "b@example.com", "subject": "s", "text": "t", **data}
    return compose(TEMPLATE, said, frames, sender=None, mail_id="7", hostname="h.example", hop="t", now=0.0).raw


@pytest.mark.parametrize("bad", INJECTED, ids=ascii)
@pytest.mark.parametrize("where", ["subject", "from", "to", "name of from", "name of to", "attachment"])
def test_no_value_becomes_a_header(where: str, bad: str) -> None:
    data: dict[str, Any] = {
        "subject": {"subject": f"one{bad}"},
        "from": {"from": f"a@example.com{bad}"},
        "to": {"to": [f"b@example.com{bad}"]},
        "name of from": {"from": f"Me{bad} <a@example.com>"},
        "name of to": {"to": [f"You{bad} <b@example.com>"]},
        "attachment": {"attachments": [{"name": f"a{bad}.pdf"}]},
    }[where]
    with pytest.raises(ComposeError):
        made((b"content",), **data)


@pytest.mark.parametrize(
    "data",
    [
        {"to": []},
        {"to": 5},
        {"to": "nobody"},
        {"to": "a@b, c@d"},
        {"subject": "x" * 901},
        {"text": "a\0b"},
        {"attachments": [{"name": "a"}, {"name": "b"}]},
        {"attachments": ["a"]},
        {"attachments": [{"type": "text"}]},
        {"attachments": [{"type": "message/rfc822"}]},
        {"attachments": [{"type": "text/plain\r\nX: y"}]},
        {"attachments": [{"name": 5}]},
    ],
    ids=str,
)
def test_what_no_mail_is_made_of(data: dict[str, Any]) -> None:
    with pytest.raises(ComposeError):
        made((b"content",), **data)


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=120)


@given(subject=TEXTS, name=TEXTS, text=st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_whatever_is_said_the_headers_are_ours(subject: str, name: str, text: str) -> None:
    try:
        raw = made((b"x",), subject=subject, text=text, to=[f"{name} <b@example.com>"])
    except ComposeError:
        return
    assert re.search(rb"\r(?!\n)|(?<!\r)\n", raw) is None
    assert raw.isascii()
    mail = message_from_bytes(raw, policy=default)
    wanted = ["From", "To", "Subject", "Date", "Message-ID", "X-Ztunnel-Hop", "MIME-Version", "Content-Type"]
    assert sorted(mail.keys()) == sorted(wanted)
    assert [one.addr_spec for one in mail["To"].addresses] == ["b@example.com"]
    assert max(map(len, raw.split(b"\r\n"))) <= 998


def test_mailboxes_and_ids() -> None:
    assert (mailbox("a@b").address, mailbox('"Me, too" <a@b>').name) == ("a@b", "Me, too")
    assert message_id("alarm-1.7", "h") == "<alarm-1.7@h>"
    assert re.fullmatch(r"<[0-9a-f]{40}@h>", message_id("two words", "h"))
    assert message_id("ü", "h") == message_id("ü", "h") != message_id("ä", "h")


# --- the schedule ----------------------------------------------------------------------------------------------------


def test_the_schedule() -> None:
    schedule = Schedule(((60, 1), (300, 2), (900, 4)))
    assert [schedule.after(n, 0.0) for n in range(1, 10)] == [60, 300, 300, 900, 900, 900, 900, 900, 900]
    assert schedule.after(1, 1.0) == 72


def test_the_rate() -> None:
    rate = Rate(2, 10.0)
    waits = []
    for now in (0.0, 1.0, 2.0, 10.0, 11.0):
        waits.append(rate.wait_s(now))
        if not waits[-1]:
            rate.take(now)
    assert waits == [0, 0, 8, 0, 0]
    assert Rate().wait_s(0) == 0


def test_the_rest() -> None:
    rest = Rest(1, 10)
    pauses = []
    for _ in range(6):
        rest.fail(100.0, 0.0)
        pauses.append(rest.until - 100)
    assert pauses == [1, 2, 4, 8, 10, 10]
    rest.over()
    assert (rest.until, rest.failures) == (0, 0)


def test_the_order_of_servers() -> None:
    assert in_order([(20, "b."), (10, "a."), (30, "c.")], "x") == ["a", "b", "c"]
    assert sorted(in_order([(10, "a."), (10, "b.")], "x")) == ["a", "b"]
    assert in_order([], "x") == ["x"]
    assert in_order([(0, "."), (10, "a.")], "x") == ["a"]
    with pytest.raises(NoMail, match="null MX"):
        in_order([(0, ".")], "x")
    assert len(in_order([(n, f"{n}.") for n in range(99)], "x")) == 5


# --- what the libraries do by themselves: why we look first ----------------------------------------------------------


@contextmanager
def recording() -> Iterator[tuple[int, bytearray]]:
    """An SMTP server of sorts that says yes to everything, and what it heard."""
    heard = bytearray()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.sendall(b"220 hello\r\n")
            data = False
            pending = b""
            while got := client.recv(65536):
                heard.extend(got)
                pending += got
                while b"\r\n" in pending:
                    line, _, pending = pending.partition(b"\r\n")
                    if data:
                        data = line != b"."
                        if not data:
                            client.sendall(b"250 ok\r\n")
                    elif line.upper() == b"DATA":
                        data = True
                        client.sendall(b"354 go on\r\n")
                    elif line.upper() == b"QUIT":
                        client.sendall(b"221 bye\r\n")
                        return
                    else:
                        client.sendall(b"250 ok\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], heard
    finally:
        thread.join(10)
        listener.close()


@pytest.mark.parametrize("quote", [smtplib.quoteaddr, quote_address], ids=["smtplib", "aiosmtplib"])
def test_without_us_a_line_break_in_an_address_is_cut_without_a_word(quote: Callable[[str], str]) -> None:
    assert quote("b@example.com\r\nevil") == "<b@example.com>"
    assert quote("b@exa\nmple.com") == "<b@exa>"  # somebody else gets the mail
    for address in ("b@example.com\r\nevil", "b@exa\nmple.com"):
        with pytest.raises(AddressError, match="control character"):
            checked(address)


def test_without_us_the_standard_library_sends_what_some_take_for_the_end_of_a_mail() -> None:
    raw = b"Subject: x\r\n\r\ny\r.\rMAIL FROM:<evil@example.com>\r\n"
    with recording() as (port, heard), smtplib.SMTP("127.0.0.1", port) as smtp:
        smtp.sendmail("a@example.com", ["b@example.com"], raw)
    assert b"y\r.\rMAIL FROM" in heard
    with pytest.raises(RawError, match="a CR stands alone"):
        prepared(raw, normalise=False)


def test_without_us_newlines_are_mended_which_breaks_signatures_without_a_word() -> None:

    async def body() -> None:
        with recording() as (port, heard):
            smtp = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False)
            await smtp.connect()
            await smtp.sendmail("a@example.com", ["b@example.com"], b"Subject: x\r\n\r\ny\n.\nz\r\n")
            await smtp.quit()
        assert b"y\r\n..\r\nz\r\n" in heard

    asyncio.run(body())
