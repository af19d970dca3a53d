"""The kit and its peers in alternating turns of a few seconds under the same schedule: GET, LIST, POST, live.

record.py runs this suite: it starts the servers and names them in the JSON file PROJKIT_LOAD_PEERS. The suite fails
if a response is not the expected one; record.py computes the ratios from its report.
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
from support.iteration import Iteration
from support.scenarios import Scenario
from support.schedule import ArrivalStream, Plan
from support.slo import MissedTarget, Target
from support.suite import TestRun

__all__ = ["ArrivalStream"]  # Locust discovers its users in this file

RATE: Final = 60.0  # FastAPI with stock observability sustains this on one core without queueing
REST_SECONDS: Final = 0.4  # at the start of each turn, so that the previous server can finish
BODY: Final = {
    "name": "Load",
    "description": "Created next to a peer. " * 4,
    "tags": ["load"],
    "metadata": {"n": 1},
}


@dataclass(frozen=True)
class Server:
    """A server that takes turns."""

    name: str
    client: Client
    reader: Token
    writer: Token


class Turns:
    """The order of turns: each server has the same number of seconds, round by round."""

    def __init__(self, path: Path) -> None:
        exported = json.loads(path.read_text(encoding="utf-8"))
        self.seconds: float = exported["seconds"]
        self.ids: list[str] = exported["ids"]
        self.servers = [
            Server(each["name"], Client(each["url"]), Token(each["reader"]), Token(each["writer"]))
            for each in exported["servers"]
        ]
        self.started_at = time.monotonic()

    def at(self, moment: float) -> Server | None:
        """Return the server whose turn it is; None during a rest."""
        if (moment - self.started_at) % self.seconds < REST_SECONDS:
            return None
        return self.servers[int((moment - self.started_at) / self.seconds) % len(self.servers)]

    def round(self, elapsed: float) -> str:
        """Return the name of the round in tables."""
        return f"round {int(elapsed / self.seconds / len(self.servers)) + 1}"


def make_plan(options: Namespace) -> Plan:
    """Return the plan: single requests, half of them GET, a quarter LIST, the rest POST and live."""
    turns = Turns(Path(os.environ["PROJKIT_LOAD_PEERS"]))

    def send(iteration: Iteration, name: str, method: str, path: str, status: int = 200) -> None:
        server = turns.at(iteration.due)
        if server is None:
            return
        iteration.client = server.client
        body = BODY if method == "POST" else None
        iteration.send(
            method,
            path,
            status,
            name=f"{name} of {server.name}",
            body=body,
            credential=server.writer if body else server.reader,
        )

    def get(iteration: Iteration) -> None:
        send(iteration, "GET", "GET", f"/projects/{random.choice(turns.ids)}")

    def page(iteration: Iteration) -> None:
        send(iteration, "LIST", "GET", "/projects?limit=20")

    def post(iteration: Iteration) -> None:
        send(iteration, "POST", "POST", "/projects", 201)

    def live(iteration: Iteration) -> None:
        send(iteration, "live", "GET", "/health/live")

    scenarios = [Scenario(get, 1, 4), Scenario(page, 1, 2), Scenario(post, 1), Scenario(live, 1)]
    return Plan([plans.steady(scenarios, options.rate or RATE)], turns.round)


def judge(run: TestRun) -> list[MissedTarget]:
    """Check only for failures; compare.py judges the ratios."""
    missed = []
    for stage in run.stats.stages():
        rows = run.stats.stage(stage)
        missed += slo.judge(stage, rows, dict.fromkeys(rows, Target()), 1.0, times=False)
    return missed


suite.declare("versus_peers", make_plan, judge=judge, needs_credential=False, cross_check=False)
