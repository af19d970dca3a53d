"""The endpoint validation calls the endpoints, names the broken ones, and leaves nothing behind."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from projkit import Principal, ProjKit
from projkit.clock import utc_now
from projkit.db.postgresql import PostgresqlDatabase
from projkit.db.statement import Statement
from projkit.errors import DatabaseUnavailableError, UnauthenticatedError
from projkit.http import scope_keys
from projkit.http.disconnects import ClientDisconnectedError
from projkit.http.in_process import call_in_process, in_process_caller
from projkit.http.request import Request
from projkit.http.response import JSON_TYPE, Response
from projkit.identity import VALIDATION_SUBJECT
from projkit.monitoring.performance import HEALTH_TARGET_MS, TARGET_MS
from projkit.projects.idempotency import IdempotentCreation
from projkit.projects.routes import ProjectRoutes
from projkit.projects.schemas import ProjectInput
from projkit.projects.service import ProjectService
from projkit.testing import FakeClock
from projkit.testing.internals import Internals
from projkit.validation import endpoints as validation
from projkit.validation.cleanup import ValidationRows
from projkit.validation.endpoints import EndpointValidation
from projkit.validation.routes import EndpointReport
from projkit.validation.steps import Step, all_steps
from tests.auth.asgi_client import Answer, ask, bearer
from tests.conftest import Client, kit_in_mode, settings_for, token_for
from tests.db.conftest import RlsDatabase, rls_database, rls_template, role  # noqa: F401  # fixtures
from tests.validation.helpers import TABLES, by_name, count_rows, failed, recorded_metrics, validate

pytestmark = pytest.mark.anyio
URL: Final = "/api/v1/monitoring/validate/endpoints"
MARK: Final = f"{VALIDATION_SUBJECT}:a run"
LIFECYCLE: Final = [
    "create",
    "retry the creation",
    "read",
    "read if modified",
    "read as another user",
    "list",
    "patch",
    "patch an outdated version",
    "replace",
    "summarize",
    "archive",
    "unarchive",
    "delete",
    "read after deletion",
    "restore",
    "delete again",
]


@pytest.fixture
async def kit(sqlite_url: str) -> AsyncIterator[ProjKit]:
    """Open a kit on SQLite."""
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        yield kit


async def raising(*_: Any) -> Response:
    raise RuntimeError("a secret of the inside")


async def all_is_well(kit: ProjKit, url: str) -> Answer:
    """Validate a healthy kit and check the response."""
    before = await count_rows(url)
    answer = await validate(kit, "endpoints")
    assert failed(answer) == set(), answer
    assert answer.status == 200
    assert answer.json()["status"] in {"ok", "warning"}  # this does not test the speed of the machine
    assert await count_rows(url) == before
    assert [name for name in by_name(answer) if name in LIFECYCLE] == LIFECYCLE
    return answer


async def test_every_endpoint_is_really_called(any_database_url: str, any_database_mode: str) -> None:
    """Each step is one request with status, latency and target; rows of other owners are unchanged."""
    async with (
        kit_in_mode(any_database_mode, any_database_url) as kit,
        Client(kit, kit.settings) as alice,
    ):
        project = await alice.project(external_id="mine")
        answer = await all_is_well(kit, any_database_url)
        assert (await alice.get(f"/api/v1/projects/{project['id']}")).json() == project
    report = EndpointReport.model_validate_json(answer.body)
    assert report.duration_ms >= sum(each.latency_ms or 0 for each in report.endpoints)
    for each in report.endpoints:
        is_health = each.route.startswith("/api/v1/health")
        assert each.target_ms == (HEALTH_TARGET_MS if is_health else TARGET_MS)
        assert each.status_code == each.expected
        assert each.verdict == "ok" if (each.latency_ms or 0) <= each.target_ms else "slow"
    called = {(each.method, each.route) for each in report.endpoints}
    table = {
        (each.method, each.path)
        for each in Internals(kit).application.table.endpoints
        if each.tag in {"projects", "health"} and each.documented
    }
    assert table <= called
    assert {("GET", "/metrics"), ("GET", "/api/v1/auth/csrf"), ("GET", "/api/v1/auth/jwks")} <= called
    assert answer.header("cache-control") == "private, no-store"


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_claim": "org"},
        {"put_mode": "merge"},
        {"require_if_match": True},
        {"api_prefix": "/a/b/c", "metrics_path": "/x/metrics"},
        {"csrf_mode": "origin", "cookie_host_prefix": True},
    ],
)
async def test_whatever_is_set(sqlite_url: str, changes: dict[str, Any]) -> None:
    """It succeeds under settings that change what requests must contain."""
    kit = ProjKit(settings_for(sqlite_url, **changes))
    async with kit.lifespan():
        await all_is_well(kit, sqlite_url)


async def test_behind_row_level_security(rls_database: RlsDatabase) -> None:  # noqa: F811
    """With row-level security it sees and removes its own rows, in both modes and with a host's engine."""
    for mode in ("fast", "transactional"):
        kit = ProjKit(rls_database.settings(database_mode=mode))
        async with kit.lifespan():
            await all_is_well(kit, rls_database.admin_url)
    settings = rls_database.settings()
    engine = create_async_engine(settings.database_url)
    kit = ProjKit(settings, engine=engine)
    async with kit.lifespan():
        await all_is_well(kit, rls_database.admin_url)
    await engine.dispose()


