"""``kit.projects``: the projects as models, for host code and background tasks."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from projkit.errors import NotFoundError, ValidationFailedError
from projkit.http.anonymous import require_principal
from projkit.http.body import field_errors, validate
from projkit.identity import Principal
from projkit.projects.changes import changing
from projkit.projects.query import REPEATABLE, ProjectQuery
from projkit.projects.rendering import as_project
from projkit.projects.schemas import Project, ProjectInput, ProjectList, ProjectStats
from projkit.projects.service import ProjectService, VersionCheck


class Projects:
    """The projects of a principal, with the rules of the HTTP API except that no scopes are required.

    Each method raises :class:`~projkit.http.anonymous.AnonymousCallerError` for an anonymous caller, before it touches
    any data, and TypeError for anything but a :class:`Principal`.
    """

    def __init__(self, service: Callable[[], AbstractAsyncContextManager[ProjectService]]) -> None:
        self._service = service

    async def create(self, principal: Principal, **fields: Any) -> Project:
        """Create a project; ``fields`` are the writable fields of the API.

        Raises:
            ValidationFailedError: a field is invalid.
            ExternalIdTakenError: another undeleted project has this ``external_id``.
        """
        owner = require_principal(principal)
        async with self._service() as service:
            return as_project(await service.create(owner, validate(ProjectInput, fields)))

    async def get(self, principal: Principal, identifier: UUID | str) -> Project:
        """Return a project.

        Raises:
            NotFoundError: the principal has no such project.
        """
        owner = require_principal(principal)
        async with self._service() as service:
            return as_project(await service.get(owner, _uuid(identifier)))

    async def list(self, principal: Principal, **query: Any) -> ProjectList:
        """Return a page; ``query`` has the parameters of ``GET /projects``, repeatable ones as sequences.

        Raises:
            ValidationFailedError: a parameter is invalid.
            InvalidCursorError: the cursor belongs to another list.
            QueryTooCostlyError: ``total="exact"`` took too long.
        """
        owner = require_principal(principal)
        try:
            project_query = ProjectQuery.model_validate(
                {
                    name: (value,) if name in REPEATABLE and isinstance(value, str) else value
                    for name, value in query.items()
                }
            )
        except ValidationError as error:
            raise ValidationFailedError(field_errors(error)) from None
        async with self._service() as service:
            page = await service.list(owner, project_query)
        return ProjectList(
            items=[as_project(row) for row in page.rows],
            next_cursor=page.next_cursor,
            total=page.total,
            total_is_capped=page.total_is_capped,
        )

    async def update(
        self,
        principal: Principal,
        identifier: UUID | str,
        changes: Mapping[str, Any],
        *,
        version: int | None = None,
    ) -> Project:
        """Change the fields in ``changes``; with ``version``, only if that is the current version.

        Raises:
            NotFoundError: the principal has no such project.
            ValidationFailedError: a field is invalid.
            PreconditionFailedError: the project has another version.
            ProjectArchivedError: the project is archived.
        """
        owner = require_principal(principal)
        change = changing(lambda current: {**current, **changes}, read_only={})
        async with self._service() as service:
            return as_project(await service.update(owner, _uuid(identifier), change, _exactly(version)))

    async def delete(
        self, principal: Principal, identifier: UUID | str, *, version: int | None = None
    ) -> None:
        """Mark the project as deleted; with ``version``, only if that is the current version.

        Raises:
            NotFoundError: the principal has no such undeleted project.
            PreconditionFailedError: the project has another version.
        """
        owner = require_principal(principal)
        async with self._service() as service:
            await service.delete(owner, _uuid(identifier), _exactly(version))

    async def stats(self, principal: Principal) -> ProjectStats:
        """Return statistics of the principal's undeleted projects."""
        owner = require_principal(principal)
        async with self._service() as service:
            return ProjectStats.model_validate(await service.stats(owner))


def _exactly(version: int | None) -> VersionCheck:
    return None if version is None else lambda current: current == version


def _uuid(identifier: UUID | str) -> UUID:
    """Return the id as a UUID; a malformed id is one of no project."""
    try:
        return identifier if isinstance(identifier, UUID) else UUID(identifier)
    except ValueError:
        raise NotFoundError from None
