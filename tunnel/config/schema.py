"""The JSON schema of tables, for editors. It knows shapes and words; what needs two values to judge is `check`'s."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from bridges import framing
from bridges.framing import COMMON, OPTIONS, REQUIRED, Option
from tunnel.config.bridge_model import KINDS
from tunnel.config.model import TableModel
from tunnel.config.render import duration_text, size_text

Schema = dict[str, Any]
_TYPES: Final = {"bytes": "string", "integer": "integer", "flag": "boolean", "seconds": "string"}


def table_schema() -> Schema:
    """JSON Schema 2020-12 of a route table."""
    models: list[type[BaseModel]] = [TableModel, *KINDS.values()]
    chosen, whole = models_json_schema([(model, "validation") for model in models])
    made: Schema = _tidied(whole["$defs"])
    top = made.pop("TableModel")
    made["FrameModel"] = _frame()
    made["Bridge"] = {"anyOf": [chosen[model, "validation"] for model in KINDS.values()]}
    for kind, model in KINDS.items():
        made[model.__name__]["properties"]["kind"] = {"const": kind}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ztunnel route table",
        "$defs": made,
        **top,
    }


# --- framings, whose options are not pydantic's ----------------------------------------------------------------------


def _frame() -> Schema:
    kinds = [_of_kind(kind, options) for kind, options in OPTIONS.items()]
    return {
        "description": "How messages lie in the bytes (docs/framing.md).",
        "anyOf": [{"enum": list(framing.KINDS)}, *kinds],
    }


def _of_kind(kind: str, options: dict[str, Option]) -> Schema:
    required = [name for name, option in options.items() if option.default is REQUIRED]
    return {
        "type": "object",
        "properties": {
            "kind": {"const": kind},
            **{name: _option(name, option) for name, option in {**COMMON, **options}.items()},
        },
        "required": [*([] if kind == "line" else ["kind"]), *required],
        "additionalProperties": False,
    }


def _option(name: str, option: Option) -> Schema:
    """Sizes and times are text with a unit, as everywhere in a table."""
    default = option.default
    if isinstance(default, bytes):
        default = f"hex:{default.hex()}"
    elif name == "max_frame":
        default = size_text(default)
    elif option.type == "seconds":
        default = duration_text(default)
    found: Schema = {"description": option.meaning}
    if option.choices:
        found["enum"] = list(option.choices)
    elif name == "max_frame":
        found |= {"type": "string", "examples": ["64KiB", "4MiB"]}
    else:
        found["type"] = _TYPES[option.type]
        if option.type == "integer":
            found |= {"minimum": option.least, "maximum": option.most}
    return found if default is None or default is REQUIRED else {**found, "default": default}


# --- pydantic's, tidied ----------------------------------------------------------------------------------------------


def _tidied(schema: Any) -> Any:
    """Without pydantic's titles, and without null, which a table never says."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _tidied(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    if "default" in found and found["default"] is None:
        del found["default"]
    if "anyOf" in found:
        found["anyOf"] = [item for item in found["anyOf"] if item != {"type": "null"}]
        if len(found["anyOf"]) == 1:
            found.update(found.pop("anyOf")[0])
    return found
