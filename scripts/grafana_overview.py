"""The overview dashboard: objectives, requests, saturation, dependencies, authentication, health, build."""

from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_panels import BAD, GOOD, WARNING, Panel, board, choice, heat_map, history, lines, number, rows
from grafana_queries import EVERY, NO_PROBES, OF, PROJECTS, REQUESTS, ROUTED, now, quantile, query, rate

ZERO_IS_GOOD = ((None, GOOD), (1, BAD))


def at_a_glance() -> list[Panel]:
    failed = rate(REQUESTS + "_count", f'{OF},status=~"5.."', only=NO_PROBES)
    in_time = rate(REQUESTS + "_bucket", f'{OF},status!~"5..",le="0.04"', only=PROJECTS)
    total = rate(REQUESTS + "_count", f'{OF},status!~"5.."', only=PROJECTS)
    return [
        number("Requests", "Requests per second to all endpoints", "reqps",
               now(rate(REQUESTS + "_count", OF)), steps=((None, "text"),)),
        number("Errors", "Share of responses with 5xx, except 503 of probes", "percentunit",
               now(f"({failed} or vector(0)) / {rate(REQUESTS + '_count', OF)}"),
               steps=((None, GOOD), (0.001, WARNING), (0.0144, BAD))),
        number("Projects in 40 ms", "Share of requests for projects that took at most 40 ms", "percentunit",
               now(f"{in_time} / {total}"), steps=((None, BAD), (0.9, WARNING), (0.99, GOOD))),
        number("Failing checks", "Health checks that fail, on all instances", "short",
               now(f"count(projkit_health_check_status{{{OF}}} == 0) or vector(0)"), steps=ZERO_IS_GOOD),
        number("Instances up", "Targets that Prometheus scrapes successfully", "short",
               now(f"sum(up{{{OF}}})"), steps=((None, BAD), (1, GOOD))),
        number("Alerts", "Firing alerts of projkit", "short",
               now('count(ALERTS{alertname=~"Projkit.+",alertstate="firing",job=~"$job|"}) or vector(0)'),
               steps=ZERO_IS_GOOD),
    ]  # fmt: skip


def objectives() -> list[Panel]:
    over = "over 30 days, or the time since Prometheus started; for all instances of the job"
    left = (
        '1 - job:projkit_slo_bad:ratio_rate30d{job=~"$job"} / on (slo) group_left () projkit:slo_budget:ratio'
    )
    burn = 'job:projkit_slo_bad:ratio_rate1h{job=~"$job"} / on (slo) group_left () projkit:slo_budget:ratio'
    return [
        number("Compliance", f"Share of good requests {over}", "percentunit",
               now('1 - job:projkit_slo_bad:ratio_rate30d{job=~"$job"}', "{{slo}}"),
               steps=((None, "text"),), span=8, height=8),
        number("Budget left", f"Share of the error budget {over}; below zero the objective is missed", "percentunit",
               now(left, "{{slo}}"), steps=((None, BAD), (0, WARNING), (0.25, GOOD)), span=8, height=8),
        lines("Burn rate", "Consumption of the error budget over the last hour: 1 is sustainable, 14.4 pages",
              "short", query(burn, "{{slo}}"), limits=((1, WARNING), (14.4, BAD))),
    ]  # fmt: skip


