"""The OpenAPI 3.1 document, made of the same declarations and schemas that serve the requests."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from projkit.http.problem import PROBLEM_TYPE
from projkit.http.routing import Endpoint, ResponseSpec

_ENTITY_TAG: Final = r'(W/)?"[\x21\x23-\x7e]*"'
_ENTITY_TAGS: Final = rf"^(\*|{_ENTITY_TAG}( ?, ?{_ENTITY_TAG})*)$"
_PARAMETER: Final = re.compile(r"{(\w+)}")
_REF: Final = "#/components/schemas/{model}"
_ERRORS: Final[Mapping[str, tuple[int, ...]]] = {
    "not_found": (404,),
    "conflict": (409,),
    "precondition_failed": (412,),
    "precondition_required": (428,),
    "validation": (422,),
    "unauthenticated": (401,),
    "csrf": (403,),
    "rate_limited": (429,),
    "unavailable": (500, 503),
}
_SAFE: Final = frozenset({"GET", "HEAD"})
_MEANINGS: Final[Mapping[int, str]] = {
    400: "The body is not JSON as RFC 8259 says, or has duplicate names or too deep nesting.",
    401: "There are no credentials, or they are not valid.",
    403: "The credentials lack the scope, or a cookie authenticates and the CSRF check failed (`rule` says which).",
    404: "There is nothing here, or it is somebody else's.",
    408: "The body did not arrive in time.",
    409: "It conflicts with the present state.",
    412: "The ETag in If-Match is not the present one.",
    413: "The body is too large.",
    415: "The content type is not supported.",
    422: "A value is wrong; `errors` says which.",
    428: "If-Match is required here.",
    429: "Too many attempts; try again after `Retry-After` seconds.",
    500: "Something went wrong inside; the log has it under the request id.",
    503: "Something that is needed does not answer, or there is too much to do; try again after `Retry-After` seconds.",
}
_HEADERS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "ETag": ("The version of the project, for If-Match and If-None-Match.", {"type": "string"}),
    "Location": ("Where the new project is, or where to go next.", {"type": "string", "format": "uri-reference"}),
    "Link": ("The next page (RFC 8288), if there is one.", {"type": "string"}),
    "Idempotent-Replayed": (
        "`true` where this is the answer to an earlier request with the same key.",
        {"type": "string", "const": "true"},
    ),
    "Set-Cookie": ("The cookies of the session.", {"type": "string"}),
    "RateLimit": ("What is left of the limit (draft-ietf-httpapi-ratelimit-headers).", {"type": "string"}),
    "RateLimit-Policy": ("The limit.", {"type": "string"}),
    "Allow": ("The methods that are allowed here.", {"type": "string"}),
    "Retry-After": ("Seconds to wait before trying again.", {"type": "integer", "minimum": 0}),
    "WWW-Authenticate": ("How to authenticate (RFC 6750).", {"type": "string"}),
    "X-Request-ID": ("The id under which the log knows this request.", {"type": "string"}),
    "X-Process-Time": ("Seconds until the response's headers.", {"type": "string", "pattern": r"^\d+\.\d{6}$"}),
    "Server-Timing": ("Milliseconds in all, and in the database.", {"type": "string"}),
    "X-Content-Type-Options": ("Always `nosniff`.", {"type": "string", "const": "nosniff"}),
    "Cache-Control": ("Who may keep the answer, and how long.", {"type": "string"}),
    "Vary": ("The request's headers that the answer depends on.", {"type": "string"}),
    "Connection": ("`close` where the rest of the body is not read.", {"type": "string"}),
}  # fmt: skip
_EVERYWHERE: Final = (
    "X-Request-ID",
    "X-Process-Time",
    "Server-Timing",
    "X-Content-Type-Options",
    "Cache-Control",
)
_REQUEST_HEADERS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "Idempotency-Key": (
        "Makes the request safe to send again: within 24 hours the same key and body get the first answer.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x20-\x7e]{1,255}$"},
    ),
    "If-Match": (
        "Only if the project still has this ETag; `*` for any.",
        {"type": "string", "pattern": _ENTITY_TAGS, "examples": ['"1"']},
    ),
    "If-None-Match": (
        "Only if the project no longer has this ETag.",
        {"type": "string", "pattern": _ENTITY_TAGS, "examples": ['"1"']},
    ),
}


class Fault(BaseModel):
    """One thing wrong: in the body by RFC 6901 ``pointer``, elsewhere by the ``parameter``'s name."""

    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None


