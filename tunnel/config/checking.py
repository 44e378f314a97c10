"""What every cross check is given: the draft, the places, and where to put what it finds."""

from __future__ import annotations

from tunnel.config.load import Tree
from tunnel.config.model import Defaults, Route
from tunnel.config.nodes import Mark, Path, Scalar
from tunnel.config.read import Draft
from tunnel.config.table import Settings, settle
from tunnel.config.values import suggest, those_there_are
from tunnel.errors import Problem


class Checking:
    """One run of the cross checks over one draft."""

    def __init__(self, tree: Tree, draft: Draft) -> None:
        self.tree = tree
        self.draft = draft
        self.problems = tree.problems
        self.warnings: list[Problem] = []
        self.linked: set[frozenset[str]] = set()
        """Pairs of sides that a link joins (filled by check_links)."""

    @property
    def defaults(self) -> Defaults:
        return self.draft.head.value.defaults

    def settings(self, route: Route) -> Settings:
        return settle(route, self.defaults)

    def tell(self, path: Path, sentence: str, *, key: bool = False) -> None:
        self.problems.append(self.tree.problem(path, sentence, key=key))

    def tell_at(self, mark: Mark, path: str, sentence: str) -> None:
        self.problems.append(mark.problem(path, sentence))

    def warn(self, path: Path, sentence: str, *, key: bool = False) -> None:
        self.warnings.append(self.tree.problem(path, sentence, key=key))

    def where(self, path: Path) -> str:
        """`line 12`, for pointing from one problem at another place."""
        mark = self.tree.mark(path, key=True)
        return f"line {mark.line}" if mark.file == self.tree.root.mark.file else f"{mark.file}, line {mark.line}"

    def is_empty(self, section: str) -> bool:
        """Whether a section is left out or holds nothing."""
        entry = self.tree.root.entries.get(section)
        if entry is None or (isinstance(entry.node, Scalar) and entry.node.value is None):
            return True
        return not isinstance(entry.node, Scalar) and not getattr(
            entry.node, "entries", getattr(entry.node, "items", ())
        )

    def unsure(self, section: str) -> bool:
        """Whether something of a section could not be read, so that what is missing there says nothing."""
        parts = getattr(self.draft, section)
        entries = list(parts.values() if isinstance(parts, dict) else parts)
        if section in self.draft.head.broken or (not entries and not self.is_empty(section)):
            return True
        return any(part is None for part in entries)

    def side(self, side: str, path: Path) -> bool:
        """Whether a side is known; tells it if it is not."""
        if side in self.draft.sides:
            return True
        if not self.draft.sides or "sides" in self.draft.head.broken:
            return False
        hint = suggest(side, self.draft.sides) or those_there_are(self.draft.sides)
        self.tell(path, f"{side!r} is no side of this table.{hint}")
        return False
