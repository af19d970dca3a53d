"""``kit.projects``: the same projects for host code and background tasks, as models."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from projkit.errors import NotFoundError, ValidationFailedError
from projkit.http.body import field_errors, validate
from projkit.identity import Principal
from projkit.projects.query import REPEATABLE, ProjectQuery
from projkit.projects.rendering import as_document, as_project
from projkit.projects.schemas import Project, ProjectInput, ProjectList, ProjectStats
from projkit.projects.service import Expected, ProjectService
from projkit.projects.statements import ProjectRow


class Projects:
    """Projects of a principal. The rules, scoping included, are those of the HTTP API; scopes are not asked for."""

    def __init__(self, service: Callable[[], AbstractAsyncContextManager[ProjectService]]) -> None:
        self._service = service

    async def create(self, principal: Principal, **fields: Any) -> Project:
        """Stores a new project; ``fields`` are those that a client may set.

        Raises:
            ValidationFailedError: a field is wrong.
            ExternalIdTakenError: another undeleted project has this ``external_id``.
        """
        async with self._service() as service:
            return as_project(await service.create(principal, validate(ProjectInput, fields)))

    async def get(self, principal: Principal, identifier: UUID | str) -> Project:
        """One project.

        Raises:
            NotFoundError: there is none, or it is somebody else's.
        """
        async with self._service() as service:
            return as_project(await service.get(principal, _uuid(identifier)))

    async def list(self, principal: Principal, **query: Any) -> ProjectList:
        """One page; ``query`` as the query parameters of ``GET /projects``, repeatable ones as sequences.

        Raises:
            ValidationFailedError: a parameter is wrong.
            InvalidCursorError: the cursor was made for another list.
        """
        try:
            wanted = ProjectQuery.model_validate(
                {
                    name: (value,) if name in REPEATABLE and isinstance(value, str) else value
                    for name, value in query.items()
                }
            )
        except ValidationError as error:
            raise ValidationFailedError(field_errors(error)) from None
        async with self._service() as service:
            page = await service.list(principal, wanted)
        return ProjectList(
            items=[as_project(row) for row in page.rows], next_cursor=page.next_cursor, total=page.total
        )

    async def update(
        self,
        principal: Principal,
        identifier: UUID | str,
        changes: Mapping[str, Any],
        *,
        version: int | None = None,
    ) -> Project:
        """Sets the fields in ``changes`` and leaves the others; with ``version`` only if it is still that one.

        Raises:
            NotFoundError: there is no such project of the principal's.
            ValidationFailedError: a field is wrong.
            PreconditionFailedError: the project has another version by now.
            ProjectArchivedError: it is archived.
        """

        def change(row: ProjectRow) -> ProjectInput:
            document = as_document(row)
            present = {name: document[name] for name in ProjectInput.model_fields}
            return validate(ProjectInput, {**present, **changes})

        async with self._service() as service:
            return as_project(await service.update(principal, _uuid(identifier), change, _exactly(version)))

    async def delete(
        self, principal: Principal, identifier: UUID | str, *, version: int | None = None
    ) -> None:
        """Marks the project as deleted.

        Raises:
            NotFoundError: there is no such undeleted project of the principal's.
            PreconditionFailedError: the project has another version by now.
        """
        async with self._service() as service:
            await service.delete(principal, _uuid(identifier), _exactly(version))

    async def stats(self, principal: Principal) -> ProjectStats:
        """A summary of the principal's undeleted projects."""
        async with self._service() as service:
            return ProjectStats.model_validate(await service.stats(principal))


def _exactly(version: int | None) -> Expected:
    return None if version is None else lambda present: present == version


def _uuid(identifier: UUID | str) -> UUID:
    """An id as it came; a malformed one names nothing."""
    try:
        return identifier if isinstance(identifier, UUID) else UUID(identifier)
    except ValueError:
        raise NotFoundError from None
