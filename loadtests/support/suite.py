"""Connects a suite to Locust: schedule, statistics over all processes, verdict and exit code."""

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
from support.iteration import Sample
from support.schedule import DRAIN_SECONDS, Plan, await_all, end_all, plan, sample_recorded, shared_client
from support.slo import MissedTarget, Target
from support.stats import Stats

MAX_LATENESS_MS: Final = 20.0  # above this p99 of its own delay, the generator measures itself
_REPORT_KEY: Final = "projkit"  # of our statistics in a worker's report
_END_MESSAGE: Final = "projkit_end"  # from master to worker; the next one is the reply
_ENDED_MESSAGE: Final = "projkit_ended"
_CLEAN: Final = "If it is killed, delete the rest with: python loadtests/clean.py {tag} -H URL"


@dataclass
class TestRun:
    """The state of one test in the master or in the only process."""

    name: str
    options: Namespace
    targets: dict[str, Target]
    stats: Stats = field(default_factory=Stats)
    before: server.Scrape | None = None
    after: server.Scrape | None = None
    started: float = 0.0
    seconds: float = 0.0
    ended_by_suite: bool = False
    workers: int = 0
    workers_lost: int = 0
    facts: dict[str, object] = field(default_factory=dict)


Judge = Callable[[TestRun], list[MissedTarget]]


def by_stage(run: TestRun) -> list[MissedTarget]:
    """Check every stage against every target."""
    return [
        missed
        for stage in run.stats.stages()
        for missed in slo.judge(stage, run.stats.stage(stage), run.targets, run.options.slack)
    ]


