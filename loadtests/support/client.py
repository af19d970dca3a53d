"""A stateless HTTP client: credentials and timing are up to the caller."""

import json
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import gevent.socket
from geventhttpclient import HTTPClient
from geventhttpclient.connectionpool import ConnectionPool

CONNECTIONS: Final = 500  # per process; a request that has to wait for one is measured including the wait
TIMEOUT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = (
    4.0  # an idle connection is reused for this long; servers close theirs after five seconds
)


@dataclass(frozen=True)
class Response:
    """An HTTP response, or status 0 and the error if there was none."""

    status: int
    headers: dict[str, str]  # names in lower case; the last value of a repeated name
    cookies: dict[str, str]
    body: bytes
    error: str = ""

    @property
    def reason(self) -> str:
        """The status with the title of the problem details, or the error if there was no response."""
        try:
            title = str(self.json()["title"])
        except (ValueError, KeyError, TypeError):
            title = ""
        return self.error or f"{self.status} {title}".strip()

    def json(self) -> Any:
        """Return the parsed body."""
        return json.loads(self.body)


class Client:
    """A connection pool for one base URL, which may have a path."""

    def __init__(self, host: str) -> None:
        self._http = HTTPClient.from_url(
            host, concurrency=CONNECTIONS, connection_timeout=TIMEOUT_SECONDS, network_timeout=TIMEOUT_SECONDS
        )
        _send_once(self._http._connection_pool)
        self.mount = urlsplit(host).path.rstrip("/")

    def send(self, method: str, path: str, headers: dict[str, str], body: object = None) -> Response:
        """Send one request. A ``body`` that is not bytes is sent as JSON."""
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **headers}
        try:
            response = self._http.request(method, self.mount + path, data, headers)
            content = bytes(response.read())
        except Exception as error:  # every failure is counted, whatever its kind
            return Response(0, {}, {}, b"", type(error).__name__)
        lowered, cookies = {}, {}
        for name, value in response.items():
            lowered[name.lower()] = value
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                cookies[key] = rest.partition(";")[0]
        return Response(response.status_code, lowered, cookies, content)


def _send_once(pool: ConnectionPool) -> None:
    """Disable the library's retries, so that every lost request is counted as a failure."""
    pool.size = -1  # the library reads it only for the number of attempts
    used_last: WeakKeyDictionary[gevent.socket.socket, float] = WeakKeyDictionary()
    put_back, is_alive = pool.return_socket, pool._is_socket_alive

    def return_socket(sock: gevent.socket.socket) -> None:
        used_last[sock] = time.monotonic()
        put_back(sock)

    def is_fresh(sock: gevent.socket.socket) -> bool:
        return time.monotonic() - used_last.get(sock, 0.0) < IDLE_SECONDS and is_alive(sock)

    pool.return_socket = return_socket  # type: ignore[method-assign]  # the library offers no way to pass a pool
    pool._is_socket_alive = is_fresh  # type: ignore[method-assign]
