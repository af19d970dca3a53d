"""Ties a suite to Locust: its schedule, its counts over all processes, its verdict and its exit code."""

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import gevent
from locust import events
from locust.env import Environment
from locust.runners import STATE_RUNNING, STATE_SPAWNING, MasterRunner, WorkerRunner

from support import dataset, options, preflight, report, server, slo, tables
from support.client import Client
from support.credentials import CredentialError, login_body
from support.schedule import DRAIN_SECONDS, Plan, await_all, end_all, measured, plan, shared
from support.slo import Broken, Target
from support.tally import Tally
from support.walk import Sample

LATE_MS: Final = 20.0  # a generator whose p99 is later than this measures itself
_WIRE: Final = "projkit"  # the key of our counts in a worker's report
_END: Final = "projkit_end"  # messages from master to worker, and back
_ENDED: Final = "projkit_ended"


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
    enough: bool = False  # the suite itself has ended the test
    workers: int = 0
    workers_lost: int = 0
    facts: dict[str, object] = field(default_factory=dict)


Judge = Callable[[Run], list[Broken]]


def by_stage(run: Run) -> list[Broken]:
    """Every stage against every target."""
    return [
        broken
        for stage in run.tally.stages()
        for broken in slo.judge(stage, run.tally.stage(stage), run.targets, run.options.slack)
    ]


@dataclass
class Suite:
    """What a file declares, and what Locust tells it."""

    name: str
    make_plan: Callable[[Namespace], Plan]
    judge: Judge
    needs_user: bool
    needs_caller: bool
    cross_check: bool
    needs_data: bool
    watch: Callable[[Run, Environment], None] | None
    environment: Environment = field(init=False)
    run: Run = field(init=False)
    workers_ended: int = 0
    marks: set[str] = field(default_factory=set)  # of all processes that have made projects

    def set_up(self, environment: Environment, **_: Any) -> None:
        """Reads options and targets, so that what is wrong with them is said before anything is sent."""
        given = environment.parsed_options
        assert given is not None, "Locust's command line has options"
        options.check(given)
        if _user() is None and self.needs_user:
            raise SystemExit(f"{self.name} logs in: set PROJKIT_LOAD_USER and PROJKIT_LOAD_PASSWORD")
        environment.stop_timeout = 30.0
        self.environment = environment
        self.run = Run(self.name, given, slo.load(given.slo))
        if given.headless and not isinstance(environment.runner, WorkerRunner):
            host = preflight.check_host(environment.host)
            preflight.check(host, *shared(host), needs_caller=self.needs_caller)
        if isinstance(environment.runner, WorkerRunner):
            environment.runner.register_message(_END, self.end_worker, concurrent=True)
            return
        given.planned_seconds = given.run_time  # which Locust keeps from its workers
        if isinstance(environment.runner, MasterRunner):
            environment.runner.register_message(_ENDED, self.worker_ended)

    def start(self, **_: Any) -> None:
        """The test begins."""
        made = self.make_plan(self.run.options)
        plan.streams, plan.stage = made.streams, made.stage
        if isinstance(self.environment.runner, WorkerRunner):
            dataset.read_from(self.run.options.data_mark)
            return
        self.run.options.data_mark = dataset.mark()
        if self.needs_data:
            self._prepare()
        self.run.tally, self.run.started = Tally(), time.monotonic()
        if self.cross_check:
            self.run.before = server.look(Client(self.environment.host or ""))
        if self.watch is not None:
            gevent.spawn(self.watch, self.run, self.environment)

    def count(self, sample: Sample, stage: str, **_: Any) -> None:
        """One request."""
        row = self.run.tally.row(stage, sample.name, sample.method, sample.route)
        row.intended.add(1000 * (sample.ended - sample.due))
        row.service.add(1000 * (sample.ended - sample.sent))
        if sample.late is not None:
            self.run.tally.lateness.add(1000 * sample.late)
        if sample.failure:
            row.failures[sample.failure] += 1

    def tell(self, client_id: str, data: dict[str, Any]) -> None:
        """A worker reports."""
        data[_WIRE] = self._told()

    def hear(self, client_id: str, data: dict[str, Any]) -> None:
        """The master listens."""
        if _WIRE in data:
            self._add(data.pop(_WIRE))

    def end_worker(self, environment: Environment, **_: Any) -> None:
        """In a worker: lets what has been sent be answered, and then tells the master."""
        end_all()
        await_all()
        shared(environment.host or "")[1].log_out()
        assert environment.runner is not None, "a message came by it"
        environment.runner.send_message(_ENDED, self._told())

    def worker_ended(self, msg: Any, **_: Any) -> None:
        """In the master."""
        self._add(msg.data)
        self.workers_ended += 1

    def _told(self) -> dict[str, Any]:
        return {**self.run.tally.take(), "mark": dataset.mark()}

    def _add(self, told: dict[str, Any]) -> None:
        self.marks.add(told["mark"])
        self.run.tally.put(told)

    def stopping(self, **_: Any) -> None:
        """The schedule ends. In the master: Locust would give its workers half a second for what they have sent."""
        runner = self.environment.runner
        self.run.seconds = max(time.monotonic() - self.run.started, 0.001)
        end_all()
        if isinstance(runner, MasterRunner):
            self.workers_ended, workers = 0, len(runner.clients.running)
            runner.send_message(_END)
            with gevent.Timeout(DRAIN_SECONDS + 5, False):
                while self.workers_ended < workers:
                    gevent.sleep(0.05)
            self.run.workers = workers + len(runner.clients.missing)
            self.run.workers_lost = self.run.workers - self.workers_ended

    def finish(self, **_: Any) -> None:
        """The verdict; Ctrl-C comes here with the test under way."""
        runner, run = self.environment.runner, self.run
        if runner is None or isinstance(runner, WorkerRunner):
            return
        if runner.state in {STATE_RUNNING, STATE_SPAWNING}:
            runner.stop()
        if self.cross_check and run.started:
            run.after = server.look(Client(self.environment.host or ""))
        self._clear()
        self.environment.process_exit_code = conclude(run, self.judge, cross_check=self.cross_check)

    def _prepare(self) -> None:
        """Without projects there is nothing to turn pages of."""
        client, callers = shared(self.environment.host or "")
        if callers.known and (said := dataset.prepare(client, callers.all[0])):
            print(f"{self.name}: {said}", flush=True)

    def _clear(self) -> None:
        """Nothing stays of what was made here or by workers, neither projects nor sessions."""
        client, callers = shared(self.environment.host or "")
        for mark in {dataset.mark(), *self.marks}:
            for why in filter(None, [dataset.clear(client, each, mark) for each in callers.all]):
                print(f"{self.name}: projects with the tag {mark} may be left: {why}")
        callers.log_out()