@dataclass
class Suite:
    """A suite as a file declares it, with the handlers of Locust's events."""

    name: str
    make_plan: Callable[[Namespace], Plan]
    judge: Judge
    needs_user: bool
    needs_credential: bool
    cross_check: bool
    needs_data: bool
    watch: Callable[[TestRun, Environment], None] | None
    environment: Environment = field(init=False)
    run: TestRun = field(init=False)
    workers_ended: int = 0
    tags: set[str] = field(default_factory=set)  # of all processes that created projects

    def set_up(self, environment: Environment, **_: Any) -> None:
        """Read options and targets, so that errors in them are reported before the first request."""
        given = environment.parsed_options
        assert given is not None, "Locust parses options before this event"
        options.check(given)
        if _user() is None and self.needs_user:
            raise SystemExit(f"{self.name} logs in: set PROJKIT_LOAD_USER and PROJKIT_LOAD_PASSWORD")
        environment.stop_timeout = 30.0
        self.environment = environment
        self.run = TestRun(self.name, given, slo.load(given.slo))
        if given.headless and not isinstance(environment.runner, WorkerRunner):
            host = preflight.check_host(environment.host)
            preflight.check(
                host,
                *shared_client(host),
                needs_credential=self.needs_credential,
                seconds=given.run_time or 0.0,
            )
        if isinstance(environment.runner, WorkerRunner):
            environment.runner.register_message(_END_MESSAGE, self.end_worker, concurrent=True)
            return
        given.planned_seconds = given.run_time  # Locust does not pass it on to workers
        if given.headless:
            given.run_time = None  # Locust would count it from before the preparation
        if isinstance(environment.runner, MasterRunner):
            environment.runner.register_message(_ENDED_MESSAGE, self.worker_ended)

    def start(self, **_: Any) -> None:
        """Start the test."""
        made = self.make_plan(self.run.options)
        plan.workloads, plan.stage = made.workloads, made.stage
        if isinstance(self.environment.runner, WorkerRunner):
            dataset.use_data_of(self.run.options.data_tag)
            return
        self.run.options.data_tag = dataset.process_tag()
        if self.needs_data:
            self._prepare()
        if self.cross_check:
            self.run.before = server.scrape(Client(self.environment.host or ""))
        self._begin()
        if self.watch is not None:
            gevent.spawn(self.watch, self.run, self.environment)

    def _begin(self) -> None:
        """Begin to measure, now that everything is prepared; the duration counts from here."""
        runner, seconds = self.environment.runner, self.run.options.planned_seconds
        assert runner is not None, "a test that starts has a runner"
        runner.stats.reset_all()
        self.run.stats, self.run.started = Stats(), time.monotonic()
        if self.run.options.headless and seconds:
            print(f"{self.name}: the schedule starts; it takes {seconds:g} s", flush=True)
            gevent.spawn_later(seconds, runner.quit)

    def count(self, sample: Sample, stage: str, **_: Any) -> None:
        """Add one request to the statistics."""
        row = self.run.stats.row(stage, sample.name, sample.method, sample.route)
        row.intended.add(1000 * (sample.ended - sample.due))
        row.service.add(1000 * (sample.ended - sample.sent))
        if sample.late is not None:
            self.run.stats.lateness.add(1000 * sample.late)
        if sample.failure:
            row.failures[sample.failure] += 1

    def export_stats(self, client_id: str, data: dict[str, Any]) -> None:
        """Add a worker's statistics to its report."""
        data[_REPORT_KEY] = self._export()

    def import_stats(self, client_id: str, data: dict[str, Any]) -> None:
        """Merge a worker's statistics in the master."""
        if _REPORT_KEY in data:
            self._import(data.pop(_REPORT_KEY))

    def end_worker(self, environment: Environment, **_: Any) -> None:
        """In a worker: wait for responses in flight, then send the statistics to the master."""
        end_all()
        await_all()
        shared_client(environment.host or "")[1].log_out()
        assert environment.runner is not None, "the message came through the runner"
        environment.runner.send_message(_ENDED_MESSAGE, self._export())

    def worker_ended(self, msg: Any, **_: Any) -> None:
        """In the master: merge the last statistics of a worker that has ended."""
        self._import(msg.data)
        self.workers_ended += 1

    def _export(self) -> dict[str, Any]:
        return {**self.run.stats.export(), "tag": dataset.process_tag()}

    def _import(self, exported: dict[str, Any]) -> None:
        self.tags.add(exported["tag"])
        self.run.stats.add_exported(exported)

    def stopping(self, **_: Any) -> None:
        """End the schedule. In the master: wait for workers longer than Locust's own half second."""
        runner = self.environment.runner
        self.run.seconds = max(time.monotonic() - self.run.started, 0.001)
        end_all()
        if isinstance(runner, MasterRunner):
            self.workers_ended, workers = 0, len(runner.clients.running)
            runner.send_message(_END_MESSAGE)
            with gevent.Timeout(DRAIN_SECONDS + 5, False):
                while self.workers_ended < workers:
                    gevent.sleep(0.05)
            self.run.workers = workers + len(runner.clients.missing)
            self.run.workers_lost = self.run.workers - self.workers_ended

    def finish(self, **_: Any) -> None:
        """Report the verdict. After Ctrl-C this is called while the test is still running."""
        runner, run = self.environment.runner, self.run
        if runner is None or isinstance(runner, WorkerRunner):
            return
        if runner.state in {STATE_RUNNING, STATE_SPAWNING}:
            runner.stop()
        if self.cross_check and run.started:
            run.after = server.scrape(Client(self.environment.host or ""))
        self._clear()
        self.environment.process_exit_code = report_verdict(run, self.judge, cross_check=self.cross_check)

    def _prepare(self) -> None:
        """Create projects if the owner has too few to read."""
        client, credentials = shared_client(self.environment.host or "")
        tag = dataset.process_tag()
        print(
            f"{self.name}: everything that this run creates has the tag {tag}. {_CLEAN.format(tag=tag)}",
            flush=True,
        )
        if credentials.available and (summary := dataset.prepare(client, credentials.all[0])):
            print(f"{self.name}: {summary}", flush=True)

    def _clear(self) -> None:
        """Delete every project and session that this process and its workers created."""
        client, credentials = shared_client(self.environment.host or "")
        for tag in {dataset.process_tag(), *self.tags}:
            for reason in filter(
                None, [dataset.delete_created(client, each, tag) for each in credentials.all]
            ):
                print(
                    f"{self.name}: projects with the tag {tag} may be left: {reason}. {_CLEAN.format(tag=tag)}"
                )
        credentials.log_out()


