"""Authorization on every route of the live table: a route that is missing here fails the suite."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import pytest
from uuid_utils import uuid7

from projkit import ProjKit
from projkit.auth.session_service import Client
from projkit.http.routing import Endpoint
from projkit.testing.internals import Internals
from tests.auth import forge
from tests.auth.asgi_client import Answer, Header, ask, bearer
from tests.auth.conftest import OpenKit
from tests.auth.users import AUTH, PROJECTS, auth_services

pytestmark = pytest.mark.anyio

# The resource of a route: one project or session, which its path names; the caller's own data; public; or the
# operator's.
Kind = Literal["project", "session", "own", "public", "operator"]


@dataclass(frozen=True)
class Rule:
    """A route's resource, and the expected response to an authorized caller: a status, or a later error's code."""

    kind: Kind
    good: int | str
    json: Any = None
    state: Literal["live", "deleted"] = "live"


RULES: Final[dict[str, Rule]] = {
    "POST /api/v1/projects": Rule("own", 201, {"name": "A"}),
    "GET /api/v1/projects": Rule("own", 200),
    "GET /api/v1/projects/stats/summary": Rule("own", 200),
    "GET /api/v1/projects/{project_id}": Rule("project", 200),
    "PUT /api/v1/projects/{project_id}": Rule("project", 200, {"name": "B"}),
    "PATCH /api/v1/projects/{project_id}": Rule("project", 200, {"name": "C"}),
    "DELETE /api/v1/projects/{project_id}": Rule("project", 204),
    "POST /api/v1/projects/{project_id}/restore": Rule("project", 200, state="deleted"),
    "POST /api/v1/projects/{project_id}/archive": Rule("project", 200),
    "POST /api/v1/projects/{project_id}/unarchive": Rule("project", 200),
    "POST /api/v1/auth/logout-all": Rule("own", 204),
    "POST /api/v1/auth/password": Rule(
        "own", "invalid_credentials", {"old_password": "x", "new_password": "a better one"}
    ),
    "GET /api/v1/auth/session": Rule("own", 200),
    "GET /api/v1/auth/sessions": Rule("own", 200),
    "DELETE /api/v1/auth/sessions/{session_id}": Rule("session", 204),
    "GET /api/v1/auth/csrf": Rule("own", 200),
    "GET /metrics": Rule("operator", 200),
    "GET /api/v1/monitoring/metrics/performance": Rule("operator", 200),
    "GET /api/v1/monitoring/metrics/database": Rule("operator", 200),
    "GET /api/v1/monitoring/system/info": Rule("operator", 200),
    "GET /api/v1/monitoring/validate/endpoints": Rule("operator", 200),
    "GET /api/v1/monitoring/validate/authentication": Rule("operator", 200),
    "GET /api/v1/monitoring/validate/request": Rule("public", "not_found"),
    "POST /api/v1/auth/login": Rule("public", "invalid_credentials", {"username": "nobody", "password": "x"}),
    "POST /api/v1/auth/refresh": Rule("public", "invalid_refresh_token", {"refresh_token": "x"}),
    "POST /api/v1/auth/logout": Rule("public", "missing_credentials"),
    "POST /api/v1/auth/register": Rule("public", 422, {}),
    "GET /api/v1/auth/oidc/{provider}/login": Rule("public", "provider_unavailable"),
    "GET /api/v1/auth/oidc/{provider}/callback": Rule("public", "login_failed"),
    "GET /api/v1/auth/jwks": Rule("public", 200),
    "GET /.well-known/jwks.json": Rule("public", 200),
    "GET /api/v1/health": Rule("public", 200),
    "GET /api/v1/health/live": Rule("public", 200),
    "GET /api/v1/health/ready": Rule("public", 200),
    "GET /api/v1/health/detailed": Rule("public", 200),
    "GET /livez": Rule("public", 200),
    "GET /readyz": Rule("public", 200),
    "GET /api/v1/openapi.json": Rule("public", 200),
    "GET /api/v1/docs": Rule("public", 200),
    "GET /api/v1/docs/swagger-ui-bundle.js": Rule("public", 200),
    "GET /api/v1/docs/swagger-ui.css": Rule("public", 200),
    "GET /api/v1/docs/favicon-32x32.png": Rule("public", 200),
    "GET /api/v1/docs/docs.js": Rule("public", 200),
    "GET /api/v1/docs/docs.css": Rule("public", 200),
    "GET /api/v1/monitoring": Rule("public", 200),
    "GET /api/v1/monitoring/assets/status.js": Rule("public", 200),
    "GET /api/v1/monitoring/assets/access.js": Rule("public", 200),
    "GET /api/v1/monitoring/assets/targets.js": Rule("public", 200),
    "GET /api/v1/monitoring/assets/verdict.js": Rule("public", 200),
    "GET /api/v1/monitoring/assets/panels.js": Rule("public", 200),
    "GET /api/v1/monitoring/assets/endpoints.js": Rule("public", 200),
    "GET /api/v1/monitoring/assets/chart.js": Rule("public", 200),
    "GET /api/v1/monitoring/assets/dom.js": Rule("public", 200),
    "GET /api/v1/monitoring/assets/status.css": Rule("public", 200),
    "GET /api/v1/monitoring/assets/status.svg": Rule("public", 200),
}
# Nothing listens there: the way to the provider ends at once.
PROVIDER: Final = {"issuer": "http://127.0.0.1:9", "client_id": "projkit"}
EVERYTHING_ON: Final[dict[str, Any]] = {
    "registration": "open", "legacy_secret": forge.LEGACY_SECRET, "public_url": "http://127.0.0.1",
    "oidc_providers": {"acme": PROVIDER}, "health_root_paths": True,
}  # fmt: skip
BOTH: Final = ("projects:read", "projects:write")
CALLERS: Final = ("nobody", "owner", "other", "read-only", "admin", "expired", "legacy")


def endpoints(kit: ProjKit) -> Iterator[tuple[Endpoint, Rule]]:
    """Each endpoint of the live table with its rule."""
    for endpoint in Internals(kit).application.table.endpoints:
        yield endpoint, RULES[f"{endpoint.method} {endpoint.path}"]


def credentials(kit: ProjKit, caller: str, owner: str) -> list[Header]:
    """Return the headers of a caller; ``owner`` is the subject whose resources are requested."""
    issuer, settings = auth_services(kit).issuer, kit.settings
    if caller == "nobody":
        return []
    if caller == "legacy":
        return [bearer(forge.legacy(sub=owner, scope="admin"))]
    if caller == "expired":
        payload = forge.claims(sub=owner, scope="admin", exp=1)
        assert settings.secret is not None
        secret = settings.secret.get_secret_value().encode()
        return [bearer(forge.mac(forge.header("HS256", kid="secret"), payload, secret))]
    subject = owner if caller in {"owner", "read-only"} else f"{caller} than {owner}"
    scopes = {"read-only": ("projects:read",), "admin": ("admin",)}.get(caller, BOTH)
    return [bearer(issuer.issue(subject, scopes))]


async def project_of(kit: ProjKit, owner: str, state: str = "live") -> str:
    """A project of the owner."""
    mine = [bearer(auth_services(kit).issuer.issue(owner, BOTH))]
    created = await ask(kit, "POST", PROJECTS, mine, json={"name": "A", "tags": ["t"]})
    assert created.status == 201
    name: str = created.json()["id"]
    if state == "deleted":
        assert (await ask(kit, "DELETE", f"{PROJECTS}/{name}", mine)).status == 204
    return name


async def session_of(kit: ProjKit, owner: str) -> str:
    """A session of the owner."""
    issued = await auth_services(kit).sessions.open(owner, BOTH, "", "cookie", Client("", ""))
    return issued.session_id


async def named(kit: ProjKit, endpoint: Endpoint, rule: Rule, owner: str) -> str:
    """Return the endpoint's path with the id of a resource that does not exist."""
    if rule.kind == "project":
        return endpoint.path.replace("{project_id}", await project_of(kit, owner, rule.state))
    if rule.kind == "session":
        return endpoint.path.replace("{session_id}", await session_of(kit, owner))
    return endpoint.path.replace("{provider}", "acme")


