// The overall status in one sentence, and the icons of the levels, which differ in shape as well as in colour.

import { clock, svg } from "./dom.js";

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

// The failing checks: since when, and whether this page observed the start of the failure.
export const failing = new Map();
const healthyBefore = new Set();

export function recordFailures(checks) {
  for (const [name, check] of Object.entries(checks ?? {})) {
    if (isHealthy(check)) {
      healthyBefore.add(name);
      failing.delete(name);
    } else if (!failing.has(name)) {
      failing.set(name, { since: check.observed_at ?? new Date().toISOString(), isObserved: healthyBefore.has(name) });
    }
  }
}

function describe([name, check]) {
  const failure = failing.get(name);
  const since = check.status === "error" && failure?.isObserved ? ` since ${clock(failure.since)}` : "";
  // The class of an exception is shown only at the component itself.
  const detail = (check.detail ?? (check.status === "unknown" ? "not checked yet" : "failing")).replace(/ \(\w+\)$/, "");
  return `${name} (${detail}${since})`;
}

function describeFailures(checks) {
  const unhealthy = Object.entries(checks ?? {}).filter(([, check]) => !isHealthy(check));
  unhealthy.sort(([, one], [, other]) => other.critical - one.critical);
  const more = unhealthy.length > 2 ? `, ${unhealthy.length - 2} more` : "";
  return unhealthy.slice(0, 2).map(describe).join(", ") + more;
}

// Returns the level and the sentence; health is null if its response could not be read.
export function verdict(health, unreachable) {
  if (unreachable) return ["error", "The server is not responding"];
  if (health === null) return ["unknown", "The server is responding, but its health is unknown"];
  const failures = describeFailures(health.checks);
  if (health.state === "starting") return ["unknown", failures ? `Starting: ${failures}` : "Starting"];
  if (health.state === "draining") return ["degraded", "Draining: still serving requests, about to stop"];
  if (health.status === "ok") return ["ok", "All systems operational"];
  if (health.status === "degraded") return ["degraded", failures ? `Degraded: ${failures}` : "Degraded"];
  return ["error", failures ? `Down: ${failures}` : "Down"];
}
