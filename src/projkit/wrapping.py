"""``kit.wrap(app)``: one ASGI app that combines the kit and a host, with one lifespan for both."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from projkit.errors import ConfigurationError
from projkit.http import scope_keys

logger: Final = logging.getLogger("projkit")

_STARTUP_COMPLETE: Final = "lifespan.startup.complete"
_STARTUP_FAILED: Final = "lifespan.startup.failed"
_SHUTDOWN_COMPLETE: Final = "lifespan.shutdown.complete"

# The path of a scope is decoded, so that other characters are possible, but each of these is a mistake.
_PREFIX: Final = re.compile(r"(/[^/%?#;\\{}]+)+")

# Frameworks type scopes and messages differently, so that no narrower type fits them all.
HostApp = Callable[[Any, Any, Any], Awaitable[Any]]


class Kit(Protocol):
    """The part of :class:`~projkit.ProjKit` that a wrapped host needs."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""

    async def startup(self) -> None:
        """Start the kit."""

    async def shutdown(self) -> None:
        """Stop the kit."""


def combine(
    kit: Kit,
    host: HostApp,
    dispatch: Callable[[HostApp], "KitDispatch"],
    *,
    guard: Callable[[HostApp], HostApp],
    time: Callable[[HostApp], HostApp],
    warnings: Callable[[Callable[[str], bool]], Iterable[str]],
    inside: bool,
) -> "WrappedApp":
    """Put the kit around a host, or inside the middlewares of one.

    Args:
        kit: the kit.
        host: the host's app.
        dispatch: sends the kit's requests to the kit, and the others to an app.
        guard: guards the host's paths.
        time: times and counts the host's requests.
        warnings: returns what to warn about, given a function that returns whether a path is the kit's.
        inside: whether the kit goes inside the host's middlewares.

    Raises:
        ConfigurationError: ``inside`` is not possible in this host.
    """
    if inside:
        insert_innermost(host, lambda app: dispatch(guard(app)))
    timed = time(host if inside else guard(host))
    around = dispatch(timed)
    return WrappedApp(
        timed if inside else around,
        timed,
        warnings=lambda: warnings(around.takes),
        startup=kit.startup,
        shutdown=kit.shutdown,
    )


def insert_innermost(host: Any, factory: Callable[..., Any]) -> None:
    """Add a middleware to a Starlette or FastAPI application, inside all others.

    Raises:
        ConfigurationError: the application is of another kind, or has already built its middleware.
    """
    middlewares = getattr(host, "user_middleware", None)
    if not isinstance(middlewares, list) or not hasattr(host, "middleware_stack"):
        raise ConfigurationError(
            f"kit.wrap(inside=True) supports Starlette and FastAPI, not {type(host).__name__}. In Litestar and "
            "BlackSheep, mount the kit instead. Quart's hooks and Django's MIDDLEWARE see only their own requests: use "
            "kit.wrap without inside, and check hosts, origins and rates in a proxy or in ASGI middleware around it"
        )
    if host.middleware_stack is not None:
        raise ConfigurationError(
            "kit.wrap(inside=True) must be called before the application serves its first request"
        )
    middlewares.append(Middleware(factory))


def check_prefix(prefix: str) -> str:
    """Return the prefix of a wrapped host's kit without a slash at the end.

    Raises:
        ConfigurationError: no request has such a path.
    """
    plain = prefix.removesuffix("/")
    is_valid = not plain or (_PREFIX.fullmatch(plain) and plain.isprintable())
    if not is_valid or {".", ".."} & {*plain.split("/")}:
        raise ConfigurationError(
            f"kit.wrap(prefix={prefix!r}) must be a plain path that starts with /, as in /kit: without empty segments, "
            ". and .., parameters, percent-encoding, ?, #, ; and \\; for a prefix with parameters, mount the kit"
        )
    return plain


