"""URLs of PostgreSQL as providers give them: several hosts, and the parameters of libpq, Prisma and other clients.

asyncpg sends every parameter that it does not know to the server, which then rejects the connection. Here each
parameter is accepted, translated into a setting of the kit, or rejected with the fix. A parameter that asks for
protection which the driver cannot give is rejected, never ignored.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote

EXAMPLE: Final = "postgresql://user:password@host:5432/name"
DEFAULT_PORT: Final = 5432
_ENCODE: Final = "encode @, :, / and ? in a password as %40, %3A, %2F and %3F"
_NAME: Final = re.compile(r"[A-Za-z]\w{0,63}", re.ASCII)

# What asyncpg reads from the query of a URL.
_DRIVER_PARAMETERS: Final = frozenset(
    {
        "gsslib",
        "krbsrvname",
        "passfile",
        "service",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
    }
)
_SERVER_SETTINGS: Final = frozenset({"application_name", "options", "search_path"})
_LOCATION: Final = frozenset({"user", "password", "dbname", "database", "host", "port"})
# The socket option of each parameter, by its name in the module socket.
_SOCKET_OPTIONS: Final = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
_WRITABLE_TARGETS: Final = ("any", "primary", "read-write")
_CHOICES: Final = {
    "pgbouncer": ("true", "false"),
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": (*_WRITABLE_TARGETS, "standby", "read-only", "prefer-standby"),
}
# The setting for which a parameter gives the default.
_DEFAULTS: Final = {
    "connect_timeout": "database_connect_seconds",
    "connection_limit": "database_pool_size",
    "pool_timeout": "database_pool_wait_seconds",
}
_TRANSACTIONAL: Final = "set PROJKIT_DATABASE_MODE=transactional instead, which works behind PgBouncer"
_SSL_MODE: Final = "set sslmode=require or sslmode=verify-full instead"
_STATEMENT_SECONDS: Final = "set PROJKIT_DATABASE_STATEMENT_SECONDS instead"
_VERIFY_FULL: Final = (
    "remove it and set sslmode=verify-full, which prevents the same attack (with sslrootcert=system if a public "
    "authority has issued the server's certificate)"
)


class _Fixed(NamedTuple):
    """A parameter that has no effect with these values, and the fix for any other."""

    values: tuple[str, ...]
    fix: str


_FIXED: Final = {
    "channel_binding": _Fixed(("disable", "prefer"), _VERIFY_FULL),
    "client_encoding": _Fixed(("utf8", "utf-8", "unicode", "auto"), "remove it: the kit uses UTF-8"),
    "gssencmode": _Fixed(("disable", "prefer"), "remove it and set sslmode=require"),
    "load_balance_hosts": _Fixed(("disable",), "remove it: the kit uses the host that accepts writes"),
    "sslcertmode": _Fixed(("allow",), "remove it"),
    "sslcompression": _Fixed(("0",), "remove it: TLS compression is insecure"),
    "sslsni": _Fixed(("1",), "remove it: the driver always sends the name of the server"),
    "uselibpqcompat": _Fixed(("true",), "remove it"),
}  # fmt: skip
_REJECTED: Final = {
    "hostaddr": "put the address in the place of the host, as in postgresql://user:password@10.0.0.1:5432/name",
    "idle_in_transaction_session_timeout": _STATEMENT_SECONDS,
    "lock_timeout": _STATEMENT_SECONDS,
    "prepareThreshold": _TRANSACTIONAL,
    "prepared_statement_cache_size": _TRANSACTIONAL,
    "prepared_statement_name_func": _TRANSACTIONAL,
    "replication": "remove it",
    "require_auth": "remove it, and restrict the methods in the server's pg_hba.conf",
    "requirepeer": "remove it",
    "requiressl": _SSL_MODE,
    "socket_timeout": _STATEMENT_SECONDS,
    "ssl": _SSL_MODE,
    "sslaccept": _SSL_MODE,
    "sslcrldir": "the driver reads one file; set sslcrl to it instead",
    "sslidentity": "set sslcert and sslkey to PEM files instead",
    "sslrequire": _SSL_MODE,
    "statement_cache_size": _TRANSACTIONAL,
    "statement_timeout": _STATEMENT_SECONDS,
}
_PASSIVE: Final = frozenset({"supa"})  # identifies Supabase's kind of pooler to itself
_KNOWN: Final = (
    _DRIVER_PARAMETERS
    | _SERVER_SETTINGS
    | _LOCATION
    | set(_SOCKET_OPTIONS)
    | set(_DEFAULTS)
    | {"fallback_application_name", "keepalives", "pgbouncer", "schema", "target_session_attrs"}
)


class Host(NamedTuple):
    """A server: its name, address or socket directory, and its port if the URL has one."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        if self.name.startswith("/"):
            return self.name
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{name}:{self.port or DEFAULT_PORT}"


class PostgresqlUrl(NamedTuple):
    """The parts of a PostgreSQL URL.

    Attributes:
        hosts: the servers in the order of the URL; none if the variables of libpq (``PGHOST``) name them.
        driver: the parameters that asyncpg reads.
        server_settings: settings of the session.
        target: the kind of server to use; None if the variables of libpq (``PGTARGETSESSIONATTRS``) select it.
        socket_options: options of the protocol TCP, by their names in the module :mod:`socket`.
        setting_defaults: settings of the kit, which apply unless they are set.
        schema: the schema, in URLs for Prisma.
    """

    hosts: tuple[Host, ...]
    user: str | None
    password: str | None
    database: str | None
    driver: Mapping[str, str]
    server_settings: Mapping[str, str]
    target: str | None
    keepalives: bool
    socket_options: Mapping[str, int]
    setting_defaults: Mapping[str, Any]
    schema: str | None

    @property
    def location(self) -> str:
        """The database and its servers, without credentials."""
        return f"{self.database or ''} at {','.join(map(str, self.hosts)) or 'the default host'}"


