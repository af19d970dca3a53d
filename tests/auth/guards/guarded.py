"""A guarded host and its clients' requests."""

import json
from datetime import UTC, datetime
from typing import Any

from joserfc import jwt
from joserfc.jwk import OctKey

from projkit import ProjKit, Settings
from projkit.auth.middleware import PUBLIC
from projkit.auth.rules import PathRules
from tests.auth.guards.client import Headers, bearer, cookie, http
from tests.conftest import settings_for, token_for

LEGACY_SECRET = "a legacy secret of the tests, as long as it must be"
ORIGIN = "https://app.example.com"
SUNSET = datetime(2030, 1, 1, tzinfo=UTC)
RULES: PathRules = {
    "/public": PUBLIC,
    "/read": ("projects:read",),
    "/both": ("projects:read", "monitoring:read"),
    "/admin": ("admin",),
}
JSON: Headers = [(b"content-type", b"application/json")]
FROM_APP: Headers = [(b"origin", ORIGIN.encode())]


class Host:
    """A host that responds with its caller; ``paths`` are those of the requests that reached it."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        self.scopes.append(scope)
        user = scope.get("user")
        content = {"subject": getattr(user, "subject", None), "format": getattr(user, "token_format", None)}
        text = json.dumps(content)
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": text})
            await send({"type": "websocket.close", "code": 1000})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-host", b"1")]})
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def make_settings(url: str) -> Settings:
    """Settings with a legacy key and an allowed origin."""
    return settings_for(url, legacy_secret=LEGACY_SECRET, legacy_sunset=SUNSET, allowed_origins=[ORIGIN])


def token(kit: ProjKit, scopes: tuple[str, ...] = ("projects:read", "projects:write"), **options: Any) -> str:
    """An enhanced token for alice."""
    return token_for(kit.settings, "alice", scopes, **options)


def legacy_token(**claims: Any) -> str:
    """A legacy token for alice."""
    now = int(datetime.now(UTC).timestamp())
    key = OctKey.import_key(LEGACY_SECRET.encode())
    return jwt.encode({"alg": "HS256"}, {"sub": "alice", "iat": now, "exp": now + 600, **claims}, key)


def credentials(kit: ProjKit, name: str) -> Headers:
    """Each kind of credential."""
    return {
        "bearer": lambda: bearer(token(kit)),
        "auth_token": lambda: cookie("auth_token", token(kit)),
        "access_token": lambda: cookie("access_token", legacy_token()),
        "quoted access_token": lambda: cookie("access_token", f'"Bearer {legacy_token()}"'),
        "legacy bearer": lambda: bearer(legacy_token()),
    }[name]()


KINDS = ["bearer", "auth_token", "access_token", "quoted access_token", "legacy bearer"]


async def csrf(kit: ProjKit, headers: Headers) -> Headers:
    """The headers that a front end adds to an unsafe request, for the credential in ``headers``."""
    answer = await http(kit, "/api/v1/auth/csrf", headers=headers)
    value = answer.json()["csrf_token"]
    merged = b"; ".join(each for name, each in [*headers, *cookie("csrf_token", value)] if name == b"cookie")
    return [(b"cookie", merged), (b"x-csrf-token", value.encode()), *FROM_APP]


def counted(kit: ProjKit, transport: str, format_: str, outcome: str) -> float:
    """Return how often a credential was counted."""
    labels = {"transport": transport, "format": format_, "outcome": outcome}
    return kit.registry.get_sample_value("projkit_auth_credentials_total", labels) or 0.0


async def nothing() -> Any:
    """A client that sends nothing and disconnects."""
    return {"type": "http.disconnect"}
