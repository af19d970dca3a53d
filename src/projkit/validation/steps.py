"""What a validation asks of the endpoints: each step one request, and what a right answer to it says."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from projkit.http.in_process import Answer, RawHeaders
from projkit.http.routing import JSON, MERGE_PATCH, Endpoint
from projkit.identity import VALIDATION_SUBJECT, Principal
from projkit.settings import Settings

TARGET_MS: Final = 40.0
HEALTH_TARGET_MS: Final = 10.0
_SCOPES: Final = ("projects:read", "projects:write", "monitoring:read", "metrics:read")
PROBE: Final = Principal(VALIDATION_SUBJECT, frozenset(_SCOPES))
_READER: Final = Principal(VALIDATION_SUBJECT, frozenset({"projects:read"}))
_SOMEBODY_ELSE: Final = Principal(f"{VALIDATION_SUBJECT}-else", frozenset(_SCOPES))
_JSON: Final[RawHeaders] = ((b"content-type", JSON.encode()),)
_MERGE_PATCH: Final[RawHeaders] = ((b"content-type", MERGE_PATCH.encode()),)
_CREATED: Final = "create"


class WrongAnswerError(Exception):
    """The answer has the right status, and does not say what it should."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request; a ``caller`` of None brings no credentials."""

    path: str
    query: str = ""
    headers: RawHeaders = ()
    body: bytes = b""
    caller: Principal | None = PROBE


@dataclass(frozen=True, slots=True)
class Step:
    """One request, made when its turn comes; ``needs`` names an earlier step without which it means nothing."""

    does: str
    method: str
    route: str
    expected: int
    request: Callable[[], Sent]
    check: Callable[[Answer], None]
    needs: str | None = None
    target_ms: float = TARGET_MS


def all_steps(endpoints: Iterable[Endpoint], settings: Settings, mark: str) -> list[Step]:
    """Everything that is asked: first what only reads, then the life of one project, marked with ``mark``."""
    prefix = settings.api_prefix
    return [
        *_health(endpoints, f"{prefix}/health"),
        *_reading(prefix, settings.metrics_path),
        *_refusals(f"{prefix}/projects"),
        *ProjectLife(f"{prefix}/projects", mark).steps(),
    ]


def _health(endpoints: Iterable[Endpoint], path: str) -> list[Step]:
    return [
        _get(f"ask {endpoint.operation_id}", endpoint.path, _has("status"), target_ms=HEALTH_TARGET_MS)
        for endpoint in endpoints
        if endpoint.method == "GET" and (endpoint.path == path or endpoint.path.startswith(f"{path}/"))
    ]


def _reading(prefix: str, metrics_path: str) -> list[Step]:
    def document(answer: Answer) -> None:
        content = answer.json()
        _agree(content["openapi"].startswith("3.1"), "it is not an OpenAPI 3.1 document")
        _agree(f"{prefix}/projects" in content["paths"], "the projects are not in it")

    def metrics(answer: Answer) -> None:
        _agree(b"projkit_" in answer.body, "the kit's own series are not in it")

    def session(answer: Answer) -> None:
        _agree(answer.json()["subject"] == PROBE.subject, "it names somebody else")

    return [
        _get("read the document", f"{prefix}/openapi.json", document),
        _get("read the public keys", f"{prefix}/auth/jwks", _has("keys")),
        _get("ask who is asking", f"{prefix}/auth/session", session),
        _get("ask for a CSRF token", f"{prefix}/auth/csrf", _has("csrf_token")),
        _get("scrape the metrics", metrics_path, metrics),
    ]


def _refusals(path: str) -> list[Step]:
    """Requests that must be refused; none of them could be taken, however broken what refuses them is."""

    def post(body: bytes, caller: Principal | None = PROBE) -> Callable[[], Sent]:
        return lambda: Sent(path, headers=_JSON, body=body, caller=caller)

    return [
        Step("come without credentials", "POST", path, 401, post(b'{"name":""}', None), _challenges),
        Step("come without the scope", "POST", path, 403, post(b'{"name":""}', _READER), _challenges),
        Step("send no strict JSON", "POST", path, 400, post(b'{"name":"","name":""}'), _nothing),
        Step("send an empty name", "POST", path, 422, post(b'{"name":""}'), _names_the_field),
    ]