def declare(
    name: str,
    make_plan: Callable[[Namespace], Plan],
    *,
    judge: Judge = by_stage,
    needs_user: bool = False,
    needs_caller: bool = True,
    cross_check: bool = True,
    needs_data: bool = False,
    watch: Callable[[Run, Environment], None] | None = None,
) -> None:
    """Makes the calling file a suite; ``watch`` runs beside the test, in the process that judges."""
    suite = Suite(name, make_plan, judge, needs_user, needs_caller, cross_check, needs_data, watch)
    events.init.add_listener(suite.set_up)
    events.test_start.add_listener(suite.start)
    events.test_stopping.add_listener(suite.stopping)
    measured.add_listener(suite.count)
    events.report_to_master.add_listener(suite.tell)
    events.worker_report.add_listener(suite.hear)
    events.quitting.add_listener(suite.finish)


def conclude(run: Run, judge: Judge, *, cross_check: bool = True) -> int:
    """Says it all; the exit code."""
    compared: Sequence[server.Compared] = []
    print(report.measured(run.tally))
    if cross_check and run.before is not None and run.after is not None:
        if problem := run.before.problem or run.after.problem:
            print(f"\nThe server's own histogram could not be read: {problem}")
        else:
            compared = server.compare(list(run.tally.rows.values()), run.before, run.after)
            print(report.cross_check(compared))
    sent = sum(row.intended.count for row in run.tally.rows.values())
    late = run.tally.lateness.percentile(0.99)
    rate = sent / run.seconds if run.seconds else 0.0
    print(
        f"\n{run.name}: {sent} requests, {rate:.1f} a second; this machine was {late:.1f} ms late to send at p99"
    )
    if late > LATE_MS:
        print("WARNING: so late a generator measures itself; use --processes, or a machine with more room")
    broken = [Broken("all", "(none)", "requests", "0", "1 or more")]
    if sent:
        seen = {name for _, name in run.tally.rows}
        seconds = run.seconds
        broken = [
            *judge(run),
            *slo.unmeasured(seen, sent, plan.asked(seconds), plan.requests(seconds), seconds),
        ]
    broken += cut_short(run)
    if run.options.slack != 1:
        print(f"Every target of time is stretched by the factor {run.options.slack:g}")
    print(
        tables.broken("BROKEN", [asdict(each) for each in broken])
        if broken
        else "\nPASSED: every target was met"
    )
    if run.options.report:
        facts = {"suite": run.name, "seconds": round(run.seconds, 1), "requests": sent, "per_second": round(rate, 1),
                 "slack": run.options.slack, **run.facts}  # fmt: skip
        report.write_json(run.options.report, run.tally, broken, compared, facts)
    return 1 if broken else 0


def cut_short(run: Run) -> list[Broken]:
    """A test that somebody ended, or a part of it that was lost."""
    broken = []
    planned = options.seconds(run.options, 0.0)
    if not run.enough and run.seconds < planned - 1:
        broken.append(
            Broken("all", "(all)", "time", f"{run.seconds:.0f} s, then it was ended", f"{planned:.0f} s")
        )
    if run.workers_lost:
        broken.append(Broken("all", "(workers)", "lost", f"{run.workers_lost} of {run.workers}", "0"))
    return broken


def _user() -> dict[str, str] | None:
    try:
        return login_body()
    except CredentialError as error:
        raise SystemExit(str(error)) from error
