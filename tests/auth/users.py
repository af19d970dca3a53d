"""Users of a kit, and a browser that stores its cookies."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from projkit import ProjKit
from projkit.auth import passwords
from projkit.auth.users import User
from projkit.auth.wiring import AuthServices
from projkit.clock import utc_now
from projkit.identity import DEFAULT_SCOPES
from projkit.testing.internals import Internals
from tests.auth.asgi_client import ADDRESS, Answer, Header, ask

AUTH: Final = "/api/v1/auth"
PROJECTS: Final = "/api/v1/projects"
PASSWORD: Final = "correct horse battery staple"
SAME_ORIGIN: Final[Header] = ("sec-fetch-site", "same-origin")

_hashes: dict[tuple[str, str], str] = {}


class ShiftedClock:
    """The real time plus an offset that a test sets; the fixture ``shifted_clock`` gives it to kits."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self._ahead

    def advance(self, **duration: float) -> None:
        """Advance the clock by a ``timedelta``."""
        self._ahead += timedelta(**duration)


def auth_services(kit: ProjKit) -> AuthServices:
    """Return the authentication services of a started kit."""
    return Internals(kit).running.auth


async def add_user(
    kit: ProjKit,
    name: str | None = "alice",
    password: str | None = PASSWORD,
    *,
    subject: str | None = None,
    scopes: Iterable[str] = DEFAULT_SCOPES,
    tenant: str = "",
) -> User:
    """Add a user; its subject is the name unless another one is given."""
    stored = None
    if password is not None:
        known = passwords.DUMMY_HASH, password  # the first tells how the hashes of the test are made
        if known not in _hashes:
            hasher = passwords.Passwords(threads=1)
            _hashes[known] = await hasher.hash(password)
            hasher.close()
        stored = _hashes[known]
    chosen = subject or name
    assert chosen is not None
    return await auth_services(kit).users.add(
        name, stored, subject=chosen, scopes=tuple(scopes), tenant_id=tenant
    )


async def log_in(
    kit: ProjKit,
    name: str = "alice",
    password: str = PASSWORD,
    *,
    headers: Iterable[Header] = (),
    address: str = ADDRESS,
    **more: Any,
) -> Answer:
    """Send a login and return the response."""
    content = {"username": name, "password": password, **more}
    return await ask(kit, "POST", f"{AUTH}/login", headers, json=content, address=address)


def logins(kit: ProjKit) -> dict[tuple[str, str], int]:
    """Return the number of logins by method and outcome."""
    return {(labels["method"], labels["outcome"]): n for labels, n in _counted(kit, "projkit_auth_logins")}


def refreshes(kit: ProjKit) -> dict[str, int]:
    """Return the number of refreshes by outcome."""
    return {labels["outcome"]: number for labels, number in _counted(kit, "projkit_auth_refreshes")}


def _counted(kit: ProjKit, name: str) -> list[tuple[dict[str, str], int]]:
    (metric,) = [metric for metric in kit.registry.collect() if metric.name == name]
    return [(sample.labels, int(sample.value)) for sample in metric.samples]


class Browser:
    """A browser that sends its cookies and the headers of a page of the same origin."""

    def __init__(self, kit: ProjKit, *, address: str = ADDRESS, scheme: str = "https") -> None:
        self.kit = kit
        self.jar: dict[str, str] = {}
        self._address = address
        self._scheme = scheme

    async def send(
        self,
        method: str,
        path: str,
        headers: Iterable[Header] | None = None,
        *,
        json: Any = None,
        without: Iterable[str] = (),
    ) -> Answer:
        """Send a request; ``headers`` replace the page's headers, and cookies in ``without`` are not sent."""
        sent: list[Header] = [SAME_ORIGIN, ("x-csrf-token", self.jar.get("csrf_token", ""))]
        if headers is not None:
            sent = list(headers)
        pairs = [f"{name}={value}" for name, value in self.jar.items() if name not in without]
        if pairs:
            sent.append(("cookie", "; ".join(pairs)))
        answer = await ask(
            self.kit, method, path, sent, json=json, address=self._address, scheme=self._scheme
        )
        for name, each in answer.cookies.items():
            if each.attributes["max-age"] == "0":
                self.jar.pop(name, None)
            else:
                self.jar[name] = each.value
        return answer

    async def log_in(self, name: str = "alice", password: str = PASSWORD, **more: Any) -> dict[str, Any]:
        """Log in and return the body of the response."""
        content = {"username": name, "password": password, "transport": "cookie", **more}
        answer = await self.send("POST", f"{AUTH}/login", json=content)
        assert answer.status == 200, answer
        body: dict[str, Any] = answer.json()
        return body

    async def whoami(self) -> Answer:
        """Return the response of ``GET /auth/session``."""
        return await self.send("GET", f"{AUTH}/session")
