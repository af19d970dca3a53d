"""The HTTP endpoints of ``/projects``."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes, urlencode
from uuid import UUID

import orjson

from projkit.clock import rfc3339
from projkit.errors import FieldError, PreconditionRequiredError, ValidationFailedError
from projkit.http.body import validate
from projkit.http.conditional import etag_of, if_match, if_none_match
from projkit.http.query import pairs_of, read_query
from projkit.http.request import Request
from projkit.http.response import JSON_TYPE, PRIVATE, REVALIDATE, Header, Response
from projkit.http.routing import JSON, MERGE_PATCH, Body, Endpoint, ResponseSpec
from projkit.http.url_paths import encode_path
from projkit.projects.changes import merging, patching, replacing
from projkit.projects.idempotency import IdempotentCreation
from projkit.projects.openapi import PATCH, REPLACEMENT
from projkit.projects.query import REPEATABLE, ProjectQuery
from projkit.projects.rendering import render_list, render_project
from projkit.projects.schemas import Project, ProjectInput, ProjectList, ProjectStats
from projkit.projects.service import Change, ProjectService, VersionCheck
from projkit.projects.statements import ProjectRow

READ: Final = "projects:read"
WRITE: Final = "projects:write"
T = TypeVar("T")
_CREATED_HEADERS: Final = ("ETag", "Location", "Idempotent-Replayed")
_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")
_DEFAULT_QUERY: Final = ProjectQuery()
_MAX_CACHED_QUERY_BYTES: Final = 200  # bounds the size of the caches


class ProjectRoutes:
    """The handlers of ``/projects``.

    Args:
        projects: returns the service of the running event loop.
        idempotent_creation: returns the creation with an ``Idempotency-Key`` of the running event loop.
        prefix: the prefix of the API.
        require_if_match: whether changes require an ``If-Match`` header.
        put_merges: whether PUT keeps the members that the body omits.
    """

    def __init__(
        self,
        projects: Callable[[], ProjectService],
        idempotent_creation: Callable[[], IdempotentCreation],
        *,
        prefix: str,
        require_if_match: bool,
        put_merges: bool,
    ) -> None:
        self._projects = projects
        self._idempotent_creation = idempotent_creation
        self._path = f"{prefix}/projects"
        self._require_if_match = require_if_match
        self._put_merges = put_merges

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints, from which the routes and the OpenAPI document are generated."""
        one = f"{self._path}/{{project_id}}"
        replace = Body(ProjectInput, (JSON,), variant=REPLACEMENT)
        patch = Body(ProjectInput, (MERGE_PATCH, JSON), variant=PATCH)
        project = ResponseSpec("The project in its current state.", Project, headers=("ETag",))
        edit = ("not_found", "conflict", "precondition_failed", "precondition_required")
        return [
            Endpoint(
                method="POST",
                path=self._path,
                handler=self.create,
                operation_id="createProject",
                summary="Create a project",
                tag="projects",
                responses={
                    201: ResponseSpec(
                        "The project was created.", Project, headers=_CREATED_HEADERS, links=_LINKS
                    )
                },
                errors=("conflict", "validation"),
                scope=WRITE,
                body=Body(ProjectInput),
                request_headers=("Idempotency-Key",),
            ),
            Endpoint(
                method="GET",
                path=self._path,
                handler=self.list,
                operation_id="listProjects",
                summary="List projects",
                tag="projects",
                responses={200: ResponseSpec("A page of projects.", ProjectList, headers=("Link",))},
                errors=("validation",),  # which includes query_too_costly
                scope=READ,
                query=ProjectQuery,
            ),
            Endpoint(
                method="GET",
                path=f"{self._path}/stats/summary",
                handler=self.stats,
                operation_id="summarizeProjects",
                summary="Get project statistics",
                tag="projects",
                responses={200: ResponseSpec("The statistics of the caller's projects.", ProjectStats)},
                errors=(),
                scope=READ,
            ),
            Endpoint(
                method="GET",
                path=one,
                handler=self.get,
                operation_id="getProject",
                summary="Get a project",
                tag="projects",
                responses={
                    200: project,
                    304: ResponseSpec("The project has not changed.", headers=("ETag",)),
                },
                errors=("not_found", "validation"),
                scope=READ,
                request_headers=("If-None-Match",),
            ),
            Endpoint(
                method="PUT",
                path=one,
                handler=self.put,
                operation_id="replaceProject",
                summary="Replace a project",
                tag="projects",
                responses={200: project},
                errors=(*edit, "validation"),
                scope=WRITE,
                body=replace,
                request_headers=("If-Match",),
            ),
            Endpoint(
                method="PATCH",
                path=one,
                handler=self.patch,
                operation_id="patchProject",
                summary="Update a project",
                description="Applies a JSON merge patch (RFC 7396).",
                tag="projects",
                responses={200: project},
                errors=(*edit, "validation"),
                scope=WRITE,
                body=patch,
                request_headers=("If-Match",),
            ),
            Endpoint(
                method="DELETE",
                path=one,
                handler=self.delete,
                operation_id="deleteProject",
                summary="Delete a project",
                tag="projects",
                responses={204: ResponseSpec("The project was deleted. It can be restored.")},
                errors=("not_found", "precondition_failed", "validation"),
                scope=WRITE,
                request_headers=("If-Match",),
            ),
            Endpoint(
                method="POST",
                path=f"{one}/restore",
                handler=self.restore,
                operation_id="restoreProject",
                summary="Restore a deleted project",
                tag="projects",
                responses={200: project},
                errors=("not_found", "conflict", "precondition_failed", "validation"),
                scope=WRITE,
                request_headers=("If-Match",),
            ),
            Endpoint(
                method="POST",
                path=f"{one}/archive",
                handler=self.archive,
                operation_id="archiveProject",
                summary="Archive a project",
                tag="projects",
                responses={200: project},
                errors=("not_found", "precondition_failed", "validation"),
                scope=WRITE,
                request_headers=("If-Match",),
            ),
            Endpoint(
                method="POST",
                path=f"{one}/unarchive",
                handler=self.unarchive,
                operation_id="unarchiveProject",
                summary="Unarchive a project",
                tag="projects",
                responses={200: project},
                errors=("not_found", "precondition_failed", "validation"),
                scope=WRITE,
                request_headers=("If-Match",),
            ),
        ]

    async def create(self, request: Request, raw: Any) -> Response:
        content = validate(ProjectInput, raw)
        key = _idempotency_key(request)
        if key is None:
            row = await self._projects().create(request.principal, content)
            return self._created(request, str(row.id), _etag(row), render_project(row))
        created = await self._idempotent_creation().create(request.principal, key, content, raw)
        replayed: tuple[Header, ...] = ((b"idempotent-replayed", b"true"),) if created.replayed else ()
        return self._created(request, str(created.id), created.etag.encode(), created.body, replayed)

    async def list(self, request: Request) -> Response:
        query = _DEFAULT_QUERY
        if request.query_string:
            query = _query_of(request.query_string)
        page = await self._projects().list(request.principal, query)
        headers = [JSON_TYPE, *PRIVATE]
        if page.next_cursor is not None:
            headers.append((b"link", self._next_link(request, page.next_cursor)))
        body = render_list(page.rows, page.next_cursor, page.total, total_is_capped=page.total_is_capped)
        return Response(200, body, tuple(headers))

    async def get(self, request: Request) -> Response:
        precondition = if_none_match(request)
        row = await self._projects().get(request.principal, _identifier(request))
        etag = _etag(row)
        if precondition is not None and precondition.matches(row.version):
            return Response(304, headers=((b"etag", etag), *REVALIDATE))
        return Response(200, render_project(row), (JSON_TYPE, (b"etag", etag), *REVALIDATE))

    async def put(self, request: Request, raw: Any) -> Response:
        change = merging(raw) if self._put_merges else replacing(raw)
        return await self._update(request, change)

    async def patch(self, request: Request, raw: Any) -> Response:
        return await self._update(request, patching(raw))

    async def delete(self, request: Request) -> Response:
        await self._projects().delete(request.principal, _identifier(request), _version_check(request))
        return Response(204, headers=PRIVATE)

    async def restore(self, request: Request) -> Response:
        expected = _version_check(request)
        return _project(await self._projects().restore(request.principal, _identifier(request), expected))

    async def archive(self, request: Request) -> Response:
        expected = _version_check(request)
        return _project(await self._projects().archive(request.principal, _identifier(request), expected))

    async def unarchive(self, request: Request) -> Response:
        expected = _version_check(request)
        return _project(await self._projects().unarchive(request.principal, _identifier(request), expected))

    async def stats(self, request: Request) -> Response:
        summary = await self._projects().stats(request.principal)
        if (latest := summary["updated_at_latest"]) is not None:
            summary["updated_at_latest"] = rfc3339(latest)
        return Response(200, orjson.dumps(summary), (JSON_TYPE, *PRIVATE))

    async def _update(self, request: Request, change: Change) -> Response:
        expected = self._required_version(request)
        return _project(
            await self._projects().update(request.principal, _identifier(request), change, expected)
        )

    def _required_version(self, request: Request) -> VersionCheck:
        expected = _version_check(request)
        if self._require_if_match and b"if-match" not in request.headers:
            raise PreconditionRequiredError
        return expected

    def _created(
        self, request: Request, identifier: str, etag: bytes, body: bytes, more: tuple[Header, ...] = ()
    ) -> Response:
        location = f"{encode_path(request.root_path)}{self._path}/{identifier}".encode()
        return Response(201, body, (JSON_TYPE, (b"location", location), (b"etag", etag), *more, *REVALIDATE))

    def _next_link(self, request: Request, cursor: str) -> bytes:
        query = _without_cursor(request.query_string) + urlencode({"cursor": cursor})
        return f'<{encode_path(request.root_path)}{self._path}?{query}>; rel="next"'.encode()


