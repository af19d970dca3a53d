"""The peers' table as a team would map it, with the columns and the index of projkit's table."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID  # noqa: TC003 - SQLAlchemy reads annotations when it starts

from sqlalchemy import DateTime, Index, String, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from peers.common import TABLE


class Base(DeclarativeBase):
    """The base of the mapped classes."""

    type_annotation_map = {datetime: DateTime(timezone=True), dict[str, Any]: JSONB, list[str]: JSONB}  # noqa: RUF012


class Project(Base):
    """A project."""

    __tablename__ = TABLE

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(String(255))
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(20))
    priority: Mapped[str] = mapped_column(String(20))
    tags: Mapped[list[str]]
    start_date: Mapped[date | None]
    due_date: Mapped[date | None]
    extra: Mapped[dict[str, Any]] = mapped_column("metadata")  # `metadata` is reserved by SQLAlchemy
    external_id: Mapped[str | None] = mapped_column(String(200))
    archived_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column()
    updated_at: Mapped[datetime]
    version: Mapped[int]

    __table_args__ = (Index(f"{TABLE}_newest", owner_id, created_at.desc(), id),)  # noqa: A003 - the column above
