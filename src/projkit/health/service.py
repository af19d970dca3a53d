"""The health of a kit: its checks, and the schedulers that run them, one per event loop."""

from collections.abc import Iterable
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakSet

from projkit.clock import utc_now
from projkit.db.connect import open_probe
from projkit.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    ProjkitError,
    SchemaOutOfDateError,
)
from projkit.forks import reset_in_forks
from projkit.health import database
from projkit.health.celery import CeleryApp, celery_check
from projkit.health.check_scheduler import CheckScheduler, CheckState, Resource
from projkit.health.checks import HealthCheck, Observation, truncate_detail
from projkit.health.state_history import StateHistory
from projkit.health.system import SilentLoops, SystemSampler, disk_check, loop_check
from projkit.observers import NULL_OBSERVER, Observer
from projkit.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from projkit.redis.connect import RedisClient

# Names that a host cannot use, even for checks that are not configured.
BUILT_IN: Final = ("database", "migrations", "clock", "redis", "celery", "disk", "event_loop")
_FAILURES: Final = ((DatabaseUnavailableError, "database"), (SchemaOutOfDateError, "migrations"))


class _StartFailure(NamedTuple):
    """The check that explains why the kit cannot start."""

    name: str
    latest: Observation
    history: StateHistory


class Health:
    """The health checks of a kit: the built-in ones that its settings enable, and the host's own."""

    def __init__(
        self,
        settings: Settings,
        *,
        has_redis: bool = False,
        celery_app: CeleryApp | None = None,
        observer: Observer = NULL_OBSERVER,
        silent_loops: SilentLoops = lambda: (),
    ) -> None:
        self._settings = settings
        self._observer = observer
        self._silent_loops = silent_loops
        self._has_redis = has_redis  # a client of the host's
        self._celery_app = celery_app
        self._host_checks: dict[str, HealthCheck] = {}
        self.reset_after_fork()
        reset_in_forks(self)

    def reset_after_fork(self) -> None:
        """Begin the uptime now, without the parent's schedulers and its failure to start."""
        self._schedulers: WeakSet[CheckScheduler] = WeakSet()
        self._created_at = monotonic()
        self._failure: _StartFailure | None = None

    @property
    def uptime_seconds(self) -> float:
        """Seconds since the kit was created, or this process was forked."""
        return monotonic() - self._created_at

    @property
    def uses_redis(self) -> bool:
        """Whether a Redis is configured."""
        return self._has_redis or self._settings.redis_url is not None

    def add(self, check: HealthCheck) -> None:
        """Add a check of the host's; it starts at once on every event loop where the kit runs.

        Raises:
            ConfigurationError: the name is already in use.
        """
        if check.name in BUILT_IN or check.name in self._host_checks:
            raise ConfigurationError(
                f"there is already a health check {check.name}; choose a name other than "
                f"{', '.join([*BUILT_IN, *self._host_checks])}"
            )
        check = self._with_configured_criticality(check)
        self._host_checks[check.name] = check
        for scheduler in list(self._schedulers):
            scheduler.add(check)

    def create_scheduler(self, engine: "AsyncEngine | None", redis: "RedisClient | None") -> CheckScheduler:
        """Create a scheduler of the built-in checks for the running event loop; open nothing yet.

        Args:
            engine: the host's engine, if it passed one in.
            redis: the host's Redis client, if it passed one in.

        Raises:
            ConfigurationError: HEALTH_CRITICAL names an unknown check, or Celery is not installed.
        """
        settings = self._settings
        probe = open_probe(settings, engine, seconds=database.TIMEOUT_SECONDS)
        checks, resources = database.database_checks(probe), list[Resource]([probe])
        if redis is not None or settings.redis_url is not None:
            # Imported only here, because the client takes 8 MiB.
            from projkit.health.redis import RedisProbe, redis_check  # noqa: PLC0415
            from projkit.redis.connect import open_redis  # noqa: PLC0415

            holds_sessions = settings.session_store != "database"
            url = "" if settings.redis_url is None else settings.redis_url.get_secret_value()
            redis_probe = RedisProbe(
                open_redis(url) if redis is None else redis,
                prefix=settings.redis_prefix,
                writes=holds_sessions,
                owned=redis is None,
            )
            checks.append(redis_check(redis_probe, critical=holds_sessions))
            resources.append(redis_probe)
        broker = settings.celery_broker_url
        broker_url = "" if broker is None else broker.get_secret_value()
        if self._celery_app is not None or broker_url:
            checks.append(celery_check(self._celery_app, broker_url))
        embedded = engine is None and settings.embedded
        checks.append(disk_check(settings.sqlite_path.absolute().parent if embedded else Path.cwd()))
        sampler = SystemSampler(self._observer, self._silent_loops)
        checks.append(loop_check(sampler))
        self._require_known_names([*(check.name for check in checks), *self._host_checks])
        return CheckScheduler(
            [self._with_configured_criticality(check) for check in checks], sampler, resources, self._observer
        )

    async def start(self, scheduler: CheckScheduler) -> None:
        """Start the scheduler, add the host's checks to it, and wait until each critical check has run once."""
        scheduler.start()
        self._failure = None
        self._schedulers.add(scheduler)
        for check in self._host_checks.values():
            scheduler.add(check)
        await scheduler.wait_for_critical()

    def record_start_failure(self, error: ProjkitError) -> None:
        """Record why the kit could not start, for the details and the metrics."""
        name = next((name for kind, name in _FAILURES if isinstance(error, kind)), "start")
        observation = Observation("error", monotonic(), utc_now(), 0.0, truncate_detail(error.detail))
        if self._failure is None or self._failure.name != name:
            self._failure = _StartFailure(name, observation, StateHistory())
        self._failure = self._failure._replace(latest=observation)
        history = self._failure.history
        history.record("error", observation.observed_at, observation.detail)
        # No check is named "start"; if the kit cannot start for another reason, the state of the database is unknown.
        check = "database" if name == "start" else name
        self._observer.record_health_check(
            check,
            critical=True,
            healthy=False,
            seconds=0.0,
            valid_seconds=inf,
            failing_since=history.failing_since,
        )

    def snapshot_before_start(self) -> list[CheckState]:
        """Return the state of the checks that is known before the kit has started."""
        if self._failure is None:
            return [CheckState("database", True, "unknown", None, None)]
        name, observation, history = self._failure
        age = monotonic() - observation.loop_time
        checks = [
            CheckState(name, True, "error", observation, age, history.failing_since, tuple(history.changes))
        ]
        # An outdated schema was read from a database that responds, and for "database" the failure itself is listed.
        if name == "start":
            checks.insert(0, CheckState("database", True, "unknown", None, None))
        return checks

    def _with_configured_criticality(self, check: HealthCheck) -> HealthCheck:
        critical = self._settings.health_critical
        if critical is None or (check.name in critical) == check.critical:
            return check
        return HealthCheck(check.name, check.function, not check.critical, check.timeout, check.period)

    def _require_known_names(self, known: Iterable[str]) -> None:
        names = list(known)
        for each in self._settings.health_critical or ():
            if each not in names:
                raise ConfigurationError(
                    f"PROJKIT_HEALTH_CRITICAL names an unknown health check, {each}; "
                    f"the checks are {', '.join(names)}"
                )
