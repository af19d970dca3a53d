// The page: asks every five seconds, shows what comes, says so when nothing does.

import { Problem, Unreachable, logIn, logOut, mayHaveSession, read, usesToken, useToken, wantsTenant } from "./access.js";
import { prepareChart, showChart } from "./chart.js";
import { ago, byId, clock, duration, plural, render, tick } from "./dom.js";
import { misses, prepareEndpoints, showEndpoints } from "./endpoints.js";
import { showAbout, showComponents, showDatabase, showTotals } from "./panels.js";
import { icon, note, verdict } from "./verdict.js";

const PERIOD_MS = 5000;
const LONGEST_MS = 60_000;
const SECONDS = { last_1_minute: 60, last_5_minutes: 300, last_15_minutes: 900, total: 900 };

const seen = { health: null, figures: null, healthAt: null, figuresAt: null };
let chosen = "last_5_minutes";
let access = "unknown"; // then open, or needed: somebody has to log in
let failures = 0;
let paused = false;
let timer = null;
let asking = null;

const attempt = (path) => read(path).then((content) => ({ content }), (error) => ({ error }));

function ask() {
  clearTimeout(timer);
  asking ??= round().finally(() => {
    asking = null;
    plan();
  });
  return asking;
}

function plan() {
  clearTimeout(timer);
  if (!paused && !document.hidden) timer = setTimeout(ask, Math.min(PERIOD_MS * 2 ** failures, LONGEST_MS));
}

async function round() {
  const figures = access === "needed" ? null : attempt("monitoring/metrics/performance");
  const early = access === "open" ? attempt("monitoring/metrics/database") : null;
  const health = await attempt("health/detailed");
  const gone = health.error instanceof Unreachable;
  failures = gone ? failures + 1 : 0;
  if (!gone) {
    seen.health = health.content ?? null;
    seen.healthAt = Date.now();
  }
  const performance = await figures;
  if (performance?.content) {
    await opened(performance.content, await (early ?? attempt("monitoring/metrics/database")));
  } else if (performance) {
    refused(performance.error);
  }
  show(gone, performance?.error);
}

async function opened(figures, database) {
  const first = access !== "open";
  access = "open";
  [seen.figures, seen.figuresAt] = [figures, Date.now()];
  byId("access").hidden = true;
  byId("figures").hidden = false;
  if (database.content) showDatabase(database.content);
  if (first) await tellWho();
}

async function tellWho() {
  const session = mayHaveSession() ? (await attempt("auth/session")).content : null;
  byId("leave").hidden = !session;
  byId("leave").textContent = usesToken() ? "Forget the token" : "Log out";
  byId("who").hidden = !session;
  byId("who").textContent = session ? session.subject : "";
}

function refused(error) {
  if (!(error instanceof Problem) || ![401, 403].includes(error.status)) {
    // Where the session store is down a token helps, since it needs none; the session may be good again in a moment.
    if (access === "open" || !(error instanceof Problem)) return;
    needLogin(`The figures cannot be read: ${error.message}.`);
    access = "unknown";
    return;
  }
  const lacks = error.status === 403;
  const hadToken = usesToken();
  if (hadToken) logOut();
  needLogin(!lacks ? (access === "trying" || hadToken ? unusable(hadToken) : "")
    : "You are logged in, but your scopes do not include monitoring:read. Log in as somebody whose scopes do.");
}

const unusable = (token) => (token ? "The token is not valid here, or no longer."
  : "You are logged in, but the browser did not keep the cookies: they need https here.");

function needLogin(problem) {
  access = "needed";
  seen.figures = null;
  byId("figures").hidden = true;
  byId("access").hidden = false;
  complain(problem);
  tellWho();
}

function complain(problem) {
  byId("access-problem").hidden = !problem;
  if (byId("access-problem").textContent !== problem) byId("access-problem").textContent = problem;
}

