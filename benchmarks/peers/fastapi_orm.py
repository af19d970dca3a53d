"""A typical application: FastAPI, SQLAlchemy's async ORM, pydantic models for input and output, no observability.

Where teams differ it uses the faster way: dependencies are ``async`` (a plain ``def`` would run in a thread), the
session does not expire committed objects, nothing is refreshed after an insert, and there is no access log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence  # noqa: TC003 - FastAPI reads annotations when it starts
from contextlib import asynccontextmanager
from datetime import date, datetime  # noqa: TC003
from typing import Annotated, Any, Literal
from uuid import UUID  # noqa: TC003

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from joserfc.errors import JoseError
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from peers.common import API, DATABASE_URL, decode_cursor, encode_cursor, new_record, verify_token
from peers.models import Project

Status = Literal["planning", "active", "on_hold", "completed", "cancelled"]
Priority = Literal["low", "medium", "high", "critical"]
Tag = Annotated[str, Field(min_length=1, max_length=50)]


class ProjectIn(BaseModel):
    """The fields of a project that clients set."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field(min_length=1, max_length=200)
    description: str = Field(default="", max_length=10_000)
    status: Status = "planning"
    priority: Priority = "medium"
    tags: list[Tag] = Field(default_factory=list, max_length=50)
    start_date: date | None = None
    due_date: date | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    external_id: str | None = Field(default=None, max_length=200)


class ProjectOut(BaseModel):
    """A project in responses."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    owner_id: str
    name: str
    description: str
    status: Status
    priority: Priority
    tags: list[str]
    start_date: date | None
    due_date: date | None
    metadata: dict[str, Any] = Field(validation_alias="extra")
    external_id: str | None
    archived_at: AwareDatetime | None
    completed_at: AwareDatetime | None
    created_at: AwareDatetime
    updated_at: AwareDatetime
    version: int


class ProjectPage(BaseModel):
    """One page of the list."""

    items: list[ProjectOut]
    next_cursor: str | None
    total: int | None = None


bearer = HTTPBearer(auto_error=False)
router = APIRouter(prefix=API)


async def current_owner(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> str:
    """Return the subject of the request's token, which is verified for every request."""
    if credentials is None:
        raise HTTPException(401, "Not authenticated", {"WWW-Authenticate": "Bearer"})
    try:
        return str(verify_token(credentials.credentials)["sub"])
    except (JoseError, ValueError) as error:
        raise HTTPException(401, "Invalid token", {"WWW-Authenticate": "Bearer"}) from error


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Open a session for this request."""
    async with request.app.state.sessions() as session:
        yield session


Owner = Annotated[str, Depends(current_owner)]
Session = Annotated[AsyncSession, Depends(get_session)]


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Return that the process is alive."""
    return {"status": "ok"}


@router.get("/projects/{project_id}", response_model=ProjectOut)
async def get_project(project_id: UUID, owner: Owner, session: Session) -> Project:
    """Return one of the caller's projects."""
    query = select(Project).where(Project.id == project_id, Project.owner_id == owner)
    project = await session.scalar(query)
    if project is None:
        raise HTTPException(404, "No such project")
    return project


@router.get("/projects", response_model=ProjectPage)
async def list_projects(
    owner: Owner,
    session: Session,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> dict[str, Any]:
    """Return a page of the caller's projects, newest first."""
    newest = (
        select(Project)
        .where(Project.owner_id == owner, Project.archived_at.is_(None))
        .order_by(Project.created_at.desc(), Project.id)
        .limit(limit + 1)
    )
    if cursor is not None:
        created_at, project_id = _position(cursor)
        newest = newest.where(
            Project.created_at <= created_at,
            or_(Project.created_at < created_at, Project.id > project_id),
        )
    rows: Sequence[Project] = (await session.scalars(newest)).all()
    page = rows[:limit]
    more = encode_cursor(page[-1].created_at, page[-1].id) if len(rows) > limit else None
    return {"items": page, "next_cursor": more}


@router.post("/projects", response_model=ProjectOut, status_code=201)
async def create_project(body: ProjectIn, owner: Owner, session: Session) -> Project:
    """Create a project for the caller."""
    record = new_record(owner, body.model_dump())
    project = Project(extra=record.pop("metadata"), **record)
    session.add(project)
    await session.commit()
    return project


def _position(cursor: str) -> tuple[datetime, UUID]:
    try:
        return decode_cursor(cursor)
    except ValueError as error:
        raise HTTPException(422, "Not a cursor") from error


def make_engine() -> AsyncEngine:
    """Create an engine with the default pool."""
    return create_async_engine(DATABASE_URL.replace("postgresql://", "postgresql+asyncpg://", 1))


def make_app(engine: AsyncEngine) -> FastAPI:
    """Create the application on this engine."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(title="Projects", lifespan=lifespan)
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    app.include_router(router)
    return app


def create_app() -> FastAPI:
    """Create the application, for uvicorn's ``--factory``."""
    return make_app(make_engine())