def absent(endpoint: Endpoint) -> str:
    """Return the endpoint's path with the id of a resource that does not exist."""
    return endpoint.path.replace("{project_id}", str(uuid7())).replace("{session_id}", "A" * 43)


def expected(endpoint: Endpoint, rule: Rule, caller: str) -> int | str:
    """Return the expected response to a caller: a status, or the code of a failure."""
    if rule.kind == "public":
        return rule.good
    if caller in {"nobody", "expired"}:
        return "missing_credentials" if caller == "nobody" else "invalid_token"
    if rule.kind == "operator":
        return rule.good if caller == "admin" else "insufficient_scope"
    if caller == "read-only" and endpoint.scope == "projects:write":
        return "insufficient_scope"
    if rule.kind in {"project", "session"} and caller in {"other", "admin"}:
        return "not_found"
    return rule.good


async def test_every_route_is_classified(open_kit: OpenKit) -> None:
    """A route that this table does not know fails the suite; the public ones are a fixed list."""
    async with open_kit(**EVERYTHING_ON) as kit:
        table = Internals(kit).application.table.endpoints
        assert {f"{endpoint.method} {endpoint.path}" for endpoint in table} == RULES.keys()
        for endpoint, rule in endpoints(kit):
            assert endpoint.public is (rule.kind == "public"), endpoint.path
            assert not (endpoint.public and endpoint.scope), endpoint.path
            about = {"project_id": "project", "session_id": "session"}
            for name, kind in about.items():
                assert (f"{{{name}}}" in endpoint.path) is (rule.kind == kind), endpoint.path
            if "/projects" in endpoint.path:
                assert endpoint.scope == ("projects:read" if endpoint.method == "GET" else "projects:write")


