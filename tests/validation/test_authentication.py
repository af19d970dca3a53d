"""The authentication validation issues, verifies and revokes credentials, names what fails, and leaves nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

from projkit import NOT_MINE, NotMine, Principal, ProjKit
from projkit.auth import jws
from projkit.auth.authenticator import Authenticator
from projkit.auth.credentials import CredentialReader
from projkit.auth.csrf import CsrfGuard
from projkit.auth.keys import SigningKey
from projkit.auth.legacy import LegacyProfile
from projkit.auth.sessions.database import DatabaseSessions
from projkit.auth.tokens import TokenVerifier
from projkit.auth.users import RevocationStatus, Users
from projkit.errors import DatabaseUnavailableError, InvalidTokenError, SessionStoreUnavailableError
from projkit.testing.internals import Internals
from projkit.validation.authentication import CredentialChecks
from projkit.validation.ephemeral import EphemeralCredentials
from projkit.validation.routes import AuthenticationReport
from tests.auth import forge
from tests.auth.asgi_client import ask, bearer, cookie, refuses
from tests.conftest import kit_in_mode, settings_for
from tests.redis_servers import Redises, alone, running
from tests.validation.helpers import by_name, count_rows, failed, recorded_metrics, validate

pytestmark = pytest.mark.anyio
URL: Final = "/api/v1/monitoring/validate/authentication"
CREDENTIALS: Final = [
    "bearer", "auth_token", "access_token", "csrf", "rejects_expired", "rejects_tampered", "rejects_alg_none",
    "rejects_wrong_audience", "rejects_foreign_key", "revocation", "session",
]  # fmt: skip
LEGACY: Final[dict[str, Any]] = {"legacy_secret": forge.LEGACY_SECRET}


@pytest.fixture
async def kit(sqlite_url: str) -> AsyncIterator[ProjKit]:
    """Open a kit on SQLite that accepts legacy tokens."""
    kit = ProjKit(settings_for(sqlite_url, **LEGACY))
    async with kit.lifespan():
        yield kit


async def test_everything_is_really_tried(any_database_url: str, any_database_mode: str) -> None:
    """Each kind of credential, each key, a session and CSRF tokens are tested; no row and no metric shows it."""
    async with kit_in_mode(any_database_mode, any_database_url, **LEGACY) as kit:
        before, series = await count_rows(any_database_url), recorded_metrics(kit.registry)
        answer = await ask(kit, "GET", URL, address="127.0.0.1")
        assert await count_rows(any_database_url) == before
        assert recorded_metrics(kit.registry) == series
    assert answer.status == 200
    report = AuthenticationReport.model_validate_json(answer.body)
    assert [each.name for each in report.checks] == ["keys", "key:secret", *CREDENTIALS]
    assert {each.status for each in report.checks} == {"ok"}
    assert report.duration_ms >= sum(each.latency_ms for each in report.checks)
    assert answer.header("cache-control") == "private, no-store"
    assert by_name(answer)["session"]["detail"] == "stored in the database"


async def test_sessions_in_redis(sqlite_url: str, redis_alone: Redises) -> None:
    """With sessions in Redis, the ephemeral one is stored there and removed afterwards."""
    prefix = f"{uuid4().hex}:"
    kit = ProjKit(settings_for(sqlite_url, redis_url=redis_alone.url, redis_prefix=prefix))
    async with kit.lifespan():
        answer = await validate(kit, "authentication")
    assert (answer.status, failed(answer)) == (200, set())
    assert by_name(answer)["session"]["detail"] == "stored in Redis"
    left = redis_alone.everything(prefix)
    assert not [line for line in left.splitlines() if ":health" not in line]  # written by the health check


@pytest.mark.parametrize(
    ("changes", "silent"),
    [
        ({}, {"access_token": "PROJKIT_LEGACY_SECRET is not set"}),
        (
            {**LEGACY, "legacy_sunset": datetime(2026, 1, 1, tzinfo=UTC)},
            {"access_token": "PROJKIT_LEGACY_SUNSET has passed: legacy tokens are rejected"},
        ),
        ({**LEGACY, "tenant_claim": "org", "cookie_host_prefix": True, "csrf_header_name": "X-Other"}, {}),
    ],
)
async def test_whatever_is_set(sqlite_url: str, changes: dict[str, Any], silent: dict[str, str]) -> None:
    """Features that are not configured are reported as such; tenants and cookie names follow the settings."""
    kit = ProjKit(settings_for(sqlite_url, **changes))
    async with kit.lifespan():
        answer = await validate(kit, "authentication")
    assert answer.status == 200
    said = {
        name: each["detail"] for name, each in by_name(answer).items() if each["status"] == "not_configured"
    }
    assert said == silent


async def test_csrf_by_origin_alone(sqlite_url: str) -> None:
    """With CSRF_MODE=origin the check says that no token is required, and tests the other two rules."""
    kit = ProjKit(settings_for(sqlite_url, csrf_mode="origin"))
    async with kit.lifespan():
        answer = await validate(kit, "authentication")
    assert by_name(answer)["csrf"]["status"] == "ok"
    assert "PROJKIT_CSRF_MODE=origin" in by_name(answer)["csrf"]["detail"]


async def test_what_is_left_to_the_host(sqlite_url: str) -> None:
    """If the host authenticates callers or checks CSRF tokens, those checks do not apply; those of keys do."""

    async def check(_: Any) -> bool:
        raise AssertionError("the host must not be called for in-process requests")

    kit = ProjKit(settings_for(sqlite_url), csrf_check=check)
    async with kit.lifespan():
        answer = await validate(kit, "authentication")
    assert (answer.status, by_name(answer)["csrf"]["status"]) == (200, "not_configured")

    olga = Principal("olga", frozenset({"admin"}))
    kit = ProjKit(settings_for(sqlite_url), get_principal=lambda _: olga)
    async with kit.lifespan():
        before = await count_rows(sqlite_url)
        answer = await ask(kit, "GET", URL)
        assert await count_rows(sqlite_url) == before
    assert answer.status == 200
    states = {name: each["status"] for name, each in by_name(answer).items()}
    assert states == {"keys": "ok", "key:secret": "ok", **dict.fromkeys(CREDENTIALS, "not_configured")}


async def test_what_the_host_passes_on(sqlite_url: str) -> None:
    """Once the host has passed a request on with NOT_MINE, the kit's credentials are in use, and are tested."""
    olga = Principal("olga", frozenset({"admin"}))

    def get_principal(scope: Any) -> Principal | NotMine:
        return olga if dict(scope["headers"]).get(b"x-user") == b"olga" else NOT_MINE

    kit = ProjKit(settings_for(sqlite_url), get_principal=get_principal)
    async with kit.lifespan():
        states = []
        for _ in range(2):
            answer = await ask(kit, "GET", URL, [("x-user", "olga")])
            states.append(by_name(answer)["csrf"]["status"])
            assert (await ask(kit, "GET", "/api/v1/projects")).status == 401
    assert states == ["not_configured", "ok"]