_LINKS: Final[Mapping[str, Any]] = {
    name: {"operationId": name, "parameters": {"project_id": "$response.body#/id"}}
    for name in (
        "getProject",
        "replaceProject",
        "patchProject",
        "archiveProject",
        "unarchiveProject",
        "deleteProject",
        "restoreProject",
    )
}


def _cached_if_short(parse: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Cache the results for short query strings: clients request the same lists again and again."""
    cached = lru_cache(maxsize=256)(parse)

    def parse_or_get_cached(query_string: bytes) -> T:
        return (cached if len(query_string) <= _MAX_CACHED_QUERY_BYTES else parse)(query_string)

    return parse_or_get_cached


@_cached_if_short  # saves 6 µs
def _query_of(query_string: bytes) -> ProjectQuery:
    return read_query(ProjectQuery, query_string, repeatable=REPEATABLE)


@_cached_if_short  # saves 8 µs
def _without_cursor(query_string: bytes) -> str:
    """Return the query string without its cursor, so that another one can be appended."""
    pairs = [(unquote_to_bytes(name), unquote_to_bytes(value)) for name, value in pairs_of(query_string)]
    return "".join(f"{urlencode([pair])}&" for pair in pairs if pair[0] != b"cursor")


def _project(row: ProjectRow) -> Response:
    return Response(200, render_project(row), (JSON_TYPE, (b"etag", _etag(row)), *REVALIDATE))


def _etag(row: ProjectRow) -> bytes:
    return etag_of(row.version).encode()


def _identifier(request: Request) -> UUID:
    return UUID(request.params["project_id"])


def _version_check(request: Request) -> VersionCheck:
    match, none_match = if_match(request), if_none_match(request)
    if match is None and none_match is None:
        return None

    def matches(version: int) -> bool:
        if match is not None:
            match.require(version)
        if none_match is not None:
            none_match.require_other(version)
        return True

    return matches


def _idempotency_key(request: Request) -> str | None:
    key = request.header(b"idempotency-key")
    if key is not None and (b"idempotency-key" in request.repeated or not _KEY.fullmatch(key)):
        error = FieldError(
            "invalid_key", "Must be 1 to 255 printable ASCII characters", parameter="Idempotency-Key"
        )
        raise ValidationFailedError([error], title="The request's headers have errors")
    return key
