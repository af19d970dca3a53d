"""Draw a dashboard as SVG: ``python scripts/draw_dashboard.py PROMETHEUS_URL BOARD.json OUT.svg [route=/x …]``.

This is not Grafana, and it draws only a part of what Grafana would. The panels, layout, queries, units, thresholds and
texts are the dashboard's; the data comes from Prometheus, for the ten minutes before ``end=SECONDS`` or now. Further
arguments are values of the dashboard's variables.
"""

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

COLUMN, ROW, GAP = 60, 38, 4
SECONDS, STEP = 600, 5
COLORS: Final = (
    "#5794f2",
    "#73bf69",
    "#ff9830",
    "#f2495c",
    "#b877d9",
    "#56a64b",
    "#fade2a",
    "#8ab8ff",
    "#ff7383",
    "#96d98d",
)
NAMED: Final = {
    "green": "#56a64b",
    "orange": "#ff9830",
    "red": "#e02f44",
    "text": "#d8d9da",
    "transparent": "none",
}
Sample = dict[str, Any]
Points = list[tuple[float, float]]


class Board:
    """A dashboard and the Prometheus that it queries."""

    def __init__(self, url: str, content: dict[str, Any], values: dict[str, str]) -> None:
        self._url = url.rstrip("/")
        self._values = {
            "__rate_interval": "30s",
            "job": ".*",
            "instance": ".*",
            "route": ".*",
            "method": ".*",
            **values,
        }
        self.end = float(values.get("end", time.time()))
        self.start = self.end - SECONDS
        self.panels = content["panels"]
        self.title = content["title"]

    def with_values(self, text: str) -> str:
        """Substitute the variables in a text."""
        for name, value in self._values.items():
            text = text.replace(f"${name}", value)
        return text

    def query(self, target: dict[str, Any]) -> list[Sample]:
        """Return the result of a panel's query."""
        params = {"query": self.with_values(target["expr"])}
        if target.get("instant"):
            params |= {"time": f"{self.end}"}
        else:
            params |= {"start": f"{self.start}", "end": f"{self.end}", "step": f"{STEP}"}
        path = "query" if target.get("instant") else "query_range"
        with urlopen(f"{self._url}/api/v1/{path}?{urlencode(params)}") as response:  # noqa: S310 - the URL is an argument
            samples: list[Sample] = json.load(response)["data"]["result"]
        return samples

    def draw(self) -> Iterator[str]:
        """Yield the SVG."""
        height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in self.panels) * ROW + 40
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * COLUMN} {height}" font-family="sans-serif" '
            f'font-size="11" fill="#d8d9da"><rect width="100%" height="100%" fill="#111217"/>'
            f"{text(10, 24, f'{self.title}: drawn from Prometheus by scripts/draw_dashboard.py, not by Grafana', 14)}"
        )
        for panel in self.panels:
            place = panel["gridPos"]
            x, y = place["x"] * COLUMN + GAP, place["y"] * ROW + 40
            w, h = place["w"] * COLUMN - 2 * GAP, place["h"] * ROW - 2 * GAP
            if panel["type"] == "row":
                yield text(x, y + 24, self.with_values(panel["title"]), 15)
                continue
            yield f'<g transform="translate({x} {y})">{box(0, 0, w, h, "#181b1f")}'
            yield text(10, 18, panel["title"], 12)
            yield from DRAWN[panel["type"]](self, panel, w, h)
            yield "</g>"
        yield "</svg>"


def text(x: float, y: float, content: str, size: int = 11, color: str = "#d8d9da") -> str:
    """Return a line of text that starts at a point."""
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{color}">{escape(content)}</text>'


def box(x: float, y: float, width: float, height: float, color: str, opacity: float = 1) -> str:
    """Return a filled rectangle."""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{color}" opacity="{opacity:.2f}"/>'


def formatted(value: float, unit: str) -> str:
    """Format a number with its unit."""
    if math.isnan(value):
        return "-"
    if unit == "percentunit":
        return f"{value * 100:.4g} %"
    if unit == "s":
        for factor, name in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {name}"
        return f"{value * 1000:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    return f"{value:.3g}" + {"reqps": " req/s", "ops": "/s"}.get(unit, "")


def legend_of(target: dict[str, Any], labels: dict[str, str]) -> str:
    """Return the name of a series in the legend."""
    legend: str = target.get("legendFormat") or ""
    for label, value in labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return legend


