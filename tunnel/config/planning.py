"""Table + side → plan. Finds which side this box is by the secret key it holds; turns words into what is to be run.

What can only be known on the side's own box is checked here: its secret key, the key files of its local ends, groups,
the length of socket paths, that its own ends are told.
"""

from __future__ import annotations

import grp
import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from tunnel import places
from tunnel.config import bridges
from tunnel.config.addresses import opened
from tunnel.config.carriers import Carriers
from tunnel.config.fields import NEVER
from tunnel.config.model import CurveModel, Dial, End, Listen, PlainModel, Route, SecretRef
from tunnel.config.nodes import Path as Steps
from tunnel.config.plan import (
    Allow,
    Curve,
    DialPlan,
    EndPlan,
    Endpoint,
    KeyPair,
    ListenPlan,
    Plain,
    Plan,
    RoutePlan,
    Secret,
    SpoolPlan,
    StreamPlan,
    Topics,
    Where,
)
from tunnel.config.table import SOCKETS, Settings, Table, end_allow, link_allow, settle, sides_of
from tunnel.config.values import suggest
from tunnel.errors import KeyFileError, Problem, TableError, UsageError
from tunnel.keys import pair_from_text, read_pair, read_public, secret_beside
from tunnel.limits import IPC_PATH_BYTES, KEY_FILE_BYTES, SESSION_BYTES, STREAM_CONNECT_S, STREAM_CONNECTIONS


def find_side(table: Table, as_side: str | None = None) -> str:
    """The side whose secret key this box holds; `as_side` (--as) decides where it holds several.

    Raises UsageError when none or several are held, KeyFileError when the key that is there is not fit for use.
    """
    if as_side is not None:
        if as_side not in table.keys:
            known = " and ".join(table.sides)
            raise UsageError(
                f"--as {as_side}: {table.path} has no such side; it has {known}.{suggest(as_side, table.sides)}"
            )
        if not _candidates(table, as_side):
            raise KeyFileError(_not_held(table, as_side))
        return as_side
    held = held_sides(table)
    if len(held) == 1:
        return held[0]
    if held:
        choices = " or ".join(f"--as {side}" for side in held)
        raise UsageError(f"this box holds the secret keys of {' and '.join(held)}; say which side it is: {choices}.")
    raise UsageError(
        f"this box holds the secret key of no side of {table.path}. "
        + " ".join(_not_held(table, side) for side in table.sides)
    )


def held_sides(table: Table) -> list[str]:
    """The sides whose secret keys are on this box, readable or not."""
    return [side for side in table.sides if _candidates(table, side)]


def own_pair(table: Table, side: str) -> KeyPair:
    """The side's own key pair, checked against the table. Raises KeyFileError."""
    candidates = _candidates(table, side)
    if not candidates:
        raise KeyFileError(_not_held(table, side))
    publics = {key.public for key in table.keys[side]}
    for source in candidates:
        pair = read_pair(source) if isinstance(source, Path) else pair_from_text(source[1].reveal(), source[0])
        if pair.public in publics:
            return pair
    where = ", ".join(str(source) if isinstance(source, Path) else source[0] for source in candidates)
    raise KeyFileError(
        f"the secret key in {where} does not belong to the public key that {table.path} gives for {side}; "
        "copy the public half that belongs to it to all boxes."
    )


def _candidates(table: Table, side: str) -> list[Path | tuple[str, Secret]]:
    """Where this side's secret key is on this box: files that are there, or a text with the name of its origin."""
    reference = table.model.sides[side].secret
    if reference is None:
        files = [secret_beside(key.file) for key in table.keys[side] if key.file is not None]
        return [file for file in files if os.path.lexists(file)]
    path: Steps = ("sides", side, "secret")
    if reference.env is not None:
        text = os.environ.get(reference.env)
        return [(f"the variable {reference.env}", Secret(text))] if text else []
    if reference.credential is not None:
        file = _credential_file(reference.credential)
        return [(f"the credential {reference.credential}", _secret_text(file))] if file and file.exists() else []
    file = table.tree.folder(path) / str(reference.file)
    return [file] if os.path.lexists(file) else []


