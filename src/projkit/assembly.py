"""Assembly of a kit's endpoints and of what stands in front of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.types import ASGIApp, Scope

from projkit.auth.anonymous_access import AnonymousAccess
from projkit.auth.cookies import Cookies
from projkit.auth.oidc.routes import OidcRoutes
from projkit.auth.routes import AuthRoutes
from projkit.auth.wiring import cookie_names
from projkit.health.routes import HealthRoutes
from projkit.health.service import Health
from projkit.http.application import Application
from projkit.http.client import ClientAddresses
from projkit.http.concurrency import ConcurrencyLimiter
from projkit.http.entry import EntryShim
from projkit.http.fast_path import PreparedEndpoints
from projkit.http.routing import Endpoint
from projkit.http.timing import TimingMiddleware
from projkit.monitoring.service import Monitoring
from projkit.observers import Observer
from projkit.per_loop import PerLoop
from projkit.projects.routes import ProjectRoutes
from projkit.running import CurrentRunning
from projkit.settings import Settings
from projkit.telemetry import route_kinds
from projkit.telemetry import routes as telemetry_routes
from projkit.telemetry.exposition import KitRegistry
from projkit.telemetry.wiring import Telemetry
from projkit.validation import public_url
from projkit.validation import routes as validation_routes
from projkit.validation.wiring import Validations
from projkit.version import __version__
from projkit.web import pages
from projkit.web import routes as web_routes

_KINDS_BY_TAG: Final = {
    "projects": route_kinds.PROJECTS,
    "auth": route_kinds.AUTH,
    "health": route_kinds.PROBE,
    "monitoring": route_kinds.MONITORING,
    "telemetry": route_kinds.MONITORING,
}


@dataclass(frozen=True, slots=True)
class Assembly:
    """The endpoints of a kit, and the paths that telemetry treats differently.

    Attributes:
        endpoints: every endpoint.
        route_kinds: the kind of each path, by which metrics and their rules select routes.
        quiet_paths: those whose requests begin no trace: health and the Prometheus scrape.
    """

    endpoints: tuple[Endpoint, ...]
    route_kinds: Mapping[str, str]
    quiet_paths: frozenset[str]


def assemble(
    settings: Settings,
    current: CurrentRunning,
    *,
    addresses: ClientAddresses,
    registry: KitRegistry,
    health: Health,
    monitoring: Monitoring,
    validations: Callable[[], Validations],
) -> Assembly:
    """Create the endpoints of a kit.

    Args:
        settings: the kit's settings.
        current: access to the services of the event loop on which a request runs.
        addresses: determines the addresses of clients behind proxies.
        registry: the metrics for Prometheus.
        health: the kit's health checks.
        monitoring: the kit's monitoring reports.
        validations: returns the validations of the event loop, also while the kit is not running.
    """
    prefix = settings.api_prefix
    anonymous = AnonymousAccess(settings, addresses)
    cookies = Cookies(settings, cookie_names(settings), addresses, f"{prefix}/auth")
    project_routes = ProjectRoutes(
        current.projects,
        current.idempotent_creation,
        prefix=prefix,
        require_if_match=settings.require_if_match,
        put_merges=settings.put_mode == "merge",
    )
    auth_routes = AuthRoutes(current.auth, settings, cookies, addresses)
    oidc_routes = OidcRoutes(current.auth, settings, cookies, addresses)
    health_routes = HealthRoutes(
        health,
        settings.effective_health_details,
        version=__version__,
        scheduler=current.check_scheduler,
        is_draining=current.is_draining,
        allows_anonymous=anonymous.allows_monitoring,
        authenticate=current.authenticate,
        traffic=monitoring.traffic,
    )
    health_endpoints = health_routes.endpoints(prefix, root_paths=settings.health_root_paths)
    validation_endpoints = validation_routes.endpoints(prefix, validations, anonymous.allows_monitoring)
    api = [
        *project_routes.endpoints(),
        *auth_routes.endpoints(),
        *oidc_routes.endpoints(),
        *health_endpoints,
        *monitoring.endpoints(anonymous.allows_monitoring),
        *telemetry_routes.endpoints(settings.metrics_path, registry, anonymous.allows_metrics),
        *validation_endpoints,
        *public_url.endpoints(prefix, current.secrets, cookies, addresses),
    ]

    def requires_https(scope: Scope) -> bool:
        return settings.env == "production" and addresses.is_secure(scope)

    web_endpoints = [
        *web_routes.endpoints(prefix, api, __version__, cookies.names.auth),
        *pages.endpoints(
            prefix,
            requires_https,
            csrf_header=settings.csrf_header_name,
            csrf_cookie=cookies.names.csrf,
            tenants=bool(settings.tenant_claim),
        ),
    ]
    probe_paths = frozenset(each.path for each in health_endpoints)
    kinds = {each.path: _KINDS_BY_TAG[each.tag] for each in api}
    kinds |= dict.fromkeys((each.path for each in validation_endpoints), route_kinds.VALIDATION)
    kinds |= dict.fromkeys((each.path for each in web_endpoints), route_kinds.PAGE)
    return Assembly(
        endpoints=(*api, *web_endpoints),
        route_kinds=kinds,
        quiet_paths=probe_paths | {settings.metrics_path},
    )


def create_limiters(settings: Settings, observer: Observer) -> PerLoop[ConcurrencyLimiter] | None:
    """Create the limiter of concurrent requests for each event loop; None if there is no limit."""
    if not settings.max_concurrent_requests:
        return None
    return PerLoop(
        partial(
            ConcurrencyLimiter,
            settings.max_concurrent_requests,
            settings.max_queued_requests,
            settings.queue_seconds,
            observer,
        )
    )


def put_in_front(
    application: Application,
    assembly: Assembly,
    telemetry: Telemetry,
    owns: Callable[[str], bool],
    settings: Settings,
) -> ASGIApp:
    """Put timing, entry and the fast path of probes in front of the application.

    Args:
        application: answers requests.
        assembly: its endpoints.
        telemetry: receives its timings and traces.
        owns: returns whether the kit serves a path.
        settings: the path below which browsers find the kit, and which requests are logged.
    """
    recorder, tracing, request_ids = telemetry.recorder, telemetry.tracing, telemetry.request_ids
    unlogged_paths: frozenset[str] = frozenset() if settings.access_log_probes else assembly.quiet_paths
    timed = TimingMiddleware(application, recorder, tracing, request_ids, unlogged_paths=unlogged_paths)
    return PreparedEndpoints(
        EntryShim(timed, owns, settings.public_path),
        assembly.endpoints,
        application.routes,
        recorder,
        tracing,
        request_ids,
        telemetry.mounted,
        log_probes=settings.access_log_probes,
    )


class KitPaths:
    """The paths that belong to the kit; a host may have routes of its own below the same prefix."""

    def __init__(self, prefix: str, endpoints: Iterable[Endpoint]) -> None:
        self._prefix = f"{prefix}/"
        self._areas = {self._area(endpoint.path) for endpoint in endpoints}

    def contains(self, path: str) -> bool:
        """Return whether ``path`` is the kit's: ``/metrics``, or anything below ``/api/v1/projects``, for example."""
        return self._area(path) in self._areas

    def _area(self, path: str) -> str:
        below = path.removeprefix(self._prefix)
        return path if below == path else self._prefix + below.partition("/")[0]