class KitDispatch:
    """ASGI app that sends the kit's requests to the kit, and everything else to the host.

    Below a prefix every path is the kit's, so that an unknown one gets the kit's 404; without a prefix, only the
    kit's own paths are.

    Args:
        kit: the kit's ASGI app.
        host: the host's ASGI app.
        prefix: is put before the kit's paths.
        public_path: the path below which browsers find the kit; a proxy may keep a prefix that the host does not know.
            It is ignored if it does not end in ``prefix``.
        owns: returns whether the kit serves a path.
    """

    def __init__(
        self, kit: ASGIApp, host: ASGIApp, *, prefix: str, public_path: str, owns: Callable[[str], bool]
    ) -> None:
        self._kit = kit
        self._host = host
        self._prefix = prefix
        self._public_path = public_path if public_path.endswith(prefix) else ""
        self._owns = owns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (root_path := self._kit_root_path(scope)) is not None:
            inner = {**scope, "root_path": root_path}
            await self._kit(inner, receive, send)
            if scope_keys.MATCHED_ROUTE in inner:
                scope[scope_keys.MATCHED_ROUTE] = inner[scope_keys.MATCHED_ROUTE]
        else:
            await self._host(scope, receive, send)

    def takes(self, path: str) -> bool:
        """Return whether requests for a path, without the server's ``root_path``, are the kit's."""
        return self._is_below_prefix(path) or self._is_public(path)

    def _is_below_prefix(self, path: str) -> bool:
        return path.startswith(self._prefix + "/") if self._prefix else self._owns(path)

    def _is_public(self, path: str) -> bool:
        start = self._public_path
        return bool(start) and path.startswith(start + "/") and self._owns(path[len(start) :])

    def _kit_root_path(self, scope: Scope) -> str | None:
        """Return the prefix of the kit's paths, or None if the request is the host's."""
        path: str = scope["path"]
        root_path: str = scope.get("root_path", "").rstrip("/")
        if root_path and path.startswith(root_path + "/"):
            path = path[len(root_path) :]
        if self._is_below_prefix(path):
            return root_path + self._prefix
        return self._public_path if self._is_public(path) else None


class WrappedApp:
    """ASGI app with one lifespan for host and kit: the kit starts before the host and stops after it.

    Hosts without a lifespan, such as Django's ASGI app, which raises on a lifespan scope, are supported.

    Args:
        app: the app that handles requests.
        host: the host's ASGI app, whose lifespan runs.
        warnings: returns what to warn about, once, when the app starts.
        startup: starts the kit.
        shutdown: stops the kit.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: ASGIApp,
        *,
        warnings: Callable[[], Iterable[str]],
        startup: Callable[[], Awaitable[None]],
        shutdown: Callable[[], Awaitable[None]],
    ) -> None:
        self._app = app
        self._host = host
        self._warnings: Callable[[], Iterable[str]] | None = warnings
        self._startup = startup
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._warnings is not None:
            warnings, self._warnings = self._warnings, None
            for warning in warnings():
                logger.warning("%s", warning)
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        startup = await receive()
        try:
            try:
                await self._startup()
            except Exception as error:
                await send({"type": _STARTUP_FAILED, "message": str(error)})
                raise
            host = _HostLifespan(self._host, scope)
            message = await _run_host(host, startup, receive, send)
        finally:  # also if the server cancels this task
            await self._shutdown()
        await send(message)
        if message["type"] == _STARTUP_FAILED:
            host.reraise()


async def _run_host(host: "_HostLifespan", startup: Message, receive: Receive, send: Send) -> Message:
    """Start a host and, when the server says so, stop it; return its last message."""
    try:
        message = await host.start(startup)
        if message["type"] != _STARTUP_FAILED:
            await send(message)
            message = await host.stop(await receive())
        return message
    finally:
        await host.end()


class _HostLifespan:
    """The host's lifespan, run in a task of its own."""

    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        self._to_host: asyncio.Queue[Message] = asyncio.Queue()
        self._from_host: asyncio.Queue[Message] = asyncio.Queue()
        self._responded = False
        self._supported = True
        self._error: BaseException | None = None
        self._task = asyncio.create_task(self._run(app, scope))

    async def start(self, startup: Message) -> Message:
        """Start the host and return its response; that of a host without a lifespan is success."""
        self._to_host.put_nowait(startup)
        message = await self._from_host.get()
        if message["type"] == _STARTUP_FAILED:
            await asyncio.wait({self._task})
        return message

    async def stop(self, shutdown: Message) -> Message:
        """Stop the host and return its response."""
        if not self._supported:
            return {"type": _SHUTDOWN_COMPLETE}
        self._to_host.put_nowait(shutdown)
        message = await self._from_host.get()
        await asyncio.wait({self._task})
        return message

    async def end(self) -> None:
        """Cancel the host if it has not ended, because the server has cancelled the lifespan."""
        self._task.cancel()
        await asyncio.wait({self._task})

    def reraise(self) -> None:
        """Raise the exception with which the host failed to start, as it would have without the kit."""
        if self._error is not None:
            raise self._error

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        async def send(message: Message) -> None:
            self._responded = True
            self._from_host.put_nowait(message)

        stopped: Message = {"type": _SHUTDOWN_COMPLETE}
        try:
            await app(scope, self._to_host.get, send)
        except BaseException as error:  # also CancelledError, of a task that the host cancels and awaits
            self._error = error
            reason = str(error) or type(error).__name__
            stopped = {"type": "lifespan.shutdown.failed", "message": reason}
            # By the ASGI specification, an exception before any response means that there is no lifespan.
            if not self._responded:
                logger.info("the host application has no lifespan: %s", reason)
        if self._responded:
            self._from_host.put_nowait(stopped)
        else:
            self._supported = False
            self._from_host.put_nowait({"type": _STARTUP_COMPLETE})


async def no_host(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand in for the host of a kit that is served on its own; it has no lifespan."""