def is_postgresql(url: str) -> bool:
    """Return whether a URL is one of PostgreSQL."""
    return url.partition("://")[0].partition("+")[0] in {"postgres", "postgresql"}


def parse_postgresql_url(url: str) -> PostgresqlUrl:
    """Return the parts of a URL such as ``postgresql://user:password@host1:5432,host2:5432/name?sslmode=require``.

    Raises:
        ValueError: a part is invalid or not supported; the message names it and the fix, and contains no password.
    """
    rest, _, query = url.partition("://")[2].partition("?")
    authority, _, path = rest.partition("/")
    credentials, _, locations = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    hosts = _hosts(locations) or _hosts(parameters.get("host", ""), parameters.get("port", ""))
    for name, value in parameters.items():
        _require_supported(name, value)
    settings = {name: parameters[name] for name in sorted(_SERVER_SETTINGS & parameters.keys())}
    if "fallback_application_name" in parameters:
        settings.setdefault("application_name", parameters["fallback_application_name"])
    return PostgresqlUrl(
        hosts=hosts,
        user=unquote(user) or parameters.get("user"),
        password=unquote(password) or parameters.get("password"),
        database=unquote(path) or parameters.get("dbname") or parameters.get("database"),
        driver={name: parameters[name] for name in sorted(_DRIVER_PARAMETERS & parameters.keys())},
        server_settings=settings,
        # The kit writes, so of several servers it needs the primary.
        target=parameters.get("target_session_attrs", "read-write" if len(hosts) > 1 else None),
        keepalives=parameters.get("keepalives", "1") != "0",
        socket_options={
            option: int(parameters[name])
            for name, option in _SOCKET_OPTIONS.items()
            if int(parameters.get(name, "0")) > 0  # 0 is the system's default
        },
        setting_defaults=_setting_defaults(parameters),
        schema=parameters.get("schema"),
    )


def require_writable_target(url: PostgresqlUrl) -> None:
    """Check that ``target_session_attrs`` selects a server on which the kit can write.

    Raises:
        ValueError: it selects another.
    """
    if url.target is not None and url.target not in _WRITABLE_TARGETS:
        raise ValueError(
            f"target_session_attrs={url.target} selects servers that reject writes; set it to read-write"
        )


def _setting_defaults(parameters: Mapping[str, str]) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        setting: int(parameters[name]) for name, setting in _DEFAULTS.items() if name in parameters
    }
    if parameters.get("pgbouncer") == "true":
        defaults["database_mode"] = "transactional"
    return defaults


def _hosts(locations: str, ports: str = "") -> tuple[Host, ...]:
    """Parse ``host1:5432,host2:5432``, or the separate parameters ``host`` and ``port``."""
    if not locations:
        return ()
    hosts = [_host(each) for each in locations.split(",")]
    if not ports:
        return tuple(hosts)
    given = [_port(each) for each in ports.split(",")]
    if len(given) == 1:
        given *= len(hosts)
    if len(given) != len(hosts):
        raise ValueError("the parameter port must have one number, or as many as there are hosts")
    return tuple(Host(host.name, port) for host, port in zip(hosts, given, strict=True))


def _host(location: str) -> Host:
    if location.startswith("["):  # an IPv6 address
        name, _, port = location[1:].partition("]")
        port = port.removeprefix(":")
    elif location.startswith("/"):  # the directory of a Unix socket
        name, port = location, ""
    else:
        name, _, port = location.partition(":")
    if not name:
        raise ValueError(f"a host is empty; name it, as in {EXAMPLE}")
    return Host(unquote(name), _port(port) if port else None)


def _port(text: str) -> int:
    # The text can be a part of a password.
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65_536):
        raise ValueError(f"the port must be a number, as in {EXAMPLE} ({_ENCODE})")
    return int(text)


def _require_supported(name: str, value: str) -> None:
    if (fix := _REJECTED.get(name)) is not None:
        raise ValueError(f"the parameter {name} is not supported; {fix}")
    if (fixed := _FIXED.get(name)) is not None:
        if value.lower() not in fixed.values:
            raise ValueError(f"the parameter {name}={value} is not supported; {fixed.fix}")
    elif name in _SOCKET_OPTIONS or name == "keepalives":
        if not (value.isascii() and value.isdecimal()):
            raise ValueError(f"the parameter {name} must be a whole number, such as 30")
    elif name in _DEFAULTS:
        if not (value.isascii() and value.isdecimal() and int(value) > 0):
            raise ValueError(
                f"the parameter {name} must be a positive whole number: every wait has a limit; correct it, or set "
                f"PROJKIT_{_DEFAULTS[name].upper()} instead"
            )
    elif (choices := _CHOICES.get(name)) is not None:
        if value not in choices:
            raise ValueError(f"the parameter {name} must be one of {', '.join(choices)}")
    elif not _NAME.fullmatch(name):  # perhaps a part of a password
        raise ValueError(f"a parameter is not of the form name=value; {_ENCODE}")
    elif name not in _KNOWN | _PASSIVE:
        close = difflib.get_close_matches(name, sorted(_KNOWN | _FIXED.keys()), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(
            f"the parameter {name} is unknown{hint}; remove it, or pass a setting of the server as in "
            "options=-c%20work_mem%3D8MB"
        )
