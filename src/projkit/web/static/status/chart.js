// The charts of requests, errors and p95 over time, with a common time axis.

import { byId, clock, el, ms, number, plural, render, svg } from "./dom.js";

const [LEFT, RIGHT, HEIGHT, GAP] = [52, 8, 96, 26];
let drawn = null;

// Returns the smallest round number that is not below a value.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= value * 0.999);
}

function toPoints(history, seconds) {
  const end = Date.parse(history.at(-1).at);
  return history
    // The latest interval is often too short for a meaningful rate.
    .filter((each, index) => each.seconds >= 3 || index < history.length - 1 || index === 0)
    .map((each) => ({ ...each, to: Date.parse(each.at), from: Date.parse(each.at) - each.seconds * 1000,
      rate: each.requests / Math.max(each.seconds, 1), failed: each.errors / Math.max(each.seconds, 1) }))
    .filter((each) => end - each.to <= seconds * 1000);
}

function axis(y, maximum, format, width) {
  return [0, 0.5, 1].flatMap((part) => [
    svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(part * maximum), y2: y(part * maximum), class: "grid" }),
    svg("text", { x: LEFT - 6, y: y(part * maximum) + 4, "text-anchor": "end" }, format(part * maximum)),
  ]);
}

function draw(node, points, target, width) {
  const [start, end] = [points[0].from, points.at(-1).to];
  const x = (at) => LEFT + ((at - start) / Math.max(end - start, 1)) * (width - LEFT - RIGHT);
  const maxRate = roundUp(Math.max(...points.map((each) => each.rate), 1));
  const maxMs = roundUp(Math.max(...points.map((each) => each.p95_ms ?? 0), target));
  const bottom = [22 + HEIGHT, 22 + HEIGHT + GAP + HEIGHT];
  const rate = (value) => bottom[0] - (value / maxRate) * HEIGHT;
  const latency = (value) => bottom[1] - (value / maxMs) * HEIGHT;
  const area = points.map((each) => `L${x(each.from)} ${rate(each.rate)}L${x(each.to)} ${rate(each.rate)}`).join("");
  const lines = points.reduce((path, each, index) => (each.p95_ms === null ? path
    : `${path}${index && points[index - 1].p95_ms !== null ? "L" : "M"}${x(each.from)} ${latency(each.p95_ms)}L${x(each.to)} ${latency(each.p95_ms)}`), "");
  const middle = (start + end) / 2;
  const chart = svg("svg", { width, height: bottom[1] + 22, focusable: "false" },
    svg("text", { x: LEFT, y: 12, class: "name" }, "Requests per second"),
    svg("rect", { x: width - RIGHT - 52, y: 3, width: 10, height: 10, class: "errors" }),
    svg("text", { x: width - RIGHT, y: 12, "text-anchor": "end", class: "name" }, "errors"),
    ...axis(rate, maxRate, number, width),
    svg("path", { d: `M${x(start)} ${bottom[0]}${area}L${x(end)} ${bottom[0]}Z`, class: "requests" }),
    ...points.filter((each) => each.errors).map((each) => {
      const height = Math.max(4, bottom[0] - rate(each.failed));
      return svg("rect", { x: x(each.from), width: Math.max(2, x(each.to) - x(each.from)), y: bottom[0] - height, height, class: "errors" });
    }),
    svg("text", { x: LEFT, y: bottom[0] + GAP - 8, class: "name" }, "p95"),
    ...axis(latency, maxMs, ms, width),
    svg("line", { x1: LEFT, x2: width - RIGHT, y1: latency(target), y2: latency(target), class: "target" }),
    svg("text", { x: width - RIGHT, y: bottom[0] + GAP - 8, "text-anchor": "end", class: "name" }, `- - target ${ms(target)}`),
    svg("path", { d: lines, class: "latency" }),
    svg("text", { x: LEFT, y: bottom[1] + 17 }, clock(start)),
    width > 480 ? svg("text", { x: x(middle), y: bottom[1] + 17, "text-anchor": "middle" }, clock(middle)) : null,
    svg("text", { x: width - RIGHT, y: bottom[1] + 17, "text-anchor": "end" }, clock(end)),
    svg("line", { y1: 22, y2: bottom[1], x1: -9, x2: -9, class: "pointer" }));
  node.replaceChildren(chart);
  drawn = { start, end, width, points, pointer: chart.lastChild };
}

const describe = (each) => `${clock(each.to)} · ${number(each.rate)} per second · ${plural(each.errors, "error")} · p95 ${ms(each.p95_ms)}`;

export function showChart(history, seconds, target) {
  const points = toPoints(history, seconds);
  const node = byId("chart");
  const width = Math.max(260, Math.floor(node.clientWidth));
  const span = (points.at(-1).to - points[0].from) / 60_000;
  byId("chart-caption").textContent = `Last ${plural(Math.max(1, Math.round(span)), "minute")}, in steps of 10 s`;
  if (!node.matches(":hover")) byId("readout").textContent = describe(points.at(-1));
  draw(node, points, target, width);
  render(byId("chart-rows"), points, () => points.toReversed().map((each) => el("tr", {},
    el("th", { scope: "row" }, clock(each.to)),
    ...[number(each.rate), number(each.errors), number(each.slow_requests), ms(each.p95_ms)]
      .map((text) => el("td", { class: "number" }, text)))));
}

// Describes the point under the pointer beside the caption.
export function prepareChart() {
  const node = byId("chart");
  node.addEventListener("pointermove", (event) => {
    if (!drawn) return;
    const at = event.clientX - node.getBoundingClientRect().left;
    const time = drawn.start + ((at - LEFT) / (drawn.width - LEFT - RIGHT)) * (drawn.end - drawn.start);
    const each = drawn.points.find((point) => time <= point.to) ?? drawn.points.at(-1);
    drawn.pointer.setAttribute("x1", at);
    drawn.pointer.setAttribute("x2", at);
    byId("readout").textContent = describe(each);
  });
  node.addEventListener("pointerleave", () => {
    for (const name of ["x1", "x2"]) drawn?.pointer.setAttribute(name, -9);
    if (drawn) byId("readout").textContent = describe(drawn.points.at(-1));
  });
}