@pytest.mark.parametrize("caller", CALLERS)
async def test_the_matrix(open_kit: OpenKit, caller: str) -> None:
    """On every route, each caller gets the response that the table defines, HEAD that of GET, OPTIONS without
    credentials.
    """
    async with open_kit(
        **EVERYTHING_ON, login_limit_account="1000/minute", login_limit_address="1000/minute"
    ) as kit:
        for number, (endpoint, rule) in enumerate(endpoints(kit)):
            owner = f"owner {number}"
            path = await named(kit, endpoint, rule, owner)
            headers = credentials(kit, caller, owner)
            sent_headers = [] if rule.good == "missing_credentials" else headers
            if endpoint.method == "GET":
                head = await ask(kit, "HEAD", path, headers)
            answer = await ask(kit, endpoint.method, path, sent_headers, json=rule.json)
            wanted = expected(endpoint, rule, caller)
            where = (endpoint.method, endpoint.path, caller, answer)
            assert wanted in {answer.status, answer.code}, where
            if endpoint.method == "GET":
                assert (head.status, head.body) == (answer.status, b""), where
            options = await ask(kit, "OPTIONS", path)
            assert (options.status, endpoint.method in (options.header("allow") or "")) == (204, True), where


VOLATILE: Final = {"x-request-id", "x-process-time", "server-timing"}


def told(answer: Answer, path: str) -> tuple[Any, ...]:
    """Return the parts of a response by which it could be told apart from another one."""
    headers = [(name, value) for name, value in answer.headers if name not in VOLATILE]
    request_id = answer.header("x-request-id") or ""
    body = answer.body.replace(request_id.encode(), b"<request>").replace(path.encode(), b"<path>")
    return answer.status, headers, body


PRECONDITIONS: Final[tuple[list[Header], ...]] = (
    [], [("if-match", "*")], [("if-match", '"1"')], [("if-match", '"nonsense"')], [("if-none-match", "*")],
)  # fmt: skip
BODIES: Final[tuple[Any, ...]] = (None, {}, {"name": ""}, {"name": "B", "nonsense": 1}, {"id": "x"}, [])


@pytest.mark.parametrize("caller", ["other", "admin"])
async def test_foreign_is_as_absent(open_kit: OpenKit, caller: str) -> None:
    """Other owners' resources and missing ones get identical responses, in any state and by any method."""
    async with open_kit(**EVERYTHING_ON) as kit:
        for number, (endpoint, rule) in enumerate(endpoints(kit)):
            if rule.kind not in {"project", "session"}:
                continue
            headers = credentials(kit, caller, f"owner {number}")
            states: tuple[Any, ...] = ("live", "deleted") if rule.kind == "project" else ("live",)
            for state in states:
                wanted = Rule(rule.kind, rule.good, rule.json, state)
                path = await named(kit, endpoint, wanted, f"owner {number}")
                for precondition in PRECONDITIONS:
                    for body in (rule.json, *BODIES) if endpoint.body else (None,):
                        sent = [*headers, *precondition]
                        gone = absent(endpoint)
                        foreign = await ask(kit, endpoint.method, path, sent, json=body)
                        nothing = await ask(kit, endpoint.method, gone, sent, json=body)
                        assert told(foreign, path) == told(nothing, gone), (endpoint.method, path, body)
                        if body == rule.json:
                            assert foreign.code == "not_found"


