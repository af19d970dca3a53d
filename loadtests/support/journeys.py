"""What people and machines do with the API. Whatever a journey changes, it has made itself and takes away again."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from support.credentials import SAME_ORIGIN, Session
from support.dataset import SOUGHT, TAG, is_kept, mark
from support.walk import Walk

_ONE: Final = "/projects/{project_id}"
_WORDS: Final = (*SOUGHT, "no. 17", "nothing has this name")
_FILTERS: Final = (
    "status=active",
    "priority=high&priority=critical",
    "tag=urgent",
    "sort=due_date",
    "sort=-updated_at",
)


@dataclass(frozen=True)
class Journey:
    """A walk, how many requests it makes, how often it is chosen, and which endpoints it cannot do without."""

    walk: Callable[[Walk], None]
    steps: int
    weight: float = 1.0
    think: tuple[float, float] = (0.2, 1.0)
    asks: Sequence[str] = ()


def _project() -> dict[str, object]:
    number = random.randrange(10_000)
    return {
        "name": f"Load no. {number}", "description": "Made by a load test, which takes it away again. " * (number % 5),
        "priority": random.choice(("low", "medium", "high")), "tags": [TAG, mark()], "metadata": {"number": number},
    }  # fmt: skip


def browse(walk: Walk) -> None:
    """The list, its next page, one project, and the same again, unchanged."""
    page = walk.send("GET", "/projects?limit=20&archived=any", 200).json()
    seen = page["items"]
    if page["next_cursor"]:
        path = f"/projects?limit=20&archived=any&cursor={page['next_cursor']}"
        seen = seen + walk.send("GET", path, 200, name="GET /projects?cursor").json()["items"]
    # Not one that another walk is about to change or to take away; where there are only such, one of those seen before.
    kept = [each["id"] for each in seen if is_kept(each["tags"])] or walk.callers.seen.get(walk.caller, [])
    if kept:
        walk.callers.seen[walk.caller] = kept
        path = f"/projects/{random.choice(kept)}"
        tag = walk.send("GET", path, 200, route=_ONE).headers.get("etag")
        if tag:
            walk.send("GET", path, 304, route=_ONE, name=f"304 GET {_ONE}", headers={"If-None-Match": tag})


def search(walk: Walk) -> None:
    """A word, then a filter."""
    word = random.choice(_WORDS).replace(" ", "%20")
    walk.send("GET", f"/projects?q={word}", 200, name="GET /projects?q")
    walk.send("GET", f"/projects?{random.choice(_FILTERS)}", 200, name="GET /projects?filter")


def page_through(walk: Walk) -> None:
    """Five pages of fifty, or as many as there are."""
    page = walk.send("GET", "/projects?limit=50", 200).json()
    for _ in range(4):
        if not page["next_cursor"]:
            return
        path = f"/projects?limit=50&cursor={page['next_cursor']}"
        page = walk.send("GET", path, 200, name="GET /projects?cursor").json()


def work(walk: Walk) -> None:
    """Makes a project, changes it twice, archives it and takes it away."""
    project = _project()
    path = walk.make(project)
    tag = {"If-Match": walk.tag} if walk.tag else {}
    changed = walk.send("PATCH", path, 200, route=_ONE, body={"status": "active"}, headers=tag)
    tag = {"If-Match": changed.headers["etag"]} if tag else {}
    walk.send("PUT", path, 200, route=_ONE, body={**project, "name": "Load, renamed"}, headers=tag)
    walk.send("POST", f"{path}/archive", 200, route=f"{_ONE}/archive")
    walk.take_away()


def look_at_figures(walk: Walk) -> None:
    """The summary."""
    walk.send("GET", "/projects/stats/summary", 200)


def log_in(walk: Walk) -> None:
    """A session from its log-in to its log-out, with a refresh between."""
    assert walk.callers.login is not None, "a suite with log-ins asks for a user first"
    opened = Session(walk.send("POST", "/auth/login", 200, body=walk.callers.login, anonymous=True))
    walk.send("GET", "/auth/session", 200, credential=opened)
    # The refresh token speaks for itself; cookies need the proof that the request is the page's own.
    by_body = bool(opened.refresh_token)
    answer = walk.send(
        "POST", "/auth/refresh", 200, body=opened.refresh_body(), anonymous=by_body, credential=opened
    )
    walk.send("POST", "/auth/logout", 204, credential=Session(answer))


def be_refused(walk: Walk) -> None:
    """A log-in of nobody, never the same: it counts against no account. And a token that is none."""
    body = {"username": f"load-{uuid4()}", "password": "not the password of anybody"}
    walk.send(
        "POST",
        "/auth/login",
        401,
        name="401 POST /auth/login",
        body=body,
        headers=SAME_ORIGIN,
        anonymous=True,
    )
    refused = {"Authorization": "Bearer not-a-token"}
    walk.send("GET", "/auth/session", 401, name="401 GET /auth/session", headers=refused, anonymous=True)


def who_am_i(walk: Walk) -> None:
    """The session, which is looked up on each request."""
    walk.send("GET", "/auth/session", 200)


def probe(walk: Walk) -> None:
    """Every health endpoint once, as an orchestrator and a dashboard do."""
    for path in ("/health/live", "/health/ready", "/health", "/health/detailed"):
        walk.send("GET", path, 200, anonymous=not walk.callers.known)


def err_in_reading(walk: Walk) -> None:
    """A project of one's own, then one that is not there, then without a credential."""
    path = walk.make(_project())
    for _ in range(3):
        walk.send("GET", path, 200, route=_ONE)
        walk.send("GET", f"/projects/{uuid4()}", 404, route=_ONE, name=f"404 GET {_ONE}")
        walk.send("GET", path, 401, route=_ONE, name=f"401 GET {_ONE}", anonymous=True)
    walk.take_away()


