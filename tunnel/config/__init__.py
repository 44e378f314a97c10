"""The route table: YAML with positions (nodes, load) → models (model, read) → cross checks (check) → plan (planning).

table = load_table(Path("dmz.yaml"))     every problem at once, or a Table
side = find_side(table)                  by the secret key that this box holds
plan = plan_for(table, side)             what this side runs
plan = read_plan(Path("dmz.yaml"))       the three together
"""

from __future__ import annotations

import os
from pathlib import Path

from tunnel.config.check import check_draft
from tunnel.config.load import load_tree
from tunnel.config.nodes import Unreadable
from tunnel.config.plan import Plan
from tunnel.config.planning import find_side, plan_for
from tunnel.config.read import read_draft
from tunnel.config.table import Table
from tunnel.errors import TableError

__all__ = ["Table", "find_side", "load_table", "plan_for", "read_plan"]


def load_table(path: Path) -> Table:
    """Read and check a table. Needs the public keys that it names, and no secret one. Raises TableError."""
    try:
        tree = load_tree(Path(path), os.environ)
    except Unreadable as error:
        raise TableError([error.problem]) from None
    draft = read_draft(tree)
    return check_draft(tree, draft)


def read_plan(path: Path, as_side: str | None = None) -> Plan:
    """The plan of the side that this box holds the secret key of (or that `as_side` names).

    Raises TableError, UsageError or KeyFileError.
    """
    table = load_table(path)
    return plan_for(table, find_side(table, as_side))