def defaults(panel: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Return the unit and the threshold steps of a panel."""
    config = panel["fieldConfig"]["defaults"]
    return config.get("unit", "short"), config.get("thresholds", {}).get("steps", [])


def color_at(value: float, steps: Sequence[dict[str, Any]]) -> str:
    """Return the color of the last step that a value has reached."""
    passed = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return NAMED[passed[-1]] if passed else NAMED["text"]


def points_of(sample: Sample) -> Points:
    """Return the finite values of a series."""
    pairs = ((float(at), float(value)) for at, value in sample["values"])
    return [(at, value) for at, value in pairs if math.isfinite(value)]


def timeseries(board: Board, panel: dict[str, Any], w: int, h: int) -> Iterator[str]:
    """Draw lines, ordered by their last value, with limits, and as much of the legend as fits."""
    unit, steps = defaults(panel)
    series = [
        (legend_of(target, each["metric"]), points)
        for target in panel["targets"]
        for each in board.query(target)
        if (points := points_of(each))
    ]
    series.sort(key=lambda each: -each[1][-1][1])
    left, top, right, bottom = 64, 28, w - 10, h - 52
    highest = max((value for _, points in series for _, value in points), default=1.0) * 1.05 or 1.0

    def at(moment: float, value: float) -> str:
        x = left + (right - left) * (moment - board.start) / SECONDS
        return f"{x:.1f},{bottom - (bottom - top) * max(value, 0) / highest:.1f}"

    for part in (0, 0.5, 1):
        y = bottom - (bottom - top) * part
        yield f'<path d="M{left} {y:.0f}H{right}" stroke="#2c3235"/>' + text(
            6, y + 4, formatted(highest * part, unit), 10, "#8e8e8e"
        )
    for step in steps:
        if step["value"] is not None and step["value"] <= highest and NAMED[step["color"]] != "none":
            level = at(board.start, step["value"]).partition(",")[2]
            yield f'<path d="M{left} {level}H{right}" stroke="{NAMED[step["color"]]}" stroke-dasharray="6 4"/>'
    for number, (_, points) in enumerate(series):
        line = " ".join(at(*point) for point in points)
        yield f'<polyline points="{line}" fill="none" stroke="{COLORS[number % len(COLORS)]}" stroke-width="1.3"/>'
    x, y = 10.0, h - 32
    for number, (name, _) in enumerate(series):
        width = len(name) * 5.6 + 22
        if x + width > w:
            x, y = 10.0, y + 14
            if y > h - 6:
                break
        yield box(x, y - 5, 10, 3, COLORS[number % len(COLORS)])
        yield text(x + 14, y, name, 10, "#b0b0b0")
        x += width


def stat(board: Board, panel: dict[str, Any], w: int, h: int) -> Iterator[str]:
    """Draw the last value of each series."""
    unit, steps = defaults(panel)
    series = [
        (legend_of(target, each["metric"]), float(each["value"][1]))
        for target in panel["targets"]
        for each in board.query(target)
    ]
    for number, (name, value) in enumerate(series):
        y = 24 + (h - 24) * (number + 0.5) / len(series)
        yield text(14, y + 10, formatted(value, unit), 26, color_at(value, steps)) + text(
            w - 90, y + 8, name, 12
        )


def table(board: Board, panel: dict[str, Any], w: int, h: int) -> Iterator[str]:
    """Draw a row for each label set, as many as fit."""
    organize = panel["transformations"][1]["options"]
    rows: dict[tuple[tuple[str, str], ...], list[str]] = {}
    units = {
        each["matcher"]["options"]: each["properties"][0]["value"]
        for each in panel["fieldConfig"]["overrides"]
    }
    for target, column in zip(panel["targets"], organize["renameByName"].values(), strict=True):
        for each in board.query(target):
            labels = tuple(
                (key, value)
                for key, value in sorted(each["metric"].items())
                if key not in organize["excludeByName"]
            )
            rows.setdefault(labels, []).append(formatted(float(each["value"][1]), units[column]))
    values = [name for name in organize["renameByName"].values() if name not in organize["excludeByName"]]
    heads = [*(key for key, _ in next(iter(rows), ())), *values]
    for line, cells in enumerate(
        [heads, *([*(value for _, value in labels), *rows[labels][: len(values)]] for labels in sorted(rows))]
    ):
        if 44 + line * 17 > h:
            break
        for number, cell in enumerate(cells):
            yield text(
                12 + number * (w - 20) / len(heads),
                40 + line * 17,
                cell,
                11,
                "#d8d9da" if line else "#8ab8ff",
            )


def history(board: Board, panel: dict[str, Any], w: int, h: int) -> Iterator[str]:
    """Draw a row of colored fields for each series."""
    _, steps = defaults(panel)
    series = [
        (legend_of(target, each["metric"]), points_of(each))
        for target in panel["targets"]
        for each in board.query(target)
    ]
    left, height = 190, (h - 40) / max(len(series), 1)
    size = (w - left - 10) * STEP / SECONDS
    for number, (name, points) in enumerate(series):
        y = 30 + number * height
        yield text(10, y + height / 2 + 4, name, 10)
        for moment, value in points:
            x = left + (w - left - 10) * (moment - board.start) / SECONDS
            yield box(x, y + 1, size, height - 2, color_at(value, steps))


def heatmap(board: Board, panel: dict[str, Any], w: int, h: int) -> Iterator[str]:
    """Draw a field for each bucket and time, darker with more requests."""
    series = sorted(
        (float(each["metric"]["le"]), dict(points_of(each))) for each in board.query(panel["targets"][0])
    )
    left, height = 64, (h - 44) / max(len(series), 1)
    size = (w - left - 10) * STEP / SECONDS
    cells, below = [], dict[float, float]()
    for number, (_, rates) in enumerate(series):
        cells += [(number, moment, value - below.get(moment, 0.0)) for moment, value in rates.items()]
        below = rates
    highest = max((value for *_, value in cells), default=1.0) or 1.0
    for number, (bound, _) in enumerate(series):
        yield text(
            10, h - 16 - number * height, "more" if math.isinf(bound) else formatted(bound, "s"), 9, "#8e8e8e"
        )
    for number, moment, value in cells:
        if value > 0:
            x = left + (w - left - 10) * (moment - board.start) / SECONDS
            y = h - 12 - (number + 1) * height
            opacity = 0.15 + 0.85 * math.sqrt(min(value / highest, 1))
            yield box(x, y, size, height - 1, "#ff9830", opacity)


DRAWN: Final = {
    "timeseries": timeseries,
    "stat": stat,
    "table": table,
    "status-history": history,
    "heatmap": heatmap,
}


def main() -> None:
    """Draw one dashboard."""
    url, source, target, *values = sys.argv[1:]
    board = Board(
        url, json.loads(Path(source).read_text(encoding="utf-8")), dict(each.split("=", 1) for each in values)
    )
    Path(target).write_text("\n".join(board.draw()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
