"""Panels and variables of the dashboards."""

from typing import Final

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_foundation_sdk.builders import heatmap, stat, statushistory, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_queries import REQUESTS, SOURCE, Query

Panel = Builder[dashboard.Panel]
GOOD, WARNING, BAD = "green", "orange", "red"
_HEIGHT: Final = 8
Steps = tuple[tuple[float | None, str], ...]


def _thresholds(steps: Steps) -> dashboard_builders.ThresholdsConfig:
    return (
        dashboard_builders.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value, color) for value, color in steps])
    )


def _named(queries: tuple[Query, ...]) -> list[Builder[Dataquery]]:
    return [each.ref_id(chr(ord("A") + number)) for number, each in enumerate(queries)]


def lines(
    title: str,
    about: str,
    unit: str,
    *queries: Query,
    span: int = 8,
    limits: Steps = (),
    stacked: bool = False,
) -> Panel:
    """Create a panel of lines over time; ``limits`` are drawn as horizontal lines."""
    panel = (
        timeseries.Panel().title(title).description(about).unit(unit).span(span).height(_HEIGHT)
        .datasource(SOURCE).targets(_named(queries))
        .line_width(1).fill_opacity(10).show_points(common.VisibilityMode.NEVER).axis_soft_min(0)
        .legend(
            common_builders.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM).show_legend(True)
        )
        .tooltip(
            common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
    )  # fmt: skip
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL)).fill_opacity(40)
    if limits:
        style = common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel.thresholds(_thresholds(((None, "transparent"), *limits))).thresholds_style(style)
    return panel


def number(
    title: str, about: str, unit: str, *queries: Query, steps: Steps, span: int = 4, height: int = 4
) -> Panel:
    """Create a panel of the last value of each series, in the color of its step."""
    return (
        stat.Panel().title(title).description(about).unit(unit).span(span).height(height)
        .datasource(SOURCE).targets(_named(queries)).thresholds(_thresholds(steps))
        .color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.NONE)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
    )  # fmt: skip


def heat_map(title: str, about: str, expr: str, *, span: int = 12) -> Panel:
    """Create a heat map of requests per bucket; the points are exemplars, which link to traces."""
    histogram = (
        Query().expr(expr).legend_format("{{le}}").range().format(PromQueryFormat.HEATMAP).exemplar(True)
    )
    return (
        heatmap.Panel().title(title).description(about).span(span).height(_HEIGHT)
        .datasource(SOURCE).with_target(histogram.datasource(SOURCE).ref_id("A"))
        .calculate(False).y_axis(heatmap.YAxisConfig().unit("s").decimals(3))
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .cell_gap(1).show_legend().exemplars_color("rgba(50, 100, 250, 0.8)")
    )  # fmt: skip


def history(
    title: str, about: str, *queries: Query, texts: dict[str, tuple[str, str]], span: int = 12
) -> Panel:
    """Create a status history with a row for each series; ``texts`` has text and color of each value."""
    options = {value: dashboard.ValueMappingResult(text, color) for value, (text, color) in texts.items()}
    return (
        statushistory.Panel().title(title).description(about).span(span).height(_HEIGHT)
        .datasource(SOURCE).targets(_named(queries)).mappings([dashboard.ValueMap(options)])
        .thresholds(_thresholds(((None, BAD), (1, GOOD)))).show_value(common.VisibilityMode.NEVER)
        .row_height(0.9).max_data_points(120)
    )  # fmt: skip


def rows(
    title: str, about: str, columns: dict[str, tuple[Query, str]], hidden: tuple[str, ...], *,
    span: int = 24, height: int = _HEIGHT,
) -> Panel:  # fmt: skip
    """Create a table with a row for each label set; ``columns`` has query and unit of each value."""
    queries = _named(tuple(each.format(PromQueryFormat.TABLE) for each, _ in columns.values()))
    values = [
        f"Value #{chr(ord('A') + index)}" if len(columns) > 1 else "Value" for index in range(len(columns))
    ]
    panel = (
        table.Panel().title(title).description(about).span(span).height(height)
        .datasource(SOURCE).targets(queries).filterable(True)
        .with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            dashboard.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": dict.fromkeys(("Time", *hidden), True),
                    "renameByName": dict(zip(values, columns, strict=True)),
                },
            )
        )
    )  # fmt: skip
    for name, (_, unit) in columns.items():
        panel.override_by_name(name, [dashboard.DynamicConfigValue("unit", unit)])
    return panel


def choice(name: str, label: str, expr: str, *, several: bool = True) -> dashboard_builders.QueryVariable:
    """Create a variable whose values come from Prometheus; with ``several``, all are selected at first."""
    variable = (
        dashboard_builders.QueryVariable(name).label(label).datasource(SOURCE)
        .query({"query": expr, "refId": f"variable-{name}"})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    )  # fmt: skip
    if several:
        every = dashboard.VariableOption(selected=True, text="All", value="$__all")
        variable.multi(True).include_all(True).all_value(".*").current(every)
    return variable


def board(uid: str, title: str, about: str) -> dashboard_builders.Dashboard:
    """Create a dashboard without panels, with the common variables."""
    series = f"{REQUESTS}_count"
    return (
        dashboard_builders.Dashboard(title).uid(uid).description(about).tags(["projkit"])
        .time("now-1h", "now").refresh("30s").timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard_builders.DashboardLink("projkit").type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags(["projkit"]).include_vars(True).keep_time(True)
        )
        .with_variable(dashboard_builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(choice("job", "Job", f"label_values({series}, job)"))
        .with_variable(choice("instance", "Instance", f'label_values({series}{{job=~"$job"}}, instance)'))
    )  # fmt: skip