def requests() -> list[Panel]:
    recorded = "job_method_route:projkit_http_server_"
    chosen = '{job=~"$job",route=~"$route"}'
    duration = f"{recorded}request_duration_seconds"
    failed = rate(REQUESTS + "_count", f'{ROUTED},status=~"5.."', "method", "route", only=NO_PROBES)
    return [
        lines("Rate", "Requests per second by endpoint", "reqps",
              query(rate(REQUESTS + "_count", ROUTED, "method", "route"), "{{method}} {{route}}"), span=12),
        lines("Errors", "Responses with 5xx per second by endpoint, except 503 of probes", "reqps",
              query(f"{failed} or 0 * {rate(REQUESTS + '_count', ROUTED, 'method', 'route')}",
                    "{{method}} {{route}}"), span=12),
        lines("Duration", "Percentiles over the selected endpoints; points are exemplars, which link to traces", "s",
              *(query(quantile(share, REQUESTS, ROUTED), f"p{share * 100:g}", exemplars=share == 0.99)
                for share in (0.5, 0.95, 0.99)), span=12, limits=((0.04, WARNING),)),
        heat_map("Durations", "Requests per second by duration, for the selected endpoints; points are exemplars",
                 rate(REQUESTS + "_bucket", ROUTED, "le")),
        rows("Endpoints", "The last five minutes, for all instances of the job", {
            "Rate": (now(f"{recorded}requests:rate5m{chosen}"), "reqps"),
            "Errors": (now(f"{recorded}errors:ratio_rate5m{chosen}"), "percentunit"),
            "p50": (now(f"{duration}:p50_rate5m{chosen}"), "s"),
            "p95": (now(f"{duration}:p95_rate5m{chosen}"), "s"),
            "p99": (now(f"{duration}:p99_rate5m{chosen}"), "s"),
        }, hidden=("__name__",)),
        lines("Responses", "Responses per second by status", "reqps",
              query(rate(REQUESTS + "_count", ROUTED, "status"), "{{status}}"), stacked=True),
        lines("In progress", "Requests in progress, including those in the queue", "short",
              query(f"sum by (instance) (projkit_http_server_active_requests{{{OF}}})", "{{instance}}")),
        lines("Slow and failed", "Per second: over SLOW_REQUEST_SECONDS, client disconnected, exception", "ops",
              query(rate("projkit_http_server_slow_requests_total", ROUTED), "slow"),
              query(rate("projkit_http_server_client_disconnects_total", ROUTED), "client disconnected"),
              query(rate("projkit_http_server_exceptions_total", ROUTED), "exception"),
              query(rate("projkit_websocket_connections_total", ROUTED), "WebSocket")),
    ]  # fmt: skip


def saturation() -> list[Panel]:
    return [
        lines("Database pool", "Connections of all workers by state; waiting is the number of queued callers", "short",
              query(f"sum by (state) (projkit_db_pool_connections{{{OF}}})", "{{state}}")),
        lines("Wait for a connection", "Percentiles of the time that statements waited", "s",
              query(quantile(0.5, "projkit_db_pool_wait_seconds", OF), "p50"),
              query(quantile(0.99, "projkit_db_pool_wait_seconds", OF), "p99")),
        lines("Event loop lag", "Maximum lag of any worker; it delays every request of that worker", "s",
              query(f"max by (instance) (projkit_event_loop_lag_seconds{{{OF}}})", "{{instance}}"),
              limits=((0.1, BAD),)),
        lines("Heartbeat", "Time since the event loop of each worker last ran; it grows while a worker is stuck", "s",
              query(f"projkit_worker_heartbeat_age_seconds{{{OF}}}", "{{instance}} {{pid}}"), limits=((5, BAD),)),
        lines("CPU", "Cores used by each worker; a worker can use little more than one", "short",
              query(f"sum by (instance, pid) (rate(projkit_process_cpu_seconds_total{{{OF}}}{EVERY}))",
                    "{{instance}} {{pid}}"), limits=((0.9, WARNING),)),
        lines("Memory", "Resident memory of each worker", "bytes",
              query(f"projkit_process_resident_memory_bytes{{{OF}}}", "{{instance}} {{pid}}")),
        lines("Open files", "File descriptors of each worker, including connections, of those that it may open",
              "percentunit",
              query(f"projkit_process_open_fds{{{OF}}} / projkit_process_max_fds{{{OF}}}", "{{instance}} {{pid}}"),
              limits=((0.8, WARNING),)),
    ]  # fmt: skip


def dependencies() -> list[Panel]:
    statements = "projkit_db_client_operation_duration_seconds"
    commands = "projkit_redis_client_operation_duration_seconds"
    return [
        lines("Database: duration", "p95 by operation and table", "s",
              query(quantile(0.95, statements, OF, "operation", "collection"), "{{operation}} {{collection}}")),
        lines("Database: rate", "Statements per second by operation and table", "ops",
              query(rate(statements + "_count", OF, "operation", "collection"), "{{operation}} {{collection}}")),
        lines("Database: errors and transactions", "Failed statements per second by class, transactions by outcome",
              "ops",
              query(rate("projkit_db_errors_total", OF, "error_type"), "{{error_type}}"),
              query(rate("projkit_db_transactions_total", OF, "outcome"), "{{outcome}}")),
        lines("Redis: duration", "p95 by command", "s",
              query(quantile(0.95, commands, OF, "operation"), "{{operation}}")),
        lines("Redis: rate", "Commands per second", "ops",
              query(rate(commands + "_count", OF, "operation"), "{{operation}}")),
        lines("Redis: errors", "Commands per second that failed or timed out, by exception class", "ops",
              query(rate("projkit_redis_errors_total", OF, "error_type"), "{{error_type}}")),
    ]  # fmt: skip


