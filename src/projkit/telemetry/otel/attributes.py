"""What spans say, in OpenTelemetry's words (semantic conventions 1.33: HTTP and database, both stable).

Never a query string, a header's value beyond the named ones, a statement's values or an exception's message: each may
hold what is nobody's business.
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
# Stable in the conventions, and not yet in the package that has their names.
DB_RESPONSE_RETURNED_ROWS: Final = "db.response.returned_rows"

_LONGEST: Final = 256
_LONGEST_METHOD: Final = 32
_PORTS: Final = {"http": 80, "https": 443}


def method_of(scope: Scope) -> str:
    """The method as conventions and labels know it."""
    method: str = scope["method"]
    return method if method in METHODS else OTHER_METHOD


def name_of(method: str, route: str | None) -> str:
    """The name of a server span: never a raw path."""
    shown = "HTTP" if method == OTHER_METHOD else method
    return shown if route is None else f"{shown} {route}"


def request_attributes(scope: Scope, addresses: ClientAddresses) -> Attributes:
    """Those of a server span that are known when a request comes in."""
    method = method_of(scope)
    scheme: str = scope.get("scheme", "http")
    found: Attributes = {
        http.HTTP_REQUEST_METHOD: method,
        URL_PATH: scope["path"][:_LONGEST],
        URL_SCHEME: scheme,
        NETWORK_PROTOCOL_VERSION: scope.get("http_version", "1.1"),
    }
    if method == OTHER_METHOD:
        found[http.HTTP_REQUEST_METHOD_ORIGINAL] = scope["method"][:_LONGEST_METHOD]
    host = ""
    for name, value in scope["headers"]:
        if name == b"host":
            host = value.decode("latin-1")[:_LONGEST]
        elif name == b"user-agent":
            found[USER_AGENT_ORIGINAL] = value.decode("latin-1")[:_LONGEST]
    found |= _server(host, scheme, scope.get("server"))
    if client := scope.get("client"):
        found[CLIENT_ADDRESS] = addresses.of(scope)
        found[NETWORK_PEER_ADDRESS] = str(client[0])
        if client[1]:
            found[NETWORK_PEER_PORT] = int(client[1])
    return found


def _server(host: str, scheme: str, server: Any) -> Attributes:
    address, port = host, None
    try:
        parts = urlsplit(f"//{host}")
        address, port = parts.hostname or "", parts.port
    except ValueError:  # whatever a client calls us
        address = ""
    if address:
        return {SERVER_ADDRESS: address, SERVER_PORT: port or _PORTS.get(scheme, 80)}
    return {SERVER_ADDRESS: str(server[0]), SERVER_PORT: int(server[1])} if server and server[1] else {}


def database_attributes(dialect: str, url: str) -> Attributes:
    """Which database it is: the same for all statements. ``url`` may hold credentials, which are left out."""
    found: Attributes = {db.DB_SYSTEM_NAME: dialect}
    parts = _split(url)
    if dialect == "postgresql" and parts is not None:
        found |= _address(parts, 5432)
        if name := parts.path.strip("/"):
            found[db.DB_NAMESPACE] = name
    return found


def redis_attributes(client: "RedisClient") -> Attributes:
    """Which Redis it is; of a Cluster's nodes and of masters that Sentinels name none is."""
    found: Attributes = {db.DB_SYSTEM_NAME: "redis"}
    from redis.asyncio import Redis  # noqa: PLC0415 - a kit without Redis does without its client, 8 MiB

    if isinstance(client, Redis):
        options = client.connection_pool.connection_kwargs
        if isinstance(host := options.get("host"), str):
            found |= {SERVER_ADDRESS: host, SERVER_PORT: int(options.get("port", 6379))}
        found[db.DB_NAMESPACE] = str(options.get("db", 0))
    return found


def _address(parts: SplitResult, port: int) -> Attributes:
    return {SERVER_ADDRESS: parts.hostname, SERVER_PORT: parts.port or port} if parts.hostname else {}


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