async def test_each_key_is_used(sqlite_url: str, tmp_path: Path) -> None:
    """Each key signs and verifies with its algorithm; one without a private part is reported as verifying only."""
    path = forge.write_keys(
        tmp_path / "keys.json",
        forge.private("EdDSA-expired", exp=1_700_000_000),
        forge.public("RS256-public"),
        forge.public("EdDSA-public"),
        *(forge.private(algorithm) for algorithm in forge.ALGORITHMS),
    )
    kit = ProjKit(settings_for(sqlite_url, secret=None, keys_file=path))
    async with kit.lifespan():
        answer = await ask(kit, "GET", URL, address="127.0.0.1")
    said = {name: each["detail"] for name, each in by_name(answer).items() if name.startswith("key:")}
    only = "{}, verifies only: the private part is not configured"
    assert said == {
        "key:RS256-public": only.format("RS256"),
        "key:EdDSA-public": only.format("EdDSA"),
        **{f"key:{algorithm}": algorithm for algorithm in forge.ALGORITHMS},
    }
    assert failed(answer) == set()
    assert by_name(answer)["keys"]["detail"] == f"6 in {path}; EdDSA signs with EdDSA"


def removed(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_text('{"keys": []}')


def garbled(path: Path) -> None:
    path.write_text("{CANARY")


def secretive(path: Path) -> None:
    path.write_text(json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "CANARY", "d": "CANARY"}]}))