async def test_nothing_of_others(open_kit: OpenKit) -> None:
    """Lists, counts, searches, unique names, replays and cursors do not depend on other owners' rows, also
    for an admin.
    """
    async with open_kit() as kit:
        issuer = auth_services(kit).issuer
        alice = [bearer(issuer.issue("alice", BOTH))]
        secret = {"name": "Project Zebra", "external_id": "Z-1", "tags": ["zebra"]}
        first = await ask(kit, "POST", PROJECTS, [*alice, ("idempotency-key", "k1")], json=secret)
        for name in ("B", "C"):
            await ask(kit, "POST", PROJECTS, alice, json={"name": name})
        cursor = (await ask(kit, "GET", PROJECTS, alice, query="limit=1")).json()["next_cursor"]
        await session_of(kit, "alice")
        for subject, scopes in (
            ("bob", BOTH),
            ("root", ("admin",)),
            ("alice ", BOTH),
            ("Alice", BOTH),
            ("%", BOTH),
        ):
            theirs = [bearer(issuer.issue(subject, scopes))]
            for query in (
                "",
                "q=zebra",
                "tag=zebra",
                "external_id=Z-1",
                "archived=any",
                "total=true",
                "sort=name",
            ):
                page = (await ask(kit, "GET", PROJECTS, theirs, query=query)).json()
                assert (page["items"], page["next_cursor"]) == ([], None)
                assert not page["total"]
            for query in ("owner_id=alice", "subject=alice", "tenant_id="):
                assert (await ask(kit, "GET", PROJECTS, theirs, query=query)).status == 422
            assert (
                await ask(kit, "GET", PROJECTS, theirs, query=f"limit=1&cursor={cursor}")
            ).code == "invalid_cursor"
            assert (await ask(kit, "GET", f"{PROJECTS}/stats/summary", theirs)).json()["total"] == 0
            assert (await ask(kit, "GET", f"{AUTH}/sessions", theirs)).json() == {
                "items": [],
                "next_cursor": None,
            }
            made = await ask(kit, "POST", PROJECTS, [*theirs, ("idempotency-key", "k1")], json=secret)
            assert (made.status, made.header("idempotent-replayed")) == (201, None)
            assert made.json()["id"] != first.json()["id"]
            assert made.json()["owner_id"] == subject
            answer = await ask(kit, "POST", PROJECTS, theirs, json={"name": "A", "owner_id": "alice"})
            assert answer.status == 422 or answer.json()["owner_id"] == subject
        page = (await ask(kit, "GET", PROJECTS, alice, query="total=true")).json()
        assert page["total"] == 3
        assert {item["owner_id"] for item in page["items"]} == {"alice"}


async def test_tenants(open_kit: OpenKit) -> None:
    """The same subject in another tenant is a stranger on every route, and tokens without a tenant are
    rejected.
    """
    async with open_kit(**EVERYTHING_ON, tenant_claim="org") as kit:
        issuer = auth_services(kit).issuer
        acme = [bearer(issuer.issue("alice", BOTH, tenant_id="acme"))]
        umbrella = [bearer(issuer.issue("alice", ("admin",), tenant_id="umbrella"))]
        created = await ask(kit, "POST", PROJECTS, acme, json={"name": "A", "external_id": "X"})
        name = created.json()["id"]
        UUID(name)
        issued = await auth_services(kit).sessions.open("alice", BOTH, "acme", "cookie", Client("", ""))
        about = {"{project_id}": name, "{session_id}": issued.session_id}
        for endpoint, rule in endpoints(kit):
            if rule.kind in {"project", "session"}:
                path = endpoint.path
                for placeholder, value in about.items():
                    path = path.replace(placeholder, value)
                gone = absent(endpoint)
                foreign = await ask(kit, endpoint.method, path, umbrella, json=rule.json)
                nothing = await ask(kit, endpoint.method, gone, umbrella, json=rule.json)
                assert told(foreign, path) == told(nothing, gone)
                assert foreign.code == "not_found"
            if rule.kind != "public":
                for nowhere in (issuer.issue("alice", ("admin",)), forge.legacy(), forge.legacy(org="")):
                    answer = await ask(
                        kit, endpoint.method, absent(endpoint), [bearer(nowhere)], json=rule.json
                    )
                    assert answer.code == "invalid_token"
        assert (await ask(kit, "GET", PROJECTS, umbrella)).json()["items"] == []
        assert (await ask(kit, "GET", f"{AUTH}/sessions", umbrella)).json()["items"] == []
        twin = await ask(kit, "POST", PROJECTS, umbrella, json={"name": "A", "external_id": "X"})
        assert twin.status == 201
        assert (await ask(kit, "POST", f"{AUTH}/logout-all", umbrella)).status == 204
        assert (await ask(kit, "GET", f"{PROJECTS}/{name}", acme)).status == 200
        assert (await ask(kit, "GET", f"{AUTH}/session", [bearer(issued.access_token)])).status == 200
