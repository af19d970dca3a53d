"""HTTP without a user's state: who asks, and when, is the caller's business."""

import json
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import gevent.socket
from geventhttpclient import HTTPClient
from geventhttpclient.connectionpool import ConnectionPool

CONNECTIONS: Final = 500  # of one process; a request that finds them all busy waits, and its time runs
SECONDS: Final = 10.0
KEPT_SECONDS: Final = (
    4.0  # a connection that nobody has used for longer is left: servers close theirs after five
)


@dataclass(frozen=True)
class Answer:
    """What came back: status 0 and the reason where nothing did."""

    status: int
    headers: dict[str, str]  # names in lower case; of repeated ones the last
    cookies: dict[str, str]
    body: bytes
    error: str = ""

    @property
    def reason(self) -> str:
        """The status with what the problem details say; where nothing came back, why."""
        try:
            said = str(self.json()["title"])
        except (ValueError, KeyError, TypeError):
            said = ""
        return self.error or f"{self.status} {said}".strip()

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class Client:
    """Keeps connections to one address, below the path that the address may have."""

    def __init__(self, host: str) -> None:
        self._http = HTTPClient.from_url(
            host, concurrency=CONNECTIONS, connection_timeout=SECONDS, network_timeout=SECONDS
        )
        _send_once(self._http._connection_pool)
        self._mount = urlsplit(host).path.rstrip("/")

    def send(self, method: str, path: str, headers: dict[str, str], body: object = None) -> Answer:
        """One request; ``body`` is bytes, or is sent as JSON."""
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **headers}
        try:
            response = self._http.request(method, self._mount + path, data, headers)
            content = bytes(response.read())
        except Exception as error:  # whatever went wrong is the answer, and is counted
            return Answer(0, {}, {}, b"", type(error).__name__)
        found, cookies = {}, {}
        for name, value in response.items():
            found[name.lower()] = value
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                cookies[key] = rest.partition(";")[0]
        return Answer(response.status_code, found, cookies, content)


def _send_once(pool: ConnectionPool) -> None:
    """Whatever is lost is a failure to be counted: the library would repeat it, as often as it may have connections."""
    pool.size = -1  # read for the number of attempts alone
    used_last: WeakKeyDictionary[gevent.socket.socket, float] = WeakKeyDictionary()
    put_back, is_alive = pool.return_socket, pool._is_socket_alive

    def return_socket(sock: gevent.socket.socket) -> None:
        used_last[sock] = time.monotonic()
        put_back(sock)

    def is_fresh(sock: gevent.socket.socket) -> bool:
        return time.monotonic() - used_last.get(sock, 0.0) < KEPT_SECONDS and is_alive(sock)

    pool.return_socket = return_socket  # type: ignore[method-assign]  # a class of ours would be given no place
    pool._is_socket_alive = is_fresh  # type: ignore[method-assign]
