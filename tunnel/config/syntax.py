"""What PyYAML says about a text that is no YAML, in sentences that say what to do. Knows the traps of flow style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import yaml

_SAYINGS: Final[tuple[tuple[str, str], ...]] = (
    ("found character '\\t'", "there is a tab here; YAML indents with spaces only."),
    ("cannot start any token", "a value cannot begin with this character; put the value in single quotes."),
    ("mapping values are not allowed", "there is a second ': ' here; quote the text, or begin a new line."),
    (
        "could not find expected ':'",
        "this is neither 'key: value' nor '- item'; is a colon or a quotation mark missing?",
    ),
    (
        "expected <block end>",
        "the indentation does not fit the lines above, or a quoted text goes on behind its quotes.",
    ),
    ("found unexpected end of stream", "a quotation mark that opens here or above is never closed."),
    ("found unknown escape character", "a backslash in double quotes begins an escape; use single quotes instead."),
    ("expected escape sequence", "a backslash in double quotes begins an escape; use single quotes instead."),
    ("found duplicate anchor", "this anchor is used twice."),
    ("expected alphabetic or numeric character", "a value that begins with '*' or '&' needs quotes."),
    ("sequence entries are not allowed", "'- ' cannot begin here; put the item on a line of its own."),
    ("expected ',' or '}'", "this {...} is not closed, or a comma is missing; block style (one key a line) is easier."),
    (
        "expected ',' or ']'",
        "this [...] is not closed, or a comma is missing; block style (one '- item' a line) is easier.",
    ),
    ("found unexpected document indicator", "a quotation mark that opens above is never closed."),
    ("expected the node content", "a value is missing, or a comma or bracket stands where none belongs."),
    (
        "did not find expected <document start>",
        "this does not belong here; is the first line indented, or not 'key: value'?",
    ),
    ("expected '<document start>'", "this does not belong here; is the first line indented, or not 'key: value'?"),
)
_FLOW_TOKENS: Final = ("expected ',' or", "mapping values", "node content", "<document start>", "<block end>")


def explain_syntax(error: yaml.MarkedYAMLError, lines: Sequence[str]) -> str:
    """One sentence for one syntax error; `lines` is the text that was read."""
    problem = error.problem or ""
    mark = error.problem_mark or error.context_mark
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if any(token in problem for token in _FLOW_TOKENS):
        context = lines[error.context_mark.line] if error.context_mark and error.context_mark.line < len(lines) else ""
        for text in (line, context):
            if "://[" in text and ("{" in text or "[" in text.replace("://[", "")):
                return "an IPv6 address inside {...} or [...] needs quotes, because of its own brackets: 'tcp://[::1]:5555'."
            if "${" in text:
                return "a variable inside {...} or [...] needs quotes, because of its own braces: '${NAME}'."
    if "directive" in (error.context or "") or "directive" in problem:
        return "a line cannot begin with '%'; names are made of a-z, 0-9, '_', '.' and '-'."
    for part, sentence in _SAYINGS:
        if part in problem:
            return sentence
    return f"this is not YAML: {problem or 'it cannot be read'}."
