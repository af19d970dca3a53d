"""The data set that suites read: created first if the owner has too few projects, and deleted at the end.

Every project carries the tag of the process that created it, so that the cleanup also finds projects whose creation
timed out here but succeeded on the server.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final
from uuid import uuid4

from gevent.pool import Pool

from support.client import Client, Response
from support.credentials import Credential, CredentialError
from support.options import PREFIX

MIN_PROJECTS: Final = 210  # of the first owner, so that there are five pages of fifty
TAG: Final = "load"  # of every project that an iteration creates
DATA_TAG: Final = "load-data"  # of those that are created to be read
_RUN: Final = uuid4().hex[:8]
_data_tag: list[str] = []  # tag of the data set that iterations of this process read
_CONCURRENCY: Final = 8
SEARCH_TERMS: Final = (
    "portal",
    "billing",
    "audit",
    "mobile",
    "launch",
    "payroll",
)  # occur in names; iterations search for them
_WORDS: Final = (*SEARCH_TERMS, "warehouse", "search", "archive", "print")
_STATUSES: Final = {"planning": 3, "active": 6, "on_hold": 1, "completed": 4, "cancelled": 1}
_PRIORITIES: Final = {"low": 3, "medium": 8, "high": 3, "critical": 1}


def process_tag() -> str:
    """Return the tag of everything that this process creates."""
    return f"load-{_RUN}-{os.getpid()}"


def run_tags() -> list[str]:
    """Return the tags of what iterations of this process create: its own one, and that of the run."""
    return sorted({process_tag(), *_data_tag})


def use_data_of(tag: str) -> None:
    """Set whose data set the iterations of this process read; another run's may be deleted at any time."""
    _data_tag[:] = [tag]


def is_stable(tags: Sequence[str]) -> bool:
    """Return whether a project with these tags exists for the whole test."""
    return TAG not in tags and (DATA_TAG not in tags or not set(_data_tag).isdisjoint(tags))


def prepare(client: Client, credential: Credential) -> str:
    """Create the missing projects, of varying words, states and sizes; return a summary, empty if none is missing."""
    use_data_of(process_tag())
    try:
        headers = credential.headers("POST")
        missing = MIN_PROJECTS - total(client, credential, "") + total(client, credential, f"&tag={DATA_TAG}")
    except (CredentialError, ValueError, KeyError, TypeError) as error:
        return f"could not create the data set: {error!r}"
    if missing <= 0:
        return ""
    print(f"creating {missing} projects to read; the schedule starts afterwards", flush=True)
    responses = Pool(_CONCURRENCY).imap_unordered(
        lambda number: client.send("POST", f"{PREFIX}/projects", headers, _project(number)), range(missing)
    )
    reasons = Counter(response.reason for response in responses if response.status != 201)
    rejected = "".join(f"; {number} times {reason}" for reason, number in reasons.items())
    created = missing - reasons.total()
    return (
        f"created {created} projects with the tag {process_tag()}, which will be deleted at the end{rejected}"
    )


def delete_created(
    client: Client, credential: Credential, tag: str, report: Callable[[int], None] = lambda _: None
) -> str:
    """Delete what has this tag; return the reason if something may be left.

    ``report`` is called with the number of projects deleted so far, after each hundred of them.
    """
    done = 0
    while True:
        try:
            path = f"{PREFIX}/projects?limit=100&archived=any&tag={tag}"
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
        responses: list[Response] = list(Pool(_CONCURRENCY).imap_unordered(delete, paths))
        deleted = sum(response.status in {204, 404} for response in responses)
        if not deleted:  # the server rejects it, and would do so forever
            return responses[0].reason
        done += deleted
        report(done)


def total(client: Client, credential: Credential, more: str) -> int:
    """Return the number of the owner's projects, with ``more`` parameters of the list, up to 10,000."""
    path = f"{PREFIX}/projects?limit=1&archived=any&total=true{more}"
    return int(client.send("GET", path, credential.headers("GET")).json()["total"])


def _project(number: int) -> dict[str, object]:
    return {
        "name": f"{random.choice(_WORDS).capitalize()} no. {number}",
        "description": "For a load test, which deletes it again. " * random.choice((0, 1, 1, 2, 5, 20)),
        "status": _one_of(_STATUSES),
        "priority": _one_of(_PRIORITIES),
        "tags": [DATA_TAG, process_tag(), *(["urgent"] if number % 7 == 0 else [])],
        "metadata": {"number": number},
        "due_date": f"2030-{1 + number % 12:02}-{1 + number % 28:02}" if number % 3 else None,
    }


def _one_of(weighted: dict[str, int]) -> str:
    return random.choices(list(weighted), list(weighted.values()))[0]
