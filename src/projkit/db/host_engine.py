"""The engine that a host passes to the kit, in each of the forms that are accepted."""

from typing import TYPE_CHECKING, Any, TypeAlias

from projkit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

HostEngine: TypeAlias = (
    "AsyncEngine | async_sessionmaker[Any] | Callable[[], AsyncEngine | async_sessionmaker[Any]]"
)


def resolve_engine(engine: "HostEngine | None") -> "AsyncEngine | None":
    """Return the ``AsyncEngine`` that the host's argument stands for.

    Raises:
        ConfigurationError: the argument is of another type.
    """
    if engine is None:
        return None
    # A host that passes an engine has imported this already; a kit on a driver saves the memory of the ORM.
    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker  # noqa: PLC0415

    resolved: object = engine
    if callable(resolved) and not isinstance(resolved, async_sessionmaker):
        resolved = resolved()
    if isinstance(resolved, async_sessionmaker):
        resolved = resolved.kw["bind"]
    if not isinstance(resolved, AsyncEngine):
        raise ConfigurationError(
            "engine must be an AsyncEngine, an async_sessionmaker bound to one, or a function that returns one "
            f"of them, not {type(resolved).__name__}; create one with: sqlalchemy.ext.asyncio.create_async_engine(url)"
        )
    return resolved