def _calling(handler: Callable[[Request], Awaitable[Response]]) -> Any:
    """Wrap a handler in an ASGI application."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (await handler(Request(scope, receive))).send(send, head=False)

    return app


async def test_with_the_hosts_own_callers(sqlite_url: str) -> None:
    """A host that authenticates callers is not called for in-process requests."""
    asked = []

    def get_principal(scope: Any) -> Principal:
        asked.append(scope["path"])
        return Principal("olga", frozenset({"monitoring:read"}))

    # The health details call the host's function too.
    kit = ProjKit(settings_for(sqlite_url, health_details="authorized"), get_principal=get_principal)
    async with kit.lifespan():
        await all_is_well(kit, sqlite_url)
        running = Internals(kit).running

        async def whoami(request: Request) -> Response:
            return Response(200, (await running.authenticate(request)).subject.encode())

        with pytest.raises(UnauthenticatedError):
            await call_in_process(_calling(whoami), "GET", "/", caller=None)
    assert asked == [URL]


@pytest.mark.parametrize(
    ("handler", "wanted"),
    [
        ("create", {*LIFECYCLE, "create with an empty name"} - {"list", "summarize"}),
        ("get", {"read", "read if modified", "read as another user", "read after deletion"}),
        ("list", {"list"}),
        ("patch", {"patch", "patch an outdated version"}),
        ("put", {"replace"}),
        ("stats", {"summarize"}),
        ("archive", {"archive", "unarchive"}),
        ("unarchive", {"unarchive"}),
        ("delete", {"delete", "read after deletion", "restore", "delete again"}),
        ("restore", {"restore", "delete again"}),
    ],
)  # fmt: skip
async def test_a_broken_route_is_named(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, handler: str, wanted: set[str]
) -> None:
    """A handler that raises fails its own step and those that need it; all others are called."""
    monkeypatch.setattr(ProjectRoutes, handler, raising)
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        before = await count_rows(sqlite_url)
        answer = await validate(kit, "endpoints")
        assert await count_rows(sqlite_url) == before
    assert failed(answer) == wanted
    assert (answer.status, answer.json()["status"]) == (503, "error")
    assert int(answer.header("retry-after") or 0) > 0
    assert answer.header("content-type") == "application/json"
    assert b"secret of the inside" not in answer.body
    for name in failed(answer):
        each = by_name(answer)[name]
        if each["status_code"] is None:
            assert each["detail"].startswith("not called: the step ")
            assert each["latency_ms"] is None
        else:
            assert (each["status_code"], each["detail"]) == (500, "internal_error: Something went wrong")


async def empty(*_: Any) -> Response:
    return Response(200, b"{}", (JSON_TYPE, (b"etag", b'"1"')))


async def nothing(*_: Any) -> Response:
    return Response(204)


async def plain(*_: Any) -> Response:
    return Response(200, b"{}", ((b"content-type", b"text/plain"), (b"etag", b'"1"')))


async def gone(*_: Any) -> Response:
    raise ClientDisconnectedError


@pytest.mark.parametrize(
    ("handler", "how", "wanted"),
    [
        ("get", empty, "read"),
        ("get", plain, "read"),
        ("get", gone, "read"),
        ("list", empty, "list"),
        ("stats", empty, "summarize"),
        ("delete", nothing, "read after deletion"),
    ],
)
async def test_a_right_status_is_not_enough(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, handler: str, how: Any, wanted: str
) -> None:
    """A response with the right status and wrong content fails, and so does a deletion without effect."""
    monkeypatch.setattr(ProjectRoutes, handler, how)
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        before = await count_rows(sqlite_url)
        answer = await validate(kit, "endpoints")
        assert await count_rows(sqlite_url) == before
    assert answer.status == 503
    assert wanted in failed(answer)


async def test_writes_that_are_lost_are_seen(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATCH that stores nothing and a retry that creates a second project fail."""
    patch = ProjectRoutes.patch

    async def forgetful(self: ProjectRoutes, request: Request, raw: Any) -> Response:
        return await patch(self, request, {})

    async def twice(self: IdempotentCreation, principal: Principal, key: str, content: Any, raw: Any) -> Any:
        return await create(
            self, principal, f"{key}:{id(raw)}", content.model_copy(update={"external_id": None}), raw
        )

    create = IdempotentCreation.create
    monkeypatch.setattr(ProjectRoutes, "patch", forgetful)
    monkeypatch.setattr(IdempotentCreation, "create", twice)
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        answer = await validate(kit, "endpoints")
    assert {"create", "retry the creation"} <= failed(answer)
    assert "different from the written values: external_id" in by_name(answer)["create"]["detail"]


