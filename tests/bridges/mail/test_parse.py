"""A mail taken apart: bounded, and never stumbled over."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.mail.limits import PARSE_BYTES, PARSE_DEPTH, PARSE_PARTS
from bridges.mail.parse import parsed


def test_text_html_and_attachments() -> None:
    raw = (
        b"From: a@b.c\r\nSubject: one\r\n two\r\nContent-Type: multipart/alternative; boundary=x\r\n\r\n"
        b"--x\r\nContent-Type: text/plain\r\n\r\nplain\r\n"
        b"--x\r\nContent-Type: text/html; charset=nonsense\r\nContent-Transfer-Encoding: base64\r\n\r\nPGI+\r\n"
        b'--x\r\nContent-Type: text/plain; name="a\\b/c.txt"\r\n\r\nfile\r\n--x--\r\n'
    )
    told, attachments = parsed(raw)
    assert told["headers"]["subject"] == ["one two"]
    assert (told["text"].strip(), told["html"], told["cut"]) == ("plain", "<b>", False)
    assert told["attachments"] == [{"name": "c.txt", "type": "text/plain", "size": 4}]
    assert attachments == [b"file"]


def test_too_long_too_deep_and_too_many() -> None:
    assert parsed(b"x" * (PARSE_BYTES + 1))[0]["cut"]
    deep = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (number, number)
        for number in range(PARSE_DEPTH + 20)
    )
    assert parsed(deep + b"\r\nend")[0]["cut"]
    many = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + b"--x\r\n\r\na\r\n" * (PARSE_PARTS + 50) + b"--x--"
    told, attachments = parsed(many)
    assert told["cut"]
    assert len(attachments) < PARSE_PARTS


@given(st.binary(max_size=400))
def test_any_bytes(raw: bytes) -> None:
    for mail in (raw, b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n" + raw, b"Content-Type: " + raw):
        told, attachments = parsed(mail)
        assert len(json.dumps(told)) < 100_000
        assert all(isinstance(data, bytes) for data in attachments)


@pytest.mark.parametrize(
    "head",
    [
        b"From: " + b'"' * 200_000,
        b"To: " + b"a@b.c," * 100_000,
        b"Content-Type: text/plain; " + b"a=b;" * 50_000,
        b"Subject: a" + b"\r\n b" * 1_000_000,
        b"X-A: a\r\n" * 200_000 + b"X-B: b",
        b'Content-Type: multipart/mixed; boundary="b"\r\n'
        + (b"\r\n--b\r\nContent-Type: text/plain; " + b"a=b;" * 2000 + b"\r\n") * 20,
    ],
)
def test_a_header_that_costs_the_square_of_its_length_is_cut(head: bytes) -> None:
    before = time.process_time()
    told, _ = parsed(head + b"\r\n\r\ntext\r\n")
    assert time.process_time() - before < 5  # minutes to hours, without a bound
    assert told["cut"] or b"boundary" in head


@pytest.mark.parametrize("more", [b"--b\r\n\r\nx\r\n" * 300_000, b"--b\r\n" + b"X: y\r\n" * 500_000])
def test_a_mail_of_countless_parts_or_fields_is_told_of_by_its_header(more: bytes) -> None:
    before = time.process_time()
    told, attachments = parsed(b"Subject: a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" + more)
    assert time.process_time() - before < 3
    assert (told["headers"]["subject"], told["cut"], attachments) == (["a"], True, [])


def test_a_long_list_of_recipients_is_whole() -> None:
    said = ", ".join(f"someone.{number}@example.com" for number in range(200))
    told, _ = parsed(f"To: {said}\r\n\r\ntext\r\n".encode())
    assert (told["headers"]["to"], told["cut"]) == ([said], False)
