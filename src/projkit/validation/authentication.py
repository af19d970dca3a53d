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
from dataclasses import dataclass
from datetime import timedelta
from time import perf_counter
from typing import Final, Literal

from projkit.auth.revocation import RevocationChecker
from projkit.auth.sessions.port import Rotation, Session, hash_of
from projkit.auth.wiring import AuthParts, cookie_names
from projkit.clock import Clock, utc_now
from projkit.errors import ProjkitError, UnavailableError
from projkit.identity import DEFAULT_SCOPES, VALIDATION_SUBJECT
from projkit.settings import Settings
from projkit.tasks import run_to_completion
from projkit.validation.ephemeral import LONG_AGO, Headers, Scratch, altered
from projkit.validation.keys import KeyChecks
from projkit.validation.results import CheckFailedError, NotConfiguredError, agree, refused

logger: Final = logging.getLogger("projkit")

# Gives what there is to say, if anything.
Check = Callable[[], Awaitable[str | None]]
_CHECK_SECONDS: Final = 6.0
_CLEAR_SECONDS: Final = 1.5  # for each of two things
_LIFETIME: Final = timedelta(minutes=1)
_SAME_ORIGIN: Final[Headers] = ((b"sec-fetch-site", b"same-origin"),)
_NOT_STARTED: Final = "the kit has not started; its log says why"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What became of one check; ``detail`` never holds key material, tokens or session ids."""

    name: str
    status: Literal["ok", "failed", "not_configured"]
    latency_ms: float
    detail: str | None = None


async def validate_authentication(
    settings: Settings, parts: AuthParts | None, *, host_decides: bool, host_checks_csrf: bool
) -> list[CheckResult]:
    """Every check, in bounded time.

    Args:
        settings: the kit's.
        parts: what the kit's authentication works with; None where it has not started.
        host_decides: whether the host says who is calling, so that no token is read.
        host_checks_csrf: whether the host checks CSRF tokens itself.
    """
    keys = KeyChecks(settings, None if parts is None else parts.services.keys)
    credentials = CredentialChecks(settings, parts, host_checks_csrf=host_checks_csrf).all()
    if host_decides:
        credentials = [(name, _left_to_the_host) for name, _ in credentials]
    checks: list[tuple[str, Check]] = [("keys", keys.source), *keys.each(), *credentials]
    return [await _run(name, check) for name, check in checks]


class CredentialChecks:
    """What requests bring: accepted where it is good, refused where it is not."""

    def __init__(
        self,
        settings: Settings,
        parts: AuthParts | None,
        *,
        host_checks_csrf: bool,
        clock: Clock = utc_now,
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._host_checks_csrf = host_checks_csrf
        self._clock = clock
        self._scratch = Scratch(settings, cookie_names(settings))

    def all(self) -> list[tuple[str, Check]]:
        """Each check by its name."""
        return [
            ("bearer", self._bearer),
            ("auth_token", self._cookie),
            ("access_token", self._legacy_cookie),
            ("csrf", self._csrf),
            ("refuses_expired", self._expired),
            ("refuses_tampered", self._tampered),
            ("refuses_alg_none", self._unsigned),
            ("refuses_wrong_audience", self._wrong_audience),
            ("refuses_foreign_key", self._foreign_key),
            ("standing", self._standing),
            ("session", self._session),
        ]

    async def _bearer(self) -> None:
        await self._is_admitted(self._scratch.bearer(self._scratch.token()))

    async def _cookie(self) -> None:
        scratch = self._scratch
        await self._is_admitted(scratch.cookies(auth=scratch.token(session_id="validation")))
        if self._settings.legacy_secret:
            await refused(scratch.admits(scratch.cookies(auth=scratch.legacy_token())), "a legacy token")

    async def _legacy_cookie(self) -> None:
        settings, scratch = self._settings, self._scratch
        if not settings.legacy_secret:
            raise NotConfiguredError("PROJKIT_LEGACY_SECRET is not set")
        if settings.legacy_sunset is not None and self._clock() >= settings.legacy_sunset:
            await refused(
                scratch.admits(scratch.cookies(legacy=scratch.legacy_token())), "one after the sunset"
            )
            raise NotConfiguredError("PROJKIT_LEGACY_SUNSET has passed: it is refused")
        for value in (scratch.legacy_token(), f'"Bearer {scratch.legacy_token()}"'):
            await self._is_admitted(scratch.cookies(legacy=value))
        for what, token in (
            ("an expired one", scratch.legacy_token(ago=LONG_AGO)),
            ("an altered one", altered(scratch.legacy_token())),
        ):
            await refused(scratch.admits(scratch.cookies(legacy=token)), what)

    async def _csrf(self) -> str | None:
        if self._host_checks_csrf:
            raise NotConfiguredError("the application checks CSRF tokens itself")
        scratch = self._scratch
        token = scratch.token(session_id="validation")
        value, foreign = (scratch.csrf.issue(f"session:{each}") for each in ("validation", "another"))
        await self._posts(token, value, _SAME_ORIGIN)
        await refused(
            self._posts(token, value, ((b"sec-fetch-site", b"cross-site"),)), "another site's request"
        )
        form = (b"content-type", b"text/plain"), (b"content-length", b"2")
        await refused(self._posts(token, value, (*_SAME_ORIGIN, *form)), "a form's request")
        if self._settings.csrf_mode == "origin":
            return "PROJKIT_CSRF_MODE=origin: the token is not asked for"
        await refused(self._posts(token, foreign, _SAME_ORIGIN), "another session's value")
        await refused(self._posts(token, altered(value), _SAME_ORIGIN), "an altered value")
        return None

    async def _posts(self, token: str, csrf: str, headers: Headers) -> None:
        name = self._settings.csrf_header_name.lower().encode()
        sent = (*self._scratch.cookies(auth=token, csrf=csrf), (name, csrf.encode()), *headers)
        await self._scratch.admits(sent, method="POST")

    async def _expired(self) -> None:
        await self._is_refused(self._scratch.token(ago=LONG_AGO), "an expired token")

    async def _tampered(self) -> None:
        await self._is_refused(self._scratch.tampered_token(), "a token with another scope than was signed")
        await self._is_refused(altered(self._scratch.token()), "a token with an altered signature")

    async def _unsigned(self) -> None:
        token = self._scratch.unsigned_token()
        await self._is_refused(token, "a token of alg none")
        await self._is_refused(token.rpartition(".")[0] + ".", "a token of alg none without a signature")

    async def _wrong_audience(self) -> None:
        other = f"{self._settings.audience}-of-others"
        await self._is_refused(self._scratch.token(audience=other), "a token for another audience")

    async def _foreign_key(self) -> None:
        """The real verifier refuses what the scratch key has signed."""
        if self._parts is None:
            raise CheckFailedError(_NOT_STARTED)
        verifier = self._parts.verifier

        async def verified() -> None:
            verifier.verify(self._scratch.token())

        await refused(verified(), "a token that another key has signed")

    async def _standing(self) -> None:
        """What is noted of a token without a session, in the database."""
        await self._is_admitted(self._scratch.bearer(self._scratch.token()), self._real_standing())

    async def _session(self) -> str:
        """A session's whole life in the real store: opened, found, prolonged, ended, and then refused."""
        standing = self._real_standing()
        assert self._parts is not None  # noqa: S101  # the standing needs it too
        store = self._parts.store
        session_id = secrets.token_urlsafe(32)
        session, rotation = self._new_session(session_id)
        token = self._scratch.bearer(self._scratch.token(session_id=session_id))
        await refused(self._scratch.admits(token, standing=standing), "a session that is not there")
        creating = asyncio.create_task(store.create(session))
        try:
            await asyncio.shield(creating)
            await self._is_admitted(token, standing)
            agree(await store.rotate(session.key, rotation), "its refresh token could not be exchanged")
            agree(not await store.rotate(session.key, rotation), "its refresh token could be exchanged twice")
            agree(await store.revoke(session.key), "it could not be ended")
            await refused(self._scratch.admits(token, standing=standing), "a session that has ended")
            agree(await store.get_fresh(session.key, self._clock()) is None, "it is still stored")
        finally:
            await run_to_completion(self._end(session, creating))
        return f"kept in {'Redis' if self._settings.session_backend == 'redis' else 'the database'}"

    async def _end(self, session: Session, creating: asyncio.Task[None]) -> None:
        """Takes the session away, also where it is still being stored, and could be after that."""
        assert self._parts is not None  # noqa: S101  # there is a session
        await asyncio.wait({creating}, timeout=_CLEAR_SECONDS)
        creating.cancel()
        # Where the store does not answer now, the session ends by itself.
        with suppress(UnavailableError, TimeoutError):
            async with asyncio.timeout(_CLEAR_SECONDS):
                await self._parts.store.revoke(session.key)

    def _new_session(self, session_id: str) -> tuple[Session, Rotation]:
        """A session, and an exchange of its refresh token, whose text nobody has."""
        now = self._clock()
        ends = now + _LIFETIME
        first, second = (hash_of(secrets.token_urlsafe(32)) for _ in range(2))
        session = Session(
            tenant_id=self._scratch.tenant_id,
            id_hash=hash_of(session_id),
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
            idle_expires_at=ends,
            expires_at=ends,
        )
        return session, Rotation(first, second, 1, now, ends)

    def _real_standing(self) -> RevocationChecker:
        if self._parts is None:
            raise CheckFailedError(_NOT_STARTED)
        return RevocationChecker(
            self._parts.store,
            self._parts.users,
            idle_seconds=self._settings.session_idle_seconds,
            cache_seconds=0,
            clock=self._clock,
        )

    async def _is_admitted(self, headers: Headers, standing: RevocationChecker | None = None) -> None:
        principal = await self._scratch.admits(headers, standing=standing)
        right = (principal.subject, principal.scopes) == (VALIDATION_SUBJECT, frozenset(DEFAULT_SCOPES))
        agree(right, "it speaks for somebody else")

    async def _is_refused(self, token: str, what: str) -> None:
        await refused(self._scratch.admits(self._scratch.bearer(token)), what)


async def _left_to_the_host() -> None:
    raise NotConfiguredError("the application says who is calling (get_principal)")


async def _run(name: str, check: Check) -> CheckResult:
    began = perf_counter()
    status: Literal["ok", "failed", "not_configured"] = "failed"
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            detail = await check()
        status = "ok"
    except NotConfiguredError as error:
        status, detail = "not_configured", str(error)
    except CheckFailedError as error:
        detail = str(error)
    except ProjkitError as error:
        detail = error.detail
    except TimeoutError:
        detail = f"it took longer than {_CHECK_SECONDS:g} s"
    except Exception as error:  # one line says so, and all the others are still answered
        logger.exception("the validation of the authentication failed at %s", name)
        detail = f"{type(error).__name__}; the log has it"
    return CheckResult(name, status, round((perf_counter() - began) * 1000, 3), detail)
