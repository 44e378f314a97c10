"""What is in the addresses of links, as carriers read it."""

from __future__ import annotations

import pytest

from tunnel.config.addresses import Http, Ssh, http, is_open, link_address, opened, pin, proxy_url, ssh
from tunnel.config.values import Method


@pytest.mark.parametrize(
    ("text", "method", "parts"),
    [
        ("ssh://me@dmz/127.0.0.1:9440", "connect", Ssh("me", "dmz", 22, "127.0.0.1:9440")),
        ("ssh://me@dmz/9440", "connect", Ssh("me", "dmz", 22, "127.0.0.1:9440")),
        ("ssh://me@dmz:2222/inner.example.com:9440", "connect", Ssh("me", "dmz", 2222, "inner.example.com:9440")),
        ("ssh://svc.zt-1@[2001:db8::1]:2222/[::1]:1", "connect", Ssh("svc.zt-1", "2001:db8::1", 2222, "[::1]:1")),
        ("ssh://me@dmz/run/zt/link.sock", "connect", Ssh("me", "dmz", 22, "/run/zt/link.sock")),
        ("ssh://me@dmz//run/zt/link.sock", "connect", Ssh("me", "dmz", 22, "/run/zt/link.sock")),
        ("ssh://me@gate/9440", "bind", Ssh("me", "gate", 22, "127.0.0.1:9440")),
        ("ssh://me@gate/localhost:9440", "bind", Ssh("me", "gate", 22, "localhost:9440")),
        ("ssh://me@gate/*:9440", "bind", Ssh("me", "gate", 22, "*:9440")),
        ("ssh://me@gate/[::]:9440", "bind", Ssh("me", "gate", 22, "[::]:9440")),
    ],
)
def test_ssh(text: str, method: Method, parts: Ssh) -> None:
    assert link_address(text, method) == text
    assert ssh(text) == parts


@pytest.mark.parametrize(
    ("text", "method", "parts"),
    [
        ("http://dmz/link", "connect", Http("http", "dmz", 80, "/link")),
        ("https://dmz.example.com", "connect", Http("https", "dmz.example.com", 443, "/")),
        ("https://[::1]:8443/a/b%20c", "connect", Http("https", "::1", 8443, "/a/b%20c")),
        ("http://127.0.0.1:8080/link", "bind", Http("http", "127.0.0.1", 8080, "/link")),
        ("https://*:443/", "bind", Http("https", "*", 443, "/")),
        ("http://[::]:8080/x", "bind", Http("http", "::", 8080, "/x")),
    ],
)
def test_http(text: str, method: Method, parts: Http) -> None:
    assert link_address(text, method) == text
    assert http(text) == parts


@pytest.mark.parametrize(
    ("text", "authority", "host_header", "whole"),
    [
        ("http://dmz/link", "dmz:80", "dmz", "http://dmz:80/link"),
        ("https://dmz", "dmz:443", "dmz", "https://dmz:443/"),
        ("https://dmz:80/link", "dmz:80", "dmz:80", "https://dmz:80/link"),
        ("http://[::1]:8080/link", "[::1]:8080", "[::1]:8080", "http://[::1]:8080/link"),
        ("https://[::1]/link", "[::1]:443", "[::1]", "https://[::1]:443/link"),
    ],
)
def test_http_put_together_again(text: str, authority: str, host_header: str, whole: str) -> None:
    parts = http(text)
    assert (parts.authority, parts.host_header, parts.text) == (authority, host_header, whole)
    assert parts.secure == text.startswith("https")


@pytest.mark.parametrize("method", ["bind", "connect"])
def test_a_port_0_is_read_and_in_no_table(method: Method) -> None:
    assert http("http://127.0.0.1:0/link").port == 0
    with pytest.raises(ValueError, match="a number from 1 to 65535"):
        link_address("http://127.0.0.1:0/link", method)


@pytest.mark.parametrize(
    ("text", "beyond"),
    [
        ("ipc://a", False),
        ("tcp://127.0.0.1:1", False),
        ("tcp://*:1", True),
        ("http://127.0.0.1:1/", False),
        ("https://[::1]:1/", False),
        ("http://192.0.2.1:1/", True),
        ("https://*:1/", True),
        ("ssh://me@gate/9440", False),
        ("ssh://me@gate/localhost:9440", False),
        ("ssh://me@gate/*:9440", True),
        ("ssh://me@gate/0.0.0.0:9440", True),
    ],
)
def test_open_to_others(text: str, beyond: bool) -> None:
    assert is_open(text) is beyond


def test_what_it_occupies() -> None:
    assert opened("unix:///run/a") == opened("ipc:///run/a") == "ipc:///run/a"
    assert opened("https://*:443/a") == "tcp://*:443"
    assert opened("http://[::1]:80/a") == "tcp://[::1]:80"
    assert opened("ssh://me@gate/9440") == opened("ssh://you@gate:22/127.0.0.1:9440")
    assert opened("local") == "local"


def test_pins_as_they_are_printed() -> None:
    assert pin("sha256:" + "AB" * 32) == pin(":".join(["aB"] * 32)) == "ab" * 32


def test_proxies() -> None:
    assert proxy_url("none") == ""
    assert proxy_url("http://[::1]:3128/") == "http://[::1]:3128"
