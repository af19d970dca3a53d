// The panels for components, totals and the database.

import { byId, bytes, duration, el, facts, moment, ms, number, percent, plural, relativeTime, render, svg } from "./dom.js";
import { failingSince, icon } from "./verdict.js";

const LABELS = { ok: "ok", error: "failing", unknown: "not seen", not_configured: "not configured" };

// The components whose changes are shown, which stay open when the list is rendered again.
const expanded = new Set();

function stateChanges(name, changes) {
  if (!changes || changes.length < 2) return null; // the first result is no news
  const details = el("details", { open: expanded.has(name) }, el("summary", {}, `Last ${plural(changes.length, "change")}`),
    el("ol", { class: "changes" }, ...changes.map((each) => el("li", {},
      el("time", { datetime: each.at }, moment(each.at)), ` ${LABELS[each.status] ?? each.status}`,
      each.status === "error" && each.detail ? `: ${each.detail}` : ""))));
  details.addEventListener("toggle", () => (details.open ? expanded.add(name) : expanded.delete(name)));
  return details;
}

function component(name, check, receivedAt, metrics) {
  const level = check.status === "error" && !check.critical ? "degraded" : check.status;
  const since = failingSince(name, check, metrics);
  const age = check.age_seconds === null ? null : relativeTime(receivedAt - check.age_seconds * 1000);
  return el("li", { class: `component ${level}` }, icon(level), el("div", {},
    el("p", {}, el("b", {}, name), " ", el("span", { class: "status" }, LABELS[check.status] ?? check.status),
      check.critical ? el("span", { class: "tag" }, "critical") : null),
    check.detail ? el("p", { class: "detail" }, check.detail) : null,
    since === null ? null : el("p", { class: "muted" }, `since ${moment(since)} · `, relativeTime(since)),
    age ? el("p", { class: "muted" }, `${ms(check.latency_ms)} · `, age) : null,
    stateChanges(name, check.changes)));
}

export function showComponents(health, receivedAt, metrics) {
  const checks = Object.entries(health?.checks ?? {});
  byId("components").hidden = checks.length === 0;
  render(byId("component-list"), [checks, receivedAt, metrics?.checks],
    () => checks.map(([name, check]) => component(name, check, receivedAt, metrics)));
  const { cpu_percent: cpu, cpu: cpus, load_average: load, memory, disk, process, event_loop_lag_ms: lag } = health?.system ?? {};
  const has = (value) => value !== null && value !== undefined;
  render(byId("system"), health?.system, () => facts([
    ["CPU", has(cpu) ? `${number(cpu)} %` : null,
      [cpus?.source === "cgroup" ? `of the container's ${number(cpus.cpus)}` : "", load ? `load ${load.join(", ")}` : ""]
        .filter(Boolean).join(" · ")],
    ["Memory used", has(memory?.used_percent) ? `${number(memory.used_percent)} %` : null,
      has(memory?.available_bytes) ? `${bytes(memory.available_bytes)} free${memory.source === "cgroup" ? " in the container" : ""}` : ""],
    ["Disk used", has(disk?.used_percent) ? `${number(disk.used_percent)} %` : null,
      has(disk?.free_bytes) ? `${bytes(disk.free_bytes)} free` : ""],
    ["This process", has(process?.rss_bytes) ? bytes(process.rss_bytes) : null,
      has(process?.cpu_percent) ? `${number(process.cpu_percent)} % of one CPU` : ""],
    ["Event-loop lag", has(lag) ? ms(lag) : null, "max of the last 10 s"],
  ]));
}

export function showTotals(metrics, window) {
  const tile = (name, value, note, isBad = false) => el("div", { class: isBad ? "bad" : null },
    el("dt", {}, name), el("dd", {}, value, el("small", {}, note)));
  render(byId("totals"), [window, metrics.active_requests], () => [
    tile("Requests", number(window.requests), `${number(window.requests_per_second)} per second`),
    tile("Errors", number(window.errors), `${percent(window.error_rate)} of requests (5xx)`, window.errors > 0),
    tile("Slow", number(window.slow_requests), `over ${number(metrics.slow_request_seconds)} s`, window.slow_requests > 0),
    tile("p50", ms(window.p50_ms), "median"),
    tile("p95", ms(window.p95_ms), `p99 ${ms(window.p99_ms)}`),
    tile("In progress", number(metrics.active_requests), "including this one"),
  ]);
}

