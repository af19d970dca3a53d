"""Attributes of spans by OpenTelemetry's semantic conventions 1.33 (HTTP and database, both stable).

They contain no query string, no header but the named ones, no values of statements and no exception messages, since
each of these may contain confidential data.
"""

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from opentelemetry.semconv.attributes import db_attributes as db
from opentelemetry.semconv.attributes import http_attributes as http
from opentelemetry.semconv.attributes.client_attributes import CLIENT_ADDRESS
from opentelemetry.semconv.attributes.network_attributes import (
    NETWORK_PEER_ADDRESS,
    NETWORK_PEER_PORT,
    NETWORK_PROTOCOL_VERSION,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.attributes.url_attributes import URL_PATH, URL_SCHEME
from opentelemetry.semconv.attributes.user_agent_attributes import USER_AGENT_ORIGINAL
from starlette.types import Scope

from projkit.http.client import ClientAddresses
from projkit.telemetry.families import METHODS, OTHER_METHOD

if TYPE_CHECKING:
    from projkit.redis.connect import RedisClient

Attributes = dict[str, str | int]
# Stable in the conventions, but not yet in the package of their names.
DB_RESPONSE_RETURNED_ROWS: Final = "db.response.returned_rows"

_MAX_CHARS: Final = 256
_MAX_METHOD_CHARS: Final = 32
_PORTS: Final = {"http": 80, "https": 443}


def method_of(scope: Scope) -> str:
    """Return the method, or ``_OTHER`` if it is unknown, as for labels."""
    method: str = scope["method"]
    return method if method in METHODS else OTHER_METHOD


def name_of(method: str, route: str | None) -> str:
    """Return the name of a server span, which never contains a raw path."""
    prefix = "HTTP" if method == OTHER_METHOD else method
    return prefix if route is None else f"{prefix} {route}"


def request_attributes(scope: Scope, addresses: ClientAddresses) -> Attributes:
    """Return the attributes of a server span that are known at the start of a request."""
    method = method_of(scope)
    scheme: str = scope.get("scheme", "http")
    attributes: Attributes = {
        http.HTTP_REQUEST_METHOD: method,
        URL_PATH: scope["path"][:_MAX_CHARS],
        URL_SCHEME: scheme,
        NETWORK_PROTOCOL_VERSION: scope.get("http_version", "1.1"),
    }
    if method == OTHER_METHOD:
        attributes[http.HTTP_REQUEST_METHOD_ORIGINAL] = scope["method"][:_MAX_METHOD_CHARS]
    host = ""
    for name, value in scope["headers"]:
        if name == b"host":
            host = value.decode("latin-1")[:_MAX_CHARS]
        elif name == b"user-agent":
            attributes[USER_AGENT_ORIGINAL] = value.decode("latin-1")[:_MAX_CHARS]
    attributes |= _server(host, scheme, scope.get("server"))
    if client := scope.get("client"):
        attributes[CLIENT_ADDRESS] = addresses.get(scope)
        attributes[NETWORK_PEER_ADDRESS] = str(client[0])
        if client[1]:
            attributes[NETWORK_PEER_PORT] = int(client[1])
    return attributes


def _server(host: str, scheme: str, server: Any) -> Attributes:
    address, port = host, None
    try:
        parts = urlsplit(f"//{host}")
        address, port = parts.hostname or "", parts.port
    except ValueError:  # an invalid Host header
        address = ""
    if address:
        return {SERVER_ADDRESS: address, SERVER_PORT: port or _PORTS.get(scheme, 80)}
    return {SERVER_ADDRESS: str(server[0]), SERVER_PORT: int(server[1])} if server and server[1] else {}


def database_attributes(dialect: str, url: str) -> Attributes:
    """Return the attributes that identify the database; ``url`` may contain credentials, which are left out."""
    attributes: Attributes = {db.DB_SYSTEM_NAME: dialect}
    parts = _split(_without_several_hosts(url))
    if dialect == "postgresql" and parts is not None:
        attributes |= _address(parts, 5432)
        if name := parts.path.strip("/"):
            attributes[db.DB_NAMESPACE] = name
    return attributes


def redis_attributes(client: "RedisClient") -> Attributes:
    """Return the attributes that identify Redis; without an address for clusters and Sentinel."""
    attributes: Attributes = {db.DB_SYSTEM_NAME: "redis"}
    from redis.asyncio import Redis  # noqa: PLC0415 - saves a kit without Redis 8 MiB

    if isinstance(client, Redis):
        options = client.connection_pool.connection_kwargs
        if isinstance(host := options.get("host"), str):
            attributes |= {SERVER_ADDRESS: host, SERVER_PORT: int(options.get("port", 6379))}
        attributes[db.DB_NAMESPACE] = str(options.get("db", 0))
    return attributes


def _address(parts: SplitResult, port: int) -> Attributes:
    return {SERVER_ADDRESS: parts.hostname, SERVER_PORT: parts.port or port} if parts.hostname else {}


def _without_several_hosts(url: str) -> str:
    """Return the URL without its hosts if there are several, because the one in use changes."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    return f"{scheme}:///{path}" if "," in authority.rpartition("@")[2] else url


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
