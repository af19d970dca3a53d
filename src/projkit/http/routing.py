"""Declarations of endpoints, and the lookup of the endpoint for a path and method.

A declaration is the single source of an endpoint's route, permissions, request body and responses. The lookup, the
checks before the handler, Starlette's route objects for hosts and instrumentors, and the OpenAPI document are built
from it.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel

from projkit.http.request import Request
from projkit.http.response import PreparedResponse, Response

Handler = Callable[[Request], Awaitable[Response]]
BodyHandler = Callable[[Request, Any], Awaitable[Response]]
# Validates a request before its body is read; raises if it must be rejected.
Check = Callable[[Request], None]
# Returns whether a request is allowed without credentials.
AllowsAnonymous = Callable[[Request], bool]
# Returns a response that exists already: it must not block, and does not see the request.
PreparedHandler = Callable[[], PreparedResponse]
JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """A response that an endpoint declares: description, schema of the body, headers and links."""

    description: str
    schema: type[BaseModel] | Mapping[str, Any] | None = None
    content_type: str = JSON
    headers: tuple[str, ...] = ()
    links: Mapping[str, Any] = field(default_factory=dict)
    # Schemas of other media types, chosen by Accept.
    alternatives: Mapping[str, type[BaseModel] | Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SchemaVariant:
    """A schema that the OpenAPI document shows for a body, derived from the one that validates its content."""

    name: str
    derive: Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Body:
    """The request body of an endpoint: the schema that validates it, and the accepted media types."""

    schema: type[BaseModel]
    content_types: tuple[str, ...] = (JSON,)
    required: bool = True
    variant: SchemaVariant | None = None


@dataclass(frozen=True, slots=True)
class Param:
    """A path parameter: its description, and the pattern that it must match."""

    description: str
    pattern: str

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the parameter."""
        return {"type": "string", "pattern": f"^{self.pattern}$"}

    def matches(self, value: str) -> bool:
        """Return whether a path segment matches the pattern."""
        return re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method at one path (a template relative to the kit, such as ``/api/v1/projects/{project_id}``).

    Every endpoint requires credentials, and ``scope`` if it is set, unless it is ``public``. Path parameters are UUIDs
    unless ``params`` declares them otherwise; a malformed one is answered with 404 before the body is read.

    Attributes:
        standalone: responds before the kit has started, if it cannot start, and under any load.
        starts_kit: standalone, but starts the kit if nothing else has, and waits for it.
        prepared: the same response as ``handler``, for the fast path.
    """

    method: str
    path: str
    handler: Handler | BodyHandler
    operation_id: str
    summary: str
    tag: str
    responses: Mapping[int, ResponseSpec]
    errors: tuple[str, ...] = ()
    scope: str | None = None
    public: bool = False
    body: Body | None = None
    query: type[BaseModel] | None = None
    request_headers: tuple[str, ...] = ()
    description: str = ""
    documented: bool = True
    params: Mapping[str, Param] = field(default_factory=dict)
    security: tuple[str, ...] = ("bearer", "cookie")
    standalone: bool = False
    starts_kit: bool = False
    check: Check | None = None
    allows_anonymous: AllowsAnonymous | None = None
    prepared: PreparedHandler | None = None


class _Node:
    __slots__ = ("children", "endpoints", "parameter", "parameter_name", "template")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.parameter_name = ""
        self.endpoints: dict[str, Endpoint] = {}
        self.template = ""


class Match:
    """The endpoints of one path by method, and the path's parameters."""

    __slots__ = ("endpoints", "params", "template")

    def __init__(self, endpoints: Mapping[str, Endpoint], params: dict[str, str], template: str) -> None:
        self.endpoints = endpoints
        self.params = params
        self.template = template

    @property
    def allowed(self) -> str:
        """The value of the ``Allow`` header."""
        methods = set(self.endpoints) | {"OPTIONS"}
        if "GET" in methods:
            methods.add("HEAD")
        return ", ".join(sorted(methods))


class RouteTable:
    """Lookup of a kit's endpoints by path."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.endpoints = tuple(endpoints)
        self._root = _Node()
        self._static: dict[str, Match] = {}
        # Paths that end in their only parameter, as /projects/{project_id}, are found without a walk.
        self._parents: dict[str, _Node] = {}
        for endpoint in self.endpoints:
            self._add(endpoint)

    def find(self, path: str) -> Match | None:
        """Return the endpoints at ``path``, or None. Matching is exact: a trailing slash makes another path."""
        static = self._static.get(path)
        if static is not None:
            return static
        parent, _, last = path.rpartition("/")
        above = self._parents.get(parent)
        if above is not None and last and last not in above.children:
            one = above.parameter
            assert one is not None  # noqa: S101  # because it is in _parents
            return Match(one.endpoints, {above.parameter_name: last}, one.template)
        node = self._root
        params: dict[str, str] = {}
        for segment in path.split("/")[1:]:
            child = node.children.get(segment)
            if child is None:
                child = node.parameter
                if child is None or not segment:
                    return None
                params[node.parameter_name] = segment
            node = child
        return Match(node.endpoints, params, node.template) if node.endpoints else None

    def _add(self, endpoint: Endpoint) -> None:
        node = above = self._root
        for segment in endpoint.path.split("/")[1:]:
            above = node
            if segment.startswith("{"):
                node.parameter = node.parameter or _Node()
                node.parameter_name = segment.strip("{}")
                node = node.parameter
            else:
                node = node.children.setdefault(segment, _Node())
        parent, _, last = endpoint.path.rpartition("/")
        if last.startswith("{") and "{" not in parent:
            self._parents[parent] = above
        node.template = endpoint.path
        node.endpoints[endpoint.method] = endpoint
        if "{" not in endpoint.path:
            self._static[endpoint.path] = Match(node.endpoints, {}, endpoint.path)
