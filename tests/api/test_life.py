"""The life cycle of a project over HTTP, on each database."""

import re
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Client, Clock, OpenClient

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def database_mode(any_database_mode: str) -> str:
    """Run the tests in both database modes."""
    return any_database_mode


URL = "/api/v1/projects"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def test_creation(client: Client) -> None:
    """The response to a creation has all fields, Location and ETag, and GET returns the same."""
    sent = {
        "name": "  Relaunch ", "description": "All of it", "status": "active", "priority": "high",
        "tags": ["web", "b", "a"], "start_date": "2026-01-01", "due_date": "2026-01-01",
        "metadata": {"z": 1, "a": [1.5, None, {"ü": "😀"}]}, "external_id": "X-1",
    }  # fmt: skip
    response = await client.post(URL, json=sent)
    assert response.status_code == 201
    project = response.json()
    assert UUID(project["id"]).version == 7
    assert response.headers["location"] == f"{URL}/{project['id']}"
    assert response.headers["etag"] == '"1"'
    assert {name: project[name] for name in sent} == {**sent, "name": "Relaunch"}
    assert (project["owner_id"], project["version"]) == ("alice", 1)
    assert TIME.fullmatch(project["created_at"])
    assert project["created_at"] == project["updated_at"]
    assert project["archived_at"] is project["completed_at"] is None
    got = await client.get(response.headers["location"])
    assert (got.status_code, got.content, got.headers["etag"]) == (200, response.content, '"1"')


async def test_defaults(client: Client) -> None:
    """Only the name is required; the other fields have the contract's defaults."""
    project = await client.project()
    defaults: dict[str, Any] = {
        "description": "", "status": "planning", "priority": "medium", "tags": [], "start_date": None,
        "due_date": None, "metadata": {}, "external_id": None,
    }  # fmt: skip
    assert {name: project[name] for name in defaults} == defaults


async def test_every_response_has_the_common_headers(client: Client) -> None:
    """All responses have the timing, request id, caching and sniffing headers."""
    project = await client.project()
    for path, status in (
        (URL, 200),
        (f"{URL}/{project['id']}", 200),
        (f"{URL}/{uuid4()}", 404),
        ("/no", 404),
    ):
        response = await client.get(path, headers={"X-Request-ID": "mine-1.2_3"})
        assert response.status_code == status
        assert re.fullmatch(r"\d+\.\d{6}", response.headers["x-process-time"])
        assert response.headers["server-timing"].startswith("app;dur=")
        assert response.headers["x-request-id"] == "mine-1.2_3"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["vary"] == "Authorization, Cookie"
        caching = "private, no-cache" if "etag" in response.headers else "private, no-store"
        assert response.headers["cache-control"] == caching
    assert "db;dur=" in (await client.get(URL)).headers["server-timing"]
    assert "db;dur=" not in (await client.get("/no")).headers["server-timing"]


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "é", "a\tb"])
async def test_invalid_request_ids_are_replaced(client: Client, sent: str) -> None:
    """An invalid request id is replaced by a generated one."""
    responses = [
        await client.get("/no", headers=[(b"x-request-id", sent.encode("latin-1"))]) for _ in range(2)
    ]
    made = [response.headers["x-request-id"] for response in responses]
    assert made[0] != made[1]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,128}", each) for each in made)
    assert responses[0].json()["request_id"] == made[0]


async def test_put_replaces_and_accepts_the_document_of_get(client: Client) -> None:
    """PUT resets omitted fields to their defaults, and accepts a document from GET unchanged."""
    project = await client.project(description="old", tags=["a"], external_id="E")
    one = f"{URL}/{project['id']}"
    same = await client.put(one, json=project)
    assert same.status_code == 200
    assert same.json() == {**project, "version": 2, "updated_at": same.json()["updated_at"]}
    assert same.json()["updated_at"] > project["updated_at"]
    replaced = await client.put(one, json={"name": "New"})
    assert replaced.headers["etag"] == '"3"'
    assert (replaced.json()["description"], replaced.json()["tags"], replaced.json()["external_id"]) == (
        "",
        [],
        None,
    )


async def test_merging_put_keeps_omitted_fields(open_client: OpenClient) -> None:
    """With PUT_MODE=merge, PUT keeps omitted fields and replaces the others completely."""
    async with open_client(put_mode="merge") as client:
        project = await client.project(description="old", metadata={"a": 1})
        one = f"{URL}/{project['id']}"
        response = await client.put(one, json={"name": "New", "metadata": {"b": None}})
        assert response.status_code == 200
        assert (response.json()["name"], response.json()["description"]) == ("New", "old")
        assert response.json()["metadata"] == {"b": None}
        assert (await client.put(one, json=response.json())).status_code == 200
        for wrong in ({"tags": None}, {"surprise": 1}, {"version": 99}):
            assert (await client.put(one, json=wrong)).status_code == 422