// A bar of the maximum number of connections: in use, idle, and not opened.
function poolBar({ size, maximum, checked_out: used }) {
  const total = Math.max(maximum, size, used, 1);
  const part = (from, to, name) => svg("rect", {
    x: `${(100 * from) / total}%`, width: `${(100 * (to - from)) / total}%`, y: 0, height: 14, class: name });
  return svg("svg", { class: "bar", height: 14, "aria-hidden": "true" },
    part(0, total, "free"), part(used, Math.max(size, used), "open"), part(0, used, "used"));
}

export function showDatabase(database) {
  const { pool, postgresql: server } = database;
  const error = byId("database-error");
  error.hidden = database.reachable;
  error.textContent = database.reachable ? "" : `Unavailable: ${database.detail}`;
  render(byId("pool"), pool, () => [
    el("p", {}, el("b", {}, "Pool"), ` ${number(pool.checked_out)} of ${number(pool.maximum)} connections in use, `
      + `${number(pool.size)} open, ${pool.waiting ? `${plural(pool.waiting, "request")} waiting` : "none waiting"}`),
    poolBar(pool),
  ]);
  const states = Object.entries(server?.connections ?? {}).map(([state, count]) => `${count} ${state}`).join(", ");
  const errors = Object.entries(database.errors).map(([name, count]) => `${name} ${number(count)}`).join(", ");
  render(byId("database-facts"), [database, "facts"], () => facts([
    ["Server", database.dialect, database.server_version ?? ""],
    ["Round trip", ms(database.round_trip_ms), "latest"],
    ["Wait for a connection", ms(pool.wait_p95_ms), `p95; max ${ms(pool.wait_max_ms)}`],
    ["Transactions", number(database.transactions.committed), `${number(database.transactions.rolled_back)} rolled back`],
    ["Failed statements", errors || "none", ""],
    ["Connections", server ? `${server.connections_total} of ${server.max_connections}` : null, `this database: ${states}`],
    ["Cache hits", server && server.cache_hit_ratio !== null ? percent(server.cache_hit_ratio) : null, "of blocks read"],
    ["Size", database.database_bytes === null ? null : bytes(database.database_bytes),
      server ? `${number(server.dead_tuples)} dead rows, ${number(server.live_tuples)} live` : ""],
    ["Longest transaction", server && server.longest_transaction_seconds !== null
      ? ms(server.longest_transaction_seconds * 1000) : null, "in progress"],
  ]));
  const slow = database.slow_statements;
  byId("slow-statements-table").hidden = slow.length === 0;
  byId("no-slow-statements").hidden = slow.length > 0;
  byId("no-slow-statements").textContent = "No statement took longer than 0.2 s.";
  const cells = (texts) => texts.map((text) => el("td", { class: "number" }, text));
  render(byId("slow-statements"), slow, () => slow.map((each) => el("tr", {},
    el("td", {}, el("code", {}, each.statement)), ...cells([number(each.count), ms(each.mean_ms), ms(each.max_ms)]))));
  render(byId("statements"), database.statements, () => database.statements.map((each) => el("tr", {},
    el("th", { scope: "row" }, `${each.operation} ${each.table}`),
    ...cells([number(each.count), ms(each.mean_ms), ms(each.p50_ms), ms(each.p95_ms), ms(each.max_ms)]))));
}

export function showAbout(health, metrics) {
  const workers = metrics?.workers ?? [];
  const parts = [health?.version ? `projkit ${health.version}` : "projkit"];
  if (health && health.uptime_seconds !== undefined) parts.push(`up ${duration(health.uptime_seconds)}`);
  if (workers.length) {
    parts.push(`${plural(workers.length, "worker")} (${workers.map((each) => each.pid).join(", ")})`);
    parts.push(metrics.scope === "all_workers" ? "metrics of all workers" : "metrics of this process");
    parts.push(`started ${new Date(metrics.started_at).toLocaleString("en-GB")}`);
  }
  byId("about").textContent = parts.join(" · ");
}
