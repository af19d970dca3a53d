"""One question before the load: what would make every request fail is said once, in a sentence."""

from typing import Final
from urllib.parse import urlsplit

from support.client import Client
from support.credentials import Callers, CredentialError
from support.options import PREFIX

_WHERE: Final = "say where with -H, as in -H http://127.0.0.1:8000"


def check(host: str, client: Client, callers: Callers, *, needs_caller: bool) -> None:
    """Asks once whether there is an API at all, and whether it knows who asks.

    Raises:
        SystemExit: with what is wrong.
    """
    answer = client.send("GET", f"{PREFIX}/health/live", {})
    if answer.status == 0:
        raise SystemExit(f"nothing answers at {host}: {answer.error}")
    if answer.status != 200:
        raise SystemExit(
            f"{host}{PREFIX}/health/live was answered with {answer.reason}: a mount's path belongs into -H, "
            "another prefix than /api/v1 into PROJKIT_LOAD_PREFIX"
        )
    if not needs_caller:
        return
    try:
        asked = [each.headers("GET") for each in callers.all or [callers.choose()]]
    except CredentialError as error:
        raise SystemExit(str(error)) from error
    for number, headers in enumerate(asked, start=1):
        answer = client.send("GET", f"{PREFIX}/projects?limit=1", headers)
        if answer.status != 200:
            which = f", number {number} of {len(asked)}," if len(asked) > 1 else ""
            raise SystemExit(
                f"GET {PREFIX}/projects, asked with the credentials of the environment{which} was answered with "
                f"{answer.reason}"
            )


def check_host(host: str | None) -> str:
    """The address, if it is one.

    Raises:
        SystemExit: there is none, or it is no HTTP address.
    """
    if not host:
        raise SystemExit(_WHERE)
    parts = urlsplit(host)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SystemExit(f"{host} is no address: {_WHERE}")
    if parts.username or parts.password:
        raise SystemExit(f"no name and password into -H, which is written into reports: {_WHERE}")
    return host