@pytest.mark.parametrize("media_type", ["application/merge-patch+json", "application/json"])
async def test_patch_merges(client: Client, media_type: str) -> None:
    """PATCH is a merge patch: null resets, objects are merged, arrays are replaced."""
    project = await client.project(
        description="old", tags=["a", "b"], metadata={"keep": 1, "drop": 2, "deep": {"x": 1, "y": 2}}
    )
    patch = {"description": None, "tags": ["c"], "metadata": {"drop": None, "deep": {"x": None, "z": 3}}}
    response = await client.patch(f"{URL}/{project['id']}", json=patch, headers={"Content-Type": media_type})
    assert response.status_code == 200
    changed = response.json()
    assert (changed["name"], changed["description"], changed["tags"]) == ("A project", "", ["c"])
    assert changed["metadata"] == {"keep": 1, "deep": {"y": 2, "z": 3}}


@pytest.mark.parametrize(
    ("patch", "pointer", "code"),
    [
        ({"version": 7}, "/version", "read_only"),
        ({"id": "x"}, "/id", "read_only"),
        ({"created_at": "2020-01-01T00:00:00Z"}, "/created_at", "read_only"),
        ({"nope": 1}, "/nope", "extra_forbidden"),
        ({"nope": None}, "/nope", "extra_forbidden"),
        ({"name": None}, "/name", "missing"),
        ([], "", "model_type"),
        ({"start_date": "2026-02-02"}, "/due_date", "due_before_start"),
    ],
)
async def test_invalid_patches(client: Client, patch: Any, pointer: str, code: str) -> None:
    """An invalid patch gets an error for the field, and changes nothing."""
    project = await client.project(due_date="2026-01-01")
    response = await client.patch(f"{URL}/{project['id']}", json=patch)
    assert response.status_code == 422
    assert [(each["pointer"], each["code"]) for each in response.json()["errors"]] == [(pointer, code)]
    assert (await client.get(f"{URL}/{project['id']}")).json() == project


async def test_read_only_times_in_another_notation(client: Client) -> None:
    """The same time in another notation equals the current value."""
    project = await client.project()
    same = project["created_at"].replace("Z", "+00:00")
    assert (await client.patch(f"{URL}/{project['id']}", json={"created_at": same})).status_code == 200


async def test_completion_time(client: Client) -> None:
    """completed_at is set when the status becomes completed, kept while it stays so, and then cleared."""
    project = await client.project(status="completed")
    one = f"{URL}/{project['id']}"
    assert project["completed_at"] == project["created_at"]
    kept = (await client.patch(one, json={"name": "Other"})).json()
    assert kept["completed_at"] == project["completed_at"]
    left = (await client.patch(one, json={"status": "active"})).json()
    assert left["completed_at"] is None
    again = (await client.patch(one, json={"status": "completed"})).json()
    assert again["completed_at"] > project["completed_at"]


