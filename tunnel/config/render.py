"""Table + side → the same table as that side needs to know it: other sides' ends bare, their keys written out.

What comes out loads again and gives the side an equal plan. Routes and sides that do not concern it are left out,
so a box in the DMZ learns no inside address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from tunnel.config.addresses import is_open
from tunnel.config.fields import NEVER
from tunnel.config.mail import MAIL
from tunnel.config.model import (
    Defaults,
    Dial,
    End,
    Link,
    Listen,
    ProxyModel,
    Route,
    SecretRef,
    SpoolModel,
    SshModel,
    TlsModel,
)
from tunnel.config.nodes import Path as Steps
from tunnel.config.nodes import plain, reads_as_text
from tunnel.config.plan import Network
from tunnel.config.table import Table, open_binds, sides_of
from tunnel.config.values import Z85

Data = dict[str, Any]


def render(table: Table, side: str) -> str:
    """The YAML text of a side's table."""
    head = (
        f"# The part of the table {table.name} that {side} needs, made by `ztunnel render --as {side}`.\n"
        "# A side that stands alone is configured on its own box. Paths are relative to this file.\n"
    )
    return head + yaml.dump(
        _Renderer(table, side).table(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000
    )


class _Renderer:
    def __init__(self, table: Table, side: str) -> None:
        self.source = table
        self.side = side
        self.routes = {n: r for n, r in table.routes.items() if side in sides_of(r, "from") + sides_of(r, "to")}
        self.kept = {side}
        for link in table.links:
            for dial in link.dial:
                if side in (dial.side, link.listen.side):
                    self.kept |= {dial.side, link.listen.side}
        for route in self.routes.values():
            self.kept |= {*sides_of(route, "from"), *sides_of(route, "to")}

    def table(self) -> Data:
        model = self.source.model
        links = [self._link(index, link) for index, link in enumerate(self.source.links)]
        return _said(
            version=1,
            name=self.source.name,
            session=size_text(model.session) if model.session else None,
            ipc_dir=self._path(("ipc_dir",), model.ipc_dir),
            defaults=_defaults(model.defaults) or None,
            sides={name: self._side(name) for name in self.source.sides if name in self.kept},
            links=[link for link in links if link is not None],
            routes={name: self._route(name, route) for name, route in self.routes.items()},
            bridges={name: self._bridge(name) for name, said in model.bridges.items() if said.side == self.side}
            or None,
        )

    def _bridge(self, name: str) -> Data:
        """As it stands in the table, but for paths and what the defaults say for it."""
        path: Steps = ("bridges", name)
        said: Data = plain(self.source.tree.find(path)[0])
        bridge = self.source.model.bridges[name]
        listen: tuple[str, ...] = getattr(bridge, "listen", ())
        if getattr(bridge, "allow", ()) is None and any(map(is_open, listen)):
            said |= _said(allow=_allow(self.source.model.defaults.allow))
        tls = said.get("tls", {})
        for word in ("cert", "key", "ca"):
            if word in tls:
                tls[word] = self._path((*path, "tls", word), tls[word])
        for keys in MAIL[bridge.kind].files if bridge.kind in MAIL else ():
            self._files(said, keys, path)
        return said

    def _files(self, said: Data, keys: tuple[str, ...], path: Steps) -> None:
        """The path that stands at these keys, one below the other; * is every key."""
        for key in said if keys[0] == "*" else [key for key in keys[:1] if key in said]:
            if len(keys) == 1:
                said[key] = self._path((*path, key), said[key])
            elif isinstance(said[key], dict):
                self._files(said[key], keys[1:], (*path, key))

    def _side(self, name: str) -> Data:
        side, path = self.source.model.sides[name], ("sides", name)
        if name != self.side:
            return {"key": _one_or_list(key.public for key in self.source.keys[name])}
        keys = [
            key.public if key.file is None else self._path((*path, "key", index), side.key[index])
            for index, key in enumerate(self.source.keys[name])
        ]
        secret = None if side.secret is None else self._secret(side.secret, (*path, "secret"))
        return _said(key=_one_or_list(keys), secret=secret)

    def _link(self, index: int, link: Link) -> Data | None:
        dials = [dial for dial in link.dial if {dial.side, link.listen.side} <= self.kept]
        if not dials:
            return None
        ours = link.listen.side == self.side
        path: Steps = ("links", index)
        return _said(
            listen=self._listen(link.listen, (*path, "listen")) if ours else link.listen.side,
            dial=_one_or_list(
                self._dial(dial, (*path, "dial", link.dial.index(dial))) if dial.side == self.side else dial.side
                for dial in dials
            ),
            allow=self._link_allow(link) if ours else None,
        )

    def _listen(self, listen: Listen, path: Steps) -> str | Data:
        said = _said(
            allow=_allow(listen.allow),
            mode=None if listen.mode is None else f"{listen.mode:04o}",
            group=listen.group,
            tls=self._tls(listen.tls, (*path, "tls")),
            ssh=self._ssh(listen.ssh, (*path, "ssh")),
        )
        if listen.address is not None and not said:
            return f"{listen.side} {listen.address}"
        return _said(side=listen.side, address=listen.address, **said)

    def _dial(self, dial: Dial, path: Steps) -> str | Data:
        said = _said(
            source=dial.source,
            tls=self._tls(dial.tls, (*path, "tls")),
            ssh=self._ssh(dial.ssh, (*path, "ssh")),
            proxy=self._proxy(dial.proxy, (*path, "proxy")),
        )
        if not said:
            return " ".join((dial.side, *dial.address))
        return _said(side=dial.side, address=list(dial.address) or None, **said)

    def _tls(self, tls: TlsModel | None, path: Steps) -> Data | None:
        if tls is None:
            return None
        files = {word: self._path((*path, word), getattr(tls, word)) for word in ("cert", "key", "ca")}
        return _said(**files, pin=list(tls.pin) or None, server_name=tls.server_name)

    def _ssh(self, said: SshModel | None, path: Steps) -> Data | None:
        if said is None:
            return None
        return _said(
            backend=said.backend,
            identity=[self._path((*path, "identity", i), text) for i, text in enumerate(said.identity)] or None,
            passphrase=None if said.passphrase is None else self._secret(said.passphrase, (*path, "passphrase")),
            agent=None if said.agent else False,
            known_hosts=[self._path((*path, "known_hosts", i), text) for i, text in enumerate(said.known_hosts)]
            or None,
            config=self._path((*path, "config"), said.config),
        )

    def _proxy(self, proxy: ProxyModel | None, path: Steps) -> str | Data | None:
        if proxy is None:
            return None
        url = proxy.url or "none"
        if proxy.username is None and proxy.password is None:
            return url
        password = None if proxy.password is None else self._secret(proxy.password, (*path, "password"))
        return _said(url=url, username=proxy.username, password=password)

    def _link_allow(self, link: Link) -> Any:
        if link.allow is not None or link.listen.allow is not None:
            return _allow(link.allow)
        address = link.listen.address
        return _allow(self.source.model.defaults.allow) if address and is_open(address) else None

    def _route(self, name: str, route: Route) -> Data:
        path: Steps = ("routes", name)
        own = next(end for end in (*route.from_, *route.to) if end.side == self.side)
        inherited = route.allow if route.allow is not None else self.source.model.defaults.allow
        return _said(
            pattern=route.pattern,
            **{
                where: _one_or_list(
                    self._end(end, (*path, where, index)) if end.side == self.side else end.side
                    for index, end in enumerate(route.ends(where))
                )
                for where in ("from", "to")
            },
            allow=_allow(inherited) if open_binds(own) and own.allow is None else None,
            **_options(route),
            topics=_said(allow=_topics(route.topics.allow), deny=_topics(route.topics.deny)) if route.topics else None,
            subscribe=None if route.subscribe is None else _topics(route.subscribe),
            connections=route.connections,
            idle=None if route.idle is None else "never" if route.idle == NEVER else duration_text(route.idle),
            connect=None if route.connect is None else duration_text(route.connect),
        )

    def _end(self, end: End, path: Steps) -> str | Data:
        said = end.model_fields_set - {"side", "bind", "connect"}
        methods = [method for method in ("bind", "connect") if getattr(end, method)]
        if not said and len(methods) == 1:
            return " ".join((end.side, methods[0], *getattr(end, methods[0])))
        return _said(
            side=end.side,
            bind=list(end.bind) or None,
            connect=list(end.connect) or None,
            hwm=end.hwm,
            sndbuf=size_text(end.sndbuf) if end.sndbuf else None,
            routing_id=None if end.routing_id is None else topic_text(end.routing_id),
            handover=end.handover or None,
            heartbeat=duration_text(end.heartbeat) if end.heartbeat else None,
            keepalive=end.keepalive,
            curve=self._curve(end, (*path, "curve")),
            plain=self._plain(end, (*path, "plain")),
            allow=_allow(end.allow),
            mode=None if end.mode is None else f"{end.mode:04o}",
            group=end.group,
            proxy_protocol=end.proxy_protocol or None,
        )

    def _curve(self, end: End, path: Steps) -> Data | None:
        if end.curve is None:
            return None
        return _said(**{key: self._path((*path, key), getattr(end.curve, key)) for key in ("own", "server", "clients")})

    def _plain(self, end: End, path: Steps) -> Data | None:
        plain = end.plain
        if plain is None:
            return None
        return _said(
            username=plain.username,
            password=None if plain.password is None else self._secret(plain.password, (*path, "password")),
            users={user: self._secret(secret, (*path, "users", user)) for user, secret in plain.users.items()} or None,
        )

    def _secret(self, reference: SecretRef, path: Steps) -> Data:
        return _said(
            file=self._path((*path, "file"), reference.file), env=reference.env, credential=reference.credential
        )

    def _path(self, steps: Steps, text: str | None) -> str | None:
        """A path as it is from the folder of the table itself; an included file may lie elsewhere."""
        if text is None or os.path.isabs(text) or text.startswith("~"):
            return text
        home = self.source.tree.folders[str(self.source.path)]
        return os.path.relpath(self.source.tree.folder(steps) / Path(text), home)


def _options(part: Route | Defaults) -> Data:
    """What routes and defaults can both say, as far as it is said."""
    age = part.max_age
    return {
        "delivery": part.delivery,
        "overflow": part.overflow,
        "window": None if part.window is None else size_text(part.window),
        "priority": part.priority,
        "max_message": None if part.max_message is None else size_text(part.max_message),
        "max_age": None if age is None else "never" if age == NEVER else duration_text(age),
        "on_restart": part.on_restart,
        "spool": _spool(part.spool),
    }


def _spool(spool: SpoolModel | None) -> Data | None:
    if spool is None:
        return None
    expire = spool.expire
    return _said(
        max=None if spool.max is None else size_text(spool.max),
        expire=None if expire is None else "never" if expire == NEVER else duration_text(expire),
    )


def _defaults(defaults: Defaults) -> Data:
    return _said(
        **_options(defaults),
        hwm=defaults.hwm,
        sndbuf=None if defaults.sndbuf is None else size_text(defaults.sndbuf),
        heartbeat=None if defaults.heartbeat is None else duration_text(defaults.heartbeat),
        keepalive=defaults.keepalive,
    )


def _said(**pairs: Any) -> Data:
    return {key: value for key, value in pairs.items() if value is not None}


def _one_or_list(items: Iterable[Any]) -> Any:
    found = list(items)
    return found[0] if len(found) == 1 else found


def _allow(items: tuple[Network | str, ...] | None) -> Any:
    return None if items is None else _one_or_list(map(str, items)) if items else []


def _topics(topics: tuple[bytes, ...]) -> list[str]:
    return [topic_text(topic) for topic in topics]


# --- values, written -------------------------------------------------------------------------------------------------


def size_text(size: int) -> str:
    """Bytes as `4MiB`, exactly."""
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % length == 0:
            return f"{size // length}{unit}"
    return f"{size}B"


def duration_text(seconds: float) -> str:
    """Seconds as `7d`, `5s` or `200ms`, exactly."""
    exact = Decimal(repr(seconds))
    if exact and exact % 86400 == 0:
        return f"{int(exact) // 86400}d"
    if exact == exact.to_integral_value():
        return f"{int(exact)}s"
    return f"{(exact * 1000).normalize():f}ms"


def topic_text(topic: bytes) -> str:
    """A topic as text, or `hex:` where it is none."""
    try:
        text = topic.decode()
    except UnicodeDecodeError:
        return f"hex:{topic.hex()}"
    return text if text.isprintable() and not text.startswith("hex:") else f"hex:{topic.hex()}"


class _Dumper(yaml.SafeDumper):
    """Block style, lists indented, quotes wherever our own reader would see something else than text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, text: str) -> yaml.ScalarNode:
        if not (Z85.fullmatch(text) and "${" in text):
            text = re.sub(r"\$\{", "$${", text)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if reads_as_text(text) else "'")


_Dumper.add_representer(str, _Dumper.text)
