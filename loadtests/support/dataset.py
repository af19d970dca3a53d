"""What everyday suites read: where an owner has little, a data set is made first. Whatever was made goes in the end.

Everything carries the mark of the process that made it. So what is taken away in the end includes what a walk has lost
sight of: its request timed out here and was done there, or the test was over.
"""

import os
import random
from functools import partial
from typing import Final
from uuid import uuid4

from gevent.pool import Pool

from support.client import Client
from support.credentials import Credential, CredentialError
from support.options import PREFIX

LEAST: Final = 210  # projects of the first owner: five pages of fifty can be turned
_TAG: Final = "load-data"
_RUN: Final = uuid4().hex[:8]
_AT_ONCE: Final = 8
_ROUNDS: Final = 20  # of a hundred; a server that refuses deletions is not asked for ever
_WORDS: Final = (
    "portal",
    "billing",
    "audit",
    "mobile",
    "launch",
    "payroll",
    "warehouse",
    "search",
    "archive",
    "print",
)
_STATUSES: Final = {"planning": 3, "active": 6, "on_hold": 1, "completed": 4, "cancelled": 1}
_PRIORITIES: Final = {"low": 3, "medium": 8, "high": 3, "critical": 1}


def mark() -> str:
    """The tag of all that this process makes."""
    return f"load-{_RUN}-{os.getpid()}"


def prepare(client: Client, credential: Credential) -> int:
    """Makes as many projects of unequal words, states and sizes as are missing for a data set; tells how many."""
    try:
        found = client.send("GET", f"{PREFIX}/projects?limit=1&total=true", credential.headers("GET"))
        missing = LEAST - int(found.json().get("total") or 0) if found.status == 200 else 0
        headers = credential.headers("POST")
    except (CredentialError, ValueError, TypeError):
        return 0
    answers = Pool(_AT_ONCE).imap_unordered(
        lambda number: client.send("POST", f"{PREFIX}/projects", headers, _project(number)), range(missing)
    )
    return sum(answer.status == 201 for answer in answers)


def clear(client: Client, credential: Credential, made_by: str) -> int:
    """Takes away what the process with this mark has made; how much of it could not be."""
    left = 0
    for _ in range(_ROUNDS):
        try:
            path = f"{PREFIX}/projects?limit=100&archived=any&tag={made_by}"
            page = client.send("GET", path, credential.headers("GET"))
            if page.status != 200:
                continue
            paths = [f"{PREFIX}/projects/{each['id']}" for each in page.json()["items"]]
            headers = credential.headers("DELETE")
        except (CredentialError, ValueError, KeyError, TypeError):
            return left
        if not paths:
            return 0
        delete = partial(client.send, "DELETE", headers=headers)
        answers = Pool(_AT_ONCE).imap_unordered(delete, paths)
        left = sum(answer.status not in {204, 404} for answer in answers)
    return left


def _project(number: int) -> dict[str, object]:
    return {
        "name": f"{random.choice(_WORDS).capitalize()} no. {number}",
        "description": "For a load test, which takes it away again. " * random.choice((0, 1, 1, 2, 5, 20)),
        "status": _one_of(_STATUSES), "priority": _one_of(_PRIORITIES),
        "tags": [_TAG, mark(), *(["urgent"] if number % 7 == 0 else [])], "metadata": {"number": number},
        "due_date": f"2030-{1 + number % 12:02}-{1 + number % 28:02}" if number % 3 else None,
    }  # fmt: skip


def _one_of(weighted: dict[str, int]) -> str:
    return random.choices(list(weighted), list(weighted.values()))[0]
