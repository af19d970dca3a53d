// What is said of it all in one sentence, and by which shape: never by colour alone.

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

const isWell = (check) => check.status === "ok" || check.status === "not_configured";

// The checks that fail: since when, and whether this page has seen them begin to.
export const failing = new Map();
const well = new Set();

export function note(checks) {
  for (const [name, check] of Object.entries(checks ?? {})) {
    if (isWell(check)) {
      well.add(name);
      failing.delete(name);
    } else if (!failing.has(name)) {
      failing.set(name, { at: check.observed_at ?? new Date().toISOString(), seen: well.has(name) });
    }
  }
}

function said([name, check]) {
  const since = failing.get(name)?.seen ? ` since ${clock(failing.get(name).at)}` : "";
  // The class of an error is for the component's own light.
  const detail = (check.detail ?? (check.status === "unknown" ? "not seen yet" : "fails")).replace(/ \(\w+\)$/, "");
  if (detail.startsWith("not seen")) return `${name} was ${detail}`;
  return (/^[a-z]/.test(detail) ? `${name} ${detail}` : `${name}: ${detail}`) + since;
}

function matters(checks) {
  const bad = Object.entries(checks ?? {}).filter(([, check]) => !isWell(check));
  bad.sort(([, one], [, other]) => other.critical - one.critical);
  const more = bad.length > 2 ? `; ${bad.length - 2} more` : "";
  return bad.slice(0, 2).map(said).join("; ") + more;
}

// The level and the sentence. health is null where there is none, gone says that nothing answers.
export function verdict(health, gone) {
  if (gone) return ["error", "The server does not answer"];
  if (health === null) return ["unknown", "The server answers; of its health it says nothing"];
  const what = matters(health.checks);
  if (health.state === "starting") return ["unknown", what ? `Starting: ${what}` : "Starting"];
  if (health.state === "draining") return ["degraded", "Draining: requests are answered, new ones should go elsewhere"];
  if (health.status === "ok") return ["ok", "All is well"];
  if (health.status === "degraded") return ["degraded", what ? `Degraded: ${what}` : "Degraded"];
  return ["error", what ? `Down: ${what}` : "Down"];
}
