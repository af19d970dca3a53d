"""The OpenAPI 3.1 document, built from the declarations and schemas that serve the requests."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from projkit.http.openapi_texts import REQUEST_HEADERS, RESPONSE_HEADERS, STATUS_DESCRIPTIONS, SUMMARY, TAGS
from projkit.http.problem import PROBLEM_TYPE, STATUS, TYPE_PREFIX
from projkit.http.routing import Endpoint, ResponseSpec

_PARAMETER: Final = re.compile(r"{(\w+)}")
_REF: Final = "#/components/schemas/{model}"
_PROBLEM_REF: Final = "#/components/responses/Problem{status}"
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
_COMMON_HEADERS: Final = (
    "X-Request-ID",
    "X-Process-Time",
    "Server-Timing",
    "X-Content-Type-Options",
    "Cache-Control",
)


class FieldProblem(BaseModel):
    """An invalid value: ``pointer`` (RFC 6901) locates it in the body, ``parameter`` names a parameter or header."""

    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None


class Problem(BaseModel):
    """The details of an error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    trace_id: str | None = None
    errors: list[FieldProblem] | None = None
    rule: str | None = None


class _Generator(GenerateJsonSchema):
    # Defaults that are empty collections or None are left out: they say little, and some validators reject them.
    ignored_warning_kinds = GenerateJsonSchema.ignored_warning_kinds | {"non-serializable-default"}


def document(
    endpoints: Iterable[Endpoint], *, version: str, cookie: str, prefix: str = "", server: str = ""
) -> dict[str, Any]:
    """Build the document.

    Args:
        endpoints: the kit's endpoints; those without ``documented`` are left out.
        version: the version of the API.
        cookie: the name of the cookie that holds the access token.
        prefix: the prefix of every path.
        server: the URL that all paths are relative to.
    """
    shown = [endpoint for endpoint in endpoints if endpoint.documented]
    refs, definitions = _schemas(shown)
    paths: dict[str, Any] = {}
    for endpoint in shown:
        path = paths.setdefault(prefix + endpoint.path, {})
        if names := _PARAMETER.findall(endpoint.path):
            path["parameters"] = [_path_parameter(endpoint, name) for name in names]
        path[endpoint.method.lower()] = _operation(endpoint, refs)
        if endpoint.body is not None and (variant := endpoint.body.variant) is not None:
            schema = variant.derive(definitions[endpoint.body.schema.__name__])
            definitions[variant.name] = {**schema, "title": variant.name}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "projkit",
            "version": version,
            "summary": SUMMARY,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": server or "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "responses": {f"Problem{status}": _problem(status) for status in _declared_problems(paths)},
            "headers": {
                name: {"description": text, "schema": schema}
                for name, (text, schema) in RESPONSE_HEADERS.items()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "cookie": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": cookie,
                    "description": "Set at login. Unsafe methods also require the CSRF header.",
                },
            },
        },
    }


def operations_of(paths: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the operations below the paths of a document."""
    for path in paths.values():
        for name, operation in path.items():
            if name != "parameters":
                yield operation


def _schemas(endpoints: list[Endpoint]) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    wanted: dict[tuple[type[BaseModel], Any], None] = {(Problem, "serialization"): None}
    for endpoint in endpoints:
        if endpoint.body is not None:
            wanted[(endpoint.body.schema, "validation")] = None
        for response in endpoint.responses.values():
            for schema in (response.schema, *response.alternatives.values()):
                if isinstance(schema, type):
                    wanted[(schema, "serialization")] = None
    refs, top = models_json_schema(list(wanted), ref_template=_REF, schema_generator=_Generator)
    models = {model: ref for (model, _), ref in refs.items() if issubclass(model, BaseModel)}
    for model, ref in models.items():
        extra = model.model_config.get("json_schema_extra")
        if isinstance(extra, dict) and "examples" in extra:  # pydantic has sorted their members by name
            top["$defs"][ref["$ref"].rpartition("/")[2]]["examples"] = extra["examples"]
    return models, top["$defs"]


def _operation(endpoint: Endpoint, refs: Mapping[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.operation_id,
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "security": [] if endpoint.public else [{name: []} for name in endpoint.security],
        "responses": {
            str(status): _response(spec, refs, private=not endpoint.public)
            for status, spec in sorted(endpoint.responses.items())
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
        if endpoint.body.variant is not None:
            schema = {"$ref": _REF.format(model=endpoint.body.variant.name)}
        content = {content_type: {"schema": schema} for content_type in endpoint.body.content_types}
        operation["requestBody"] = {"required": endpoint.body.required, "content": content}
    for status in sorted(_statuses(endpoint)):
        response = operation["responses"].setdefault(
            str(status), {"$ref": _PROBLEM_REF.format(status=status)}
        )
        if "$ref" in response:
            continue
        # The endpoint declares a response of its own for a status that is also an error's.
        problem = _problem(status)
        for part in ("headers", "content"):
            response[part] = {**response.get(part, {}), **problem[part]}
    return operation


def _declared_problems(paths: Mapping[str, Any]) -> list[int]:
    """Return the statuses of errors that operations refer to."""
    refs = {
        int(status)
        for operation in operations_of(paths)
        for status, response in operation["responses"].items()
        if "$ref" in response
    }
    return sorted(refs)


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
    cannot_fail = endpoint.public and endpoint.standalone and not endpoint.errors
    return statuses - {500, 503} if cannot_fail else statuses


def _response(
    spec: ResponseSpec, refs: Mapping[type[BaseModel], dict[str, Any]], *, private: bool
) -> dict[str, Any]:
    names = (*spec.headers, *_COMMON_HEADERS)
    response: dict[str, Any] = {
        "description": spec.description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
    }
    if private:
        response["headers"]["Vary"] = {"$ref": "#/components/headers/Vary"}
    if spec.schema is not None:
        schemas = {spec.content_type: spec.schema, **spec.alternatives}
        response["content"] = {
            name: {"schema": refs[schema] if isinstance(schema, type) else dict(schema)}
            for name, schema in schemas.items()
        }
    if spec.links:
        response["links"] = dict(spec.links)
    return response


def _problem(status: int) -> dict[str, Any]:
    names = [*_COMMON_HEADERS, "Vary"]
    if status in (408, 413, 503):
        names.append("Connection")
    if status in (401, 403):
        names.append("WWW-Authenticate")
    if status in (429, 503):
        names.append("Retry-After")
    if status == 429:
        names += ["RateLimit", "RateLimit-Policy"]
    return {
        "description": STATUS_DESCRIPTIONS[status],
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": {
            PROBLEM_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": _example_problem(status),
            }
        },
    }


def _example_problem(status: int) -> dict[str, Any]:
    error = next(error for error, value in STATUS.items() if value == status)
    example: dict[str, Any] = {
        "type": TYPE_PREFIX + error.kind,
        "title": error.title,
        "status": status,
        "detail": error.title,
        "instance": "/api/v1/projects",
        "code": error.code,
        "request_id": "5f3c1a9e8b7d4c20",
    }
    if status == 422:
        field = {"code": "string_too_short", "detail": "Must have at least 1 character", "pointer": "/name"}
        example |= {"detail": field["detail"], "errors": [field]}
    return example


def _path_parameter(endpoint: Endpoint, name: str) -> dict[str, Any]:
    declared = endpoint.params.get(name)
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": declared.description
        if declared
        else f"The {name.replace('_', ' ')}, a UUID; a malformed one returns 404.",
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
    text, schema = REQUEST_HEADERS[name]
    return {"name": name, "in": "header", "required": False, "description": text, "schema": dict(schema)}
