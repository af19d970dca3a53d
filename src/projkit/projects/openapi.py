"""Schemas of the OpenAPI document for changes of a project, derived from the schema of a new one."""

from typing import Any, Final

from projkit.http.routing import SchemaVariant
from projkit.projects.schemas import READ_ONLY

_READ_ONLY_FIELD: Final = {
    "readOnly": True,
    "description": "Read-only: may be sent back unchanged; a different value is rejected.",
}


def _replacement(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of PUT: the writable fields, and the read-only ones, which may be sent back unchanged."""
    return {
        **schema,
        "description": "The new values of all writable fields; omitted optional fields are reset to their defaults.",
        "properties": {**schema["properties"], **dict.fromkeys(sorted(READ_ONLY), _READ_ONLY_FIELD)},
    }


def _patch(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of PATCH: no member of a merge patch (RFC 7396) is required, and null resets one."""
    patch = {**_replacement(schema), "examples": [{"status": "active", "tags": ["web", "spring"]}]}
    del patch["required"]
    patch["description"] = (
        "A JSON merge patch (RFC 7396): omitted fields keep their values, and null resets a field to its default."
    )
    for name in schema["properties"]:
        field = {key: value for key, value in patch["properties"][name].items() if key != "default"}
        can_reset = name not in schema["required"] and "anyOf" not in field
        patch["properties"][name] = {"anyOf": [field, {"type": "null"}]} if can_reset else field
    return patch


REPLACEMENT: Final = SchemaVariant("ProjectReplacement", _replacement)
PATCH: Final = SchemaVariant("ProjectPatch", _patch)
