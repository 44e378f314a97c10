"""Getting to an http(s) address: name lookup, the proxy on the way (CONNECT), TLS; or the reason why not, in words.

Every failure is a ReachError whose sentence a user reads in `ztunnel status`. Nothing of the link is sent here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket as sockets
import ssl
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from tunnel.carriers.http_message import Head, MessageError, Stream, parse_head
from tunnel.carriers.http_tls import Contexts, check_pin, dial_context, in_words
from tunnel.config.addresses import Http, http
from tunnel.config.plan import CarrierPlan, ProxyPlan, Secret, TlsPlan
from tunnel.errors import LinkError
from tunnel.limits import HTTP_CHUNK_BYTES, HTTP_HEAD_BYTES


class ReachError(LinkError):
    """The other end cannot be reached; the message is a sentence without its full stop."""


Target = Http
"""Where connections go; an IPv6 host is without its brackets."""


class Reach:
    """Opens connections to one address, each time by the way that is right then."""

    def __init__(self, plan: CarrierPlan) -> None:
        self.target = http(plan.address)
        self._tls = plan.tls or TlsPlan()
        self._contexts = Contexts(self._tls, dial_context)
        self._plan_proxy = plan.proxy
        self._source = plan.source

    def proxy(self) -> ProxyPlan | None:
        """The table's, or the environment's (https_proxy, http_proxy, no_proxy) when the table says nothing."""
        if self._plan_proxy is not None:
            return self._plan_proxy if self._plan_proxy.url else None
        named = urllib.request.getproxies_environment()
        url = named.get("https" if self.target.secure else "http") or named.get("all")
        if not url or _bypasses(self.target.authority):
            return None
        return _proxy_of(url)

    async def open(self) -> Stream:
        """A connection on which HTTP may be spoken. ReachError: why there is none."""
        proxy = self.proxy()
        sock = await self._connect(proxy)
        try:
            if proxy is not None:
                await _through(sock, proxy, self.target.authority)
            return await self._speak(sock)
        except BaseException:
            sock.close()
            raise

    async def _connect(self, proxy: ProxyPlan | None) -> sockets.socket:
        if proxy is None:
            return await _connect(self.target.host, self.target.port, self._source, "")
        parts = urllib.parse.urlsplit(proxy.url if "://" in proxy.url else f"http://{proxy.url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ReachError(f"the proxy {_shown(proxy)} is not of the form http://host:port")
        return await _connect(parts.hostname, parts.port or 80, self._source, f"the proxy {_shown(proxy)}: ")

    async def _speak(self, sock: sockets.socket) -> Stream:
        more: dict[str, Any] = {}
        name = self._tls.server_name or self.target.host
        if self.target.secure:
            more = {"ssl": self._contexts.current(), "server_hostname": name}
        try:
            stream = Stream(*await asyncio.open_connection(sock=sock, limit=HTTP_CHUNK_BYTES, **more))
        except ssl.SSLError as error:
            raise ReachError(f"{self.target.authority}: {in_words(error, name)}") from None
        except OSError as error:
            raise ReachError(f"{self.target.authority}: the connection was cut during the TLS handshake") from error
        if self.target.secure:
            try:
                check_pin(self._tls, stream.writer.get_extra_info("ssl_object").getpeercert(True))
            except LinkError as error:
                stream.abort()
                raise ReachError(f"{self.target.authority}: {error}") from None
        return stream

    def hint(self) -> str:
        """What a hanging up without a word may mean: with TLS 1.3 the handshake is over before the client is judged."""
        if self.target.secure and self._tls.cert is None:
            return " (it may want a client certificate: tls: cert and key)"
        return ""

    def words(self, error: Exception) -> str:
        """An error on an open connection, in words; with TLS 1.3 a refused client certificate shows only here."""
        if isinstance(error, ssl.SSLError):
            return f"{self.target.authority}: {in_words(error, self._tls.server_name or self.target.host)}"
        if isinstance(error, ConnectionError):
            return "the connection was closed by the other end or on the way"
        return str(error) or type(error).__name__


async def _connect(host: str, port: int, source: str | None, whose: str) -> sockets.socket:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=sockets.SOCK_STREAM)
    except OSError as error:
        raise ReachError(f"{whose}{host} does not resolve: {error.strerror or error}") from None
    last: OSError | None = None
    for family, kind, protocol, _, name in found:
        sock = sockets.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            if source is not None:
                sock.bind((source, 0))
            await loop.sock_connect(sock, name)
            sock.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
    words = "nothing answers" if last is None or last.errno is None else os.strerror(last.errno).lower()
    raise ReachError(f"{whose}{host}:{port}: {words}")


async def _through(sock: sockets.socket, proxy: ProxyPlan, authority: str) -> None:
    """CONNECT; the proxy's answer is read to the end of its head and no further: nobody speaks before we do."""
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.username is not None:
        password = "" if proxy.password is None else proxy.password.reveal()
        token = base64.b64encode(f"{proxy.username}:{password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {token}")
    loop = asyncio.get_running_loop()
    raw = bytearray()
    try:
        await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in raw and len(raw) <= HTTP_HEAD_BYTES:
            data = await loop.sock_recv(sock, HTTP_HEAD_BYTES)
            if not data:
                raise ReachError(f"the proxy {_shown(proxy)} hung up without an answer to CONNECT {authority}")
            raw += data
        head = parse_head(bytes(raw[: raw.index(b"\r\n\r\n") + 4]))
        status = head.status
    except (MessageError, ValueError):
        raise ReachError(f"the proxy {_shown(proxy)} does not answer in HTTP: is it a proxy?") from None
    except OSError:
        raise ReachError(f"the proxy {_shown(proxy)} cut the connection") from None
    if not 200 <= status < 300:
        raise ReachError(_refused(proxy, authority, status, head))


def _refused(proxy: ProxyPlan, authority: str, status: int, head: Head) -> str:
    said = f"the proxy {_shown(proxy)} answered {head.status_words} to CONNECT {authority}"
    if status == 407 and proxy.username is None:
        return f"{said}: it wants a user name and a password (proxy: username and password)"
    if status == 407:
        return f"{said}: it does not accept this user name and password"
    if status == 403:
        return f"{said}: it does not let us go there"
    if status in (502, 503, 504):
        return f"{said}: it cannot reach that address"
    return said


def _proxy_of(url: str) -> ProxyPlan:
    """An address of the environment, which may bear a password."""
    parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
    username = None if parts.username is None else urllib.parse.unquote(parts.username)
    password = None if parts.password is None else Secret(urllib.parse.unquote(parts.password))
    return ProxyPlan(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", username, password)


def _bypasses(authority: str) -> bool:
    """Whether no_proxy names it. The standard library's own judge is not in its type stubs."""
    judge: Callable[[str], bool] = vars(urllib.request)["proxy_bypass_environment"]
    return bool(judge(authority))


def _shown(proxy: ProxyPlan) -> str:
    """Without what stands before an @."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(proxy.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return "of that name"
