"""The whole life of a project, by a few users for a short time: does this deployment work, and how fast?

    PROJKIT_LOAD_TOKEN=… locust -f loadtests/smoke.py --headless -H http://127.0.0.1:8000 -t 20s

Locust measures from the moment a request is sent, and a user waits for its answer before the next one. That is enough
to see whether a deployment works, not to prove a latency under a given load. Ends with exit code 1 when a request
failed or an endpoint's mean missed its target.
"""

import os
import random
from typing import Any

from locust import FastHttpUser, between, events, task
from locust.env import Environment

PROJECTS = "/api/v1/projects"
TARGET_MS, HEALTH_TARGET_MS = 40.0, 10.0  # means


class Member(FastHttpUser):
    """Somebody who works with projects."""

    wait_time = between(0.05, 0.2)  # type: ignore[no-untyped-call]

    def on_start(self) -> None:
        """Signs in with the token of the environment."""
        self.client.auth_header = None
        self.headers = {"Authorization": f"Bearer {os.environ['PROJKIT_LOAD_TOKEN']}"}

    def send(self, method: str, path: str, name: str, expected: int, **options: Any) -> Any:
        """One request, counted under its route's template; any other status than the expected one is a failure."""
        headers = {**self.headers, **options.pop("headers", {})}
        with self.client.request(
            method, path, name=f"{method} {name}", headers=headers, catch_response=True, **options
        ) as answer:
            if answer.status_code == expected:
                answer.success()
            else:
                answer.failure(f"{answer.status_code} instead of {expected}")
            return answer

    @task(6)
    def browse(self) -> None:
        """Looks at the list, its next page, and one project of it."""
        page = self.send("GET", f"{PROJECTS}?limit=20&archived=any", PROJECTS, 200).json()
        if page["next_cursor"]:
            query = f"limit=20&archived=any&cursor={page['next_cursor']}"
            self.send("GET", f"{PROJECTS}?{query}", PROJECTS, 200)
        # Not one that another user of this suite is about to delete.
        kept = [each for each in page["items"] if "load" not in each["tags"]]
        if kept:
            chosen = random.choice(kept)
            answer = self.send("GET", f"{PROJECTS}/{chosen['id']}", f"{PROJECTS}/{{id}}", 200)
            tag = {"If-None-Match": answer.headers["ETag"]}
            self.send("GET", f"{PROJECTS}/{chosen['id']}", f"{PROJECTS}/{{id}} unchanged", 304, headers=tag)

    @task(2)
    def work(self) -> None:
        """Makes a project, changes it twice, archives it and takes it away again."""
        # The tag stays on through every change: it keeps the others' hands off.
        body = {"name": "Load", "tags": ["load"]}
        made = self.send("POST", PROJECTS, PROJECTS, 201, json=body)
        at, name = made.headers["Location"], f"{PROJECTS}/{{id}}"
        changed = self.send("PATCH", at, name, 200, json={"status": "active"})
        tag = {"If-Match": changed.headers["ETag"]}
        self.send("PUT", at, name, 200, json={**body, "name": "Load, renamed"}, headers=tag)
        self.send("POST", f"{at}/archive", f"{name}/archive", 200)
        self.send("DELETE", at, name, 204)

    @task(1)
    def look_around(self) -> None:
        """Reads the figures and the probes."""
        self.send("GET", f"{PROJECTS}/stats/summary", f"{PROJECTS}/stats/summary", 200)
        for probe in ("live", "ready"):
            self.send("GET", f"/api/v1/health/{probe}", f"/api/v1/health/{probe}", 200)


@events.quitting.add_listener
def judge(environment: Environment, **_: Any) -> None:
    """Says what broke, and makes that the exit code."""
    broken = []
    for (name, _method), entry in sorted(environment.stats.entries.items()):
        target = HEALTH_TARGET_MS if "/health/" in name else TARGET_MS
        if entry.num_failures:
            broken.append(f"{name}: {entry.num_failures} of {entry.num_requests} failed")
        if entry.avg_response_time > target:
            broken.append(f"{name}: {entry.avg_response_time:.1f} ms on average, the target is {target:g} ms")
    if not environment.stats.entries:
        broken.append("no request was sent")
    for line in broken:
        print(f"BROKEN {line}")
    environment.process_exit_code = 1 if broken else 0