def replaced_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (removed, "is missing"),
        (emptied, "is not a usable JWK Set"),
        (garbled, "is not a usable JWK Set"),
        (secretive, "is not a usable JWK Set"),
        (replaced_by_a_directory, "cannot be read"),
    ],
)
async def test_a_keys_file_that_is_gone_or_broken(
    sqlite_url: str, tmp_path: Path, harm: Callable[[Path], None], says: str
) -> None:
    """The kit keeps its keys, and the validation reports that the next start would fail."""
    path = forge.write_keys(tmp_path / "keys.json", forge.private("EdDSA"))
    kit = ProjKit(settings_for(sqlite_url, secret=None, keys_file=path))
    async with kit.lifespan():
        harm(path)
        answer = await ask(kit, "GET", URL, address="127.0.0.1")
    assert answer.status == 503
    assert int(answer.header("retry-after") or 0) > 0
    assert failed(answer) == {"keys"}
    assert says in by_name(answer)["keys"]["detail"]
    assert b"CANARY" not in answer.body


async def test_a_development_key_is_not_made_anew(tmp_path: Path, sqlite_url: str) -> None:
    """In development too, a missing key file is reported and not silently replaced."""
    kit = ProjKit(settings_for(sqlite_url, secret=None))
    path = tmp_path / "projkit-keys.json"
    async with kit.lifespan():
        path.unlink()
        answer = await ask(kit, "GET", URL, address="127.0.0.1")
        assert failed(answer) == {"keys"}
        assert not path.exists()


async def test_a_key_that_was_taken_out(sqlite_url: str, tmp_path: Path) -> None:
    """A key that was removed from the file is reported until the process ends: tokens signed with it are rejected."""
    path = forge.write_keys(tmp_path / "keys.json", forge.private("ES256"), forge.private("EdDSA"))
    kit = ProjKit(settings_for(sqlite_url, secret=None, keys_file=path))
    async with kit.lifespan():
        ring = Internals(kit).running.auth.keys
        forge.write_keys(path, forge.private("EdDSA"))
        ring.check_file()
        refuses(await ask(kit, "GET", "/api/v1/auth/session", [bearer(forge.token(kid="ES256"))]))
        checks = by_name(await ask(kit, "GET", URL, address="127.0.0.1"))
        assert checks["key:ES256"]["status"] == "not_configured"
        assert "tokens signed with it are rejected" in checks["key:ES256"]["detail"]
        assert checks["key:EdDSA"]["status"] == "ok"
        forge.write_keys(path, forge.private("ES256"), forge.private("EdDSA"))
        ring.check_file()
        checks = by_name(await ask(kit, "GET", URL, address="127.0.0.1"))
        assert checks["key:ES256"]["status"] == "ok"


async def test_a_key_that_cannot_sign_any_more(kit: ProjKit) -> None:
    """The check of a key in memory that does not verify its own signature fails."""
    ring = Internals(kit).running.auth.keys
    (key,) = ring.current.keys
    other = forge.key("EdDSA")
    ring.current.keys = (SigningKey("mixed up", "HS256", other, key.root), key)
    answer = await ask(kit, "GET", URL, address="127.0.0.1")
    assert failed(answer) == {"key:mixed up"}


async def accept(*_: Any) -> None:
    """Accept anything."""


def blind(*_: Any) -> None:
    """Find nothing wrong."""


async def revoke_nothing(*_: Any) -> bool:
    return True


async def know_nothing(*_: Any) -> None:
    return None


async def shut_out(*_: Any) -> RevocationStatus:
    return RevocationStatus(disabled=True, valid_after=None, revoked=False)


def refuse(*_: Any) -> None:
    raise InvalidTokenError


def somebody_else(self: TokenVerifier, claims: dict[str, Any]) -> Principal:
    return Principal("mallory")


