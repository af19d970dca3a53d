"""The engine, and one session for each request."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from app.settings import settings

engine = create_async_engine(settings.database_url, pool_pre_ping=True)


def open_session() -> AsyncSession:
    """Open a session; objects stay readable after a commit."""
    return AsyncSession(engine, expire_on_commit=False)


async def get_session() -> AsyncIterator[AsyncSession]:
    """Open a session for a request."""
    async with open_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]
