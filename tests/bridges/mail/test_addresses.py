"""Which addresses are let through, and which patterns they fit."""

from __future__ import annotations

import pytest

from bridges.mail.addresses import AddressError, Pattern, checked, parts


@pytest.mark.parametrize(
    "address",
    [
        "a@b.c",
        "first.last+tag@example.com",
        '"odd one"@example.com',
        "a@[192.0.2.1]",
        "jürgen@bücher.example",
        "x@host",
    ],
)
def test_addresses(address: str) -> None:
    assert checked(address) == address


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("a@b.c\r\nRCPT TO:<evil@b.c>", "control character"),
        ("a@b.c\n", "control character"),
        ("a\x00@b.c", "control character"),
        ("a\x85@b.c", "control character"),
        ("a\u2028@b.c", "control character"),
        ("\udc80@b.c", "control character"),
        ("a@b.c> SIZE=1", "no mail address"),
        ("<a@b.c>", "no mail address"),
        ("a b@c.d", "no mail address"),
        ("a..b@c.d", "no mail address"),
        (".a@c.d", "no mail address"),
        ("a@", "no mail address"),
        ("@b.c", "no mail address"),
        ("a@b..c", "no mail address"),
        ("nobody", "has no @"),
        ("", "has no @"),
        ("a" * 400 + "@b.c", "longer than"),
    ],
)
def test_no_addresses(address: str, why: str) -> None:
    with pytest.raises(AddressError, match=why) as told:
        checked(address)
    assert str(told.value).isprintable()


@pytest.mark.parametrize(
    ("pattern", "fits", "not_these"),
    [
        ("ups@*", ["ups@a", "UPS+west@b.c"], ["upsala@a", "a+ups@b"]),
        ("*@example.com", ["a@example.com", "a+b@EXAMPLE.com."], ["a@sub.example.com", "a@exampleXcom"]),
        ("ups+*@*", ["ups+west@a", "ups+@a.b"][:1], ["ups@a", "other+west@a"]),
        ("*+urgent@b.c", ["x+urgent@b.c"], ["x@b.c", "x+later@b.c"]),
        ("scan?@*", ["scan1@a"], ["scan@a", "scan12@a"]),
        ("*@*.example.com", ["a@x.example.com", "a@x.y.example.com"], ["a@example.com"]),
    ],
)
def test_patterns(pattern: str, fits: list[str], not_these: list[str]) -> None:
    made = Pattern(pattern)
    assert [address for address in fits if not made.fits(address)] == []
    assert [address for address in not_these if made.fits(address)] == []


@pytest.mark.parametrize("text", ["everybody", "a@b@c", "a b@c", "", "@b", "a@", "a\n@b"])
def test_no_patterns(text: str) -> None:
    with pytest.raises(ValueError, match="no pattern"):
        Pattern(text)


def test_parts() -> None:
    found = parts("Ops+Night.1@Example.COM")
    assert (found.local, found.tag, found.domain) == ("ops", "night.1", "example.com")
    assert parts('"a+b"@c').tag == ""