@pytest.mark.parametrize(
    ("where", "name", "broken", "wanted"),
    [
        (
            jws,
            "verify",
            blind,
            {"rejects_tampered", "rejects_alg_none", "rejects_foreign_key", "access_token"},
        ),
        (CsrfGuard, "check", accept, {"csrf"}),
        (CsrfGuard, "check_origin", blind, {"csrf"}),
        (CsrfGuard, "check_content_type", blind, {"csrf"}),
        (CsrfGuard, "_check_token", blind, {"csrf"}),
        (Authenticator, "guard", accept, {"csrf"}),
        (DatabaseSessions, "revoke", revoke_nothing, {"session"}),
        (DatabaseSessions, "get", know_nothing, {"session"}),
        (DatabaseSessions, "rotate", revoke_nothing, {"session"}),
        (Users, "revocation_status", shut_out, {"revocation"}),
        (LegacyProfile, "verify", refuse, {"access_token"}),
        (LegacyProfile, "_verify_signature", blind, {"access_token"}),
        (
            TokenVerifier,
            "_principal",
            somebody_else,
            {"bearer", "auth_token", "csrf", "revocation", "session"},
        ),
    ],
)
async def test_what_is_broken_is_named(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, broken: Any, wanted: set[str]
) -> None:
    """A broken part fails the checks that cover it and no others."""
    kit = ProjKit(settings_for(sqlite_url, **LEGACY))
    async with kit.lifespan():
        monkeypatch.setattr(where, name, broken)
        answer = await ask(kit, "GET", URL, address="127.0.0.1")
    assert failed(answer) == wanted, answer
    assert (answer.status, answer.json()["status"]) == (503, "error")


@pytest.mark.parametrize(
    ("claim", "wanted"), [("exp", {"rejects_expired"}), ("aud", {"rejects_wrong_audience"})]
)
async def test_a_verifier_that_skips_a_claim(
    kit: ProjKit, monkeypatch: pytest.MonkeyPatch, claim: str, wanted: set[str]
) -> None:
    """A verifier that no longer checks a claim fails its check."""
    make = TokenVerifier.__init__

    def lenient(self: TokenVerifier, *given: Any, **named: Any) -> None:
        make(self, *given, **named)
        self._registry.options.pop(claim)
        if claim == "exp":
            monkeypatch.setattr(self._registry, "validate_exp", blind)

    monkeypatch.setattr(TokenVerifier, "__init__", lenient)
    answer = await ask(kit, "GET", URL, address="127.0.0.1")
    assert failed(answer) == wanted


