"""The engine that a host hands in, in whatever form it has one."""

from typing import TYPE_CHECKING, Any, TypeAlias

from projkit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

GivenEngine: TypeAlias = (
    "AsyncEngine | async_sessionmaker[Any] | Callable[[], AsyncEngine | async_sessionmaker[Any]]"
)


def resolve_engine(engine: "GivenEngine | None") -> "AsyncEngine | None":
    """The engine itself.

    Raises:
        ConfigurationError: it is something else.
    """
    if engine is None:
        return None
    # A host that has an engine has this; a kit that runs on a driver does without the ORM that comes with it.
    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker  # noqa: PLC0415

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
