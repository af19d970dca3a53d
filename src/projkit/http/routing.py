"""Declaring endpoints, and finding the one that a path and a method name.

A declaration says everything once: the route, who may call it, what it takes and what it answers. The lookup, the
checks before a handler runs, Starlette's route objects for hosts and instrumentors, and the OpenAPI document are
all made from it.
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
# Looks at a request before anything of its body is read, and raises where it is to be refused.
Check = Callable[[Request], None]
# Lets a request in without credentials, beside those that have them.
AllowsAnonymous = Callable[[Request], bool]
# Returns a response that exists already: it must not block, and does not see the request.
PreparedHandler = Callable[[], PreparedResponse]
JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """A documented success: what it means, the schema of its body, its headers, and where to go from there."""

    description: str
    schema: type[BaseModel] | Mapping[str, Any] | None = None
    content_type: str = JSON
    headers: tuple[str, ...] = ()
    links: Mapping[str, Any] = field(default_factory=dict)
    # Of other media types, by Accept:
    alternatives: Mapping[str, type[BaseModel] | Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SchemaVariant:
    """A schema that the OpenAPI document shows for a body, derived from the one that validates its content."""

    name: str
    derive: Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Body:
    """What an endpoint takes: the schema that validates it and the media types under which it may come."""

    schema: type[BaseModel]
    content_types: tuple[str, ...] = (JSON,)
    required: bool = True
    variant: SchemaVariant | None = None


@dataclass(frozen=True, slots=True)
class Param:
    """A path parameter: what it is, and the form that it has."""

    description: str
    pattern: str

    @property
    def schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        return {"type": "string", "pattern": f"^{self.pattern}$"}

    def matches(self, value: str) -> bool:
        """Whether a segment of the path has the form."""
        return re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method at one path (a template relative to the kit, such as ``/api/v1/projects/{project_id}``).

    Without ``scope`` it is refused to everybody but callers who are signed in; only ``public`` opens it.
    Path parameters are UUIDs, unless ``params`` names another :class:`Param`: a malformed one is a 404 before
    anything of the body is read.
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
    standalone: bool = False  # answers before the kit has started, while it cannot, and under any load
    starts_kit: bool = False  # standalone, and yet has the kit start where nothing has, and waits for that
    check: Check | None = None
    allows_anonymous: AllowsAnonymous | None = None
    prepared: PreparedHandler | None = None  # the same response as ``handler``, for the fast path


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
        """The ``Allow`` header's value."""
        methods = set(self.endpoints) | {"OPTIONS"}
        if "GET" in methods:
            methods.add("HEAD")
        return ", ".join(sorted(methods))


class RouteTable:
    """All endpoints of a kit, found in one walk over the path's segments."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.endpoints = tuple(endpoints)
        self._root = _Node()
        self._static: dict[str, Match] = {}
        # What stands before a single parameter at the end, as in /projects/{project_id}: found without a walk.
        self._parents: dict[str, _Node] = {}
        for endpoint in self.endpoints:
            self._add(endpoint)

    def find(self, path: str) -> Match | None:
        """The endpoints at ``path``, or None; matching is exact, a trailing slash is another path."""
        static = self._static.get(path)
        if static is not None:
            return static
        parent, _, last = path.rpartition("/")
        above = self._parents.get(parent)
        if above is not None and last and last not in above.children:
            one = above.parameter
            assert one is not None  # noqa: S101  # or it would not be among the parents
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