def authentication() -> list[Panel]:
    credentials = "projkit_auth_credentials_total"
    legacy = rate(credentials, f'{OF},outcome="accepted",format="legacy"')
    accepted = rate(credentials, f'{OF},outcome="accepted"')
    return [
        lines("Credentials", "Accepted credentials per second by transport and format", "ops",
              query(rate(credentials, f'{OF},outcome="accepted"', "transport", "format"), "{{transport}} {{format}}")),
        lines("Refused credentials", "Per second: expired, revoked, forged, or legacy after the sunset", "ops",
              query(rate(credentials, f'{OF},outcome="refused"', "transport", "format"), "{{transport}} {{format}}")),
        lines("Legacy tokens", "Share of the accepted credentials; it should fall to zero before the sunset",
              "percentunit", query(f"{legacy} / {accepted}", "legacy")),
        number("Time until the sunset", "Legacy tokens are rejected after it; empty without LEGACY_SUNSET", "s",
               now(f"min(projkit_auth_legacy_sunset_timestamp_seconds{{{OF}}}) - time()"),
               steps=((None, BAD), (0, WARNING), (1_209_600, GOOD)), height=8),
        lines("Logins", "Login attempts per second by method and outcome", "ops",
              query(rate("projkit_auth_logins_total", OF, "method", "outcome"), "{{method}} {{outcome}}")),
        lines("Refreshes", "Per second: rotated is normal, replayed a retry, reused possibly a theft", "ops",
              query(rate("projkit_auth_refreshes_total", OF, "outcome"), "{{outcome}}"), span=6),
        lines("CSRF checks", "Unsafe requests with cookies per second, by mode and outcome", "ops",
              query(rate("projkit_auth_csrf_checks_total", OF, "mode", "outcome"), "{{mode}} {{outcome}}"), span=6),
    ]  # fmt: skip


def health() -> list[Panel]:
    return [
        history("Checks", "Red: failing on at least one worker; a gap: no worker has run it for three periods",
                query(f"min by (instance, check) (projkit_health_check_status{{{OF}}})", "{{instance}} {{check}}"),
                texts={"0": ("failing", BAD), "1": ("healthy", GOOD)}),
        lines("Not run", "Workers that have not run a check for three periods", "short",
              query(f"max by (instance, check) (projkit_health_check_stale{{{OF}}})", "{{instance}} {{check}}"),
              span=12),
        lines("Latency", "Duration of the last run of each check", "s",
              query(f"max by (check) (projkit_health_check_latency_seconds{{{OF}}})", "{{check}}"), span=24),
    ]  # fmt: skip


def service() -> list[Panel]:
    return [
        rows("Build", "Versions by instance", {"Value": (now(f"projkit_build_info{{{OF}}}"), "short")},
             hidden=("__name__", "Value"), height=5),
        lines("Workers", "Living workers of each server", "short",
              query(f"projkit_workers{{{OF}}}", "{{instance}}")),
        lines("Ended workers", "By reason, in the last five minutes; planned are replacements and stops", "short",
              query(f"sum by (instance, reason) (increase(projkit_worker_exits_total{{{OF}}}[5m]))",
                    "{{instance}} {{reason}}")),
        lines("Metrics store", "1: a worker cannot share its metrics, so that figures are incomplete", "short",
              query(f"max by (instance) (max_over_time(projkit_metrics_store_degraded{{{OF}}}[5m]))", "{{instance}}"),
              limits=((1, BAD),)),
        lines("Uptime", "Time since each worker started; a drop is a restart", "s",
              query(f"time() - projkit_process_start_time_seconds{{{OF}}}", "{{instance}} {{pid}}")),
        lines("Spans", "Per second: exported, failed at the collector, or dropped because the queue was full", "ops",
              query(rate("projkit_otel_spans_total", OF, "outcome"), "{{outcome}}")),
    ]  # fmt: skip


def overview() -> dashboard_builders.Dashboard:
    """Build the dashboard."""
    about = "Overview of a projkit service. docs/observability.md explains the metrics."
    made = board("projkit-overview", "projkit", about)
    made.with_variable(choice("route", "Route", f'label_values({REQUESTS}_count{{job=~"$job"}}, route)'))
    for title, panels in (
        ("At a glance", at_a_glance()), ("Objectives", objectives()), ("Requests", requests()),
        ("Saturation", saturation()), ("Dependencies", dependencies()), ("Authentication", authentication()),
        ("Health", health()), ("Service", service()),
    ):  # fmt: skip
        made.with_row(dashboard_builders.Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made
