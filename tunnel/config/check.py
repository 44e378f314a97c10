"""Rules between the parts of a table: draft → Table, or every problem at once. Runs on a draft with holes as well, and
then says nothing that depends on what is not known. Needs public key files, and nothing else of this box.

The rules on links, routes and bridges have files of their own; sides, keys and the table as a whole are here.
"""

from __future__ import annotations

from tunnel.config import check_bridges, check_links, check_routes
from tunnel.config.checking import Checking
from tunnel.config.load import SECTIONS, Tree
from tunnel.config.model import Route, TableModel
from tunnel.config.read import Draft
from tunnel.config.table import Settings, SideKey, Table
from tunnel.config.values import Z85, name
from tunnel.errors import KeyFileError, TableError
from tunnel.keys import is_z85, read_public
from tunnel.limits import SESSION_BYTES, STREAM_CONNECTIONS, STREAM_CREDIT_BYTES

_KEYS_OF_A_SIDE = 2


def check_draft(tree: Tree, draft: Draft) -> Table:
    """Raises TableError with every problem of the tree, the draft and the checks."""
    c = Checking(tree, draft)
    _sections(c)
    table_name = _name(c)
    keys = _sides(c)
    check_links.check(c)
    check_routes.check(c)
    check_bridges.check(c)
    _session(c)
    if c.problems:
        raise TableError(list(dict.fromkeys(c.problems)))
    return Table(tree.file, table_name, _assembled(draft), keys, tuple(sorted(c.warnings)), tree=tree)


def _assembled(draft: Draft) -> TableModel:
    head = draft.head.value
    return head.model_copy(
        update={
            "sides": {key: part.value for key, part in draft.sides.items() if part},
            "links": tuple(part.value for part in draft.links if part),
            "routes": {key: part.value for key, part in draft.routes.items() if part},
            "bridges": {key: part.value for key, part in draft.bridges.items() if part},
        }
    )


def _sections(c: Checking) -> None:
    for section in SECTIONS[:2]:
        if section in c.draft.head.broken:
            continue
        entry = c.tree.root.entries.get(section)
        if entry is None:
            c.tell_at(c.tree.root.mark, "", f"'{section}:' is missing; a table says its sides and its links.")
        elif not getattr(c.draft, section) and c.is_empty(section):
            c.tell((section,), f"'{section}:' is empty; a table says its sides and its links.", key=True)
    if not c.draft.routes and "routes" not in c.draft.head.broken and (c.is_empty("routes")):
        c.warn(
            ("routes",) if "routes" in c.tree.root.entries else (),
            "the table has no routes, so nothing crosses yet.",
            key=True,
        )


def _name(c: Checking) -> str:
    said = c.draft.head.value.name
    if said is not None or "name" in c.draft.head.broken:
        return said or ""
    stem = c.tree.file.name.removesuffix(".yaml").removesuffix(".yml")
    try:
        return name(stem)
    except ValueError:
        c.tell_at(
            c.tree.root.mark,
            "",
            f"the file's name {c.tree.file.name!r} makes no name for the table; "
            "add name: with a-z, 0-9, '_', '.' and '-'.",
        )
        return ""


def _sides(c: Checking) -> dict[str, tuple[SideKey, ...]]:
    found: dict[str, tuple[SideKey, ...]] = {}
    owners: dict[str, str] = {}
    for side, part in c.draft.sides.items():
        if part is None:
            continue
        keys = part.value.key
        if len(keys) > _KEYS_OF_A_SIDE:
            c.tell(
                ("sides", side, "key"),
                f"a side has {_KEYS_OF_A_SIDE} keys at most, the old and the new one while they rotate.",
            )
        if "key" not in part.broken and not keys:
            c.tell(("sides", side, "key"), "this list is empty; name the public key of this side.")
        read = []
        for index, text in enumerate(keys):
            key = _side_key(c, side, index, text)
            if key is None:
                continue
            read.append(key)
            owner = owners.setdefault(key.public, f"{side}[{index}]")
            if owner != f"{side}[{index}]":
                other = owner.split("[")[0]
                whose = "here twice" if other == side else f"also the key of {other}; each side has its own"
                c.tell(("sides", side, "key", index), f"this key is {whose}.")
        found[side] = tuple(read)
    if len(c.draft.sides) == 1 and not c.unsure("sides"):
        c.tell(("sides",), "a tunnel has two sides or more; the other one is missing here.", key=True)
    return found


def _side_key(c: Checking, side: str, index: int, text: str) -> SideKey | None:
    if is_z85(text):
        return SideKey(text)
    if Z85.fullmatch(text) and "/" not in text and not text.endswith(".key"):
        c.tell(("sides", side, "key", index), "these 40 characters are no CURVE key; copy it again, in single quotes.")
        return None
    if text.endswith(".key_secret"):
        c.tell(
            ("sides", side, "key", index),
            f"{text} is the secret half; name the public one, {text.removesuffix('_secret')}.",
        )
        return None
    file = c.tree.folder(("sides", side, "key", index)) / text
    try:
        return SideKey(read_public(file), file)
    except KeyFileError as error:
        c.tell(("sides", side, "key", index), str(error))
        return None


def _session(c: Checking) -> None:
    """Memory that the routes to one peer may hold together (docs/protocol.md: the session bound)."""
    if {"session", "defaults"} & c.draft.head.broken:
        return
    bound = c.draft.head.value.session or SESSION_BYTES
    sums: dict[tuple[str, str], int] = {}
    for part in c.draft.routes.values():
        if part is None or {"pattern", "window", "max_message", "connections", "from", "to"} & part.broken:
            continue
        settings = c.settings(part.value)
        for one in part.value.from_:
            for other in part.value.to:
                pair = (min(one.side, other.side), max(one.side, other.side))
                sums[pair] = sums.get(pair, 0) + max(settings.window_bytes, _least(part.value, settings))
    for (near, far), total in sums.items():
        if total > bound:
            c.tell(
                ("session",) if c.draft.head.value.session else ("routes",),
                f"the routes between {near} and {far} may hold {_mib(total)} together (each the larger of its window "
                f"and max_message, or 64KiB a connection), more than the {_mib(bound)} of a session; "
                f"lower max_message: or connections: of routes, or raise session: {_mib(total)}.",
                key=not c.draft.head.value.session,
            )


def _least(route: Route, settings: Settings) -> int:
    """What a route may have to hold however small its window is."""
    if route.pattern == "stream":
        return (route.connections or STREAM_CONNECTIONS) * STREAM_CREDIT_BYTES
    return settings.max_message_bytes


def _mib(size: int) -> str:
    return f"{-(-size // (1 << 20))}MiB"
