"""Greetings: what comes back, what is refused, and when two tables mean the same route."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tunnel.errors import RemoteProtocolError
from tunnel.limits import ROUTES
from tunnel.link.hello import Announced, Hello, disagreement, encode_numbers, parse_hello, parse_numbers

ROUTE = Announced("orders", "reqrep", ("dmz",), ("plant",), "confirmed", 3, 4 << 20, 64 << 20, (7, 5), 9)
HELLO = Hello("dmz", b"s" * 16, 2, b"p" * 16, 123, (ROUTE,), b"n" * 16, True)


def sent(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(HELLO.fields()))
    return {key: value for key, value in (fields | changes).items() if value is not ...}


def sent_route(**changes: Any) -> dict[str, Any]:
    route = sent()["routes"][0] | changes
    return sent(routes=[{key: value for key, value in route.items() if value is not ...}])


def test_a_greeting_comes_back() -> None:
    assert parse_hello(sent()) == HELLO


def test_unknown_fields_are_ignored() -> None:
    assert parse_hello(sent(colour="red")) == HELLO


@pytest.mark.parametrize(("key", "value"), [("version", 2), ("version", 0), ("protocol", "other")])
def test_another_version_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(RemoteProtocolError, match="install the same release on both boxes") as error:
        parse_hello(sent(**{key: value}))
    assert error.value.code == "version"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        *(sent(**{key: ...}) for key in HELLO.fields() if key != "resume"),
        *(sent(session=value) for value in ("", "00", "zz" * 16, "00" * 17, 5, None)),
        *(sent(peer_session=value) for value in ("00" * 15, ["00"])),
        *(sent(nonce=value) for value in ("00", 0)),
        *(sent(attempt=value) for value in (-1, 1.0, "1", True, 2**63, None)),
        *(sent(clock_us=value) for value in (-1, 1e9)),
        *(sent(side=value) for value in (5, "a\nb", "x" * 1025, "\ud800", None)),
        *(sent(routes=value) for value in ({}, [5], [{}] * (ROUTES + 1), None)),
        *(sent_route(**{key: ...}) for key in sent()["routes"][0]),
        *(sent_route(number=value) for value in (-1, 2**32, "3")),
        *(sent_route(peer_number=value) for value in (-1, 2**32)),
        *(sent_route(received=value) for value in (-1, 2**63)),
        *(sent_route(**{"from": value}) for value in ("dmz", [5], ["a\x1b"], ["x" * 1025])),
        sent_route(name="\x07"),
    ],
)
def test_unusable_greetings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_hello(fields)


def test_opened_numbers_come_back() -> None:
    assert parse_numbers(encode_numbers({"orders": (7, 5)})) == {"orders": (7, 5)}


@pytest.mark.parametrize(
    "numbers",
    [None, [], {"r": 5}, *({"r": pair} for pair in ([1], [1, 2, 3], [-1, 0], [1.0, 0], [True, 0], [2**63, 0]))],
)
def test_unusable_opened_numbers_are_refused(numbers: object) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_numbers({"numbers": numbers})


def test_windows_and_numbers_are_nobodys_business_but_ones_own() -> None:
    other = replace(ROUTE, number=8, window_bytes=1, max_message_bytes=1, numbers=(0, 0))
    assert disagreement(ROUTE, other, "plant", "dmz") is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pattern": "pair"}, "pattern is reqrep at plant and pair at dmz"),
        ({"from_sides": ("x", "y")}, "from is dmz at plant and x, y at dmz"),
        ({"to_sides": ("x",)}, "to is plant at plant and x at dmz"),
        ({"delivery": "live"}, "delivery is confirmed at plant and live at dmz"),
    ],
)
def test_disagreements_are_told(change: dict[str, Any], says: str) -> None:
    said = disagreement(ROUTE, replace(ROUTE, **change), "plant", "dmz")
    assert said is not None
    assert says in said
    assert "make them the same and reload" in said
