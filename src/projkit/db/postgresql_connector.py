"""Opening connections to PostgreSQL, in the same way for the pool, SQLAlchemy's engines, start-up checks and probes.

Of several hosts, the one that was used last is tried first, and each gets its share of the time: with asyncpg's own
list of hosts, a first host that drops packets would use up the time of all others.
"""

import asyncio
import os
import socket
import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import asyncpg

from projkit.db.errors import describe
from projkit.settings import PostgresqlUrl, parse_postgresql_url

APPLICATION_NAME: Final = "projkit"
# A rejected login is the same on every host. Class 53 is "insufficient resources", and 57 "operator intervention".
_NEXT_HOST_CLASSES: Final = frozenset({"08", "53", "57", "58"})
_CONNECT_ERRORS: Final = (
    OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError
)  # fmt: skip
_SYSTEM_CERTIFICATES: Final = "system"
_FILES: Final = frozenset({"sslcert", "sslcrl", "sslkey", "sslrootcert"})


class NoUsableHostError(OSError):
    """All hosts of the URL failed; the message has the reason of each."""


class ConnectionParameterError(OSError):
    """A parameter of the URL that cannot be used here, such as a file that does not exist."""


def session_settings(statement_seconds: float) -> dict[str, str]:
    """Return the settings of sessions in the fast mode."""
    milliseconds = str(int(statement_seconds * 1000))
    return {
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        "default_transaction_isolation": "read committed",
        # Compiling a plan to machine code takes longer than any of the kit's statements.
        "jit": "off",
    }


class PostgresqlConnector:
    """A function that opens a connection, with the hosts and parameters of a URL.

    ``server_settings`` are added to those of the URL, and ``suffix`` to the name of the application. Without
    ``prepared``, no statement is prepared by name, because PgBouncer may be in between.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_seconds: float,
        prepared: bool = False,
        suffix: str = "",
        server_settings: dict[str, str] | None = None,
    ) -> None:
        self._url = parse_postgresql_url(url)
        self._connect_seconds = connect_seconds
        given = self._url.server_settings
        self._arguments: dict[str, Any] = {
            "user": self._url.user,
            "password": self._url.password,
            "database": self._url.database,
            "target_session_attrs": self._url.target,
            "server_settings": {
                **given,
                "application_name": given.get("application_name", APPLICATION_NAME) + suffix,
                **(server_settings or {}),
            },
            **({} if prepared else {"statement_cache_size": 0}),
        }
        # Without a host asyncpg uses the variables of libpq, or the socket of this machine.
        self._hosts = [{"host": host.name, "port": host.port} for host in self._url.hosts] or [{}]
        self._latest = 0  # index of the host that was used last

    async def __call__(self) -> Any:
        """Open a connection to a host that is available and has the attributes of the URL.

        Raises:
            NoUsableHostError: all of several hosts failed.
            ConnectionParameterError: a file of the parameters for TLS cannot be read.
        """
        arguments = {**self._arguments, **_tls_arguments(self._url)}
        if len(self._hosts) == 1:
            return await self._connect(self._hosts[0], arguments, self._connect_seconds)
        deadline = asyncio.get_running_loop().time() + self._connect_seconds
        count, first, reasons = len(self._hosts), self._latest, []
        for tried in range(count):
            index = (first + tried) % count
            seconds = (deadline - asyncio.get_running_loop().time()) / (count - tried)
            try:
                connection = await self._connect(self._hosts[index], arguments, max(seconds, 0.001))
            except _CONNECT_ERRORS as error:
                if not _may_differ_elsewhere(error):
                    raise
                reasons.append(f"{self._url.hosts[index]} {_reason(error, self._url)}")
                continue
            self._latest = index
            return connection
        raise NoUsableHostError("; ".join(reasons))

    async def open(self, *_: object, **__: object) -> Any:
        """Open a connection as SQLAlchemy's ``async_creator_fn``, which is also given the parts of the engine's URL."""
        return await self()

    async def _connect(self, host: dict[str, Any], arguments: dict[str, Any], seconds: float) -> Any:
        connection = await asyncpg.connect(**host, **arguments, timeout=seconds)
        if self._url.keepalives:
            _keep_alive(connection, self._url)
        return connection


def _may_differ_elsewhere(error: Exception) -> bool:
    """Return whether another host may accept the connection: this one is unavailable, or of another kind."""
    code = getattr(error, "sqlstate", None)
    return not isinstance(code, str) or code[:2] in _NEXT_HOST_CLASSES


def _reason(error: Exception, url: PostgresqlUrl) -> str:
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return f"is not {url.target}"  # the driver's message is about "none of the hosts"
    return describe(error)


def _keep_alive(connection: Any, url: PostgresqlUrl) -> None:
    """Let the system detect lost connections, as libpq does by default."""
    opened = connection._transport.get_extra_info("socket")  # noqa: SLF001  # asyncpg has no name for it
    # A duplicate of the descriptor, because the sockets of some event loops cannot set options.
    with socket.socket(fileno=os.dup(opened.fileno())) as duplicate:
        if duplicate.family == socket.AF_UNIX:
            return
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in url.socket_options.items():
            if (
                option := getattr(socket, name, None)
            ) is not None:  # systems differ in the options that they have
                duplicate.setsockopt(socket.IPPROTO_TCP, option, value)


def _tls_arguments(url: PostgresqlUrl) -> dict[str, Any]:
    """Return asyncpg's arguments for TLS; it does not know libpq's ``sslrootcert=system``."""
    driver = dict(url.driver)
    for name in _FILES & driver.keys():
        if driver[name] != _SYSTEM_CERTIFICATES or name != "sslrootcert":
            _require_readable(name, driver[name])
    if driver.get("sslrootcert") != _SYSTEM_CERTIFICATES:
        return {"dsn": f"postgresql://?{urlencode(driver)}"} if driver else {}
    if driver.get("sslmode", "verify-full") != "verify-full":
        raise ConnectionParameterError("sslrootcert=system requires sslmode=verify-full; set it")
    context = ssl.create_default_context()
    if "sslcert" in driver:
        context.load_cert_chain(driver["sslcert"], driver.get("sslkey"), driver.get("sslpassword", ""))
    others = {name: value for name, value in driver.items() if not name.startswith("ssl")}
    return {"ssl": context} | ({"dsn": f"postgresql://?{urlencode(others)}"} if others else {})


def _require_readable(name: str, path: str) -> None:
    try:
        Path(path).open("rb").close()
    except OSError as error:  # the driver's own message does not name the file
        raise ConnectionParameterError(
            f"{name}={path} cannot be read ({error.strerror}); correct the path in PROJKIT_DATABASE_URL"
        ) from None
