"""A small OpenID provider that keeps to the standards, and can be told to break them.

Discovery 1.0, the code flow of Core 1.0 with PKCE S256 (RFC 7636), client authentication (RFC 6749 §2.3.1), a JWK Set
that rotates, and ``iss`` in its answers (RFC 9207). Whoever asks is signed in here already, as ``user``.
"""

import asyncio
import base64
import gzip
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode

from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from projkit.auth.jws import REGISTRIES

DISCOVERY = "/.well-known/openid-configuration"
AUTHORIZE, TOKEN, JWKS = "/authorize", "/token", "/jwks"
ISSUED_SECONDS = 300


@dataclass
class Registered:
    """A client; a public one has no secret."""

    secret: str | None
    redirect_uris: tuple[str, ...]


@dataclass
class Granted:
    """The authorization request behind a code."""

    client_id: str
    redirect_uri: str
    challenge: str
    nonce: str | None
    subject: str


def new_key(algorithm: str) -> Key:
    """Create a signing key with a kid."""
    parameters: Any = {"kid": secrets.token_hex(8), "use": "sig", "alg": algorithm}
    if algorithm == "ES256":
        return ECKey.generate_key("P-256", parameters)
    if algorithm == "ES384":
        return ECKey.generate_key("P-384", parameters)
    if algorithm in {"EdDSA", "Ed25519"}:
        return OKPKey.generate_key("Ed25519", parameters)
    return RSAKey.generate_key(2048, parameters)


