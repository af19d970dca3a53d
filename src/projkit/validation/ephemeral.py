"""Credentials for one validation run, accepted nowhere else.

Their keys are generated for the run and never stored, so no entry point accepts what they sign. Everything else that
decides about a credential (settings, cookie names, formats, CSRF) is the real implementation.
"""

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
from projkit.auth.authenticator import Authenticator, CheckRevocation
from projkit.auth.credentials import CookieNames, CredentialReader
from projkit.auth.csrf import LABEL as CSRF_LABEL
from projkit.auth.csrf import CsrfGuard
from projkit.auth.keys import KeyRing
from projkit.auth.legacy import LegacyProfile
from projkit.auth.tokens import TOKEN_TYPE, TokenIssuer, TokenVerifier
from projkit.http import scope_keys
from projkit.http.in_process import RawHeaders
from projkit.http.request import Request
from projkit.identity import DEFAULT_SCOPES, VALIDATION_SUBJECT, Principal
from projkit.observers import NULL_OBSERVER
from projkit.settings import Settings
from projkit.signing import decode, encode

# The age in seconds of a credential that has certainly expired.
EXPIRED_SECONDS: Final = 86_400.0
_LIFETIME_SECONDS: Final = 60
_SECRET_BYTES: Final = 48


class EphemeralCredentials:
    """Keys, tokens and requests of one validation run.

    Args:
        settings: the kit's settings; the secrets in them are replaced.
        names: the names of the kit's cookies.
    """

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
            self.settings, partial(self.keys.secrets, CSRF_LABEL), names, observer=NULL_OBSERVER
        )
        self._signature_only = self._authenticator(_accept)

    def token(self, *, session_id: str | None = None, age: float = 0, audience: str | None = None) -> str:
        """Issue an access token, dated ``age`` seconds ago."""
        settings = self.settings
        if audience is not None:
            settings = settings.model_copy(update={"audience": audience})
        issuer = TokenIssuer(self.keys, settings, now=lambda: time.time() - age)
        return issuer.issue(
            VALIDATION_SUBJECT,
            DEFAULT_SCOPES,
            seconds=_LIFETIME_SECONDS,
            tenant_id=self.tenant_id,
            session_id=session_id,
        )

    def legacy_token(self, *, age: float = 0) -> str:
        """Issue a token in the legacy format, dated ``age`` seconds ago."""
        now = int(time.time() - age)
        claims: dict[str, Any] = {"sub": VALIDATION_SUBJECT, "iat": now, "exp": now + _LIFETIME_SECONDS}
        if self.tenant_id:
            claims[self.settings.tenant_claim] = self.tenant_id
        key = OctKey.import_key(self.settings.legacy_secret[-1].get_secret_value())
        return jwt.encode({"alg": "HS256", "typ": "JWT"}, claims, key, registry=jws.REGISTRIES["HS256"])

    def unsigned_token(self) -> str:
        """Make an otherwise valid token with ``alg`` ``none`` (RFC 7515, appendix A.5) and an unrelated signature."""
        _, payload, signature = self.token().split(".")
        header = {"alg": "none", "typ": TOKEN_TYPE, "kid": self.keys.current.newest.kid}
        return f"{base64url_json(header)}.{payload}.{signature}"

    def tampered_token(self) -> str:
        """Make a token whose scope was changed after signing."""
        header, payload, signature = self.token().split(".")
        claims = orjson.loads(decode(payload))
        return f"{header}.{base64url_json({**claims, 'scope': 'admin'})}.{signature}"

    async def authenticate(
        self, headers: RawHeaders, *, method: str = "GET", check_revocation: CheckRevocation | None = None
    ) -> Principal:
        """Authenticate a request with these headers, without counting it.

        Args:
            headers: the request's headers.
            method: its method; CSRF protection applies to unsafe ones.
            check_revocation: the revocation check to apply; none by default, so that only signature and claims decide.

        Raises:
            UnauthenticatedError: the credentials are rejected.
            CsrfFailedError: the request is rejected because another site may have caused it.
            UnavailableError: A store that is needed to decide does not respond.
        """
        authenticator = (
            self._signature_only if check_revocation is None else self._authenticator(check_revocation)
        )
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
        return await authenticator(Request(scope, _receive_nothing))

    def bearer(self, token: str) -> RawHeaders:
        """Return the header that an API client sends."""
        return ((b"authorization", f"Bearer {token}".encode()),)

    def cookies(self, **values: str) -> RawHeaders:
        """Return the header that a browser sends; the cookies are named ``auth``, ``legacy`` and ``csrf``."""
        pairs = (f"{getattr(self.names, name)}={value}" for name, value in values.items())
        return ((b"cookie", "; ".join(pairs).encode()),)

    def _authenticator(self, check_revocation: CheckRevocation) -> Authenticator:
        legacy = LegacyProfile(self.settings)
        verifier = TokenVerifier(self.keys, self.settings, legacy=legacy)
        reader = CredentialReader(self.names)
        return Authenticator(reader, verifier, check_revocation, self.csrf, legacy, NULL_OBSERVER)


async def _accept(_: Principal, __: str) -> None:
    """Accept every token, instead of checking its revocation."""


def altered(text: str) -> str:
    """Change the last but one character; the last one of a base64url text may carry unused bits."""
    return f"{text[:-2]}{'A' if text[-2] != 'A' else 'B'}{text[-1]}"


def base64url_json(content: object) -> str:
    """Encode ``content`` as a part of a compact JWS (RFC 7515 §7.1)."""
    return encode(orjson.dumps(content))


def _new_secret() -> SecretStr:
    return SecretStr(secrets.token_urlsafe(_SECRET_BYTES))


async def _receive_nothing() -> Message:
    raise RuntimeError("this request has no body")