class ProjectLife:
    """One project from its creation to its end; each change is made to the version that the one before left."""

    def __init__(self, path: str, mark: str) -> None:
        self._path = path
        self._mark = mark
        self._content: dict[str, Any] = {
            "name": "A validation, проверка",
            "description": "Made by a validation of the endpoints, and gone when it has ended.",
            "status": "active",
            "priority": "high",
            "tags": ["validation", "ü"],
            "start_date": "2026-01-01",
            "due_date": "2026-01-31",
            "metadata": {"run": mark, "nested": {"list": [1, 2.5, None, True]}},
            "external_id": mark,
        }
        self._document: dict[str, Any] = {}
        self._etag: str | None = None
        self._old_etag = '"0"'

    def steps(self) -> list[Step]:
        """The steps, in their order."""
        one, key = f"{self._path}/{{project_id}}", ((b"idempotency-key", self._mark.encode()), *_JSON)
        body = orjson.dumps(self._content)

        def create() -> Sent:
            return Sent(self._path, headers=key, body=body)

        def find() -> Sent:
            return Sent(self._path, f"external_id={self._mark}&total=true")

        def stats() -> Sent:
            return Sent(f"{self._path}/stats/summary")

        return [
            Step(_CREATED, "POST", self._path, 201, create, self._created),
            Step("create again", "POST", self._path, 201, create, self._replayed, _CREATED),
            Step("read", "GET", one, 200, self._asking(), self._is_unchanged, _CREATED),
            Step("read if changed", "GET", one, 304, self._asking_if_changed, self._is_same, _CREATED),
            Step("read as somebody else", "GET", one, 404, self._asking(_SOMEBODY_ELSE), _nothing, _CREATED),
            Step("list", "GET", self._path, 200, find, self._is_listed),
            Step("patch", "PATCH", one, 200, self._patch, self._is_patched, _CREATED),
            Step("patch an old version", "PATCH", one, 412, self._patch_old, _nothing, "patch"),
            Step("replace", "PUT", one, 200, self._put, self._is_replaced, _CREATED),
            Step("summarize", "GET", f"{self._path}/stats/summary", 200, stats, self._adds_up),
            self._change("archive", "/archive", self._is_archived, _CREATED),
            self._change("unarchive", "/unarchive", self._is_unarchived, "archive"),
            Step("delete", "DELETE", one, 204, self._changing("DELETE"), _nothing, _CREATED),
            Step("read when deleted", "GET", one, 404, self._asking(), _nothing, "delete"),
            self._change("restore", "/restore", self._is_restored, "delete"),
            Step("delete again", "DELETE", one, 204, self._changing("DELETE"), _nothing, "restore"),
        ]

    def _change(self, does: str, action: str, check: Callable[[Answer], None], needs: str) -> Step:
        route = f"{self._path}/{{project_id}}{action}"
        return Step(does, "POST", route, 200, self._changing(action), check, needs)

    @property
    def _one(self) -> str:
        return f"{self._path}/{self._document['id']}"

    def _asking(self, caller: Principal = PROBE) -> Callable[[], Sent]:
        return lambda: Sent(self._one, caller=caller)

    def _asking_if_changed(self) -> Sent:
        return Sent(self._one, headers=((b"if-none-match", (self._etag or "*").encode()),))

    def _changing(self, action: str) -> Callable[[], Sent]:
        path = "" if action == "DELETE" else action
        return lambda: Sent(self._one + path, headers=self._if_match())

    def _patch(self) -> Sent:
        patch = orjson.dumps({"status": "completed", "description": None})
        return Sent(self._one, headers=(*self._if_match(), *_MERGE_PATCH), body=patch)

    def _patch_old(self) -> Sent:
        headers = ((b"if-match", self._old_etag.encode()), *_MERGE_PATCH)
        return Sent(self._one, headers=headers, body=b'{"name":"Lost"}')

    def _put(self) -> Sent:
        self._content.update(name="A validation, replaced", status="on_hold", tags=[], due_date=None)
        body = orjson.dumps(self._content)
        return Sent(self._one, headers=(*self._if_match(), *_JSON), body=body)

    def _if_match(self) -> RawHeaders:
        """The present version's; any where a change has failed, so that nobody knows which one that is."""
        etag, self._etag = self._etag or "*", None
        return ((b"if-match", etag.encode()),)

    def _created(self, answer: Answer) -> None:
        document = answer.json()
        self._document = document
        self._etag = self._old_etag = answer.headers["etag"]
        _agree(document["owner_id"] == PROBE.subject, "it belongs to somebody else")
        _agree(answer.headers["location"] == self._one, "Location names another place")
        _holds(document, self._content)

    def _replayed(self, answer: Answer) -> None:
        _agree(answer.headers.get("idempotent-replayed") == "true", "it was not taken for a retry")
        _holds(answer.json(), self._document)

    def _is_unchanged(self, answer: Answer) -> None:
        _holds(answer.json(), self._document)
        self._is_same(answer)

    def _is_same(self, answer: Answer) -> None:
        _agree(self._etag in {None, answer.headers["etag"]}, "the ETag is another one")

    def _is_listed(self, answer: Answer) -> None:
        page = answer.json()
        if not self._document:
            _agree((page["items"], page["total"]) == ([], 0), "it lists what nobody has created")
            return
        _agree([item["id"] for item in page["items"]] == [self._document["id"]], "it is not on the list")
        _holds(page["items"][0], self._document)
        _agree((page["total"], page["next_cursor"]) == (1, None), "the list is longer than what is on it")

    def _is_patched(self, answer: Answer) -> None:
        self._is_changed(answer, {"status": "completed", "description": "", "name": self._document["name"]})
        _agree(self._document["completed_at"] is not None, "its completion has no date")

    def _is_replaced(self, answer: Answer) -> None:
        self._is_changed(answer, {**self._content, "completed_at": None})

    def _adds_up(self, answer: Answer) -> None:
        summary = answer.json()
        _agree(summary["total"] >= bool(self._document), "it misses the project")
        for parts in ("by_status", "by_priority"):
            _agree(sum(summary[parts].values()) == summary["total"], f"{parts} does not add up to the total")

    def _is_archived(self, answer: Answer) -> None:
        self._is_changed(answer, {})
        _agree(self._document["archived_at"] is not None, "it is not archived")

    def _is_unarchived(self, answer: Answer) -> None:
        self._is_changed(answer, {"archived_at": None})

    def _is_restored(self, answer: Answer) -> None:
        before = {name: self._document[name] for name in self._content}
        self._is_changed(answer, before)

    def _is_changed(self, answer: Answer, wanted: Mapping[str, Any]) -> None:
        document = answer.json()
        _agree(document["id"] == self._document["id"], "it is another project")
        _agree(document["version"] > self._document["version"], "its version is not a later one")
        self._document, self._etag = document, answer.headers["etag"]
        _holds(document, wanted)


def _get(does: str, path: str, check: Callable[[Answer], None], *, target_ms: float = TARGET_MS) -> Step:
    return Step(does, "GET", path, 200, lambda: Sent(path), check, target_ms=target_ms)


def _has(name: str) -> Callable[[Answer], None]:
    return lambda answer: _agree(answer.json()[name] is not None, f"{name} is not in it")


def _nothing(_: Answer) -> None:
    """The status says it all."""


def _challenges(answer: Answer) -> None:
    _agree(answer.headers.get("www-authenticate", "").startswith("Bearer"), "it does not say what is missing")


def _names_the_field(answer: Answer) -> None:
    _agree([each["pointer"] for each in answer.json()["errors"]] == ["/name"], "it names another field")


def _holds(document: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    wrong = [name for name, value in wanted.items() if document[name] != value]
    _agree(not wrong, f"other than was written: {', '.join(wrong)}")


def _agree(is_right: bool, detail: str) -> None:
    if not is_right:
        raise WrongAnswerError(detail)
