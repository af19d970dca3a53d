// The status page: fetches health and metrics every five seconds and shows them, or says that they are unavailable.

import { Problem, Unreachable, hasCredentials, hasTenants, hasToken, logIn, logOut, read, useToken } from "./access.js";
import { prepareChart, showChart } from "./chart.js";
import { byId, clock, duration, ms, plural, relativeTime, render, updateRelativeTimes } from "./dom.js";
import { prepareEndpoints, showEndpoints } from "./endpoints.js";
import { showAbout, showComponents, showDatabase, showTotals } from "./panels.js";
import { hasTarget, missesTarget, worst } from "./targets.js";
import { icon, verdict } from "./verdict.js";

const PERIOD_MS = 5000;
const MAX_PERIOD_MS = 60_000;
const WINDOW_SECONDS = { last_1_minute: 60, last_5_minutes: 300, last_15_minutes: 900, total: 900 };

const latest = { health: null, metrics: null, healthAt: null, metricsAt: null };
let selectedWindow = "last_5_minutes";
let access = "unknown"; // then "granted", "denied" (the login form is shown), or "retrying" after it was submitted
let failures = 0;
let paused = false;
let timer = null;
let pending = null;

const attempt = (path) => read(path).then((content) => ({ content }), (error) => ({ error }));

function refresh() {
  clearTimeout(timer);
  pending ??= update().finally(() => {
    pending = null;
    schedule();
  });
  return pending;
}

function schedule() {
  clearTimeout(timer);
  if (!paused && !document.hidden) timer = setTimeout(refresh, Math.min(PERIOD_MS * 2 ** failures, MAX_PERIOD_MS));
}

async function update() {
  const performanceRequest = access === "denied" ? null : attempt("monitoring/metrics/performance");
  const databaseRequest = access === "granted" ? attempt("monitoring/metrics/database") : null;
  const health = await attempt("health/detailed");
  const unreachable = health.error instanceof Unreachable;
  failures = unreachable ? failures + 1 : 0;
  if (!unreachable) {
    latest.health = health.content ?? null;
    latest.healthAt = Date.now();
  }
  const performance = await performanceRequest;
  if (performance?.content) {
    await handleMetrics(performance.content, await (databaseRequest ?? attempt("monitoring/metrics/database")));
  } else if (performance) {
    handleError(performance.error);
  }
  show(unreachable, performance?.error);
}

async function handleMetrics(metrics, database) {
  const isFirst = access !== "granted";
  access = "granted";
  [latest.metrics, latest.metricsAt] = [metrics, Date.now()];
  byId("access").hidden = true;
  byId("metrics").hidden = false;
  if (database.content) showDatabase(database.content);
  if (isFirst) await showUser();
}

async function showUser() {
  const session = hasCredentials() ? (await attempt("auth/session")).content : null;
  byId("log-out").hidden = !session;
  byId("log-out").textContent = hasToken() ? "Forget the token" : "Log out";
  byId("user").hidden = !session;
  byId("user").textContent = session ? session.subject : "";
}

function handleError(error) {
  if (!(error instanceof Problem) || ![401, 403].includes(error.status)) {
    // While the session store is unavailable a token helps, because it needs no store; the session may work again soon.
    if (access === "granted" || !(error instanceof Problem)) return;
    requireLogin(`The metrics are unavailable: ${error.message}`);
    access = "unknown";
    return;
  }
  const lacksScope = error.status === 403;
  const hadToken = hasToken();
  if (hadToken) logOut();
  requireLogin(!lacksScope ? (access === "retrying" || hadToken ? describeRejection(hadToken) : "")
    : "You are logged in, but your scopes do not include monitoring:read. Log in as a user with that scope.");
}

const describeRejection = (hadToken) => (hadToken ? "The token is invalid or has expired."
  : "You are logged in, but the browser did not store the cookies: they require HTTPS here.");

function requireLogin(message) {
  access = "denied";
  latest.metrics = null;
  byId("metrics").hidden = true;
  byId("access").hidden = false;
  showError(message);
  showUser();
}

function showError(message) {
  byId("access-error").hidden = !message;
  if (byId("access-error").textContent !== message) byId("access-error").textContent = message;
}

function show(unreachable, error) {
  const [level, summary] = verdict(latest.health, unreachable, latest.metrics);
  document.title = `${summary} · status`;
  document.body.toggleAttribute("data-stale", unreachable);
  byId("headline").dataset.level = level;
  render(byId("headline-icon"), level, () => [icon(level)]);
  if (byId("summary").textContent !== summary) byId("summary").textContent = summary;
  byId("summary-details").textContent = summaryDetails(unreachable, error);
  showComponents(latest.health, latest.healthAt, latest.metrics);
  showAbout(latest.health, latest.metrics);
  if (latest.healthAt) byId("updated").replaceChildren("Updated ", relativeTime(latest.healthAt));
  showMetrics();
}

