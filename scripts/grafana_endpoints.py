"""The dashboard of one endpoint."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_panels import BAD, GOOD, WARNING, Panel, board, choice, heat_map, lines, number
from grafana_queries import OF, REQUESTS, now, quantile, query, rate

ENDPOINT: Final = f'{OF},route="$route",method=~"$method"'
ROUTE: Final = f'{OF},route="$route"'


def within(seconds: float) -> str:
    """Return the share of requests that took at most this long."""
    in_time = rate(REQUESTS + "_bucket", f'{ENDPOINT},le="{seconds:g}"')
    return f"{in_time} / {rate(REQUESTS + '_count', ENDPOINT)}"


def glance() -> list[Panel]:
    every = rate(REQUESTS + "_count", ENDPOINT)
    failed = rate(REQUESTS + "_count", f'{ENDPOINT},status=~"5.."')
    rejected = rate(REQUESTS + "_count", f'{ENDPOINT},status=~"4.."')
    timed: list[Panel] = [
        number(f"p{share * 100:g}", "Of the selected methods", "s", now(quantile(share, REQUESTS, ENDPOINT)),
               steps=((None, GOOD), (0.04, WARNING), (0.5, BAD)))
        for share in (0.5, 0.95, 0.99)
    ]  # fmt: skip
    return [
        number("Requests", "Requests per second", "reqps", now(every), steps=((None, "text"),)),
        number("Errors", "Share of responses with 5xx", "percentunit", now(f"({failed} or vector(0)) / {every}"),
               steps=((None, GOOD), (0.001, WARNING), (0.0144, BAD))),
        number("Client errors", "Share of responses with 4xx", "percentunit",
               now(f"({rejected} or vector(0)) / {every}"), steps=((None, GOOD), (0.1, WARNING))),
        *timed,
    ]  # fmt: skip


def details() -> list[Panel]:
    return [
        lines("Rate", "Requests per second by method", "reqps",
              query(rate(REQUESTS + "_count", ENDPOINT, "method"), "{{method}}"), span=12),
        lines("Errors by status", "Responses with 4xx and 5xx per second", "reqps",
              query(rate(REQUESTS + "_count", f'{ENDPOINT},status=~"[45].."', "method", "status"),
                    "{{method}} {{status}}"), span=12, stacked=True),
        lines("Duration", "Percentiles; the line is the target of 40 ms; points are exemplars", "s",
              *(query(quantile(share, REQUESTS, ENDPOINT), f"p{share * 100:g}", exemplars=share == 0.99)
                for share in (0.5, 0.95, 0.99)), span=12, limits=((0.04, WARNING),)),
        heat_map("Durations", "Requests per second by duration; points are exemplars",
                 rate(REQUESTS + "_bucket", ENDPOINT, "le")),
        lines("Within the target", "Share of requests up to a duration; targets: 40 ms for projects, 10 ms for probes",
              "percentunit",
              *(query(within(bound), f"{bound * 1000:g} ms") for bound in (0.01, 0.04, 0.25)),
              span=12, limits=((0.99, WARNING),)),
        lines("By instance", "p95 of each instance; a single slow one has a problem of its own", "s",
              query(quantile(0.95, REQUESTS, ENDPOINT, "instance"), "{{instance}}"), span=12),
        lines("Slow requests", "Requests per second over SLOW_REQUEST_SECONDS; each is logged (projkit.slow)", "ops",
              query(rate("projkit_http_server_slow_requests_total", ENDPOINT, "method"), "{{method}}")),
        lines("Client disconnects", "Clients per second that disconnected before the response", "ops",
              query(rate("projkit_http_server_client_disconnects_total", ENDPOINT, "method"), "{{method}}")),
        lines("Exceptions", "Unhandled exceptions per second by class, for all methods", "ops",
              query(rate("projkit_http_server_exceptions_total", ROUTE, "error_type"), "{{error_type}}")),
    ]  # fmt: skip


def endpoints() -> dashboard_builders.Dashboard:
    """Build the dashboard."""
    made = board(
        "projkit-endpoints",
        "projkit: one endpoint",
        "One route of a projkit service, compared with its target.",
    )
    series = f'{REQUESTS}_count{{job=~"$job"}}'
    made.with_variable(choice("route", "Route", f"label_values({series}, route)", several=False))
    made.with_variable(
        choice("method", "Method", f'label_values({REQUESTS}_count{{job=~"$job",route="$route"}}, method)')
    )
    made.with_row(dashboard_builders.Row("$route"))
    for panel in glance():
        made.with_panel(panel)
    made.with_row(dashboard_builders.Row("Details"))
    for panel in details():
        made.with_panel(panel)
    return made
