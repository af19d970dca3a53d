"""The requests of an endpoint validation, and what a correct response to each contains."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from projkit.http.in_process import InProcessResponse, RawHeaders
from projkit.http.routing import JSON, MERGE_PATCH, Endpoint
from projkit.identity import VALIDATION_SUBJECT, Principal
from projkit.monitoring.performance import HEALTH_TARGET_MS, TARGET_MS
from projkit.settings import Settings
from projkit.validation.results import expect

_SCOPES: Final = ("projects:read", "projects:write", "monitoring:read", "metrics:read")
CALLER: Final = Principal(VALIDATION_SUBJECT, frozenset(_SCOPES))
_READER: Final = Principal(VALIDATION_SUBJECT, frozenset({"projects:read"}))
_ANOTHER_CALLER: Final = Principal(f"{VALIDATION_SUBJECT}-else", frozenset(_SCOPES))
_JSON: Final[RawHeaders] = ((b"content-type", JSON.encode()),)
_MERGE_PATCH: Final[RawHeaders] = ((b"content-type", MERGE_PATCH.encode()),)
_CREATED: Final = "create"


@dataclass(frozen=True, slots=True)
class StepRequest:
    """The request of a step; a ``caller`` of None sends no credentials."""

    path: str
    query: str = ""
    headers: RawHeaders = ()
    body: bytes = b""
    caller: Principal | None = CALLER


@dataclass(frozen=True, slots=True)
class Step:
    """One call of one endpoint.

    Attributes:
        name: what the step does; unique within a run.
        method: the request's method.
        route: the path template of the endpoint.
        expected_status: the status code of a correct response.
        request: builds the request when the step runs, from what earlier steps have received.
        check: raises ExpectationError if the content of the response is wrong.
        needs: the name of an earlier step; if that one fails, this one is not called.
        target_ms: the latency target.
    """

    name: str
    method: str
    route: str
    expected_status: int
    request: Callable[[], StepRequest]
    check: Callable[[InProcessResponse], None]
    needs: str | None = None
    target_ms: float = TARGET_MS


def all_steps(endpoints: Iterable[Endpoint], settings: Settings, run_id: str) -> list[Step]:
    """Return every step: first those that only read, then the life cycle of one project marked with ``run_id``."""
    prefix = settings.api_prefix
    return [
        *_health_steps(endpoints, f"{prefix}/health"),
        *_read_steps(prefix, settings.metrics_path),
        *_rejected_steps(f"{prefix}/projects"),
        *ProjectLifecycle(f"{prefix}/projects", run_id).steps(),
    ]


def _health_steps(endpoints: Iterable[Endpoint], path: str) -> list[Step]:
    return [
        _get_step(
            f"call {endpoint.operation_id}",
            endpoint.path,
            _expect_member("status"),
            target_ms=HEALTH_TARGET_MS,
        )
        for endpoint in endpoints
        if endpoint.method == "GET" and (endpoint.path == path or endpoint.path.startswith(f"{path}/"))
    ]


def _read_steps(prefix: str, metrics_path: str) -> list[Step]:
    def document(response: InProcessResponse) -> None:
        content = response.json()
        expect(content["openapi"].startswith("3.1"), "it is not an OpenAPI 3.1 document")
        expect(f"{prefix}/projects" in content["paths"], "it does not contain the projects")

    def metrics(response: InProcessResponse) -> None:
        expect(b"projkit_" in response.body, "it does not contain the kit's own metrics")

    def session(response: InProcessResponse) -> None:
        expect(response.json()["subject"] == CALLER.subject, "it names another subject")

    return [
        _get_step("read the OpenAPI document", f"{prefix}/openapi.json", document),
        _get_step("read the public keys", f"{prefix}/auth/jwks", _expect_member("keys")),
        _get_step("read the session", f"{prefix}/auth/session", session),
        _get_step("get a CSRF token", f"{prefix}/auth/csrf", _expect_member("csrf_token")),
        _get_step("scrape the metrics", metrics_path, metrics),
    ]


def _rejected_steps(path: str) -> list[Step]:
    """Return requests that must be rejected; none of them could be executed, even if the check for it were broken."""

    def post(body: bytes, caller: Principal | None = CALLER) -> Callable[[], StepRequest]:
        return lambda: StepRequest(path, headers=_JSON, body=body, caller=caller)

    return [
        Step("create without credentials", "POST", path, 401, post(b'{"name":""}', None), _expect_challenge),
        Step("create without the scope", "POST", path, 403, post(b'{"name":""}', _READER), _expect_challenge),
        Step(
            "create with duplicate keys",
            "POST",
            path,
            400,
            post(b'{"name":"","name":""}'),
            _accept_any_content,
        ),
        Step("create with an empty name", "POST", path, 422, post(b'{"name":""}'), _expect_name_error),
    ]


class ProjectLifecycle:
    """The life cycle of one project; each change is made to the version that the previous one returned."""

    def __init__(self, path: str, run_id: str) -> None:
        self._path = path
        self._run_id = run_id
        self._content: dict[str, Any] = {
            "name": "Validation, проверка",
            "description": "Created by a validation of the endpoints and removed at its end.",
            "status": "active",
            "priority": "high",
            "tags": ["validation", "ü"],
            "start_date": "2026-01-01",
            "due_date": "2026-01-31",
            "metadata": {"run": run_id, "nested": {"list": [1, 2.5, None, True]}},
            "external_id": run_id,
        }
        self._document: dict[str, Any] = {}
        self._etag: str | None = None
        self._old_etag = '"0"'

    def steps(self) -> list[Step]:
        """Return the steps in order."""
        one, key = f"{self._path}/{{project_id}}", ((b"idempotency-key", self._run_id.encode()), *_JSON)
        body = orjson.dumps(self._content)

        def create() -> StepRequest:
            return StepRequest(self._path, headers=key, body=body)

        def find() -> StepRequest:
            return StepRequest(self._path, f"external_id={self._run_id}&total=true")

        def stats() -> StepRequest:
            return StepRequest(f"{self._path}/stats/summary")

        return [
            Step(_CREATED, "POST", self._path, 201, create, self._expect_created),
            Step("retry the creation", "POST", self._path, 201, create, self._expect_replayed, _CREATED),
            Step("read", "GET", one, 200, self._get(), self._expect_unchanged, _CREATED),
            Step(
                "read if modified", "GET", one, 304, self._get_if_modified, self._expect_same_etag, _CREATED
            ),
            Step(
                "read as another user",
                "GET",
                one,
                404,
                self._get(_ANOTHER_CALLER),
                _accept_any_content,
                _CREATED,
            ),
            Step("list", "GET", self._path, 200, find, self._expect_listed),
            Step("patch", "PATCH", one, 200, self._patch, self._expect_patched, _CREATED),
            Step(
                "patch an outdated version", "PATCH", one, 412, self._patch_old, _accept_any_content, "patch"
            ),
            Step("replace", "PUT", one, 200, self._put, self._expect_replaced, _CREATED),
            Step("summarize", "GET", f"{self._path}/stats/summary", 200, stats, self._expect_sums),
            self._action_step("archive", "/archive", self._expect_archived, _CREATED),
            self._action_step("unarchive", "/unarchive", self._expect_unarchived, "archive"),
            Step("delete", "DELETE", one, 204, self._act("DELETE"), _accept_any_content, _CREATED),
            Step("read after deletion", "GET", one, 404, self._get(), _accept_any_content, "delete"),
            self._action_step("restore", "/restore", self._expect_restored, "delete"),
            Step("delete again", "DELETE", one, 204, self._act("DELETE"), _accept_any_content, "restore"),
        ]

    def _action_step(
        self, name: str, action: str, check: Callable[[InProcessResponse], None], needs: str
    ) -> Step:
        route = f"{self._path}/{{project_id}}{action}"
        return Step(name, "POST", route, 200, self._act(action), check, needs)

    @property
    def _one(self) -> str:
        return f"{self._path}/{self._document['id']}"

    def _get(self, caller: Principal = CALLER) -> Callable[[], StepRequest]:
        return lambda: StepRequest(self._one, caller=caller)

    def _get_if_modified(self) -> StepRequest:
        return StepRequest(self._one, headers=((b"if-none-match", (self._etag or "*").encode()),))

    def _act(self, action: str) -> Callable[[], StepRequest]:
        path = "" if action == "DELETE" else action
        return lambda: StepRequest(self._one + path, headers=self._if_match())

    def _patch(self) -> StepRequest:
        patch = orjson.dumps({"status": "completed", "description": None})
        return StepRequest(self._one, headers=(*self._if_match(), *_MERGE_PATCH), body=patch)

    def _patch_old(self) -> StepRequest:
        headers = ((b"if-match", self._old_etag.encode()), *_MERGE_PATCH)
        return StepRequest(self._one, headers=headers, body=b'{"name":"Lost"}')

    def _put(self) -> StepRequest:
        self._content.update(name="Validation, replaced", status="on_hold", tags=[], due_date=None)
        body = orjson.dumps(self._content)
        return StepRequest(self._one, headers=(*self._if_match(), *_JSON), body=body)

    def _if_match(self) -> RawHeaders:
        """Return the current ETag, or ``*`` after a failed change, which leaves the version unknown."""
        etag, self._etag = self._etag or "*", None
        return ((b"if-match", etag.encode()),)

    def _expect_created(self, response: InProcessResponse) -> None:
        document = response.json()
        self._document = document
        self._etag = self._old_etag = response.headers["etag"]
        expect(document["owner_id"] == CALLER.subject, "it has another owner")
        expect(response.headers["location"] == self._one, "the Location header is wrong")
        _expect_values(document, self._content)

    def _expect_replayed(self, response: InProcessResponse) -> None:
        expect(response.headers.get("idempotent-replayed") == "true", "it was not recognized as a retry")
        _expect_values(response.json(), self._document)

    def _expect_unchanged(self, response: InProcessResponse) -> None:
        _expect_values(response.json(), self._document)
        self._expect_same_etag(response)

    def _expect_same_etag(self, response: InProcessResponse) -> None:
        expect(self._etag in {None, response.headers["etag"]}, "the ETag differs")

    def _expect_listed(self, response: InProcessResponse) -> None:
        page = response.json()
        if not self._document:
            expect((page["items"], page["total"]) == ([], 0), "it lists projects that were never created")
            return
        expect([item["id"] for item in page["items"]] == [self._document["id"]], "the project is not listed")
        _expect_values(page["items"][0], self._document)
        expect(
            (page["total"], page["next_cursor"]) == (1, None), "total or next_cursor does not match the list"
        )

    def _expect_patched(self, response: InProcessResponse) -> None:
        self._expect_changed(
            response, {"status": "completed", "description": "", "name": self._document["name"]}
        )
        expect(self._document["completed_at"] is not None, "completed_at is not set")

    def _expect_replaced(self, response: InProcessResponse) -> None:
        self._expect_changed(response, {**self._content, "completed_at": None})

    def _expect_sums(self, response: InProcessResponse) -> None:
        summary = response.json()
        expect(summary["total"] >= bool(self._document), "the project is not counted")
        for parts in ("by_status", "by_priority"):
            expect(sum(summary[parts].values()) == summary["total"], f"{parts} does not add up to the total")

    def _expect_archived(self, response: InProcessResponse) -> None:
        self._expect_changed(response, {})
        expect(self._document["archived_at"] is not None, "archived_at is not set")

    def _expect_unarchived(self, response: InProcessResponse) -> None:
        self._expect_changed(response, {"archived_at": None})

    def _expect_restored(self, response: InProcessResponse) -> None:
        before = {name: self._document[name] for name in self._content}
        self._expect_changed(response, before)

    def _expect_changed(self, response: InProcessResponse, expected: Mapping[str, Any]) -> None:
        document = response.json()
        expect(document["id"] == self._document["id"], "it is another project")
        expect(document["version"] > self._document["version"], "the version did not increase")
        self._document, self._etag = document, response.headers["etag"]
        _expect_values(document, expected)


def _get_step(
    name: str, path: str, check: Callable[[InProcessResponse], None], *, target_ms: float = TARGET_MS
) -> Step:
    return Step(name, "GET", path, 200, lambda: StepRequest(path), check, target_ms=target_ms)


def _expect_member(name: str) -> Callable[[InProcessResponse], None]:
    return lambda response: expect(response.json()[name] is not None, f"{name} is missing")


def _accept_any_content(_: InProcessResponse) -> None:
    """Accept any content: only the status matters."""


def _expect_challenge(response: InProcessResponse) -> None:
    expect(response.headers.get("www-authenticate", "").startswith("Bearer"), "it has no Bearer challenge")


def _expect_name_error(response: InProcessResponse) -> None:
    expect([each["pointer"] for each in response.json()["errors"]] == ["/name"], "it does not point to /name")


def _expect_values(document: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    wrong = [name for name, value in expected.items() if document[name] != value]
    expect(not wrong, f"different from the written values: {', '.join(wrong)}")
