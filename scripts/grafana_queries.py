"""The queries of the dashboards, in PromQL."""

from typing import Final

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.models import dashboard

Query = prometheus.Dataquery

SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
OF: Final = 'job=~"$job",instance=~"$instance"'
ROUTED: Final = f'{OF},route=~"$route"'
EVERY: Final = "[$__rate_interval]"
REQUESTS: Final = "projkit_http_server_request_duration_seconds"
# After a rate; as in recording-rules.yml.
_OF_KIND: Final = 'on (job, instance, route) last_over_time(projkit_http_server_route_info{{kind=~"{}"}}{})'
NO_PROBES: Final = " unless " + _OF_KIND.format("probe|validation", EVERY)
PROJECTS: Final = " and " + _OF_KIND.format("projects", EVERY)


def query(expr: str, legend: str = "", *, exemplars: bool = False) -> Query:
    """Create a query over the displayed time range."""
    over_time = Query().expr(expr).legend_format(legend).range().datasource(SOURCE)
    return over_time.exemplar(True) if exemplars else over_time


def now(expr: str, legend: str = "") -> Query:
    """Create a query at the end of the displayed time range."""
    return Query().expr(expr).legend_format(legend).instant().datasource(SOURCE)


def rate(series: str, selector: str, *by: str, only: str = "") -> str:
    """Return the rate per second for each combination of labels; ``only`` restricts it to some of the routes."""
    grouped = f"sum by ({', '.join(by)})" if by else "sum"
    return f"{grouped} (rate({series}{{{selector}}}{EVERY}){only})"


def quantile(share: float, series: str, selector: str, *by: str) -> str:
    """Return a percentile of a histogram for each combination of labels."""
    return f"histogram_quantile({share}, {rate(f'{series}_bucket', selector, *by, 'le')})"
