// The overall status in one sentence, and the icons of the levels, which differ in shape as well as in colour.

import { moment, number, percent, plural, svg } from "./dom.js";
import { MIN_REQUESTS, isMeasured, missesTarget } from "./targets.js";

const ERRORS_DEGRADED = 0.01;
const ERRORS_DOWN = 0.1;

const SHAPES = {
  ok: ["M12 2a10 10 0 1 0 0 20a10 10 0 1 0 0-20z", "M7.5 12.5l3 3l6-6.5"],
  degraded: ["M12 2.5L22.5 21h-21z", "M12 9v5.5M12 17.4v.6"],
  error: ["M7.5 2h9L22 7.5v9L16.5 22h-9L2 16.5v-9z", "M8.5 8.5l7 7M15.5 8.5l-7 7"],
  not_configured: ["M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18z", "M8 12h8"],
  unknown: ["M3 3h18v18H3z", "M9.4 9.2a2.7 2.7 0 1 1 3.8 2.8c-.8.5-1.2 1-1.2 2M12 16.8v.6"],
};

export function icon(level) {
  const [outline, mark] = SHAPES[level] ?? SHAPES.unknown;
  return svg("svg", { viewBox: "0 0 24 24", class: `shape ${level}`, "aria-hidden": "true", focusable: "false" },
    svg("path", { d: outline, class: "outline" }), svg("path", { d: mark, class: "mark" }));
}

const isHealthy = (check) => check.status === "ok" || check.status === "not_configured";

// Since when a check fails: in any worker, if the metrics of all workers are known.
export function failingSince(name, check, metrics) {
  if (check.status !== "error") return null;
  const shared = metrics?.checks?.find((each) => each.name === name)?.failing_since;
  const times = [check.failing_since, shared].filter(Boolean).map(Date.parse);
  return times.length ? Math.min(...times) : null;
}

function describe([name, check], metrics) {
  const since = failingSince(name, check, metrics);
  // The class of an exception is shown only at the component itself.
  const detail = (check.detail ?? (check.status === "unknown" ? "not checked yet" : "failing")).replace(/ \(\w+\)$/, "");
  return `${name} (${detail}${since === null ? "" : ` since ${moment(since)}`})`;
}

function describeFailures(checks, metrics) {
  const unhealthy = Object.entries(checks ?? {}).filter(([, check]) => !isHealthy(check));
  unhealthy.sort(([, one], [, other]) => other.critical - one.critical);
  const more = unhealthy.length > 2 ? `, ${unhealthy.length - 2} more` : "";
  return unhealthy.slice(0, 2).map((each) => describe(each, metrics)).join(", ") + more;
}

// Of the endpoints with enough requests to tell: those over their target, and the level and sentence if there are any.
// It is an error if most requests are to such an endpoint, or if a tenth of all requests fail.
function judge(window) {
  const measured = window.endpoints.filter(isMeasured);
  const missed = measured.filter(missesTarget);
  const share = window.requests >= MIN_REQUESTS ? window.error_rate : 0;
  if (share >= ERRORS_DEGRADED) {
    return [share >= ERRORS_DOWN ? "error" : "degraded",
      `Failing: ${percent(share)} of requests got a server error (${number(window.errors)} of ${number(window.requests)})`];
  }
  if (missed.length === 0) return null;
  const requests = (endpoints) => endpoints.reduce((sum, each) => sum + each.count, 0);
  const isOne = missed.length === 1;
  const which = missed.length < measured.length ? `${missed.length} of ${plural(measured.length, "endpoint")}`
    : `${isOne ? "" : "all "}${plural(missed.length, "endpoint")}`;
  return [requests(missed) * 2 > requests(measured) ? "error" : "degraded",
    `Slow: ${which} ${isOne ? "misses its target" : "miss their targets"}`];
}

// Returns the level and the sentence; health is null if its response could not be read, metrics without access to them.
export function verdict(health, unreachable, metrics) {
  if (unreachable) return ["error", "The server is not responding"];
  if (health === null) return ["unknown", "The server is responding, but its health is unknown"];
  const failures = describeFailures(health.checks, metrics);
  if (health.state === "starting") return ["unknown", failures ? `Starting: ${failures}` : "Starting"];
  if (health.state === "draining") return ["degraded", "Draining: still serving requests, about to stop"];
  if (health.status !== "error" && metrics) {
    const judged = judge(metrics.last_5_minutes);
    // A failing component is named first, but it does not hide that requests fail.
    if (judged && (health.status === "ok" || judged[0] === "error")) {
      return [judged[0], failures ? `${judged[1]}; ${failures}` : judged[1]];
    }
  }
  if (health.status === "ok") return ["ok", "All systems operational"];
  if (health.status === "degraded") return ["degraded", failures ? `Degraded: ${failures}` : "Degraded"];
  return ["error", failures ? `Down: ${failures}` : "Down"];
}
