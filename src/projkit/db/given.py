"""The engine that a host hands in, in whatever form it has one."""

from collections.abc import Callable
from typing import Any, TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from projkit.errors import ConfigurationError

GivenEngine: TypeAlias = (
    AsyncEngine | async_sessionmaker[Any] | Callable[[], AsyncEngine | async_sessionmaker[Any]]
)


def resolve_engine(engine: GivenEngine | None) -> AsyncEngine | None:
    """The engine itself.

    Raises:
        ConfigurationError: it is something else.
    """
    if engine is None:
        return None
    given: object = engine
    if callable(given) and not isinstance(given, async_sessionmaker):
        given = given()
    if isinstance(given, async_sessionmaker):
        given = given.kw["bind"]
    if not isinstance(given, AsyncEngine):
        raise ConfigurationError(
            "engine must be an AsyncEngine, an async_sessionmaker that is bound to one, or a function that gives one "
            f"of them, not {type(given).__name__}; make one with: sqlalchemy.ext.asyncio.create_async_engine(url)"
        )
    return given