async def test_deletion_and_restoration(client: Client) -> None:
    """A deleted project can only be restored; deleting again gets a 404, restoring again a 200."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    deleted = await client.delete(one)
    assert (deleted.status_code, deleted.content) == (204, b"")
    for method, path in (
        ("GET", one),
        ("DELETE", one),
        ("POST", f"{one}/archive"),
        ("POST", f"{one}/unarchive"),
    ):
        assert (await client.request(method, path)).status_code == 404
    assert (await client.put(one, json={"name": "x"})).status_code == 404
    assert (await client.patch(one, json={"name": "x"})).status_code == 404
    assert (await client.get(URL)).json()["items"] == []
    for _ in range(2):
        restored = await client.post(f"{one}/restore")
        assert restored.status_code == 200
    assert restored.json()["name"] == "A project"
    assert (await client.get(one)).status_code == 200
    assert (await client.post(f"{URL}/{uuid4()}/restore")).status_code == 404


async def test_archived_projects_reject_edits(client: Client) -> None:
    """Archive and unarchive are idempotent; an archived project rejects edits with 409, but can be deleted."""
    project = await client.project()
    one = f"{URL}/{project['id']}"
    first, second = [(await client.post(f"{one}/archive")) for _ in range(2)]
    assert first.status_code == second.status_code == 200
    assert first.json() == second.json()
    assert TIME.fullmatch(first.json()["archived_at"])
    for method in ("put", "patch"):
        refused = await getattr(client, method)(one, json={"name": "New"})
        assert (refused.status_code, refused.json()["code"]) == (409, "project_archived")
    back, same = [(await client.post(f"{one}/unarchive")) for _ in range(2)]
    assert back.json()["archived_at"] is None
    assert back.json() == same.json()
    assert (await client.put(one, json={"name": "New"})).status_code == 200
    await client.post(f"{one}/archive")
    assert (await client.delete(one)).status_code == 204


async def test_external_id_is_unique_among_the_undeleted(client: Client) -> None:
    """A second project with the same external_id is rejected on create, edit and restore, for each owner."""
    first = await client.project(external_id="E")
    again = await client.post(URL, json={"name": "x", "external_id": "E"})
    assert (again.status_code, again.json()["code"]) == (409, "external_id_taken")
    other = await client.project()
    taken = await client.patch(f"{URL}/{other['id']}", json={"external_id": "E"})
    assert (taken.status_code, taken.json()["code"]) == (409, "external_id_taken")
    await client.delete(f"{URL}/{first['id']}")
    await client.project(external_id="E")
    back = await client.post(f"{URL}/{first['id']}/restore")
    assert (back.status_code, back.json()["code"]) == (409, "external_id_taken")
    async with client.of("bob") as bob:
        await bob.project(external_id="E")


async def test_stats(client: Client, clock: Clock) -> None:
    """The summary has the contract's figures; today is the current UTC day."""
    empty = (await client.get(f"{URL}/stats/summary")).json()
    assert (empty["total"], empty["completion_rate"], empty["updated_at_latest"]) == (0, None, None)
    today = clock.now.date().isoformat()
    await client.project(due_date="2026-06-14")  # overdue
    await client.project(due_date="2026-06-14", status="completed")
    await client.project(due_date="2026-06-14", status="cancelled", priority="low")
    await client.project(due_date=today, priority="critical")
    await client.project(due_date="2026-06-22")
    await client.project(due_date="2026-06-23")
    archived = await client.project(due_date="2026-06-14")
    last = (await client.post(f"{URL}/{archived['id']}/archive")).json()
    gone = await client.project()
    await client.delete(f"{URL}/{gone['id']}")
    stats = (await client.get(f"{URL}/stats/summary")).json()
    assert stats == {
        "total": 7, "active_total": 6, "archived": 1,
        "by_status": {"planning": 5, "active": 0, "on_hold": 0, "completed": 1, "cancelled": 1},
        "by_priority": {"low": 1, "medium": 5, "high": 0, "critical": 1},
        "overdue": 1, "due_within_7_days": 2, "created_last_30_days": 7, "completed_last_30_days": 1,
        "completion_rate": 1 / 6, "updated_at_latest": last["updated_at"],
    }  # fmt: skip


async def test_head_is_get_without_a_body(client: Client) -> None:
    """HEAD returns the headers of GET without content."""
    project = await client.project()
    for path in (URL, f"{URL}/{project['id']}", "/api/v1/openapi.json", "/api/v1/health/live"):
        got, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"]


async def test_options_requires_no_credentials(open_client: OpenClient) -> None:
    """OPTIONS returns the allowed methods without credentials."""
    async with open_client(None) as anonymous:
        response = await anonymous.options(URL)
        assert (response.status_code, response.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
        response = await anonymous.options(f"{URL}/{uuid4()}")
        assert response.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"


async def test_projects_of_other_owners_are_not_found(client: Client) -> None:
    """Projects of other owners and nonexistent ones get the same response on every route."""
    project = await client.project()
    async with client.of("mallory") as mallory:
        for method, path in (
            ("GET", ""), ("PUT", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/archive"), ("POST", "/unarchive"),
            ("POST", "/restore"),
        ):  # fmt: skip
            responses = [
                await mallory.request(
                    method,
                    f"{URL}/{identifier}{path}",
                    headers={"X-Request-ID": "r"},
                    json={"name": "x"} if method in ("PUT", "PATCH") else None,
                )
                for identifier in (project["id"], uuid4())
            ]
            foreign, absent = [{**response.json(), "instance": None} for response in responses]
            assert [response.status_code for response in responses] == [404, 404]
            assert foreign == absent
        assert (await mallory.get(URL)).json()["items"] == []
        assert (await mallory.get(f"{URL}/stats/summary")).json()["total"] == 0
    assert (await client.get(f"{URL}/{project['id']}")).json() == project