function show(gone, error) {
  note(seen.health?.checks);
  const [level, sentence] = verdict(seen.health, gone);
  document.title = `${sentence} · status`;
  document.body.toggleAttribute("data-stale", gone);
  byId("headline").dataset.level = level;
  render(byId("headline-icon"), level, () => [icon(level)]);
  if (byId("sentence").textContent !== sentence) byId("sentence").textContent = sentence;
  byId("more").textContent = more(gone, error);
  showComponents(seen.health, seen.healthAt);
  showAbout(seen.health, seen.figures);
  if (seen.healthAt) byId("updated").replaceChildren("Updated ", ago(seen.healthAt));
  showFigures();
}

function more(gone, error) {
  if (gone) {
    const next = duration(Math.min(PERIOD_MS * 2 ** failures, LONGEST_MS) / 1000);
    const last = seen.healthAt ? `The last answer came at ${clock(seen.healthAt)}; what is below is as of then. ` : "";
    return `${last}Next attempt in ${next}.`;
  }
  if (error && access === "open") {
    return `The figures below are as of ${clock(seen.figuresAt)}: ${error instanceof Problem ? error.message : "no answer"}`;
  }
  if (!seen.figures) return "";
  const { errors, endpoints, requests } = seen.figures.last_5_minutes;
  const missed = endpoints.filter(misses).length;
  return `In the last 5 minutes ${plural(requests, "request")}, ${errors ? plural(errors, "error") : "no errors"}, `
    + (missed ? `${plural(missed, "endpoint")} over target` : "every endpoint within its target");
}

function showFigures() {
  const figures = seen.figures;
  if (!figures) return;
  const window = chosen === "total" ? figures : figures[chosen];
  showTotals(figures, window);
  showEndpoints(window.endpoints);
  const target = Math.max(40, ...window.endpoints.map((each) => each.target_ms));
  showChart(figures.history, SECONDS[chosen], target);
}

function refusal(error) {
  if (!(error instanceof Problem)) return "The server does not answer. Try again in a moment.";
  if (error.status === 429) return `Too many attempts. Try again in ${duration(error.retryAfter ?? 60)}.`;
  if (error.code === "invalid_credentials") return "The user name or the password is wrong.";
  return error.message;
}

async function enter(event) {
  event.preventDefault();
  const form = event.currentTarget;
  byId("login-button").disabled = true;
  complain("");
  try {
    await logIn(new FormData(form));
    form.reset();
    await retry();
  } catch (error) {
    complain(refusal(error));
    byId("password").select();
  } finally {
    byId("login-button").disabled = false;
  }
}

async function enterToken(event) {
  event.preventDefault();
  const text = byId("token").value;
  event.currentTarget.reset();
  if (!/^[\x21-\x7e]+( [\x21-\x7e]+)?$/.test(text.trim())) return complain("That is not a token.");
  useToken(text);
  return retry();
}

async function retry() {
  await asking;
  access = "trying";
  await ask();
  if (access === "open") byId("requests-title").focus();
}

async function leave() {
  try {
    await logOut();
  } catch (error) {
    byId("more").textContent = `You are still logged in: ${error.message}`;
    return;
  }
  await asking;
  access = "unknown";
  seen.figures = null;
  byId("figures").hidden = true;
  await ask();
}

function choose(event) {
  const button = event.target.closest("button");
  if (!button) return;
  chosen = button.dataset.window;
  for (const each of byId("windows").children) each.setAttribute("aria-pressed", String(each === button));
  showFigures();
}

function pause() {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Paused" : "Pause";
  if (paused) clearTimeout(timer);
  else ask();
}

byId("host").textContent = location.host;
byId("tools").hidden = false;
byId("headline").hidden = false;
byId("tenant-field").hidden = !wantsTenant;
byId("tenant").required = wantsTenant;
byId("login").addEventListener("submit", enter);
byId("token-form").addEventListener("submit", enterToken);
byId("refresh").addEventListener("click", ask);
byId("pause").addEventListener("click", pause);
byId("leave").addEventListener("click", leave);
byId("windows").addEventListener("click", choose);
document.addEventListener("visibilitychange", () => {
  if (access === "needed" && mayHaveSession()) access = "unknown"; // somebody may have logged in in another tab
  if (document.hidden || paused) clearTimeout(timer);
  else ask();
});
new ResizeObserver(showFigures).observe(byId("chart"));
prepareEndpoints();
prepareChart();
setInterval(tick, 1000);
ask();