function summaryDetails(unreachable, error) {
  if (unreachable) {
    const next = duration(Math.min(PERIOD_MS * 2 ** failures, MAX_PERIOD_MS) / 1000);
    const last = latest.healthAt ? `Last response at ${clock(latest.healthAt)}; the data below is from then. ` : "";
    return `${last}Next attempt in ${next}.`;
  }
  if (error && access === "granted") {
    const reason = error instanceof Problem ? error.message : "no response";
    return `The metrics below are from ${clock(latest.metricsAt)}: ${reason}`;
  }
  if (!latest.metrics) return "";
  const { errors, endpoints, requests } = latest.metrics.last_5_minutes;
  const missed = endpoints.filter(missesTarget).length;
  return `Last 5 minutes: ${plural(requests, "request")}, ${errors ? plural(errors, "error") : "no errors"}, `
    + (missed ? `${plural(missed, "endpoint")} over target${describeWorst(endpoints)}` : "no missed targets");
}

function describeWorst(endpoints) {
  const each = worst(endpoints);
  return `: ${each.method} ${each.route}, p95 ${ms(each.p95_ms)} of ${ms(each.target_ms)}`;
}

function showMetrics() {
  const metrics = latest.metrics;
  if (!metrics) return;
  const window = selectedWindow === "total" ? metrics : metrics[selectedWindow];
  showTotals(metrics, window);
  showEndpoints(window.endpoints);
  const target = Math.max(40, ...window.endpoints.filter(hasTarget).map((each) => each.target_ms));
  showChart(metrics.history, WINDOW_SECONDS[selectedWindow], target);
}

function describeLoginError(error) {
  if (!(error instanceof Problem)) return "The server is not responding. Try again in a moment.";
  if (error.status === 429) return `Too many attempts. Try again in ${duration(error.retryAfter ?? 60)}.`;
  if (error.code === "invalid_credentials") return "Wrong username or password.";
  return error.message;
}

async function submitLogin(event) {
  event.preventDefault();
  const form = event.currentTarget;
  byId("login-button").disabled = true;
  showError("");
  try {
    await logIn(new FormData(form));
    form.reset();
    await retry();
  } catch (error) {
    showError(describeLoginError(error));
    byId("password").select();
  } finally {
    byId("login-button").disabled = false;
  }
}

async function submitToken(event) {
  event.preventDefault();
  const text = byId("token").value;
  event.currentTarget.reset();
  if (!/^[\x21-\x7e]+( [\x21-\x7e]+)?$/.test(text.trim())) return showError("This is not a token.");
  useToken(text);
  return retry();
}

async function retry() {
  await pending;
  access = "retrying";
  await refresh();
  if (access === "granted") byId("requests-title").focus();
}

async function endSession() {
  try {
    await logOut();
  } catch (error) {
    byId("summary-details").textContent = `You are still logged in: ${error.message}`;
    return;
  }
  await pending;
  access = "unknown";
  latest.metrics = null;
  byId("metrics").hidden = true;
  await refresh();
}

function selectWindow(event) {
  const button = event.target.closest("button");
  if (!button) return;
  selectedWindow = button.dataset.window;
  for (const each of byId("windows").children) each.setAttribute("aria-pressed", String(each === button));
  showMetrics();
}

function togglePause() {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Paused" : "Pause";
  if (paused) clearTimeout(timer);
  else refresh();
}

byId("host").textContent = location.host;
byId("toolbar").hidden = false;
byId("headline").hidden = false;
byId("tenant-field").hidden = !hasTenants;
byId("tenant").required = hasTenants;
byId("login").addEventListener("submit", submitLogin);
byId("token-form").addEventListener("submit", submitToken);
byId("refresh").addEventListener("click", refresh);
byId("pause").addEventListener("click", togglePause);
byId("log-out").addEventListener("click", endSession);
byId("windows").addEventListener("click", selectWindow);
document.addEventListener("visibilitychange", () => {
  if (access === "denied" && hasCredentials()) access = "unknown"; // the user may have logged in in another tab
  if (document.hidden || paused) clearTimeout(timer);
  else refresh();
});
new ResizeObserver(showMetrics).observe(byId("chart"));
prepareEndpoints();
prepareChart();
setInterval(updateRelativeTimes, 1000);
refresh();
