"""What everyday suites read: where an owner has little, a data set is made first. Whatever was made goes in the end.

Everything carries the mark of the process that made it. So what is taken away in the end includes what a walk has lost
sight of: its request timed out here and was done there, or the test was over.
"""

import os
import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final
from uuid import uuid4

from gevent.pool import Pool

from support.client import Client
from support.credentials import Credential, CredentialError
from support.options import PREFIX

LEAST: Final = 210  # projects of the first owner: five pages of fifty can be turned
TAG: Final = "load"  # on every project that a walk makes
DATA: Final = "load-data"  # on those that are made to be read
_RUN: Final = uuid4().hex[:8]
_source: list[str] = []  # the mark of the data set that walks of this process read
_AT_ONCE: Final = 8
_ROUNDS: Final = 20  # of a hundred; a server that refuses deletions is not asked for ever
SOUGHT: Final = ("portal", "billing", "audit", "mobile", "launch", "payroll")  # in names, and by walks
_WORDS: Final = (*SOUGHT, "warehouse", "search", "archive", "print")
_STATUSES: Final = {"planning": 3, "active": 6, "on_hold": 1, "completed": 4, "cancelled": 1}
_PRIORITIES: Final = {"low": 3, "medium": 8, "high": 3, "critical": 1}


def mark() -> str:
    """The tag of all that this process makes."""
    return f"load-{_RUN}-{os.getpid()}"


def read_from(made_by: str) -> None:
    """Whose data set the walks of this process read; another run's may go at any moment."""
    _source[:] = [made_by]


def is_kept(tags: Sequence[str]) -> bool:
    """Whether a project with these tags stays for as long as the test does."""
    return TAG not in tags and (DATA not in tags or not set(_source).isdisjoint(tags))


def prepare(client: Client, credential: Credential) -> str:
    """Makes as many projects of unequal words, states and sizes as are missing for a data set, and says so."""
    read_from(mark())
    try:
        headers = credential.headers("POST")
        missing = LEAST - _total(client, credential, "") + _total(client, credential, f"&tag={DATA}")
    except (CredentialError, ValueError, KeyError, TypeError) as error:
        return f"made no projects to be read: {error!r}"
    if missing <= 0:
        return ""
    answers = Pool(_AT_ONCE).imap_unordered(
        lambda number: client.send("POST", f"{PREFIX}/projects", headers, _project(number)), range(missing)
    )
    reasons = Counter(answer.reason for answer in answers if answer.status != 201)
    refused = "".join(f"; {number} times {reason}" for reason, number in reasons.items())
    made = missing - reasons.total()
    return f"made {made} projects to be read, with the tag {mark()}, which go again in the end{refused}"


def clear(client: Client, credential: Credential, made_by: str) -> str:
    """Takes away what the process with this mark has made; says why, where something may be left."""
    why = ""
    for _ in range(_ROUNDS):
        try:
            path = f"{PREFIX}/projects?limit=100&archived=any&tag={made_by}"
            page = client.send("GET", path, credential.headers("GET"))
            if page.status != 200:
                return page.reason
            paths = [f"{PREFIX}/projects/{each['id']}" for each in page.json()["items"]]
            headers = credential.headers("DELETE")
        except (CredentialError, ValueError, KeyError, TypeError) as error:
            return repr(error)
        if not paths:
            return ""
        delete = partial(client.send, "DELETE", headers=headers)
        answers = Pool(_AT_ONCE).imap_unordered(delete, paths)
        why = next(
            (answer.reason for answer in answers if answer.status not in {204, 404}), "there were too many"
        )
    return why


def _total(client: Client, credential: Credential, more: str) -> int:
    path = f"{PREFIX}/projects?limit=1&archived=any&total=true{more}"
    return int(client.send("GET", path, credential.headers("GET")).json()["total"])


def _project(number: int) -> dict[str, object]:
    return {
        "name": f"{random.choice(_WORDS).capitalize()} no. {number}",
        "description": "For a load test, which takes it away again. " * random.choice((0, 1, 1, 2, 5, 20)),
        "status": _one_of(_STATUSES), "priority": _one_of(_PRIORITIES),
        "tags": [DATA, mark(), *(["urgent"] if number % 7 == 0 else [])], "metadata": {"number": number},
        "due_date": f"2030-{1 + number % 12:02}-{1 + number % 28:02}" if number % 3 else None,
    }  # fmt: skip


def _one_of(weighted: dict[str, int]) -> str:
    return random.choices(list(weighted), list(weighted.values()))[0]
