"""Tree → draft: each part is validated by its model, and what pydantic finds is told in our own sentences.

A part with something wrong in it is still read for the rest, so that the cross checks can add what they know:
`Part.broken` names the keys whose values are unknown. No message of pydantic ever reaches a user.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tunnel.config.bridge_model import KINDS
from tunnel.config.fields import Within
from tunnel.config.load import SECTIONS, Tree
from tunnel.config.model import Bridge, Link, Model, Route, Side, TableModel
from tunnel.config.nodes import Map, Node, Path, Scalar, Seq
from tunnel.config.values import listing, name, nearest, those_there_are
from tunnel.errors import Problem

M = TypeVar("M", bound=Model)
_MAY_BE_EMPTY: Final[set[Path]] = {("defaults",), ("include",)}
"""Keys whose lines a user may have commented out and left empty (the sections are read apart)."""


@dataclass(frozen=True, slots=True)
class Part(Generic[M]):
    """One part as it could be read. A key in `broken` was said, but nothing is known of its value."""

    value: M
    broken: frozenset[str] = frozenset()


@dataclass(slots=True)
class Draft:
    """All parts; None where one is not even a mapping."""

    head: Part[TableModel]
    sides: dict[str, Part[Side] | None] = field(default_factory=dict)
    links: list[Part[Link] | None] = field(default_factory=list)
    routes: dict[str, Part[Route] | None] = field(default_factory=dict)
    bridges: dict[str, Part[Bridge] | None] = field(default_factory=dict)


def read_draft(tree: Tree) -> Draft:
    """Everything that can be understood; what cannot is added to `tree.problems`."""
    draft = Draft(_head(tree))
    _sections(tree, draft)
    return draft


def _head(tree: Tree) -> Part[TableModel]:
    root = Map(tree.root.mark, {k: e for k, e in tree.root.entries.items() if k not in SECTIONS})
    return _read(TableModel, tree, (), root, {"sides": {}, "links": ()})


def _sections(tree: Tree, draft: Draft) -> None:
    _named(tree, "sides", Side, draft.sides)
    _named(tree, "routes", Route, draft.routes)
    _named(tree, "bridges", Bridge, draft.bridges)
    entry = tree.root.entries.get("links")
    if entry is None or _is_null(entry.node):
        return
    if isinstance(entry.node, Scalar):
        tree.problems.append(
            tree.problem(("links",), "links is a list; write '- listen: SIDE tcp://...' and 'dial: SIDE tcp://...'.")
        )
        draft.links.append(None)
        return
    single = isinstance(entry.node, Map)
    for index in range(1 if single else len(entry.node.items)):  # type: ignore[union-attr]
        path: Path = ("links", index)
        node, _ = tree.find(path)
        draft.links.append(_part(Link, tree, path, node, "a link"))


def _named(tree: Tree, section: str, model: type[M], into: dict[str, Part[M] | None]) -> None:
    entry = tree.root.entries.get(section)
    if entry is None or _is_null(entry.node):
        return
    if not isinstance(entry.node, Map):
        tree.problems.append(
            tree.problem((section,), f"{section} is a mapping of names; write 'NAME:' on a line of its own.")
        )
        return
    for key, item in entry.node.entries.items():
        path = (section, key)
        if "://" in key and _is_null(item.node):
            tree.problems.append(tree.problem(path, _unknown_key(key, ()), key=True))
            continue
        try:
            name(key)
        except ValueError as error:
            tree.problems.append(tree.problem(path, str(error), key=True))
        into[key] = _part(_model_of(model, item.node), tree, path, item.node, f"a {section.removesuffix('s')}")


def _model_of(model: type[M], node: Node) -> type[M]:
    """A bridge's own model, where its kind is known."""
    kind = node.entries.get("kind") if model is Bridge and isinstance(node, Map) else None
    known = KINDS.get(str(kind.node.value)) if kind is not None and isinstance(kind.node, Scalar) else None
    return model if known is None else cast("type[M]", known)


def _part(model: type[M], tree: Tree, path: Path, node: Node, what: str) -> Part[M] | None:
    if not isinstance(node, Map):
        words = [f.alias or key for key, f in model.model_fields.items() if f.is_required()]
        sentence = f"{what} is a mapping; it needs at least {listing([w + ':' for w in words], 'and')}."
        tree.problems.append(tree.problem(path, f"this is empty; {sentence}" if _is_null(node) else sentence))
        return None
    return _read(model, tree, path, node, {})


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None


class _Plain:
    """Nodes → plain Python values for pydantic. A key without a value is told here; it and values that were refused
    while loading are left out, and their paths are in `dropped`."""

    def __init__(self, tree: Tree, base: Path) -> None:
        self._tree = tree
        self._base = base
        self.dropped: set[Path] = set()

    def of(self, node: Node, path: Path = ()) -> Any:
        if isinstance(node, Scalar):
            return node.value
        if isinstance(node, Seq):
            return [self.of(item, (*path, index)) for index, item in enumerate(node.items)]
        found: dict[str, Any] = {}
        for key, entry in node.entries.items():
            here = (*path, key)
            if _is_refused(entry.node):
                self.dropped.add(here)
            elif not _is_null(entry.node) or "://" in key:
                found[key] = self.of(entry.node, here)
            elif self._base + here not in _MAY_BE_EMPTY:
                self.dropped.add(here)
                sentence = f"a value is missing after '{key}:'; give it one, or take the line out."
                self._tree.problems.append(self._tree.problem(self._base + here, sentence, key=True))
        return found