async def test_stores_that_do_not_answer(kit: ProjKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database or store that does not respond fails the checks that use it; all others complete."""

    async def silent(*_: Any) -> None:
        raise DatabaseUnavailableError

    async def crashing(*_: Any) -> None:
        raise RuntimeError("CANARY")

    monkeypatch.setattr(Users, "revocation_status", silent)
    monkeypatch.setattr(DatabaseSessions, "create", crashing)
    answer = await ask(kit, "GET", URL, address="127.0.0.1")
    assert failed(answer) == {"revocation", "session"}
    assert by_name(answer)["revocation"]["detail"] == DatabaseUnavailableError.title
    assert by_name(answer)["session"]["detail"] == "RuntimeError; the log has the traceback"
    assert b"CANARY" not in answer.body


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_redis_that_is_gone(sqlite_url: str) -> None:
    """With Redis stopped, only the session check fails."""
    with running(alone) as servers:
        kit = ProjKit(settings_for(sqlite_url, redis_url=servers.url))
        async with kit.lifespan():
            assert (await validate(kit, "authentication")).status == 200
            servers.masters[0].kill()
            answer = await asyncio.wait_for(validate(kit, "authentication"), 30)
    assert (answer.status, failed(answer)) == (503, {"session"})
    assert by_name(answer)["session"]["detail"] == SessionStoreUnavailableError.title


async def test_a_session_ends_with_a_run_that_is_cancelled(
    any_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is stopped between creating and revoking its session still removes it."""
    opened, create = asyncio.Event(), DatabaseSessions.create

    async def hanging(self: DatabaseSessions, session: Any) -> None:
        await create(self, session)
        opened.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(DatabaseSessions, "create", hanging)
    monkeypatch.setattr("projkit.validation.authentication._CLEANUP_SECONDS", 0.3)
    kit = ProjKit(settings_for(any_database_url))
    await kit.startup()
    before = await count_rows(any_database_url)
    asking = asyncio.create_task(ask(kit, "GET", URL, address="127.0.0.1"))
    await asyncio.wait_for(opened.wait(), 10)
    assert (await count_rows(any_database_url))["projkit_sessions"] == 1
    await kit.shutdown()
    assert await count_rows(any_database_url) == before
    assert (await asking).status == 503


async def test_scratch_credentials_are_good_nowhere(kit: ProjKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ephemeral credentials are rejected by every entry point of the kit, even while their session exists."""
    taken: list[tuple[EphemeralCredentials, str]] = []
    token = EphemeralCredentials.token

    def keeping(self: EphemeralCredentials, *, session_id: str | None = None, **options: Any) -> str:
        made = token(self, session_id=session_id, **options)
        taken.append((self, made))
        return made

    answers = []
    create = DatabaseSessions.create

    async def meanwhile(self: DatabaseSessions, session: Any) -> None:
        await create(self, session)
        for _, made in taken:
            sent = (bearer(made), cookie(auth_token=made), cookie(access_token=made))
            answers.extend([await ask(kit, "GET", "/api/v1/projects", [each]) for each in sent])
        legacy = bearer(taken[0][0].legacy_token())
        answers.append(await ask(kit, "GET", "/api/v1/projects", [legacy]))

    monkeypatch.setattr(EphemeralCredentials, "token", keeping)
    monkeypatch.setattr(DatabaseSessions, "create", meanwhile)
    answer = await ask(kit, "GET", URL, address="127.0.0.1")
    assert answer.status == 200
    assert len(answers) > 10
    for each in answers:
        refuses(each)
    for _, made in taken:
        assert made.encode() not in answer.body


async def test_requests_at_once_share_one_run(kit: ProjKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty concurrent requests share one run."""
    runs, every = [], CredentialChecks.all

    def counting(self: CredentialChecks) -> Any:
        runs.append(self)
        return every(self)

    monkeypatch.setattr(CredentialChecks, "all", counting)
    answers = await asyncio.gather(*(ask(kit, "GET", URL, address="127.0.0.1") for _ in range(20)))
    assert len({answer.body for answer in answers}) == 1
    assert len(runs) == 1


@pytest.mark.parametrize("which", ["endpoints", "authentication"])
async def test_the_first_request_of_all(sqlite_url: str, which: str) -> None:
    """Without a lifespan, a validation starts the kit like any other request."""
    kit = ProjKit(settings_for(sqlite_url))
    answer = await validate(kit, which)
    await kit.shutdown()
    assert (answer.status, failed(answer)) == (200, set())


async def test_where_the_kit_cannot_start(tmp_path: Path) -> None:
    """A kit without its database reports which checks fail and which still succeed."""
    kit = ProjKit(settings_for(f"sqlite:///{tmp_path / 'no' / 'such.db'}"))
    answer = await ask(kit, "GET", URL, address="127.0.0.1")
    assert answer.status == 503
    assert failed(answer) == {"rejects_foreign_key", "revocation", "session"}
    assert by_name(answer)["session"]["detail"] == "the kit has not started; its log gives the reason"


async def test_where_the_keys_cannot_be_read_at_all(sqlite_url: str, tmp_path: Path) -> None:
    """A kit that cannot start because of its keys names their file."""
    path = tmp_path / "keys.json"
    path.write_text("{}")
    kit = ProjKit(settings_for(sqlite_url, secret=None, keys_file=path))
    answer = await ask(kit, "GET", URL, address="127.0.0.1")
    assert {"keys", "session"} <= failed(answer)
    assert str(path) in by_name(answer)["keys"]["detail"]


async def test_the_reader_is_the_real_one(kit: ProjKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a transport is no longer read, the checks of its credentials fail."""

    def read_nothing(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(CredentialReader, "_cookies", read_nothing)
    answer = await ask(kit, "GET", URL, address="127.0.0.1")
    assert failed(answer) == {"auth_token", "access_token", "csrf"}
