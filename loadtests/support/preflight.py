"""Checks before the load, so that a problem that would make every request fail is reported once."""

from typing import Final
from urllib.parse import urlsplit

from support.client import Client
from support.credentials import CredentialError, CredentialPool
from support.expiry import expiring
from support.options import PREFIX

_HINT: Final = "name the server with -H, for example -H http://127.0.0.1:8000"


def check(
    host: str,
    client: Client,
    credentials: CredentialPool,
    *,
    needs_credential: bool,
    seconds: float = 0.0,
) -> None:
    """Check that there is an API and that it accepts the credentials, for a run of so many seconds (0: unlimited).

    Raises:
        SystemExit: one of the checks failed.
    """
    response = client.send("GET", f"{PREFIX}/health/live", {})
    if response.status == 0:
        raise SystemExit(f"no response from {host}: {response.error}")
    if response.status != 200:
        raise SystemExit(
            f"{host}{PREFIX}/health/live returned {response.reason}: add the path of a mount to -H, "
            "and set PROJKIT_LOAD_PREFIX if the prefix is not /api/v1"
        )
    if not needs_credential:
        return
    if seconds and (message := expiring(credentials.tokens, seconds)):
        raise SystemExit(message)
    try:
        headers_of_each = [each.headers("GET") for each in credentials.all or [credentials.choose()]]
    except CredentialError as error:
        raise SystemExit(str(error)) from error
    for number, headers in enumerate(headers_of_each, start=1):
        response = client.send("GET", f"{PREFIX}/projects?limit=1", headers)
        if response.status != 200:
            which = f", number {number} of {len(headers_of_each)}," if len(headers_of_each) > 1 else ""
            raise SystemExit(
                f"GET {PREFIX}/projects with the credentials of the environment{which} returned {response.reason}"
            )


def check_host(host: str | None) -> str:
    """Return the base URL.

    Raises:
        SystemExit: it is missing or not an HTTP URL.
    """
    if not host:
        raise SystemExit(_HINT)
    parts = urlsplit(host)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SystemExit(f"{host} is not an HTTP URL: {_HINT}")
    if parts.username or parts.password:
        raise SystemExit(f"-H must not contain a user name and password, because reports include it: {_HINT}")
    return host
