"""Scenarios: what people and machines do with the API. They change only projects that they create, and delete them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from support.credentials import SAME_ORIGIN, Session
from support.dataset import SEARCH_TERMS, TAG, is_stable, run_tags
from support.iteration import Iteration

_ONE: Final = "/projects/{project_id}"
_WORDS: Final = (*SEARCH_TERMS, "no. 17", "nothing has this name")
_FILTERS: Final = (
    "status=active",
    "priority=high&priority=critical",
    "tag=urgent",
    "sort=due_date",
    "sort=-updated_at",
)


@dataclass(frozen=True)
class Scenario:
    """A function that runs one iteration, with its number of requests, weight, think time and required endpoints."""

    run: Callable[[Iteration], None]
    requests: int
    weight: float = 1.0
    think_time: tuple[float, float] = (0.2, 1.0)
    endpoints: Sequence[str] = ()


def _project() -> dict[str, object]:
    number = random.randrange(10_000)
    return {
        "name": f"Load no. {number}",
        "description": "Created by a load test, which deletes it again. " * (number % 5),
        "priority": random.choice(("low", "medium", "high")),
        "tags": [TAG, *run_tags()],
        "metadata": {"number": number},
    }


def browse(iteration: Iteration) -> None:
    """Read a list, its next page, one project, and the same project again, unchanged."""
    page = iteration.send("GET", "/projects?limit=20&archived=any", 200).json()
    seen = page["items"]
    if page["next_cursor"]:
        path = f"/projects?limit=20&archived=any&cursor={page['next_cursor']}"
        seen = seen + iteration.send("GET", path, 200, name="GET /projects?cursor").json()["items"]
    # Avoid projects that another iteration is about to change or delete; fall back to one that was seen before.
    kept = [each["id"] for each in seen if is_stable(each["tags"])] or iteration.credentials.seen.get(
        iteration.chosen_credential, []
    )
    if kept:
        iteration.credentials.seen[iteration.chosen_credential] = kept
        path = f"/projects/{random.choice(kept)}"
        tag = iteration.send("GET", path, 200, route=_ONE).headers.get("etag")
        if tag:
            iteration.send(
                "GET", path, 304, route=_ONE, name=f"304 GET {_ONE}", headers={"If-None-Match": tag}
            )


def search(iteration: Iteration) -> None:
    """Search for a word, then apply a filter."""
    word = random.choice(_WORDS).replace(" ", "%20")
    iteration.send("GET", f"/projects?q={word}", 200, name="GET /projects?q")
    iteration.send("GET", f"/projects?{random.choice(_FILTERS)}", 200, name="GET /projects?filter")


def page_through(iteration: Iteration) -> None:
    """Read up to five pages of fifty."""
    page = iteration.send("GET", "/projects?limit=50", 200).json()
    for _ in range(4):
        if not page["next_cursor"]:
            return
        path = f"/projects?limit=50&cursor={page['next_cursor']}"
        page = iteration.send("GET", path, 200, name="GET /projects?cursor").json()


def work(iteration: Iteration) -> None:
    """Create a project, change it twice, archive it and delete it."""
    project = _project()
    path = iteration.create_project(project)
    tag = {"If-Match": iteration.etag} if iteration.etag else {}
    changed = iteration.send("PATCH", path, 200, route=_ONE, body={"status": "active"}, headers=tag)
    tag = {"If-Match": changed.headers["etag"]} if tag else {}
    iteration.send("PUT", path, 200, route=_ONE, body={**project, "name": "Load, renamed"}, headers=tag)
    iteration.send("POST", f"{path}/archive", 200, route=f"{_ONE}/archive")
    iteration.delete_project()


def read_summary(iteration: Iteration) -> None:
    """Read the summary."""
    iteration.send("GET", "/projects/stats/summary", 200)


def log_in(iteration: Iteration) -> None:
    """Log in, read the session, refresh and log out."""
    assert iteration.credentials.login is not None, "suites that log in check for a user first"
    opened = Session(
        iteration.send("POST", "/auth/login", 200, body=iteration.credentials.login, anonymous=True)
    )
    iteration.send("GET", "/auth/session", 200, credential=opened)
    # A refresh token in the body needs no other credential; one in a cookie needs the CSRF header.
    by_body = bool(opened.refresh_token)
    response = iteration.send(
        "POST", "/auth/refresh", 200, body=opened.refresh_body(), anonymous=by_body, credential=opened
    )
    iteration.send("POST", "/auth/logout", 204, credential=Session(response))


def fail_to_authenticate(iteration: Iteration) -> None:
    """Log in as an unknown user, a different one each time so that no account is locked, and send an invalid token."""
    body = {"username": f"load-{uuid4()}", "password": "an incorrect password"}
    iteration.send(
        "POST",
        "/auth/login",
        401,
        name="401 POST /auth/login",
        body=body,
        headers=SAME_ORIGIN,
        anonymous=True,
    )
    invalid = {"Authorization": "Bearer not-a-token"}
    iteration.send("GET", "/auth/session", 401, name="401 GET /auth/session", headers=invalid, anonymous=True)


def read_session(iteration: Iteration) -> None:
    """Read the session, which the server looks up on each request."""
    iteration.send("GET", "/auth/session", 200)


def probe(iteration: Iteration) -> None:
    """Request every health endpoint once, as an orchestrator and a dashboard do."""
    for path in ("/health/live", "/health/ready", "/health", "/health/detailed"):
        iteration.send("GET", path, 200, anonymous=not iteration.credentials.available)


def read_with_errors(iteration: Iteration) -> None:
    """Read an existing project, a missing one, and one without credentials."""
    path = iteration.create_project(_project())
    for _ in range(3):
        iteration.send("GET", path, 200, route=_ONE)
        iteration.send("GET", f"/projects/{uuid4()}", 404, route=_ONE, name=f"404 GET {_ONE}")
        iteration.send("GET", path, 401, route=_ONE, name=f"401 GET {_ONE}", anonymous=True)
    iteration.delete_project()


def write_with_errors(iteration: Iteration) -> None:
    """Send POST requests with one error each, and a valid one for comparison."""
    # A form on another site can send cookies with text/plain, so with cookies the CSRF check rejects it first.
    text = 403 if iteration.credentials.by_cookie else 415
    for status, body, headers in (
        (422, {"name": "", "status": "unheard of", "tags": [TAG, *run_tags()]}, {}),
        (400, b'{"name": "not JSON",', {}),
        (text, b"name=Load", {"Content-Type": "text/plain"}),
    ):
        sent: object = body
        iteration.send(
            "POST", "/projects", status, name=f"{status} POST /projects", body=sent, headers=headers
        )
    iteration.send("PUT", "/projects", 405, name="405 PUT /projects", body=_project())
    iteration.create_project(_project())
    iteration.delete_project()


MACHINE_THINK_TIME: Final = (0.02, 0.1)  # seconds between the requests of a machine
_BROWSED: Final = ("GET /projects", "GET /projects?cursor", f"GET {_ONE}", f"304 GET {_ONE}")
_WRITTEN: Final = ("POST /projects", f"PATCH {_ONE}", f"PUT {_ONE}", f"POST {_ONE}/archive", f"DELETE {_ONE}")
_LOGGED_IN: Final = ("POST /auth/login", "GET /auth/session", "POST /auth/refresh", "POST /auth/logout")
_READ_ERRORS: Final = (f"GET {_ONE}", f"404 GET {_ONE}", f"401 GET {_ONE}")
_WRITE_ERRORS: Final = ("422 POST /projects", "400 POST /projects", "405 PUT /projects", "POST /projects")
_PROBED: Final = ("GET /health/live", "GET /health/ready", "GET /health", "GET /health/detailed")
EVERYDAY: Final[Sequence[Scenario]] = (
    Scenario(browse, 4, 6, endpoints=_BROWSED),
    Scenario(search, 2, 4, endpoints=("GET /projects?q", "GET /projects?filter")),
    Scenario(page_through, 5, 1, endpoints=("GET /projects", "GET /projects?cursor")),
    Scenario(work, 5, 2, endpoints=_WRITTEN),
    Scenario(read_summary, 1, 2, endpoints=("GET /projects/stats/summary",)),
)
HEALTH: Final = (Scenario(probe, 4, think_time=MACHINE_THINK_TIME, endpoints=_PROBED),)
ERRORS: Final = (
    Scenario(read_with_errors, 11, think_time=MACHINE_THINK_TIME, endpoints=_READ_ERRORS),
    Scenario(write_with_errors, 6, 2, think_time=MACHINE_THINK_TIME, endpoints=_WRITE_ERRORS),
)
SESSION_READS: Final = (Scenario(read_session, 1, endpoints=("GET /auth/session",)),)
LOGINS: Final = (Scenario(log_in, 4, endpoints=_LOGGED_IN),)
FAILED_LOGINS: Final = (
    Scenario(fail_to_authenticate, 2, endpoints=("401 POST /auth/login", "401 GET /auth/session")),
)
