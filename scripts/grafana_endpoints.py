"""The dashboard of one endpoint."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_panels import BAD, GOOD, WARNING, Panel, board, choice, heat_map, lines, number
from grafana_queries import OF, REQUESTS, now, quantile, query, rate

ENDPOINT: Final = f'{OF},route="$route",method=~"$method"'
ROUTE: Final = f'{OF},route="$route"'


def within(seconds: float) -> str:
    """The share of requests that took no longer."""
    kept = rate(REQUESTS + "_bucket", f'{ENDPOINT},le="{seconds:g}"')
    return f"{kept} / {rate(REQUESTS + '_count', ENDPOINT)}"


def glance() -> list[Panel]:
    every = rate(REQUESTS + "_count", ENDPOINT)
    failed = rate(REQUESTS + "_count", f'{ENDPOINT},status=~"5.."')
    refused = rate(REQUESTS + "_count", f'{ENDPOINT},status=~"4.."')
    timed: list[Panel] = [
        number(f"p{share * 100:g}", "Of all chosen methods", "s", now(quantile(share, REQUESTS, ENDPOINT)),
               steps=((None, GOOD), (0.04, WARNING), (0.5, BAD)))
        for share in (0.5, 0.95, 0.99)
    ]  # fmt: skip
    return [
        number("Requests", "Each second", "reqps", now(every), steps=((None, "text"),)),
        number("Errors", "Share of answers with 5xx", "percentunit", now(f"({failed} or vector(0)) / {every}"),
               steps=((None, GOOD), (0.001, WARNING), (0.0144, BAD))),
        number("Refused", "Share of answers with 4xx: the client's mistakes", "percentunit",
               now(f"({refused} or vector(0)) / {every}"), steps=((None, GOOD), (0.1, WARNING))),
        *timed,
    ]  # fmt: skip


def details() -> list[Panel]:
    return [
        lines("Rate", "Requests a second by method", "reqps",
              query(rate(REQUESTS + "_count", ENDPOINT, "method"), "{{method}}"), span=12),
        lines("Refused and failed", "Answers with 4xx and 5xx a second by status", "reqps",
              query(rate(REQUESTS + "_count", f'{ENDPOINT},status=~"[45].."', "method", "status"),
                    "{{method}} {{status}}"), span=12, stacked=True),
        lines("Duration", "Percentiles; the line is the target of 40 ms; points are exemplars", "s",
              *(query(quantile(share, REQUESTS, ENDPOINT), f"p{share * 100:g}", exemplars=share == 0.99)
                for share in (0.5, 0.95, 0.99)), span=12, limits=((0.04, WARNING),)),
        heat_map("Durations", "Requests a second by how long they took; points are exemplars",
                 rate(REQUESTS + "_bucket", ENDPOINT, "le")),
        lines("Within the target", "Share of the requests that took at most so long; 40 ms is the target of projects, "
              "10 ms that of probes", "percentunit",
              *(query(within(bound), f"{bound * 1000:g} ms") for bound in (0.01, 0.04, 0.25)),
              span=12, limits=((0.99, WARNING),)),
        lines("By instance", "p95 of each instance: one that is alone slow has a trouble of its own", "s",
              query(quantile(0.95, REQUESTS, ENDPOINT, "instance"), "{{instance}}"), span=12),
        lines("Slow requests", "Over SLOW_REQUEST_SECONDS, a second; each has a line in the log (projkit.slow)", "ops",
              query(rate("projkit_http_server_slow_requests_total", ENDPOINT, "method"), "{{method}}")),
        lines("Clients that left", "Before they had their answer, a second", "ops",
              query(rate("projkit_http_server_client_disconnects_total", ENDPOINT, "method"), "{{method}}")),
        lines("Exceptions", "That nobody expected, a second, by class; of all methods", "ops",
              query(rate("projkit_http_server_exceptions_total", ROUTE, "error_type"), "{{error_type}}")),
    ]  # fmt: skip


def endpoints() -> dashboard_builders.Dashboard:
    """The dashboard."""
    made = board(
        "projkit-endpoints", "projkit: one endpoint", "One route of a projkit service, against its target."
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
