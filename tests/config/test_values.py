"""The small languages: sizes, times, networks, topics, endpoints. What is wrong with them: wrong_tables.py."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.config import values
from tunnel.config.render import duration_text, size_text, topic_text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1B", 1),
        ("64KiB", 65536),
        ("4MiB", 4 << 20),
        ("1GiB", 1 << 30),
        ("1.5KiB", 1536),
        ("2 MiB", 2 << 20),
        ("0.5GiB", 1 << 29),
    ],
)
def test_size(text: str, size: int) -> None:
    assert values.size(text) == size


@pytest.mark.parametrize(
    "text", ["4", 4, 4.5, "4mb", "4M", "4kib", "-4MiB", "MiB", "", "4MiB x", "1e3MiB", True, None, []]
)
def test_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        values.size(text) if text not in ("4", 4, 4.5) else _unit_missing(text)


def _unit_missing(text: object) -> None:
    with pytest.raises(ValueError, match=r"has no unit; write for example 4MiB or 64KiB\."):
        values.size(text)
    raise ValueError("size")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("200ms", 0.2), ("5s", 5), ("2m", 120), ("1h", 3600), ("1d", 86400), ("0.5s", 0.5), ("1.5m", 90), ("5 s", 5)],
)
def test_duration(text: str, seconds: float) -> None:
    assert values.duration(text) == seconds


@given(st.integers(0, 1 << 40))
def test_a_size_written_is_read_again(size: int) -> None:
    assert values.size(size_text(size)) == size


@given(st.integers(1, 10**12))
def test_a_time_written_is_read_again(microseconds: int) -> None:
    seconds = microseconds / 1_000_000
    assert values.duration(duration_text(seconds)) == seconds


@given(st.binary(max_size=50))
def test_a_topic_written_is_read_again(topic: bytes) -> None:
    assert values.topic(topic_text(topic)) == topic


@pytest.mark.parametrize(
    ("text", "meant"), [("", b""), ("a b", b"a b"), ("hex:00fF", b"\x00\xff"), ("ä", "ä".encode()), ("0x00", b"0x00")]
)
def test_topic(text: str, meant: bytes) -> None:
    assert values.topic(text) == meant


@pytest.mark.parametrize("text", ["192.0.2.0/24", "192.0.2.7", "2001:db8::/32", "::1", "0.0.0.0/0"])
def test_network(text: str) -> None:
    assert values.network(text) == ip_network(text)


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("tcp://127.0.0.1:5555", "bind"),
        ("tcp://*:5555", "bind"),
        ("tcp://eth0:5555", "bind"),
        ("tcp://eth0.100:5555", "bind"),
        ("tcp://[::]:5555", "bind"),
        ("tcp://0.0.0.0:1", "bind"),
        ("tcp://service:65535", "connect"),
        ("tcp://a-b.example.com:5555", "connect"),
        ("tcp://[2001:db8::1]:5555", "connect"),
        ("ipc://a.sock", "bind"),
        ("ipc:///run/a.sock", "connect"),
        ("ipc://@abstract", "connect"),
        ("local", "bind"),
    ],
)
def test_endpoint(text: str, method: values.Method) -> None:
    assert values.local_endpoint(text, method) == text


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.9.9.9:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://[::ffff:127.0.0.1]:1", True),
        ("tcp://lo:1", True),
        ("tcp://*:1", False),
        ("tcp://0.0.0.0:1", False),
        ("tcp://[::]:1", False),
        ("tcp://eth0:1", False),
        ("tcp://128.0.0.1:1", False),
        ("tcp://[::ffff:192.0.2.1]:1", False),
    ],
)
def test_loopback(text: str, loopback: bool) -> None:
    assert values.tcp(text).loopback is loopback


@given(st.text(max_size=40), st.sampled_from(["bind", "connect"]))
def test_an_endpoint_is_right_or_told(rest: str, method: values.Method) -> None:
    for text in (rest, f"tcp://{rest}", f"ipc://{rest}", f"tcp://127.0.0.1:{rest}"):
        said = sentence_about(text, method)
        assert said == "" or said[-1] in ".?"
        if not said and text.startswith("tcp://"):
            assert 1 <= values.tcp(text).port <= 65535


def sentence_about(text: str, method: values.Method) -> str:
    try:
        assert values.local_endpoint(text, method) == text
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("dmz", {"side": "dmz"}),
        ("dmz bind local", {"side": "dmz", "bind": ["local"]}),
        ("  dmz   connect  a b ", {"side": "dmz", "connect": ["a", "b"]}),
    ],
)
def test_short_end(text: str, meant: dict[str, object]) -> None:
    assert values.short_end(text) == meant


def test_suggest() -> None:
    assert values.suggest("patern", ["pattern", "from"]) == " Did you mean 'pattern'?"
    assert values.suggest("zzz", ["pattern"]) == ""
    assert values.listing(["a", "b", "c"]) == "a, b or c"
