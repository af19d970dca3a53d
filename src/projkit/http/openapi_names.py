"""A prefix for the names of an OpenAPI document, so that the document can be merged into another one."""

import re
from collections.abc import Mapping
from typing import Any, Final

from projkit.http.openapi import operations_of

_COMPONENT: Final = re.compile(r"#/components/(?P<kind>\w+)/(?P<name>[\w.-]+)")
# What the name of a component may contain (OpenAPI 3.1.1 §4.8.7).
_ALLOWED: Final = re.compile(r"[A-Za-z0-9._-]+")


def prefix_names(document: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return a copy of a document whose names begin with ``prefix``: components, operation ids, tags, security schemes.

    Raises:
        ValueError: the prefix has a character that the name of a component must not have.
    """
    if not _ALLOWED.fullmatch(prefix):
        raise ValueError(f"name_prefix may contain A-Z, a-z, 0-9, '.', '_' and '-', not {prefix!r}")
    renamed: dict[str, Any] = _with_prefixed_refs(document, prefix)
    for operation in operations_of(renamed["paths"]):
        operation["operationId"] = prefix + operation["operationId"]
        operation["tags"] = [prefix + tag for tag in operation["tags"]]
        operation["security"] = [
            {prefix + name: scopes for name, scopes in each.items()} for each in operation["security"]
        ]
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                link["operationId"] = prefix + link["operationId"]
    renamed["tags"] = [{**tag, "name": prefix + tag["name"]} for tag in renamed["tags"]]
    renamed["components"] = {
        kind: {prefix + name: component for name, component in components.items()}
        for kind, components in renamed["components"].items()
    }
    for name in document["components"]["schemas"]:
        schema = renamed["components"]["schemas"][prefix + name]
        if schema.get("title") == name:  # generators name the class of a client after it
            schema["title"] = prefix + name
    return renamed


def _with_prefixed_refs(value: Any, prefix: str) -> Any:
    if isinstance(value, list):
        return [_with_prefixed_refs(each, prefix) for each in value]
    if not isinstance(value, Mapping):
        return value
    # Only a reference has a text here; a property called "$ref" would have a schema.
    return {
        name: _COMPONENT.sub(rf"#/components/\g<kind>/{prefix}\g<name>", each)
        if name == "$ref" and isinstance(each, str)
        else _with_prefixed_refs(each, prefix)
        for name, each in value.items()
    }