def err_in_writing(walk: Walk) -> None:
    """What a good POST is refused for, one fault at a time, beside a good one."""
    # A form of another site can send cookies and text, so that text with cookies is a forgery before it is a mistake.
    text = 403 if walk.callers.by_cookie else 415
    for status, body, headers in (
        (422, {"name": "", "status": "unheard of", "tags": [TAG, mark()]}, {}),
        (400, b'{"name": "not JSON",', {}),
        (text, b"name=Load", {"Content-Type": "text/plain"}),
    ):
        sent: object = body
        walk.send("POST", "/projects", status, name=f"{status} POST /projects", body=sent, headers=headers)
    walk.send("PUT", "/projects", 405, name="405 PUT /projects", body=_project())
    walk.make(_project())
    walk.take_away()


QUICK: Final = (0.02, 0.1)  # between the requests of a machine
_BROWSED: Final = ("GET /projects", "GET /projects?cursor", f"GET {_ONE}", f"304 GET {_ONE}")
_WORKED: Final = ("POST /projects", f"PATCH {_ONE}", f"PUT {_ONE}", f"POST {_ONE}/archive", f"DELETE {_ONE}")
_LOGGED_IN: Final = ("POST /auth/login", "GET /auth/session", "POST /auth/refresh", "POST /auth/logout")
_MISREAD: Final = (f"GET {_ONE}", f"404 GET {_ONE}", f"401 GET {_ONE}")
_MISWRITTEN: Final = ("422 POST /projects", "400 POST /projects", "405 PUT /projects", "POST /projects")
_PROBED: Final = ("GET /health/live", "GET /health/ready", "GET /health", "GET /health/detailed")
EVERYDAY: Final[Sequence[Journey]] = (
    Journey(browse, 4, 6, asks=_BROWSED),
    Journey(search, 2, 4, asks=("GET /projects?q", "GET /projects?filter")),
    Journey(page_through, 5, 1, asks=("GET /projects", "GET /projects?cursor")),
    Journey(work, 5, 2, asks=_WORKED),
    Journey(look_at_figures, 1, 2, asks=("GET /projects/stats/summary",)),
)
HEALTH: Final = (Journey(probe, 4, think=QUICK, asks=_PROBED),)
ERRORS: Final = (
    Journey(err_in_reading, 11, think=QUICK, asks=_MISREAD),
    Journey(err_in_writing, 6, 2, think=QUICK, asks=_MISWRITTEN),
)
TOKENS: Final = (Journey(who_am_i, 1, asks=("GET /auth/session",)),)
LOG_INS: Final = (Journey(log_in, 4, asks=_LOGGED_IN),)
REFUSALS: Final = (Journey(be_refused, 2, asks=("401 POST /auth/login", "401 GET /auth/session")),)
