"""Which servers take a domain's mail, asked of a name server that says what the test wants."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from bridges.mail import mx
from bridges.mail.troubles import NoMail, Unreachable

ZONE = {
    "two.example.": ["20 second.example.", "10 first.example."],
    "null.example.": ["0 ."],
    "itself.example.": [],
    "xn--bcher-kva.example.": ["10 mail.example."],
}


@pytest.fixture(autouse=True)
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

        def serve() -> None:
            while True:
                asked, client = server.recvfrom(4096)
                if asked == b"end":
                    return
                query = dns.message.from_wire(asked)
                name = query.question[0].name.to_text().lower()
                reply = dns.message.make_response(query)
                if name == "broken.example.":
                    reply.set_rcode(dns.rcode.SERVFAIL)
                elif name not in ZONE:
                    reply.set_rcode(dns.rcode.NXDOMAIN)
                elif ZONE[name]:
                    reply.answer.append(dns.rrset.from_text_list(name, 60, "IN", "MX", ZONE[name]))
                if name != "silent.example.":
                    server.sendto(reply.to_wire(), client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

        def resolver() -> dns.asyncresolver.Resolver:
            made = dns.asyncresolver.Resolver(configure=False)
            made.nameservers, made.port = ["127.0.0.1"], port
            return made

        monkeypatch.setattr(mx, "Resolver", resolver)
        yield
        server.sendto(b"end", ("127.0.0.1", port))
        thread.join(10)


@pytest.mark.parametrize(
    ("domain", "hosts"),
    [
        ("two.example", ["first.example", "second.example"]),
        ("two.example.", ["first.example", "second.example"]),
        ("itself.example", ["itself.example"]),
        ("bücher.example", ["mail.example"]),
        ("[192.0.2.1]", ["192.0.2.1"]),
        ("[IPv6:2001:db8::1]", ["2001:db8::1"]),
    ],
)
def test_servers(domain: str, hosts: list[str]) -> None:
    assert asyncio.run(mx.servers_of(domain)) == hosts


@pytest.mark.parametrize(
    ("domain", "trouble", "words"),
    [
        ("null.example", NoMail, "null MX"),
        ("nowhere.example", NoMail, "there is no domain"),
        ("broken.example", Unreachable, "could not be looked up"),
        ("silent.example", Unreachable, "could not be looked up"),
        (f"{'x' * 70}.example", Unreachable, "could not be looked up"),
    ],
)
def test_none(domain: str, trouble: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "SEND_LOOKUP_S", 1.0)
    with pytest.raises(trouble, match=words):
        asyncio.run(mx.servers_of(domain))
