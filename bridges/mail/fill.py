"""The little language of templates: `{field}` and `{a.b}` stand for what a JSON object holds there. Pure.

{host.name}     the value at that place; a number of the path is a place in a list
{note?}         ... or nothing, where there is none
{{ and }}       the braces themselves
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from bridges.mail.addresses import shown

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_PLACE: Final = re.compile(r"[^\s.{}?]+(?:\.[^\s.{}?]+)*")


class FillError(ValueError):
    """The JSON does not hold what a template asks for; the sentence says what."""


class Filling:
    """One template, read."""

    def __init__(self, text: str) -> None:
        """ValueError: a brace is not closed, or holds no name."""
        self.text = text
        self._pieces: list[tuple[str, tuple[str, ...], bool]] = []
        """(text before, place, may be missing); the last has no place."""
        before, at = "", 0
        for match in _PIECE.finditer(text):
            before += text[at : match.start()]
            at = match.end()
            if match[0] in ("{{", "}}"):
                before += match[0][0]
                continue
            name = match[1]
            if name is None:
                raise ValueError(f"a brace stands alone in {shown(text)}; write {{field}}, or {{{{ for a brace.")
            place = name.removesuffix("?")
            if not _PLACE.fullmatch(place):
                raise ValueError(f"{{{name}}} names no field; write for example {{host.name}}.")
            self._pieces.append((before, tuple(place.split(".")), name.endswith("?")))
            before = ""
        self._pieces.append((before + text[at:], (), False))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filling) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"<Filling {self.text!r}>"

    def fill(self, data: Mapping[str, Any], convert: Callable[[str], str] = str) -> str:
        """The text; `convert` is applied to each value. FillError: a field is missing."""
        parts: list[str] = []
        for before, place, optional in self._pieces:
            parts.append(before)
            if place:
                parts.append(convert(_text(_find(data, place, optional))))
        return "".join(parts)

    def several(self, data: Mapping[str, Any]) -> list[str]:
        """As `fill`; but a template that is one field, whose value is a list, gives all of them."""
        if len(self._pieces) == 2 and not self._pieces[0][0] and not self._pieces[1][0]:
            _, place, optional = self._pieces[0]
            found = _find(data, place, optional)
            if isinstance(found, list):
                return [_text(one) for one in found]
        text = self.fill(data)
        return [text] if text else []


def _find(data: Mapping[str, Any], place: tuple[str, ...], optional: bool) -> Any:
    found: Any = data
    for step in place:
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdigit() and len(step) < 7 and int(step) < len(found):
            found = found[int(step)]
        elif optional:
            return ""
        else:
            raise FillError(f"the template wants the field {shown('.'.join(place))}, and the JSON has none.")
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
