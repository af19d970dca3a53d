"""Ties a suite to Locust: its schedule, its counts over all processes, its verdict and its exit code."""

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import gevent
from locust import events
from locust.env import Environment
from locust.rpc import Message
from locust.runners import STATE_RUNNING, STATE_SPAWNING, MasterRunner, WorkerRunner

from support import options, report, server, slo
from support.client import Client
from support.credentials import CredentialError, login_body
from support.schedule import Plan, measured, plan
from support.slo import Broken, Target
from support.tally import Tally
from support.walk import Sample

LATE_MS: Final = 20.0  # a generator whose p99 is later than this measures itself
_WIRE: Final = "projkit"


@dataclass
class Run:
    """One test as the master, or the only process, sees it."""

    name: str
    options: Namespace
    targets: dict[str, Target]
    tally: Tally = field(default_factory=Tally)
    before: server.Seen | None = None
    after: server.Seen | None = None
    started: float = 0.0
    seconds: float = 0.0
    facts: dict[str, object] = field(default_factory=dict)


Judge = Callable[[Run], list[Broken]]


def by_stage(run: Run) -> list[Broken]:
    """Every stage against every target."""
    return [
        broken
        for stage in run.tally.stages()
        for broken in slo.judge(stage, run.tally.stage(stage), run.targets, run.options.slack)
    ]


def declare(
    name: str,
    make_plan: Callable[[Namespace], Plan],
    *,
    judge: Judge = by_stage,
    needs_user: bool = False,
    watch: Callable[[Run, Environment], None] | None = None,
) -> None:
    """Makes the calling file a suite; ``watch`` runs beside the test, in the process that judges."""

    def set_up(environment: Environment, **_: Any) -> None:
        given = environment.parsed_options
        assert given is not None, "Locust's command line has options"
        options.check(given)
        if needs_user and _user() is None:
            raise SystemExit(f"{name} logs in: set PROJKIT_LOAD_USER and PROJKIT_LOAD_PASSWORD")
        environment.stop_timeout = 30.0
        run = Run(name, given, slo.load(given.slo))

        def start(**_: Any) -> None:
            made = make_plan(given)
            plan.streams, plan.stage = made.streams, made.stage
            if isinstance(environment.runner, WorkerRunner):
                return
            run.tally, run.started = Tally(), time.monotonic()
            run.before = server.look(Client(environment.host or ""))
            if watch is not None:
                gevent.spawn(watch, run, environment)

        def count(sample: Sample, stage: str, **_: Any) -> None:
            row = run.tally.row(stage, sample.name, sample.method, sample.route)
            row.intended.add(1000 * (sample.ended - sample.due))
            row.service.add(1000 * (sample.ended - sample.sent))
            if sample.late is not None:
                run.tally.lateness.add(1000 * sample.late)
            if sample.failure:
                row.failures[sample.failure] += 1

        def tell(client_id: str, data: dict[str, Any]) -> None:
            data[_WIRE] = run.tally.take()

        def hear(client_id: str, data: dict[str, Any]) -> None:
            if _WIRE in data:
                run.tally.put(data.pop(_WIRE))

        def finish(**_: Any) -> None:
            if isinstance(environment.runner, WorkerRunner):
                return
            _settle(environment)
            run.seconds = max(time.monotonic() - run.started, 0.001) if run.started else 0.0
            run.after = server.look(Client(environment.host or "")) if run.started else None
            environment.process_exit_code = conclude(run, judge)

        events.test_start.add_listener(start)
        events.test_stopping.add_listener(lambda **_: _stop_workers(environment))
        measured.add_listener(count)
        events.report_to_master.add_listener(tell)
        events.worker_report.add_listener(hear)
        events.quitting.add_listener(finish)

    events.init.add_listener(set_up)


def conclude(run: Run, judge: Judge) -> int:
    """Says it all; the exit code."""
    compared: Sequence[server.Compared] = []
    print(report.measured(run.tally))
    if run.before is not None and run.after is not None:
        compared = server.compare(list(run.tally.rows.values()), run.before, run.after)
        print(report.cross_check(compared))
    else:
        print("\nThe server's own histogram could not be read: set PROJKIT_LOAD_METRICS_TOKEN")
    sent = sum(row.intended.count for row in run.tally.rows.values())
    late = run.tally.lateness.percentile(0.99)
    rate = sent / run.seconds if run.seconds else 0.0
    print(
        f"\n{run.name}: {sent} requests, {rate:.1f} a second; this machine was {late:.1f} ms late to send at p99"
    )
    if late > LATE_MS:
        print("WARNING: so late a generator measures itself; use --processes, or a machine with more room")
    broken = judge(run) if sent else [Broken("all", "(none)", "requests", "0", "1 or more")]
    if run.options.slack != 1:
        print(f"Every target of time is stretched by the factor {run.options.slack:g}")
    print(report.broken_table(broken) if broken else "\nPASSED: every target was met")
    if run.options.report:
        facts = {"suite": run.name, "seconds": round(run.seconds, 1), "requests": sent, "per_second": round(rate, 1),
                 "slack": run.options.slack, **run.facts}  # fmt: skip
        report.write_json(run.options.report, run.tally, broken, compared, facts)
    return 1 if broken else 0


def _user() -> dict[str, str] | None:
    try:
        return login_body()
    except CredentialError as error:
        raise SystemExit(str(error)) from error


def _stop_workers(environment: Environment) -> None:
    """Lets workers finish what they have sent: Locust's master would give them half a second."""
    runner = environment.runner
    if not isinstance(runner, MasterRunner):
        return
    for client in runner.clients.all:
        runner.server.send_to_client(Message("stop", None, client.id))
    with gevent.Timeout(environment.stop_timeout or 0, False):
        while runner.user_count:
            gevent.sleep(0.1)


def _settle(environment: Environment) -> None:
    """Ctrl-C comes here with the test under way."""
    runner = environment.runner
    if runner is not None and runner.state in {STATE_RUNNING, STATE_SPAWNING}:
        runner.stop()
