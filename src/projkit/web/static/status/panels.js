// Components, totals and database, each drawn from what its endpoint answers.

import { ago, byId, bytes, clock, duration, el, facts, ms, number, plural, render, share, svg } from "./dom.js";
import { failing, icon } from "./verdict.js";

const WORDS = { ok: "ok", error: "failing", unknown: "unknown", not_configured: "not configured" };

function light(name, check, received) {
  const level = check.status === "error" && !check.critical ? "degraded" : check.status;
  const bad = failing.get(name);
  const seen = check.age_seconds === null ? null : ago(received - check.age_seconds * 1000);
  return el("li", { class: `light ${level}` }, icon(level), el("div", {},
    el("p", {}, el("b", {}, name), " ", el("span", { class: "word" }, WORDS[check.status] ?? check.status),
      check.critical ? el("span", { class: "tag" }, "critical") : null),
    check.detail ? el("p", { class: "detail" }, check.detail) : null,
    bad ? el("p", { class: "quiet" }, `since ${bad.seen ? "" : "before "}${clock(bad.at)}`) : null,
    seen ? el("p", { class: "quiet" }, `${ms(check.latency_ms)} · `, seen) : null));
}

export function showComponents(health, received) {
  const checks = Object.entries(health?.checks ?? {});
  byId("components").hidden = checks.length === 0;
  render(byId("lights"), [checks, received], () => checks.map(([name, check]) => light(name, check, received)));
  const { cpu_percent: cpu, load_average: load, memory, disk, process, event_loop_lag_ms: lag } = health?.system ?? {};
  const has = (value) => value !== null && value !== undefined;
  render(byId("machine"), health?.system, () => facts([
    ["Processor", has(cpu) ? `${number(cpu)} %` : null, load ? `load ${load.join(", ")}` : ""],
    ["Memory in use", has(memory?.used_percent) ? `${number(memory.used_percent)} %` : null,
      has(memory?.available_bytes) ? `${bytes(memory.available_bytes)} left` : ""],
    ["Disk in use", has(disk?.used_percent) ? `${number(disk.used_percent)} %` : null,
      has(disk?.free_bytes) ? `${bytes(disk.free_bytes)} left` : ""],
    ["This process", has(process?.rss_bytes) ? bytes(process.rss_bytes) : null,
      has(process?.cpu_percent) ? `${number(process.cpu_percent)} % of a processor` : ""],
    ["Event loop late by", has(lag) ? ms(lag) : null, "at worst in 10 s"],
  ]));
}

export function showTotals(figures, window) {
  const tile = (name, value, note, bad = false) => el("div", { class: bad ? "bad" : null },
    el("dt", {}, name), el("dd", {}, value, el("small", {}, note)));
  render(byId("totals"), [window, figures.active_requests], () => [
    tile("Requests", number(window.requests), `${number(window.requests_per_second)} a second`),
    tile("Errors", number(window.errors), `${share(window.error_rate)} answered 5xx`, window.errors > 0),
    tile("Slow", number(window.slow_requests), `over ${number(figures.slow_request_seconds)} s`, window.slow_requests > 0),
    tile("p50", ms(window.p50_ms), "half are quicker"),
    tile("p95", ms(window.p95_ms), `p99 ${ms(window.p99_ms)}`),
    tile("Under way", number(figures.active_requests), "this one among them"),
  ]);
}

// A bar of all connections that there may be: in use, open and idle, not opened.
function poolBar({ size, maximum, checked_out: used }) {
  const most = Math.max(maximum, size, used, 1);
  const part = (from, to, name) => svg("rect", {
    x: `${(100 * from) / most}%`, width: `${(100 * (to - from)) / most}%`, y: 0, height: 14, class: name });
  return svg("svg", { class: "bar", height: 14, "aria-hidden": "true" },
    part(0, most, "free"), part(used, Math.max(size, used), "open"), part(0, used, "used"));
}

export function showDatabase(database) {
  const { pool, postgresql: server } = database;
  const problem = byId("database-problem");
  problem.hidden = database.reachable;
  problem.textContent = database.reachable ? "" : `Not reachable: ${database.detail}`;
  render(byId("pool"), pool, () => [
    el("p", {}, el("b", {}, "Pool"), ` ${number(pool.checked_out)} of ${number(pool.maximum)} connections in use, `
      + `${number(pool.size)} open, ${pool.waiting ? `${plural(pool.waiting, "caller")} waiting` : "nobody waiting"}`),
    poolBar(pool),
  ]);
  const states = Object.entries(server?.connections ?? {}).map(([state, count]) => `${count} ${state}`).join(", ");
  const errors = Object.entries(database.errors).map(([name, count]) => `${name} ${number(count)}`).join(", ");
  render(byId("database-facts"), [database, "facts"], () => facts([
    ["Server", database.dialect, database.server_version ?? ""],
    ["Round trip", ms(database.round_trip_ms), "just now"],
    ["Wait for a connection", ms(pool.wait_p95_ms), `p95; longest ${ms(pool.wait_max_ms)}`],
    ["Transactions", number(database.transactions.committed), `${number(database.transactions.rolled_back)} rolled back`],
    ["Failed statements", errors || "none", ""],
    ["Connections", server ? `${server.connections_total} of ${server.max_connections}` : null, `here: ${states}`],
    ["Cache hits", server && server.cache_hit_ratio !== null ? share(server.cache_hit_ratio) : null, "of the blocks read"],
    ["Size", database.database_bytes === null ? null : bytes(database.database_bytes),
      server ? `${number(server.dead_tuples)} dead rows, ${number(server.live_tuples)} live` : ""],
    ["Longest transaction", server && server.longest_transaction_seconds !== null
      ? ms(server.longest_transaction_seconds * 1000) : null, "under way"],
  ]));
  const slow = database.slow_statements;
  byId("slow-box").hidden = slow.length === 0;
  byId("no-slow").hidden = slow.length > 0;
  byId("no-slow").textContent = "None took longer than 0.2 s.";
  const cells = (texts) => texts.map((text) => el("td", { class: "figure" }, text));
  render(byId("slow"), slow, () => slow.map((each) => el("tr", {},
    el("td", {}, el("code", {}, each.statement)), ...cells([number(each.count), ms(each.mean_ms), ms(each.max_ms)]))));
  render(byId("kinds"), database.statements, () => database.statements.map((each) => el("tr", {},
    el("th", { scope: "row" }, `${each.operation} ${each.table}`),
    ...cells([number(each.count), ms(each.mean_ms), ms(each.p50_ms), ms(each.p95_ms), ms(each.max_ms)]))));
}

export function showAbout(health, figures) {
  const workers = figures?.workers ?? [];
  const parts = [health?.version ? `projkit ${health.version}` : "projkit"];
  if (health && health.uptime_seconds !== undefined) parts.push(`up ${duration(health.uptime_seconds)}`);
  if (workers.length) {
    parts.push(`${plural(workers.length, "worker")} (${workers.map((each) => each.pid).join(", ")})`);
    parts.push(figures.scope === "all_workers" ? "figures of all workers" : "figures of this process");
    parts.push(`started ${new Date(figures.started_at).toLocaleString("en-GB")}`);
  }
  byId("about").textContent = parts.join(" · ");
}