class Problem(BaseModel):
    """A failure (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    trace_id: str | None = None
    errors: list[Fault] | None = None
    rule: str | None = None


class _Generator(GenerateJsonSchema):
    # Defaults that are empty collections or None tell a reader nothing, but validators may trip over them.
    ignored_warning_kinds = GenerateJsonSchema.ignored_warning_kinds | {"non-serializable-default"}


def document(
    endpoints: Iterable[Endpoint], *, version: str, cookie: str, prefix: str = "", server: str = ""
) -> dict[str, Any]:
    """The document.

    ``prefix`` is put before every path, ``server`` names what stands before all of them, and ``cookie`` is the one
    that holds the access token.
    """
    shown = [endpoint for endpoint in endpoints if endpoint.documented]
    refs, definitions = _schemas(shown)
    paths: dict[str, Any] = {}
    for endpoint in shown:
        path = paths.setdefault(prefix + endpoint.path, {})
        if names := _PARAMETER.findall(endpoint.path):
            path["parameters"] = [_path_parameter(endpoint, name) for name in names]
        path[endpoint.method.lower()] = _operation(endpoint, refs)
        if endpoint.body is not None and endpoint.body.read_only:
            name = _edit_name(endpoint)
            definitions[name] = _edit_schema(endpoint, definitions[endpoint.body.schema.__name__])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "projkit",
            "version": version,
            "summary": "Projects, over HTTP.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": server or "/"}],
        "tags": [
            {"name": "projects", "description": "Projects of the caller; nobody sees anybody else's."},
            {"name": "auth", "description": "Logging in and out, sessions, keys."},
            {"name": "health", "description": "Probes."},
            {"name": "telemetry", "description": "What a monitoring system reads."},
        ],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "headers": {
                name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "cookie": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": cookie,
                    "description": "Set by logging in; unsafe methods also need the CSRF header.",
                },
            },
        },
    }


def _schemas(endpoints: list[Endpoint]) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    wanted: dict[tuple[type[BaseModel], Any], None] = {(Problem, "serialization"): None}
    for endpoint in endpoints:
        if endpoint.body is not None:
            wanted[(endpoint.body.schema, "validation")] = None
        for answer in endpoint.responses.values():
            for schema in (answer.schema, *answer.alternatives.values()):
                if isinstance(schema, type):
                    wanted[(schema, "serialization")] = None
    refs, top = models_json_schema(list(wanted), ref_template=_REF, schema_generator=_Generator)
    return {model: ref for (model, _), ref in refs.items() if issubclass(model, BaseModel)}, top["$defs"]


def _operation(endpoint: Endpoint, refs: Mapping[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.operation_id,
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "security": [] if endpoint.public else [{name: []} for name in endpoint.security],
        "responses": {
            str(status): _answer(answer, refs, private=not endpoint.public)
            for status, answer in sorted(endpoint.responses.items())
        },
    }
    notes = [endpoint.description, f"Scope: `{endpoint.scope}`." if endpoint.scope else ""]
    if any(notes):
        operation["description"] = " ".join(note for note in notes if note)
    if parameters := [
        *_query_parameters(endpoint),
        *(_header_parameter(name) for name in endpoint.request_headers),
    ]:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        schema: dict[str, Any] = dict(refs[endpoint.body.schema])
        if endpoint.body.read_only:
            schema = {"$ref": _REF.format(model=_edit_name(endpoint))}
        content = {content_type: {"schema": schema} for content_type in endpoint.body.content_types}
        operation["requestBody"] = {"required": endpoint.body.required, "content": content}
    for status in sorted(_statuses(endpoint)):
        problem = _problem(status)
        answer = operation["responses"].setdefault(str(status), problem)
        # A status that has an answer of its own may still be a failure of the request.
        for part in ("headers", "content"):
            answer[part] = {**answer.get(part, {}), **problem[part]}
    return operation


def _edit_name(endpoint: Endpoint) -> str:
    return "ProjectPatch" if endpoint.method == "PATCH" else "ProjectReplacement"


def _edit_schema(endpoint: Endpoint, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an edit: what may be set, and the read-only fields, which may be sent back as they are."""
    assert endpoint.body is not None  # noqa: S101  # only endpoints with a body have an edit
    properties = dict(schema["properties"])
    found = {**schema, "properties": properties, "title": _edit_name(endpoint)}
    found["description"] = "Replaces what a client may set; omitted optional fields take their defaults."
    if endpoint.method == "PATCH":
        # Of a merge patch (RFC 7396) no member is required, and null removes one.
        del found["required"]
        found["description"] = "A merge patch (RFC 7396): what is omitted stays, null takes the default."
        for name, each in properties.items():
            kept = {key: value for key, value in each.items() if key != "default"}
            removable = name != "name" and "anyOf" not in kept
            properties[name] = {"anyOf": [kept, {"type": "null"}]} if removable else kept
    for name in sorted(endpoint.body.read_only):
        properties[name] = {"readOnly": True, "description": "May be sent back as it was read."}
    return found


