// The sortable table of endpoints, with the latency of each against its target.

import { byId, clock, el, ms, number, percent, plural, render, svg } from "./dom.js";
import { hasTarget, missesTarget, ratio } from "./targets.js";

const TARGET_PERCENT = 60; // of the bar's width, the same in each row, so that the targets form a line
const COLUMNS = [
  ["Endpoint", (each) => `${each.route} ${each.method}`, false],
  ["Requests", (each) => each.count, true],
  ["Errors", (each) => each.error_rate, true],
  ["p50", (each) => each.p50_ms, true],
  ["p95", (each) => each.p95_ms, true],
  ["p99", (each) => each.p99_ms, true],
  ["p95 against target", ratio, true],
];
const ROWS_SHOWN = 10;
const ASSET_ROUTE = /\/monitoring\/assets\/[^/]+$/;
let sorted = { column: 1, descending: true };
let latest = null;
let showAll = false;

function describe(each) {
  const target = ms(each.target_ms);
  if (each.p95_ms === null) return "no data yet";
  if (!hasTarget(each)) return "no target";
  if (missesTarget(each)) return `misses ${target}`;
  return each.p95_ms > each.target_ms ? `over ${target} (few requests)` : `meets ${target}`;
}

function bar(each) {
  const width = (value) => `${Math.min(100, ((value ?? 0) / each.target_ms) * TARGET_PERCENT)}%`;
  const part = (value, name) => svg("rect", { x: 0, y: 3, height: 8, width: width(value), class: name });
  return svg("svg", { class: missesTarget(each) ? "bar missed" : "bar", height: 14, "aria-hidden": "true" },
    svg("rect", { x: 0, y: 3, height: 8, width: "100%", class: "free" }),
    part(each.p99_ms, "p99"), part(each.p95_ms, "p95"), part(each.p50_ms, "p50"),
    hasTarget(each) ? svg("line", { x1: `${TARGET_PERCENT}%`, x2: `${TARGET_PERCENT}%`, y1: 0, y2: 14, class: "target" }) : null);
}

function row(each) {
  const cell = (name, ...content) => el("td",
    { role: "cell", class: name.startsWith("p") ? "number" : "number wide", "data-name": name }, ...content);
  const last = each.last_error_at ? el("small", {}, `last at ${clock(each.last_error_at)}`) : null;
  const errors = each.errors ? `${number(each.errors)} (${percent(each.error_rate)})` : "0";
  return el("tr", { role: "row" },
    el("th", { role: "rowheader", scope: "row" }, el("b", {}, each.method), " ",
      each.route === "__unknown__" ? "unknown paths" : each.route),
    cell("Requests", number(each.count)),
    cell("Errors", el("span", { class: each.errors ? "bad" : null }, errors), each.errors ? last : null),
    cell("p50", ms(each.p50_ms)), cell("p95", ms(each.p95_ms)), cell("p99", ms(each.p99_ms)),
    el("td", { role: "cell", class: "target-cell" }, bar(each),
      el("span", { class: missesTarget(each) ? "bad" : "muted" }, describe(each))));
}

function sortEndpoints(endpoints) {
  const value = COLUMNS[sorted.column][1];
  const sign = sorted.descending ? -1 : 1;
  return [...endpoints].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (a < b ? -1 : Number(a > b));
  });
}

export function showEndpoints(endpoints) {
  latest = endpoints;
  const missed = endpoints.filter(missesTarget).length;
  byId("endpoints-summary").textContent = endpoints.length === 0 ? "No requests in this period."
    : `${plural(endpoints.length, "endpoint")}; ${missed ? plural(missed, "misses its target", "miss their targets")
      : "none misses its target"} at p95. Bars show p50, p95 and p99, from dark to light; the line is the target.`;
  // Endpoints with errors or a missed target are always shown, and the assets of this page only on demand.
  const rows = sortEndpoints(endpoints).filter((each) => showAll || !ASSET_ROUTE.test(each.route))
    .filter((each, index) => showAll || index < ROWS_SHOWN || missesTarget(each) || each.errors);
  render(byId("endpoints"), rows, () => rows.map(row));
  byId("show-all").hidden = !showAll && rows.length === endpoints.length;
  byId("show-all").textContent = showAll ? "Show fewer" : `Show all ${endpoints.length}`;
}

export function prepareEndpoints() {
  const headers = COLUMNS.map(([name, , isNumber], column) => {
    const button = el("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      sorted = { column, descending: sorted.column === column ? !sorted.descending : isNumber };
      updateSortOrder();
      if (latest) showEndpoints(latest);
    });
    return el("th", { role: "columnheader", scope: "col", class: isNumber ? "number" : null }, button);
  });
  const updateSortOrder = () => headers.forEach((header, column) => header.setAttribute("aria-sort",
    column !== sorted.column ? "none" : sorted.descending ? "descending" : "ascending"));
  updateSortOrder();
  byId("endpoint-columns").append(...headers);
  byId("show-all").addEventListener("click", () => {
    showAll = !showAll;
    showEndpoints(latest);
  });
}