class OpenIdProvider:
    """The provider; :meth:`reset` restores its default behaviour."""

    def __init__(self) -> None:
        self.issuer = ""
        self._first = new_key("ES256")
        self.app = Starlette(
            routes=[
                Route(DISCOVERY, self._guarded(self._discovery)),
                Route(AUTHORIZE, self._guarded(self._authorize)),
                Route(TOKEN, self._guarded(self._token), methods=["POST"]),
                Route(JWKS, self._guarded(self._jwks)),
                Route("/{path:path}", self._guarded(self._nothing), methods=["GET", "HEAD", "POST"]),
            ]
        )
        self.reset()

    def reset(self) -> None:
        """As it was in the beginning."""
        self.keys: list[Key] = [self._first]
        self.clients: dict[str, Registered] = {}
        self.user: dict[str, Any] = {"sub": "u-1", "email": "alice@example.com", "email_verified": True}
        self.codes: dict[str, Granted] = {}
        self.hits: Counter[str] = Counter()
        self.redeemed: list[dict[str, str]] = []
        # How it may break the rules.
        self.metadata_changes: dict[str, Any] = {}
        self.claim_changes: dict[str, Any] = {}
        self.token_changes: dict[str, Any] = {}
        self.make_id_token: Callable[[dict[str, Any]], str] | None = None
        self.answer_issuer: str | None = self.issuer
        self.hanging: set[str] = set()
        self.dripping: set[str] = set()
        self.padding: dict[str, int] = {}
        self.packed: set[str] = set()
        self.answers: dict[str, Response] = {}

    def rotate(self, algorithm: str = "ES256", *, keep_old: bool = True) -> Key:
        """A new key that signs from now on."""
        key = new_key(algorithm)
        self.keys = [*(self.keys if keep_old else []), key]
        return key

    def sign(self, claims: dict[str, Any], *, key: Key | None = None, **header: Any) -> str:
        """A token of these claims; a header member that is None is left out."""
        key = key or self.keys[-1]
        algorithm = str(key.get("alg"))
        protected = {"alg": algorithm, "typ": "JWT", "kid": key.kid, **header}
        protected = {name: value for name, value in protected.items() if value is not None}
        return jwt.encode(protected, claims, key, registry=_registry(algorithm), default_type=None)

    def access_token(self, subject: str, audience: object, scope: str, **changes: Any) -> str:
        """An access token as RFC 9068 has it; a claim that is None is left out."""
        header = changes.pop("header", {})
        key = changes.pop("key", None)
        now = int(time.time())
        claims = {
            "iss": self.issuer, "sub": subject, "aud": audience, "iat": now, "exp": now + ISSUED_SECONDS,
            "jti": secrets.token_hex(8), "client_id": "app", "scope": scope, **changes,
        }  # fmt: skip
        return self.sign(_without_none(claims), key=key, **{"typ": "at+jwt", **header})

    def _guarded(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def guarded(request: Request) -> Response:
            path = request.url.path
            self.hits[path] += 1
            while path in self.hanging:
                await asyncio.sleep(0.02)
            if path in self.answers:
                return self.answers[path]
            answer: Response = await handler(request)
            if path in self.dripping:
                return StreamingResponse(self._drip(path, bytes(answer.body)))
            if path in self.padding:
                return Response(bytes(answer.body) + b" " * self.padding[path], answer.status_code)
            if path in self.packed:
                packed = gzip.compress(bytes(answer.body))
                return Response(packed, answer.status_code, {"Content-Encoding": "gzip"})
            return answer

        return guarded

    async def _drip(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        """Send a few bytes at intervals, so that no single read takes long."""
        while path in self.dripping:
            yield b" "
            await asyncio.sleep(0.05)
        yield body

    async def _nothing(self, _: Request) -> Response:
        return Response(status_code=404)

    async def _discovery(self, _: Request) -> Response:
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": self.issuer + AUTHORIZE,
            "token_endpoint": self.issuer + TOKEN,
            "jwks_uri": self.issuer + JWKS,
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256", "RS256", "EdDSA"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
            "authorization_response_iss_parameter_supported": True,
            **self.metadata_changes,
        }
        return JSONResponse(_without_none(document))

    async def _authorize(self, request: Request) -> Response:
        query = request.query_params
        client = self.clients.get(query.get("client_id", ""))
        redirect_uri = query.get("redirect_uri", "")
        if client is None or redirect_uri not in client.redirect_uris:
            return JSONResponse({"error": "invalid_request"}, 400)  # never redirected (RFC 6749 §4.1.2.1)
        answer = {"state": query.get("state"), "iss": self.answer_issuer}
        if (
            query.get("response_type") != "code"
            or "openid" not in query.get("scope", "").split()
            or query.get("code_challenge_method") != "S256"
            or len(query.get("code_challenge", "")) != 43
        ):
            answer["error"] = "invalid_request"
        elif not self.user:
            answer["error"] = "access_denied"
        else:
            code = secrets.token_urlsafe(24)
            self.codes[code] = Granted(
                query["client_id"],
                redirect_uri,
                query["code_challenge"],
                query.get("nonce"),
                self.user["sub"],
            )
            answer["code"] = code
        return RedirectResponse(f"{redirect_uri}?{urlencode(_without_none(answer))}", 303)

    async def _token(self, request: Request) -> Response:
        pairs = parse_qsl((await request.body()).decode(), strict_parsing=True)
        form = dict(pairs)
        if len(form) != len(pairs):  # RFC 6749 §3.2
            return JSONResponse({"error": "invalid_request"}, 400)
        client_id = self._authenticate(request, form)
        if client_id is None:
            return JSONResponse({"error": "invalid_client"}, 401)
        granted = self.codes.pop(form.get("code", ""), None)  # good for one attempt
        if (
            form.get("grant_type") != "authorization_code"
            or granted is None
            or granted.client_id != client_id
            or granted.redirect_uri != form.get("redirect_uri")
            or granted.challenge != _challenge(form.get("code_verifier", ""))
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        self.redeemed.append(form)
        access_token = self.access_token(granted.subject, "https://api.example.com", "projects:read")
        answer = {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": ISSUED_SECONDS,
            "id_token": self._id_token(client_id, granted, access_token),
            **self.token_changes,
        }
        return JSONResponse(_without_none(answer), headers={"Cache-Control": "no-store"})

    def _id_token(self, client_id: str, granted: Granted, access_token: str) -> str:
        now = int(time.time())
        claims = _without_none(
            {
                **self.user,
                "iss": self.issuer,
                "sub": granted.subject,
                "aud": client_id,
                "iat": now,
                "exp": now + ISSUED_SECONDS,
                "nonce": granted.nonce,
                "at_hash": at_hash(access_token, str(self.keys[-1].get("alg"))),
                **self.claim_changes,
            }
        )
        return self.sign(claims) if self.make_id_token is None else self.make_id_token(claims)

    def _authenticate(self, request: Request, form: dict[str, str]) -> str | None:
        """The client's id, if it proves to be that client, by one method alone."""
        authorization = request.headers.get("authorization")
        if authorization is None:
            client_id, secret = form.get("client_id", ""), form.get("client_secret")
        else:
            scheme, _, encoded = authorization.partition(" ")
            if scheme.lower() != "basic" or "client_secret" in form:
                return None
            left, _, right = base64.b64decode(encoded).decode().partition(":")
            client_id, secret = unquote_plus(left), unquote_plus(right)
        client = self.clients.get(client_id)
        return client_id if client is not None and client.secret == secret else None

    async def _jwks(self, _: Request) -> Response:
        keys = [{**key.as_dict(private=False), "kid": key.kid, "alg": key.get("alg")} for key in self.keys]
        return JSONResponse({"keys": keys})


def at_hash(access_token: str, algorithm: str) -> str:
    """The hash of an access token (OpenID Connect Core 1.0 §3.1.3.6)."""
    name = {"ES384": "sha384", "EdDSA": "sha512", "Ed25519": "sha512"}.get(algorithm, "sha256")
    digest = hashlib.new(name, access_token.encode()).digest()
    return _base64url(digest[: len(digest) // 2])


def _challenge(verifier: str) -> str:
    return _base64url(hashlib.sha256(verifier.encode()).digest())


def _registry(algorithm: str) -> JWSRegistry:
    return REGISTRIES[algorithm]


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _without_none(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