def declare(
    name: str,
    make_plan: Callable[[Namespace], Plan],
    *,
    judge: Judge = by_stage,
    needs_user: bool = False,
    needs_credential: bool = True,
    cross_check: bool = True,
    needs_data: bool = False,
    watch: Callable[[TestRun, Environment], None] | None = None,
) -> None:
    """Declare the calling file as a suite. ``watch`` runs concurrently with the test, in the process that judges it."""
    suite = Suite(name, make_plan, judge, needs_user, needs_credential, cross_check, needs_data, watch)
    events.init.add_listener(suite.set_up)
    events.test_start.add_listener(suite.start)
    events.test_stopping.add_listener(suite.stopping)
    sample_recorded.add_listener(suite.count)
    events.report_to_master.add_listener(suite.export_stats)
    events.worker_report.add_listener(suite.import_stats)
    events.quitting.add_listener(suite.finish)


def report_verdict(run: TestRun, judge: Judge, *, cross_check: bool = True) -> int:
    """Print the report and return the exit code."""
    compared: Sequence[server.RouteComparison] = []
    print(report.measured(run.stats))
    if cross_check and run.before is not None and run.after is not None:
        if problem := run.before.problem or run.after.problem:
            print(f"\nThe server's own histogram could not be read: {problem}")
        else:
            compared = server.compare(list(run.stats.rows.values()), run.before, run.after)
            print(report.cross_check(compared))
    sent = sum(row.intended.count for row in run.stats.rows.values())
    late = run.stats.lateness.percentile(0.99)
    rate = sent / run.seconds if run.seconds else 0.0
    print(
        f"\n{run.name}: {sent} requests, {rate:.1f} per second; the generator sent {late:.1f} ms late at p99"
    )
    if late > MAX_LATENESS_MS:
        print(
            "WARNING: a generator this late measures itself; use --processes or a machine with spare capacity"
        )
    missed = [MissedTarget("all", "(none)", "requests", "0", "1 or more")]
    if sent:
        seen = {name for _, name in run.stats.rows}
        seconds = run.seconds
        missed = [
            *judge(run),
            *slo.unmeasured(seen, sent, plan.expected_requests(seconds), plan.requests(seconds), seconds),
        ]
    missed += incomplete(run)
    if run.options.slack != 1:
        print(f"Latency targets are multiplied by {run.options.slack:g} (--slack)")
    print(
        tables.missed_targets("MISSED", [asdict(each) for each in missed])
        if missed
        else "\nPASSED: every target was met"
    )
    if run.options.report:
        facts = {
            "suite": run.name,
            "seconds": round(run.seconds, 1),
            "requests": sent,
            "per_second": round(rate, 1),
            "slack": run.options.slack,
            **run.facts,
        }
        report.write_json(run.options.report, run.stats, missed, compared, facts)
    return 1 if missed else 0


def incomplete(run: TestRun) -> list[MissedTarget]:
    """Return what is missing of a test that was ended early or lost a worker."""
    missed = []
    planned = options.seconds(run.options, 0.0)
    if not run.ended_by_suite and run.seconds < planned - 1:
        missed.append(
            MissedTarget("all", "(all)", "time", f"{run.seconds:.0f} s, then ended early", f"{planned:.0f} s")
        )
    if run.workers_lost:
        missed.append(MissedTarget("all", "(workers)", "lost", f"{run.workers_lost} of {run.workers}", "0"))
    return missed


def _user() -> dict[str, str] | None:
    try:
        return login_body()
    except CredentialError as error:
        raise SystemExit(str(error)) from error