def _is_refused(node: Node) -> bool:
    if isinstance(node, Seq):
        return any(_is_refused(item) for item in node.items)
    return isinstance(node, Scalar) and node.refused


# --- pydantic's findings ---------------------------------------------------------------------------------------------


def _read(model: type[M], tree: Tree, path: Path, node: Map, given: dict[str, Any]) -> Part[M]:
    """One part. `given` stands in for required keys that are read elsewhere."""
    plain = _Plain(tree, path)
    data = plain.of(node)
    broken = {str(place[0]) for place in plain.dropped}
    found: list[ErrorDetails] = []
    try:
        whole = model.model_validate({**given, **data})
        if not broken:
            return Part(whole)
    except ValidationError as error:
        found = error.errors(include_url=False)
    meant = {(*e["loc"][:-1], hint) for e in found if e["type"] == "extra_forbidden" and (hint := _meant(model, e))}
    for detail in found:
        if detail["type"] != "missing" or tuple(detail["loc"]) not in meant | plain.dropped:
            tree.problems.append(_problem(model, tree, path, detail))
    broken |= {str(e["loc"][0]) for e in found if e["loc"]} | {str(place[0]) for place in meant if len(place) == 1}
    rest = {key: value for key, value in data.items() if key not in broken}
    holes = {("from_" if key == "from" else key): hole for key, hole in model.HOLES.items() if key not in rest}
    value = model.model_validate({**model.DUMMY, **given, **rest})
    return Part(value.model_copy(update=holes), frozenset(broken))


def _problem(model: type[Model], tree: Tree, path: Path, detail: ErrorDetails) -> Problem:
    place = path + tuple(detail["loc"])
    kind = detail["type"]
    context = detail.get("ctx", {})
    if kind == "value_error":
        error = context["error"]
        return tree.problem((*place, error.key) if isinstance(error, Within) else place, str(error))
    if kind == "extra_forbidden":
        key = str(detail["loc"][-1])
        return tree.problem(place, _unknown_key(key, _keys(model, detail)), key=True)
    if kind == "missing":
        return tree.problem(place[:-1], f"'{place[-1]}:' is missing here.", key=True)
    return tree.problem(place, _sentence(kind, context, detail.get("input")))


def _sentence(kind: str, context: dict[str, Any], value: object) -> str:
    shown = repr(value) if isinstance(value, str | int | float) else "this"
    if kind in ("int_type", "int_parsing", "int_from_float"):
        hint = " (22:22 and the like are text in YAML 1.2)" if isinstance(value, str) and ":" in value else ""
        return f"a whole number is expected here, and {shown} is none{hint}."
    if kind in ("greater_than_equal", "less_than_equal"):
        word = "at least" if kind == "greater_than_equal" else "at most"
        return f"this number is {word} {context.get('ge', context.get('le'))}; {shown} is not."
    if kind in ("bool_type", "bool_parsing"):
        hint = " (yes, no, on and off are text in YAML 1.2)" if value in ("yes", "no", "on", "off") else ""
        return f"true or false is expected here, not {shown}{hint}."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"a mapping of keys and values is expected here, not {shown if shown != 'this' else 'a list'}."
    if kind == "string_type":
        return "text is expected here; put the value in quotes."
    return f"{shown} is not understood here."


def _unknown_key(key: str, known: tuple[str, ...]) -> str:
    if "://" in key:
        word = key.split(":")[0]
        if word in known:
            return f"a space is missing after '{word}:'."
        return (
            f"{key!r} stands where a key is expected; a comma between endpoints? "
            "Separate them by spaces, or write a YAML list."
        )
    hint = nearest(key, known)
    asked = f" Did you mean {hint!r}?" if hint else those_there_are(known)
    return f"{key!r} is not a key that is known here.{asked}"


def _meant(model: type[Model], detail: ErrorDetails) -> str | None:
    return nearest(str(detail["loc"][-1]), _keys(model, detail))


def _keys(model: type[Model], detail: ErrorDetails) -> tuple[str, ...]:
    """The keys that are known where an unknown key stands."""
    here: Any = model
    for step in detail["loc"][:-1]:
        if isinstance(step, str):
            here = _model_below(here, step) or here
    return tuple(f.alias or key for key, f in here.model_fields.items())


def _model_below(model: type[Model], key: str) -> type[Model] | None:
    for field_name, info in model.model_fields.items():
        if key in (field_name, info.alias):
            return _first_model(info.annotation)
    return None


def _first_model(annotation: Any) -> type[Model] | None:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if found := _first_model(argument):
            return found
    return None