@pytest.mark.parametrize("table", ["projkit_projects", "projkit_idempotency_keys"])
async def test_a_table_that_is_gone(any_database_url: str, table: str) -> None:
    """Without a table, the validation reports what fails and that its rows may remain."""
    kit = ProjKit(settings_for(any_database_url))
    async with kit.lifespan():
        database = Internals(kit).running.database
        await database.write_one(Statement(sa.text(f"ALTER TABLE {table} RENAME TO gone")), {})
        answer = await validate(kit, "endpoints")
        await database.write_one(Statement(sa.text(f"ALTER TABLE gone RENAME TO {table}")), {})
    assert answer.status == 503
    assert "create" in failed(answer)
    assert not failed(answer) & {"call getLiveness", "read the public keys", "read the session"}
    assert answer.json()["detail"].startswith("its rows could not be removed")
    assert table.encode() not in answer.body


@pytest.mark.parametrize("step", ["create", "patch", "delete", "restore"])
async def test_a_kit_that_stops_meanwhile(
    any_database_url: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Stopping the kit cancels a run at any step, responds to the waiting request, and leaves no rows."""
    reached, handler = asyncio.Event(), getattr(ProjectRoutes, step)

    async def hanging(self: ProjectRoutes, *request: Any) -> Response:
        await handler(self, *request)
        reached.set()
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(ProjectRoutes, step, hanging)
    kit = ProjKit(settings_for(any_database_url))
    await kit.startup()
    before = await count_rows(any_database_url)
    asking = asyncio.create_task(validate(kit, "endpoints"))
    await asyncio.wait_for(reached.wait(), 10)
    assert await count_rows(any_database_url) != before
    await kit.shutdown()
    assert await count_rows(any_database_url) == before
    answer = await asking
    assert (answer.status, answer.code) == (503, "service_unavailable")


async def test_a_kit_that_stops_while_a_run_cleans_up(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kit that is stopped while a run removes its rows waits until they are removed."""
    cleaning, clear = asyncio.Event(), ValidationRows.remove

    async def slowly(self: ValidationRows, mark: str) -> None:
        cleaning.set()
        await asyncio.sleep(0.05)
        await clear(self, mark)

    monkeypatch.setattr(ValidationRows, "remove", slowly)
    kit = ProjKit(settings_for(sqlite_url))
    await kit.startup()
    before = await count_rows(sqlite_url)
    asking = asyncio.create_task(validate(kit, "endpoints"))
    await asyncio.wait_for(cleaning.wait(), 10)
    await kit.shutdown()
    assert await count_rows(sqlite_url) == before
    assert (await asking).status == 503


def only(names: list[str], **changes: Any) -> Callable[..., list[Step]]:
    """Return a replacement for all_steps with the steps of these names, changed."""
    original = all_steps

    def some(*given: Any) -> list[Step]:
        return [dataclasses.replace(each, **changes) for each in original(*given) if each.name in names]

    return some


async def test_requests_at_once_share_one_run(kit: ProjKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty concurrent requests share one run; cancelling one of them does not affect the others."""
    let_go, create, calls = asyncio.Event(), ProjectService.stats, []

    async def held(self: ProjectService, principal: Principal) -> Any:
        calls.append(principal)
        await let_go.wait()
        return await create(self, principal)

    monkeypatch.setattr(ProjectService, "stats", held)
    asking = [asyncio.create_task(validate(kit, "endpoints")) for _ in range(20)]
    while not calls:
        await asyncio.sleep(0.001)
    asking[0].cancel()  # the one whose request started the run
    await asyncio.sleep(0)
    let_go.set()
    answers = await asyncio.gather(*asking[1:])
    assert len({answer.body for answer in answers}) == 1
    assert {answer.status for answer in answers} == {200}
    assert len(calls) == 1
    again = await validate(kit, "endpoints")
    assert again.json()["started_at"] > answers[0].json()["started_at"]


async def test_what_a_killed_run_left_goes_and_nothing_else(any_database_url: str) -> None:
    """A run removes marked rows older than ten minutes; newer, unmarked and other owners' rows remain."""
    clock = FakeClock()
    kit = ProjKit(settings_for(any_database_url), clock=clock)
    probe, other = Principal(VALIDATION_SUBJECT), Principal("alice")
    async with kit.lifespan():
        database = Internals(kit).running.database

        async def left(mark: str) -> None:
            creation = Internals(kit).running.idempotent_creation
            for name in ("live", "deleted"):
                content = ProjectInput(name=name, external_id=f"{mark}:{name}")
                made = await creation.create(probe, f"{mark}:{name}", content, name)
                if name == "deleted":
                    await kit.projects.delete(probe, made.id)

        empty = await count_rows(any_database_url)
        await left(f"{MARK}:old")
        await kit.projects.create(probe, name="its key was purged", external_id=f"{MARK}:purged")
        old = await count_rows(any_database_url)
        assert (old["projkit_projects"], old["projkit_idempotency_keys"]) == (3, 2)
        await kit.projects.create(probe, name="unmarked")
        await kit.projects.create(probe, name="marked otherwise", external_id=f"{VALIDATION_SUBJECT}-else:1")
        await kit.projects.create(other, name="somebody else's", external_id=f"{MARK}:old:live")
        clock.advance(minutes=9)
        await left(f"{MARK}:young")
        everything = await count_rows(any_database_url)
        await ValidationRows(database, TABLES, clock=clock).remove(MARK)
        assert await count_rows(any_database_url) == everything
        clock.advance(minutes=2)
        assert (await validate(kit, "endpoints")).status == 200
        now = await count_rows(any_database_url)
        assert now == {**empty, "projkit_projects": 3 + 2, "projkit_idempotency_keys": 2}
        assert (await kit.projects.list(other)).items[0].name == "somebody else's"


async def test_a_creation_that_is_being_committed(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cleanup waits for a cancelled creation that the server may still commit, and removes its row too."""
    kit = ProjKit(settings_for(postgres_url))
    stored, commits = asyncio.Event(), asyncio.Event()
    remembering = PostgresqlDatabase.run_in_transaction

    async def slow_to_commit(self: PostgresqlDatabase, work: Any) -> Any:
        async def slowly(transaction: Any) -> Any:
            done = await work(transaction)
            stored.set()
            await commits.wait()
            return done

        monkeypatch.undo()
        return await remembering(self, slowly)

    async with kit.lifespan():
        running = Internals(kit).running
        before = await count_rows(postgres_url)
        monkeypatch.setattr(PostgresqlDatabase, "run_in_transaction", slow_to_commit)
        content = ProjectInput(name="A", external_id=MARK)
        creating = asyncio.create_task(
            running.idempotent_creation.create(Principal(VALIDATION_SUBJECT), MARK, content, "A")
        )
        await stored.wait()
        clearing = asyncio.create_task(ValidationRows(running.database, TABLES, clock=utc_now).remove(MARK))
        done, _ = await asyncio.wait({clearing}, timeout=0.2)
        assert not done
        commits.set()
        await creating
        await clearing
        assert await count_rows(postgres_url) == before


async def test_nothing_is_counted(kit: ProjKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls appear in no request metric and no log, and their statements are not attributed to the request."""
    monkeypatch.setattr(
        validation, "all_steps", only([*LIFECYCLE, "create with an empty name", "scrape the metrics"])
    )
    await validate(kit, "endpoints")
    before = recorded_metrics(kit.registry)
    answer = await validate(kit, "endpoints")
    now = recorded_metrics(kit.registry)
    bearer_itself = (
        "projkit_auth_credentials_total",
        ("format", "enhanced"),
        ("outcome", "accepted"),
        ("transport", "bearer"),
    )
    assert now[bearer_itself] == before[bearer_itself] + 1
    changed = {name for name in now if now[name] != before.get(name, 0.0)}
    assert not [name for name in changed if "projects" in str(name)]
    assert changed <= {bearer_itself, *(name for name in changed if "validate" in str(name))}
    timing = answer.header("server-timing") or ""
    database = float(timing.partition("db;dur=")[2] or 0)
    assert database < sum(each["latency_ms"] for each in by_name(answer).values()) / 2


async def test_a_missed_target_is_a_warning(kit: ProjKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Correct responses that miss their target are `slow`; the report is still a 200."""
    monkeypatch.setattr(validation, "all_steps", only(["list", "create"], target_ms=0.0))
    answer = await validate(kit, "endpoints")
    assert (answer.status, answer.json()["status"]) == (200, "warning")
    assert {each["verdict"] for each in by_name(answer).values()} == {"slow"}
    assert by_name(answer)["list"]["detail"] == "slower than 0 ms"


async def test_a_first_slow_read_is_asked_again(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow GET is measured a second time; writes are never repeated."""
    asked: list[str] = []
    for name in ("list", "archive"):
        handler = getattr(ProjectRoutes, name)

        async def slow_at_first(
            self: ProjectRoutes, request: Request, *, name: str = name, handler: Any = handler
        ) -> Any:
            asked.append(name)
            if asked.count(name) == 1:
                await asyncio.sleep(0.2)
            return await handler(self, request)

        monkeypatch.setattr(ProjectRoutes, name, slow_at_first)
    monkeypatch.setattr(validation, "all_steps", only(["create", "list", "archive"], target_ms=150.0))
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        answer = await validate(kit, "endpoints")
    assert asked == ["list", "list", "archive"]
    assert by_name(answer)["archive"]["verdict"] == "slow"


async def test_it_ends_in_bounded_time(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that does not end times out, and so do all remaining steps at the end of the run's time limit."""

    async def endless(*_: Any) -> Response:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(ProjectRoutes, "list", endless)
    monkeypatch.setattr(ProjectRoutes, "stats", endless)
    few = ["create", "list", "summarize", "archive", "unarchive"]
    monkeypatch.setattr(validation, "all_steps", only(few))
    kit = ProjKit(settings_for(sqlite_url))
    async with kit.lifespan():
        app = Internals(kit).application.for_in_process_calls(in_process_caller)
        clear = ValidationRows(Internals(kit).running.database, TABLES, clock=utc_now)
        before = await count_rows(sqlite_url)
        run = EndpointValidation(app, kit.settings, clear, run_seconds=1.5, step_seconds=0.9)
        results = await asyncio.wait_for(run.run(), 10)
        assert await count_rows(sqlite_url) == before
    details = {each.name: each.detail or "" for _, each in results.steps if each.status == "failed"}
    assert details["list"] == "timed out after 0.9 s"
    assert details["summarize"].startswith("timed out after")
    assert details["archive"] == "timed out: the whole run is limited to 1.5 s"
    assert details["unarchive"].startswith("not called")
    assert results.status == "error"


async def test_rows_that_cannot_be_removed_are_told_of(kit: ProjKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """If only the cleanup fails, the report is a warning with that detail."""

    async def failing(self: ValidationRows, mark: str) -> None:
        raise DatabaseUnavailableError

    monkeypatch.setattr(ValidationRows, "remove", failing)
    answer = await validate(kit, "endpoints")
    assert (answer.status, answer.json()["status"]) == (200, "warning")
    assert "could not be removed" in answer.json()["detail"]


@pytest.mark.parametrize("what", ["endpoints", "authentication"])
async def test_who_may_ask(sqlite_url: str, what: str) -> None:
    """Callers need the scope, except loopback clients in development without a proxy."""
    url = f"/api/v1/monitoring/validate/{what}"
    for env in ("development", "production"):
        kit = ProjKit(settings_for(sqlite_url, env=env))
        async with kit.lifespan():
            local = await ask(kit, "GET", url, address="127.0.0.1")
            assert local.status == (200 if env == "development" else 401)
            passed_on = await ask(kit, "GET", url, [("x-forwarded-for", "203.0.113.9")], address="127.0.0.1")
            assert passed_on.status == (await ask(kit, "GET", url)).status == 401
            for scopes, status in ((("projects:read",), 403), (("metrics:read",), 403), (("admin",), 200)):
                token = token_for(kit.settings, "somebody", scopes)
                assert (await ask(kit, "GET", url, [bearer(token)])).status == status


async def test_where_the_kit_cannot_start(tmp_path: Any) -> None:
    """A kit without its database reports which endpoints fail and which still succeed."""
    kit = ProjKit(settings_for(f"sqlite:///{tmp_path / 'no' / 'such.db'}"))
    answer = await ask(kit, "GET", URL, address="127.0.0.1")
    assert answer.status == 503
    assert answer.json()["status"] == "error"
    assert {"create", "read the public keys"} <= failed(answer)
    assert not failed(answer) & {"call getLiveness", "read the OpenAPI document", "scrape the metrics"}
    await kit.shutdown()


async def test_the_probe_cannot_be_reached(kit: ProjKit) -> None:
    """A client cannot set the caller of an in-process request."""
    answer = await ask(kit, "GET", "/api/v1/projects", [(scope_keys.IN_PROCESS_CALLER, VALIDATION_SUBJECT)])
    assert answer.status == 401
