"""HTTP without a user's state: who asks, and when, is the caller's business."""

import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from geventhttpclient import HTTPClient

CONNECTIONS: Final = 500  # of one process; a request that finds them all busy waits, and its time runs
SECONDS: Final = 10.0


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
