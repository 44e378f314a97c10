"""The JSON schema of tables, for editors. It knows shapes and words; what needs two values to judge is `check`'s."""

from __future__ import annotations

from typing import Any

from tunnel.config.model import TableModel


def table_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of a route table."""
    made: dict[str, Any] = _tidied(TableModel.model_json_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ztunnel route table",
        **{key: value for key, value in made.items() if key != "title"},
    }


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