def _statuses(endpoint: Endpoint) -> set[int]:
    statuses = {500, 503}
    for name in endpoint.errors:
        statuses.update(_ERRORS[name])
    if not endpoint.public:
        statuses.add(401)
        if endpoint.scope is not None or endpoint.method not in _SAFE:
            statuses.add(403)
    if endpoint.body is not None:
        statuses.update((400, 408, 413, 415, 422))
    asks_nobody = endpoint.public and endpoint.standalone and not endpoint.errors
    return statuses - {500, 503} if asks_nobody else statuses


def _answer(
    answer: ResponseSpec, refs: Mapping[type[BaseModel], dict[str, Any]], *, private: bool
) -> dict[str, Any]:
    names = (*answer.headers, *_EVERYWHERE)
    found: dict[str, Any] = {
        "description": answer.description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
    }
    if private:
        found["headers"]["Vary"] = {"$ref": "#/components/headers/Vary"}
    if answer.schema is not None:
        forms = {answer.content_type: answer.schema, **answer.alternatives}
        found["content"] = {
            name: {"schema": refs[schema] if isinstance(schema, type) else dict(schema)}
            for name, schema in forms.items()
        }
    if answer.links:
        found["links"] = dict(answer.links)
    return found


def _problem(status: int) -> dict[str, Any]:
    names = [*_EVERYWHERE, "Vary"]
    if status in (408, 413, 503):
        names.append("Connection")
    if status in (401, 403):
        names.append("WWW-Authenticate")
    if status in (429, 503):
        names.append("Retry-After")
    if status == 429:
        names += ["RateLimit", "RateLimit-Policy"]
    return {
        "description": _MEANINGS[status],
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _path_parameter(endpoint: Endpoint, name: str) -> dict[str, Any]:
    declared = endpoint.params.get(name)
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": declared.description if declared else "The project's id; a malformed one is a 404.",
        "schema": declared.schema if declared else {"type": "string", "format": "uuid"},
    }


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    if endpoint.query is None:
        return []
    schema = endpoint.query.model_json_schema(ref_template=_REF)
    definitions = schema.get("$defs", {})
    return [_query_parameter(name, _inline(each, definitions)) for name, each in schema["properties"].items()]


def _query_parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    options = [option for option in schema.pop("anyOf", []) if option.get("type") != "null"]
    schema.update(options[0] if options else {})
    schema.pop("title", None)
    if schema.get("default", ...) in (None, [], "", ()):
        schema.pop("default", None)
    parameter: dict[str, Any] = {"name": name, "in": "query", "required": False}
    if "description" in schema:
        parameter["description"] = schema.pop("description")
    return {**parameter, "schema": schema}


def _inline(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inline(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inline(value, definitions) for name, value in schema.items()}


def _header_parameter(name: str) -> dict[str, Any]:
    text, schema = _REQUEST_HEADERS[name]
    return {"name": name, "in": "header", "required": False, "description": text, "schema": dict(schema)}
