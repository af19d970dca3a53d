"""Self-test of authentication: issue, verify and revoke real credentials, and leave nothing behind.

Tokens are signed with keys created for the run (:mod:`projkit.validation.ephemeral`), so that nothing the real keys
sign is usable as a credential: the real keys only sign and verify content that is not a token. The session is created
in the real store. Its id is known only to the run, and it expires within a minute even if the run is killed.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from time import perf_counter
from typing import Any, Final, Literal

from projkit.auth.authenticator import CheckRevocation
from projkit.auth.revocation import RevocationChecker
from projkit.auth.sessions.database import DatabaseSessions
from projkit.auth.sessions.port import Rotation, Session, sha256_hex
from projkit.auth.wiring import AuthServices, cookie_names
from projkit.clock import Clock, utc_now
from projkit.errors import ProjkitError, UnavailableError
from projkit.http.in_process import RawHeaders
from projkit.identity import DEFAULT_SCOPES, VALIDATION_SUBJECT
from projkit.settings import Settings
from projkit.tasks import run_to_completion
from projkit.validation.ephemeral import EXPIRED_SECONDS, EphemeralCredentials, altered
from projkit.validation.keys import KeyChecks
from projkit.validation.results import (
    CheckResult,
    ExpectationError,
    NotConfiguredError,
    expect,
    expect_rejected,
)

logger: Final = logging.getLogger("projkit")

# Returns the result's detail, if there is any.
Check = Callable[[], Awaitable[str | None]]
_CHECK_SECONDS: Final = 6.0
_CLEANUP_SECONDS: Final = 1.5  # for each of two steps
_SESSION_LIFETIME: Final = timedelta(minutes=1)
_SAME_ORIGIN: Final[RawHeaders] = ((b"sec-fetch-site", b"same-origin"),)
_CROSS_SITE: Final[RawHeaders] = ((b"sec-fetch-site", b"cross-site"),)
_FORM: Final[RawHeaders] = ((b"content-type", b"text/plain"), (b"content-length", b"2"))
_NOT_STARTED: Final = "the kit has not started; its log gives the reason"


class AuthenticationValidation:
    """All checks of one kit's authentication.

    Args:
        settings: the kit's settings.
        services: the kit's authentication services; None if it has not started.
        host_authenticates: returns whether the host alone authenticates callers (``get_principal``), so that the kit
            reads no tokens.
        host_checks_csrf: the host checks CSRF tokens itself (``csrf_check``).
    """

    def __init__(
        self,
        settings: Settings,
        services: AuthServices | None,
        *,
        host_authenticates: Callable[[], bool],
        host_checks_csrf: bool,
    ) -> None:
        self._settings = settings
        self._services = services
        self._host_authenticates = host_authenticates
        self._host_checks_csrf = host_checks_csrf

    async def run(self) -> list[CheckResult]:
        """Run every check, each in bounded time."""
        services = self._services
        keys = KeyChecks(self._settings, None if services is None else services.keys)
        credentials = CredentialChecks(
            self._settings, services, host_checks_csrf=self._host_checks_csrf
        ).all()
        if self._host_authenticates():
            credentials = [(name, _left_to_the_host) for name, _ in credentials]
        checks: list[tuple[str, Check]] = [("keys", keys.source), *keys.each(), *credentials]
        return [await _run(name, check) for name, check in checks]


class CredentialChecks:
    """Checks that valid credentials are accepted and invalid ones rejected."""

    def __init__(
        self,
        settings: Settings,
        services: AuthServices | None,
        *,
        host_checks_csrf: bool,
        clock: Clock = utc_now,
    ) -> None:
        self._settings = settings
        self._services = services
        self._host_checks_csrf = host_checks_csrf
        self._clock = clock
        self._credentials = EphemeralCredentials(settings, cookie_names(settings))

    def all(self) -> list[tuple[str, Check]]:
        """Return each check with its name."""
        return [
            ("bearer", self._bearer),
            ("auth_token", self._auth_cookie),
            ("access_token", self._legacy_cookie),
            ("csrf", self._csrf),
            ("rejects_expired", self._expired),
            ("rejects_tampered", self._tampered),
            ("rejects_alg_none", self._unsigned),
            ("rejects_wrong_audience", self._wrong_audience),
            ("rejects_foreign_key", self._foreign_key),
            ("revocation", self._revocation),
            ("session", self._session),
        ]

    async def _bearer(self) -> None:
        await self._expect_accepted(self._credentials.bearer(self._credentials.token()))

    async def _auth_cookie(self) -> None:
        credentials = self._credentials
        token = credentials.token(session_id="validation")
        await self._expect_accepted(credentials.cookies(auth=token))
        if self._settings.legacy_secret:
            await self._expect_rejected(
                credentials.cookies(auth=credentials.legacy_token()), "a legacy token"
            )

    async def _legacy_cookie(self) -> None:
        settings, credentials = self._settings, self._credentials
        if not settings.legacy_secret:
            raise NotConfiguredError("PROJKIT_LEGACY_SECRET is not set")
        if settings.legacy_sunset is not None and self._clock() >= settings.legacy_sunset:
            late = credentials.cookies(legacy=credentials.legacy_token())
            await self._expect_rejected(late, "a legacy token after the sunset")
            raise NotConfiguredError("PROJKIT_LEGACY_SUNSET has passed: legacy tokens are rejected")
        for value in (credentials.legacy_token(), f'"Bearer {credentials.legacy_token()}"'):
            await self._expect_accepted(credentials.cookies(legacy=value))
        for what, token in (
            ("an expired token", credentials.legacy_token(age=EXPIRED_SECONDS)),
            ("an altered token", altered(credentials.legacy_token())),
        ):
            await self._expect_rejected(credentials.cookies(legacy=token), what)

    async def _csrf(self) -> str | None:
        if self._host_checks_csrf:
            raise NotConfiguredError("the application checks CSRF tokens itself (csrf_check)")
        token = self._credentials.token(session_id="validation")
        issue = self._credentials.csrf.issue
        value, foreign = issue("session:validation"), issue("session:another")
        await self._post(token, value, _SAME_ORIGIN)
        await expect_rejected(self._post(token, value, _CROSS_SITE), "a cross-site request")
        await expect_rejected(self._post(token, value, (*_SAME_ORIGIN, *_FORM)), "a form submission")
        if self._settings.csrf_mode == "origin":
            return "PROJKIT_CSRF_MODE=origin: CSRF tokens are not required"
        await expect_rejected(self._post(token, foreign, _SAME_ORIGIN), "another session's CSRF token")
        await expect_rejected(self._post(token, altered(value), _SAME_ORIGIN), "an altered CSRF token")
        return None

    async def _post(self, token: str, csrf: str, headers: RawHeaders) -> None:
        name = self._settings.csrf_header_name.lower().encode()
        cookies = self._credentials.cookies(auth=token, csrf=csrf)
        await self._credentials.authenticate((*cookies, (name, csrf.encode()), *headers), method="POST")

    async def _expired(self) -> None:
        token = self._credentials.token(age=EXPIRED_SECONDS)
        await self._expect_token_rejected(token, "an expired token")

    async def _tampered(self) -> None:
        credentials = self._credentials
        await self._expect_token_rejected(credentials.tampered_token(), "a token with an altered scope")
        await self._expect_token_rejected(altered(credentials.token()), "a token with an altered signature")

    async def _unsigned(self) -> None:
        token = self._credentials.unsigned_token()
        without_signature = token.rpartition(".")[0] + "."
        await self._expect_token_rejected(token, "a token with alg none")
        await self._expect_token_rejected(without_signature, "a token with alg none and no signature")

    async def _wrong_audience(self) -> None:
        token = self._credentials.token(audience=f"{self._settings.audience}-of-others")
        await self._expect_token_rejected(token, "a token for another audience")

    async def _foreign_key(self) -> None:
        """Check that the real verifier rejects what an ephemeral key has signed."""
        verifier = self._started().verifier

        async def verify() -> None:
            verifier.verify(self._credentials.token())

        await expect_rejected(verify(), "a token signed with an unknown key")

    async def _revocation(self) -> None:
        """Look a token without a session up in the database."""
        await self._expect_accepted(
            self._credentials.bearer(self._credentials.token()), self._revocation_check()
        )

    async def _session(self) -> str:
        """Create, read, rotate and revoke a session in the real store; after that its token is rejected."""
        check, store = self._revocation_check(), self._started().store
        session_id = secrets.token_urlsafe(32)
        session, rotation = self._new_session(session_id)
        token = self._credentials.bearer(self._credentials.token(session_id=session_id))
        await self._expect_rejected(token, "an unknown session", check)
        creating = asyncio.create_task(store.create(session))
        try:
            await asyncio.shield(creating)
            await self._expect_accepted(token, check)
            expect(await store.rotate(session.key, rotation), "its refresh token could not be exchanged")
            expect(
                not await store.rotate(session.key, rotation), "its refresh token could be exchanged twice"
            )
            expect(await store.revoke(session.key), "it could not be revoked")
            await self._expect_rejected(token, "a revoked session", check)
            expect(await store.get_fresh(session.key, self._clock()) is None, "it is still stored")
        finally:
            await run_to_completion(self._remove(session, creating))
        return f"stored in {'the database' if isinstance(store, DatabaseSessions) else 'Redis'}"

    async def _remove(self, session: Session, creating: asyncio.Task[Any]) -> None:
        """Remove the session, even if it is still being stored."""
        await asyncio.wait({creating}, timeout=_CLEANUP_SECONDS)
        creating.cancel()
        # If the store does not respond, the session expires within a minute.
        with suppress(UnavailableError, TimeoutError):
            async with asyncio.timeout(_CLEANUP_SECONDS):
                await self._started().store.revoke(session.key)

    def _new_session(self, session_id: str) -> tuple[Session, Rotation]:
        """Make a session and one rotation of its refresh token, whose plain text is not kept."""
        now = self._clock()
        expires_at = now + _SESSION_LIFETIME
        first, second = (sha256_hex(secrets.token_urlsafe(32)) for _ in range(2))
        session = Session(
            tenant_id=self._credentials.tenant_id,
            id_hash=sha256_hex(session_id),
            seed=secrets.token_hex(32),
            subject=VALIDATION_SUBJECT,
            scopes=DEFAULT_SCOPES,
            transport="body",
            user_agent="",
            address="",
            refresh_hash=first,
            parent_hash=None,
            generation=0,
            rotated_at=now,
            created_at=now,
            used_at=now,
            idle_expires_at=expires_at,
            expires_at=expires_at,
        )
        return session, Rotation(first, second, 1, now, expires_at)

    def _revocation_check(self) -> CheckRevocation:
        services = self._started()
        return RevocationChecker(
            services.store,
            services.users,
            idle_seconds=self._settings.session_idle_seconds,
            cache_seconds=0,
            clock=self._clock,
        ).check

    def _started(self) -> AuthServices:
        if self._services is None:
            raise ExpectationError(_NOT_STARTED)
        return self._services

    async def _expect_accepted(
        self, headers: RawHeaders, check_revocation: CheckRevocation | None = None
    ) -> None:
        principal = await self._credentials.authenticate(headers, check_revocation=check_revocation)
        expect(principal.subject == VALIDATION_SUBJECT, "it authenticates as another subject")
        expect(principal.scopes == frozenset(DEFAULT_SCOPES), "it grants other scopes")

    async def _expect_rejected(
        self, headers: RawHeaders, what: str, check_revocation: CheckRevocation | None = None
    ) -> None:
        await expect_rejected(
            self._credentials.authenticate(headers, check_revocation=check_revocation), what
        )

    async def _expect_token_rejected(self, token: str, what: str) -> None:
        await self._expect_rejected(self._credentials.bearer(token), what)


async def _left_to_the_host() -> None:
    raise NotConfiguredError("the application authenticates callers itself (get_principal)")


async def _run(name: str, check: Check) -> CheckResult:
    began = perf_counter()
    status: Literal["ok", "failed", "not_configured"] = "failed"
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            detail = await check()
        status = "ok"
    except NotConfiguredError as error:
        status, detail = "not_configured", str(error)
    except ExpectationError as error:
        detail = str(error)
    except ProjkitError as error:
        detail = error.detail
    except TimeoutError:
        detail = f"timed out after {_CHECK_SECONDS:g} s"
    except Exception as error:  # reported as the result of this check, so that all others still run
        logger.exception("the authentication check %s failed", name)
        detail = f"{type(error).__name__}; the log has the traceback"
    return CheckResult(name, status, round((perf_counter() - began) * 1000, 3), detail)
