"""The kit beside its peers, in turns of a few seconds under the same schedule: GET, LIST, POST, live.

For record.py, which starts the servers and says in PROJKIT_LOAD_BESIDE, a JSON file, where they are. It fails where a
server answers other than expected; what it measures are the ratios that record.py takes from its report.
"""

import json
import os
import random
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support import plans, slo, suite
from support.client import Client
from support.credentials import Token
from support.journeys import Journey
from support.schedule import Lane, Plan
from support.slo import Broken, Target
from support.suite import Run
from support.walk import Walk

__all__ = ["Lane"]  # Locust looks for its users in this file

RATE: Final = 60.0  # what FastAPI with its stock observability still does on one core without a queue
REST_SECONDS: Final = 0.4  # at the beginning of each turn: for what the server before still has to do
BODY: Final = {
    "name": "Load",
    "description": "Made beside a peer. " * 4,
    "tags": ["load"],
    "metadata": {"n": 1},
}


@dataclass(frozen=True)
class Server:
    """One of those that take turns."""

    name: str
    client: Client
    reader: Token
    writer: Token


class Turns:
    """Whose turn it is: each has so many seconds, one after the other, round by round."""

    def __init__(self, path: Path) -> None:
        told = json.loads(path.read_text(encoding="utf-8"))
        self.seconds: float = told["seconds"]
        self.ids: list[str] = told["ids"]
        self.servers = [
            Server(each["name"], Client(each["url"]), Token(each["reader"]), Token(each["writer"]))
            for each in told["servers"]
        ]
        self.began = time.monotonic()

    def at(self, moment: float) -> Server | None:
        """The one to be asked now; None while they rest."""
        if (moment - self.began) % self.seconds < REST_SECONDS:
            return None
        return self.servers[int((moment - self.began) / self.seconds) % len(self.servers)]

    def round(self, elapsed: float) -> str:
        """The round's number, as tables show it."""
        return f"round {int(elapsed / self.seconds / len(self.servers)) + 1}"


def make_plan(options: Namespace) -> Plan:
    """Single requests: half of them GET, a quarter LIST, the rest POST and live."""
    turns = Turns(Path(os.environ["PROJKIT_LOAD_BESIDE"]))

    def ask(walk: Walk, name: str, method: str, path: str, status: int = 200) -> None:
        server = turns.at(walk.due)
        if server is None:
            return
        walk.client = server.client
        body = BODY if method == "POST" else None
        walk.send(method, path, status, name=f"{name} of {server.name}", body=body,
                  credential=server.writer if body else server.reader)  # fmt: skip

    def get(walk: Walk) -> None:
        ask(walk, "GET", "GET", f"/projects/{random.choice(turns.ids)}")

    def page(walk: Walk) -> None:
        ask(walk, "LIST", "GET", "/projects?limit=20")

    def post(walk: Walk) -> None:
        ask(walk, "POST", "POST", "/projects", 201)

    def live(walk: Walk) -> None:
        ask(walk, "live", "GET", "/health/live")

    journeys = [Journey(get, 1, 4), Journey(page, 1, 2), Journey(post, 1), Journey(live, 1)]
    return Plan([plans.steady(journeys, options.rate or RATE)], turns.round)


def judge(run: Run) -> list[Broken]:
    """Only that all was answered: whether the ratios are good is compare.py's question."""
    broken = []
    for stage in run.tally.stages():
        rows = run.tally.stage(stage)
        broken += slo.judge(stage, rows, dict.fromkeys(rows, Target()), 1.0, times=False)
    return broken


suite.declare("beside", make_plan, judge=judge, needs_caller=False, cross_check=False)