def _not_held(table: Table, side: str) -> str:
    reference = table.model.sides[side].secret
    if reference is None:
        files = [str(secret_beside(key.file)) for key in table.keys[side] if key.file is not None]
        if not files:
            return f"Nothing says where the secret key of {side} is; add secret: {{file: PATH}} to sides.{side}."
        return f"The secret key of {side} would be {' or '.join(files)} (ztunnel keygen {side} makes a pair)."
    if reference.env is not None:
        return f"The secret key of {side} would be in the variable {reference.env}."
    if reference.credential is not None:
        return f"The secret key of {side} would be the systemd credential {reference.credential}."
    return f"The secret key of {side} would be {table.tree.folder(('sides', side, 'secret')) / str(reference.file)}."


def _credential_file(credential: str) -> Path | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) / credential if folder and "/" not in credential else None


def _secret_text(file: Path) -> Secret:
    try:
        with file.open("rb") as stream:
            return Secret(stream.read(KEY_FILE_BYTES).decode())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise KeyFileError(f"the secret in {file} cannot be read: {reason}.") from None


# --- the plan --------------------------------------------------------------------------------------------------------


def plan_for(table: Table, side: str) -> Plan:
    """What one side of the table runs. Raises TableError with every problem, UsageError or KeyFileError."""
    own = own_pair(table, side)
    planner = Planner(table, side, own)
    plan = planner.plan()
    if planner.problems:
        raise TableError(planner.problems)
    return plan


