// The table of endpoints: sortable, each against its target.

import { byId, clock, el, ms, number, plural, render, share, svg } from "./dom.js";

const TARGET_AT = 60; // per cent of the bar's width, the same in each row, so that the targets make one line
const COLUMNS = [
  ["Endpoint", (each) => `${each.route} ${each.method}`, false],
  ["Requests", (each) => each.count, true],
  ["Errors", (each) => each.error_rate, true],
  ["p50", (each) => each.p50_ms, true],
  ["p95", (each) => each.p95_ms, true],
  ["p99", (each) => each.p99_ms, true],
  ["p95 against target", (each) => (each.p95_ms === null ? null : each.p95_ms / each.target_ms), true],
];
const FIRST = 10;
const ENOUGH = 20; // of fewer requests the p95 is but the slowest one
const OWN = /\/monitoring\/assets\/[^/]+$/;
let sorted = { column: 1, falling: true };
let latest = null;
let all = false;

export const misses = (each) => each.count >= ENOUGH && each.p95_ms > each.target_ms;

function told(each) {
  const target = ms(each.target_ms);
  if (each.p95_ms === null) return "no figures yet";
  if (misses(each)) return `misses ${target}`;
  return each.p95_ms > each.target_ms ? `over ${target}, few requests` : `meets ${target}`;
}

function bar(each) {
  const width = (value) => `${Math.min(100, ((value ?? 0) / each.target_ms) * TARGET_AT)}%`;
  const part = (value, name) => svg("rect", { x: 0, y: 3, height: 8, width: width(value), class: name });
  return svg("svg", { class: misses(each) ? "bar missed" : "bar", height: 14, "aria-hidden": "true" },
    svg("rect", { x: 0, y: 3, height: 8, width: "100%", class: "free" }),
    part(each.p99_ms, "p99"), part(each.p95_ms, "p95"), part(each.p50_ms, "p50"),
    svg("line", { x1: `${TARGET_AT}%`, x2: `${TARGET_AT}%`, y1: 0, y2: 14, class: "target" }));
}

function row(each) {
  const cell = (name, ...content) => el("td",
    { role: "cell", class: name.startsWith("p") ? "figure" : "figure wide", "data-name": name }, ...content);
  const last = each.last_error_at ? el("small", {}, `last at ${clock(each.last_error_at)}`) : null;
  const errors = each.errors ? `${number(each.errors)} (${share(each.error_rate)})` : "0";
  return el("tr", { role: "row" },
    el("th", { role: "rowheader", scope: "row" }, el("b", {}, each.method), " ",
      each.route === "__unknown__" ? "unknown paths" : each.route),
    cell("Requests", number(each.count)),
    cell("Errors", el("span", { class: each.errors ? "bad" : null }, errors), each.errors ? last : null),
    cell("p50", ms(each.p50_ms)), cell("p95", ms(each.p95_ms)), cell("p99", ms(each.p99_ms)),
    el("td", { role: "cell", class: "against" }, bar(each),
      el("span", { class: misses(each) ? "bad" : "quiet" }, told(each))));
}

function inOrder(endpoints) {
  const value = COLUMNS[sorted.column][1];
  const sign = sorted.falling ? -1 : 1;
  return [...endpoints].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (a < b ? -1 : Number(a > b));
  });
}

export function showEndpoints(endpoints) {
  latest = endpoints;
  const missed = endpoints.filter(misses).length;
  byId("endpoints-summary").textContent = endpoints.length === 0 ? "No requests in this time."
    : `${plural(endpoints.length, "endpoint")}; ${missed ? plural(missed, "misses its target", "miss their targets")
      : "none misses its target"} at p95. Bars: p50, p95 and p99, the strongest first; the line is the target.`;
  // What is wrong is shown however long the list is; what this page is made of only on demand.
  const rows = inOrder(endpoints).filter((each) => all || !OWN.test(each.route))
    .filter((each, place) => all || place < FIRST || misses(each) || each.errors);
  render(byId("endpoints"), rows, () => rows.map(row));
  byId("all").hidden = !all && rows.length === endpoints.length;
  byId("all").textContent = all ? "Show fewer" : `Show all ${endpoints.length}`;
}

export function prepareEndpoints() {
  const heads = COLUMNS.map(([name, , isFigure], column) => {
    const button = el("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      sorted = { column, falling: sorted.column === column ? !sorted.falling : isFigure };
      mark();
      if (latest) showEndpoints(latest);
    });
    return el("th", { role: "columnheader", scope: "col", class: isFigure ? "figure" : null }, button);
  });
  const mark = () => heads.forEach((head, column) => head.setAttribute("aria-sort",
    column !== sorted.column ? "none" : sorted.falling ? "descending" : "ascending"));
  mark();
  byId("columns").append(...heads);
  byId("all").addEventListener("click", () => {
    all = !all;
    showEndpoints(latest);
  });
}
