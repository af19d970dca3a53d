"""Credentials that are good for one validation and nowhere else.

Their keys are made for it and kept by nobody: what is signed with them is accepted by no entry point. The rules that
they are held to (settings, names, formats, CSRF) are the real ones.
"""

import base64
import secrets
import time
from functools import partial
from typing import Any, Final

import orjson
from joserfc import jwt
from joserfc.jwk import OctKey
from pydantic import SecretStr
from starlette.types import Message

from projkit.auth import jws
from projkit.auth.authenticator import Authenticator, ChecksRevocation
from projkit.auth.credentials import CookieNames, CredentialReader
from projkit.auth.csrf import LABEL as CSRF_LABEL
from projkit.auth.csrf import CsrfGuard
from projkit.auth.keys import KeyRing
from projkit.auth.legacy import LegacyProfile
from projkit.auth.tokens import TOKEN_TYPE, TokenIssuer, TokenVerifier
from projkit.http import scope_keys
from projkit.http.request import Request
from projkit.identity import DEFAULT_SCOPES, VALIDATION_SUBJECT, Principal
from projkit.settings import Settings

Headers = tuple[tuple[bytes, bytes], ...]
LONG_AGO: Final = 86_400.0
_SECRET_BYTES: Final = 48


class Scratch:
    """Keys, tokens and requests of one validation; ``names`` are the kit's cookies'."""

    def __init__(self, settings: Settings, names: CookieNames) -> None:
        self.names = names
        self.settings = settings.model_copy(
            update={
                "secret": _new_secret(),
                "keys_file": None,
                "legacy_secret": (_new_secret(),) if settings.legacy_secret else (),
            }
        )
        self.keys = KeyRing(self.settings)
        self.tenant_id = VALIDATION_SUBJECT if settings.tenant_claim else ""
        self.csrf = CsrfGuard(
            self.settings, partial(self.keys.secrets, CSRF_LABEL), names, count=_count_nothing
        )
        self.authenticator = self.authenticator_with(_Standing())

    def authenticator_with(self, standing: ChecksRevocation) -> Authenticator:
        """What takes these credentials, as far as ``standing`` lets it; counts nothing."""
        legacy = LegacyProfile(self.settings)
        verifier = TokenVerifier(self.keys, self.settings, legacy=legacy)
        reader = CredentialReader(self.names)
        return Authenticator(reader, verifier, standing, self.csrf, legacy, _count_nothing)

    def token(self, *, session_id: str | None = None, ago: float = 0, audience: str | None = None) -> str:
        """An access token, issued ``ago`` seconds before now."""
        settings = self.settings
        if audience is not None:
            settings = settings.model_copy(update={"audience": audience})
        issuer = TokenIssuer(self.keys, settings, now=lambda: time.time() - ago)
        return issuer.issue(
            VALIDATION_SUBJECT, DEFAULT_SCOPES, seconds=60, tenant_id=self.tenant_id, session_id=session_id
        )

    def legacy_token(self, *, ago: float = 0) -> str:
        """A token in the legacy format, issued ``ago`` seconds before now."""
        now = int(time.time() - ago)
        claims: dict[str, Any] = {"sub": VALIDATION_SUBJECT, "iat": now, "exp": now + 60}
        if self.tenant_id:
            claims[self.settings.tenant_claim] = self.tenant_id
        key = OctKey.import_key(self.settings.legacy_secret[-1].get_secret_value())
        return jwt.encode({"alg": "HS256", "typ": "JWT"}, claims, key, registry=jws.REGISTRIES["HS256"])

    def unsigned_token(self) -> str:
        """A token of ``alg`` ``none`` (RFC 7515 appendix A.5) that is good otherwise; with a signature, of nothing."""
        _, payload, signature = self.token().split(".")
        header = {"alg": "none", "typ": TOKEN_TYPE, "kid": self.keys.current.newest.kid}
        return f"{encoded(header)}.{payload}.{signature}"

    def tampered_token(self) -> str:
        """A token that asks for more than was signed."""
        header, payload, signature = self.token().split(".")
        claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return f"{header}.{encoded({**claims, 'scope': 'admin'})}.{signature}"

    async def admits(
        self, headers: Headers, *, method: str = "GET", standing: ChecksRevocation | None = None
    ) -> Principal:
        """The caller of a request with these headers.

        Raises:
            UnauthenticatedError: it is refused.
            CsrfFailedError: it is, since another site may have caused it.
            UnavailableError: nobody can tell.
        """
        authenticator = self.authenticator if standing is None else self.authenticator_with(standing)
        scope = {
            "type": "http",
            "method": method,
            "scheme": "https",
            "query_string": b"",
            "root_path": "",
            "headers": list(headers),
            "client": None,
            scope_keys.PATH: "/",
            scope_keys.REQUEST_ID: "validation",
        }
        return await authenticator(Request(scope, _no_body))

    def bearer(self, token: str) -> Headers:
        """What a program sends."""
        return ((b"authorization", f"Bearer {token}".encode()),)

    def cookies(self, **values: str) -> Headers:
        """What a browser sends; ``auth``, ``legacy`` and ``csrf`` are the cookies."""
        pairs = (f"{getattr(self.names, name)}={value}" for name, value in values.items())
        return ((b"cookie", "; ".join(pairs).encode()),)


class _Standing:
    """Whatever is signed holds: what was called back is for the stores to say."""

    async def check(self, principal: Principal, token: str) -> None:
        return


def altered(text: str) -> str:
    """The text with its last but one character exchanged: the last one may carry unused bits."""
    return f"{text[:-2]}{'A' if text[-2] != 'A' else 'B'}{text[-1]}"


def _new_secret() -> SecretStr:
    return SecretStr(secrets.token_urlsafe(_SECRET_BYTES))


def encoded(content: object) -> str:
    """JSON as a part of a compact JWS (RFC 7515 §7.1)."""
    return base64.urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=").decode()


def _count_nothing(*_: str) -> None:
    """Validations are left out of every count."""


async def _no_body() -> Message:
    raise RuntimeError("there is none")