class Planner:
    """One run for one side; what is wrong is collected in `problems`."""

    def __init__(self, table: Table, side: str, own: KeyPair) -> None:
        self.table = table
        self.side = side
        self.own = own
        self.problems: list[Problem] = []
        self.carriers = Carriers(self)
        self.runtime_dir = places.runtime_dir(table.name, side)
        self.state_dir = places.state_dir(table.name, side)
        said = table.model.ipc_dir
        self.ipc_dir = places.ipc_dir(table.name) if said is None else table.tree.folder(("ipc_dir",)) / said

    def plan(self) -> Plan:
        listens, dials = self._listens(), self._dials()
        peers = [peer for listen in listens for peer in listen.peers] + [dial.peer for dial in dials]
        routes = [self._route(name, route) for name, route in self.table.routes.items() if self._concerns(route)]
        return Plan(
            name=self.table.name,
            table=self.table.path.resolve(),
            side=self.side,
            own=self.own,
            peer_keys={peer: tuple(key.public for key in self.table.keys[peer]) for peer in peers},
            listens=tuple(listens),
            dials=tuple(dials),
            routes=tuple(route for route in routes if route is not None),
            runtime_dir=self.runtime_dir,
            ipc_dir=self.ipc_dir,
            carriers=tuple(self.carriers.plans),
            bridges=bridges.plans(self),
            session_bytes=self.table.model.session or SESSION_BYTES,
            warnings=tuple(map(str, self.table.warnings)),
        )

    def _concerns(self, route: Route) -> bool:
        return self.side in sides_of(route, "from") + sides_of(route, "to")

    def tell(self, path: Steps, sentence: str, *, key: bool = False) -> None:
        self.problems.append(self.table.tree.problem(path, sentence, key=key))

    # links

    def _listens(self) -> list[ListenPlan]:
        found: dict[str, tuple[Listen, list[str], Allow, Steps]] = {}
        for index, link in enumerate(self.table.links):
            if link.listen.side != self.side:
                continue
            path: Steps = ("links", index, "listen")
            if link.listen.address is None:
                self.tell(
                    path,
                    f"this box is {self.side}, and its own address is missing here; write '{self.side} tcp://...'.",
                )
                continue
            address = self.address(link.listen.address, path)
            allow = link_allow(link, self.table.model.defaults)
            self._group(link.listen.group, path)
            # one address, one listener (check.py sees to it that they agree)
            found.setdefault(address, (link.listen, [], allow, path))[1].extend(dial.side for dial in link.dial)
        return [self._listen(address, *rest) for address, rest in found.items()]

    def _listen(self, address: str, listen: Listen, peers: list[str], allow: Allow, path: Steps) -> ListenPlan:
        via = self.carriers.listen(listen, tuple(peers), allow, path)
        return ListenPlan(address, tuple(peers), allow, listen.mode, listen.group, via)

    def _dials(self) -> list[DialPlan]:
        found: list[DialPlan] = []
        for index, link in enumerate(self.table.links):
            for place, dial in enumerate(link.dial):
                if dial.side == self.side:
                    path: Steps = ("links", index, "dial", place)
                    found.append(self._dial(link.listen.side, dial, path))
        return found

    def _dial(self, peer: str, dial: Dial, path: Steps) -> DialPlan:
        if not dial.address:
            self.tell(
                path, f"this box is {self.side}, and it is not told here what to dial; write '{self.side} tcp://...'."
            )
        addresses = tuple(self.address(address, path) for address in dial.address)
        return DialPlan(peer, addresses, dial.source, self.carriers.dial(dial, peer, path))

    # routes

    def _route(self, name: str, route: Route) -> RoutePlan | None:
        where: Where = "from" if self.side in sides_of(route, "from") else "to"
        index = sides_of(route, where).index(self.side)
        end = route.ends(where)[index]
        path: Steps = ("routes", name, where, index)
        if end.bare:
            self.tell(
                path,
                f"this box is {self.side}, and its own end is not told here; "
                f"write '{self.side} bind ...' or '{self.side} connect ...'.",
            )
            return None
        settings = settle(route, self.table.model.defaults)
        from_sides, to_sides = sides_of(route, "from"), sides_of(route, "to")
        topics = Topics() if route.topics is None else Topics(route.topics.allow, route.topics.deny)
        return RoutePlan(
            name=name,
            pattern=route.pattern,
            where=where,
            end=self._end(name, route, end, where, path),
            from_sides=from_sides,
            to_sides=to_sides,
            peers=to_sides if where == "from" else from_sides,
            delivery=settings.delivery,
            overflow=settings.overflow,
            window_bytes=settings.window_bytes,
            priority=settings.priority,
            max_message_bytes=settings.max_message_bytes,
            max_age_s=settings.max_age_s,
            on_restart="drop" if settings.drop_on_restart else "resend",
            topics=topics,
            subscribe=route.subscribe or (),
            stream=self._stream(route, end) if route.pattern == "stream" else None,
            spool=self._spool(name, settings) if settings.delivery == "spooled" and where == "from" else None,
        )

    def _spool(self, name: str, settings: Settings) -> SpoolPlan:
        return SpoolPlan(self.state_dir / "spool" / name, settings.spool_bytes, settings.spool_expire_s)

    def _stream(self, route: Route, end: End) -> StreamPlan:
        return StreamPlan(
            connections=route.connections or STREAM_CONNECTIONS,
            idle_s=None if route.idle in (None, NEVER) else route.idle,
            connect_s=route.connect or STREAM_CONNECT_S,
            proxy_protocol=end.proxy_protocol,
        )

    def _end(self, name: str, route: Route, end: End, where: Where, path: Steps) -> EndPlan:
        defaults = self.table.model.defaults
        bind = [Endpoint("bind", self.address(text, (*path, "bind", i), name)) for i, text in enumerate(end.bind)]
        connect = [
            Endpoint("connect", self.address(text, (*path, "connect", i), name)) for i, text in enumerate(end.connect)
        ]
        self._group(end.group, path)
        keepalive = end.keepalive if end.keepalive is not None else defaults.keepalive
        queues = End(side=end.side) if route.pattern == "stream" else defaults
        return EndPlan(
            socket=SOCKETS[route.pattern][where == "to"],
            endpoints=(*bind, *connect),
            allow=end_allow(end, route, defaults),
            hwm=end.hwm or queues.hwm,
            sndbuf=end.sndbuf or queues.sndbuf,
            routing_id=end.routing_id,
            handover=end.handover,
            heartbeat_s=end.heartbeat or queues.heartbeat,
            keepalive=True if keepalive is None else keepalive,
            curve=self._curve(end.curve, bool(end.connect), (*path, "curve")) if end.curve else None,
            plain=self._plain(end.plain, (*path, "plain")) if end.plain else None,
            mode=end.mode,
            group=end.group,
        )

    def address(self, text: str, path: Steps, route: str = "") -> str:
        """An endpoint as libzmq wants it: `local` and relative ipc:// paths made absolute."""
        if text == "local":
            return f"ipc://{places.local_path(self.runtime_dir, route)}"
        text = opened(text) if text.startswith("unix://") else text
        if not text.startswith("ipc://") or text.startswith("ipc://@"):
            return text
        full = self.ipc_dir / text.removeprefix("ipc://")
        if len(os.fsencode(full)) > IPC_PATH_BYTES:
            self.tell(
                path,
                f"the path of the socket is {full}, longer than the {IPC_PATH_BYTES} bytes that a socket's path has.",
            )
        return f"ipc://{full}"

    def _group(self, group: str | None, path: Steps) -> None:
        if group is None:
            return
        try:
            grp.getgrgid(int(group)) if group.isdigit() else grp.getgrnam(group)
        except (KeyError, OverflowError):
            self.tell((*path, "group"), f"this box has no group {group!r}.")

    def _curve(self, curve: CurveModel, connects: bool, path: Steps) -> Curve | None:
        folder = self.table.tree.folder(path)
        try:
            own = read_pair(folder / curve.own)
        except KeyFileError as error:
            self.tell((*path, "own"), str(error))
            return None
        try:
            if connects:
                return Curve(own, server=read_public(folder / str(curve.server)))
            return Curve(own, clients=_client_keys(folder / curve.clients) if curve.clients else frozenset())
        except KeyFileError as error:
            self.tell((*path, "server" if connects else "clients"), str(error))
            return None

    def _plain(self, plain: PlainModel, path: Steps) -> Plain:
        users: dict[str, SecretRef] = dict(plain.users)
        if plain.username is not None and plain.password is not None:
            return Plain({plain.username: self.secret(plain.password, (*path, "password"))})
        return Plain({user: self.secret(reference, (*path, "users", user)) for user, reference in users.items()})

    def secret(self, reference: SecretRef, path: Steps) -> Secret:
        """A password given by reference, less one newline at its end."""
        try:
            secret = Secret(self._secret_text(reference, path).removesuffix("\n"))
        except KeyFileError as error:
            self.tell(path, str(error))
            return Secret("")
        if not 1 <= len(secret.reveal().encode()) <= 255:
            self.tell(path, "the password found there is empty or longer than 255 bytes.")
        return secret

    def _secret_text(self, reference: SecretRef, path: Steps) -> str:
        if reference.env is not None:
            text = os.environ.get(reference.env)
            if text is None:
                raise KeyFileError(f"the variable {reference.env} is not set on this box.")
            return text
        if reference.credential is not None:
            file = _credential_file(reference.credential)
            if file is None:
                raise KeyFileError(
                    f"there is no systemd credential {reference.credential}: $CREDENTIALS_DIRECTORY is not set."
                )
            return _secret_text(file).reveal()
        file = self.table.tree.folder(path) / str(reference.file)
        if file.is_file() and file.stat().st_mode & 0o077:
            raise KeyFileError(f"the secret {file} may be read by others; run: chmod 600 {shlex.quote(str(file))}")
        return _secret_text(file).reveal()


def _client_keys(folder: Path) -> frozenset[str]:
    """Public keys of all `*.key` files in a folder."""
    if not folder.is_dir():
        raise KeyFileError(f"there is no folder {folder} with the keys of clients.")
    files: Iterable[Path] = sorted(folder.glob("*.key"))
    found = frozenset(read_public(file) for file in files)
    if not found:
        raise KeyFileError(f"the folder {folder} holds no *.key file, so no client could get in.")
    return found
