// Creation of elements, and formatting of values. Text from the server is only ever inserted as text.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

export const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

export const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

// Replaces the children of a node if the data they are created from has changed, so that selected text stays selected.
const rendered = new WeakMap();
export function render(node, data, create) {
  const key = JSON.stringify(data);
  if (rendered.get(node) === key) return;
  rendered.set(node, key);
  node.replaceChildren(...create());
}

export const facts = (entries) => entries.filter(([, value]) => value !== null).map(
  ([name, value, note]) => el("div", {}, el("dt", {}, name), el("dd", {}, value, note ? el("small", {}, note) : null)),
);

const round = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });
export const number = (value) => (value === null || value === undefined ? "–" : round(value, value < 10 ? 2 : 0));
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

export function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value > 0 && value < 0.05) return "< 0.1 ms";
  if (value >= 1000) return `${round(value / 1000, 2)} s`;
  return `${round(value, value < 10 ? 1 : 0)} ms`;
}

export function percent(ratio) {
  if (!ratio) return "0 %";
  return ratio < 0.0005 ? "< 0.1 %" : `${round(ratio * 100, 1)} %`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${round(value, value < 10 ? 1 : 0)} ${units[unit]}`;
}

export function duration(seconds) {
  const total = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [Math.floor(total / 86400), Math.floor(total / 3600) % 24, Math.floor(total / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${total % 60} s` : `${total} s`;
}

export const clock = (time) => new Date(time).toLocaleTimeString("en-GB");

// The time of day, with the date if that is not today's.
export const moment = (time) => (new Date(time).toDateString() === new Date().toDateString() ? clock(time)
  : new Date(time).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }));

// An element with the time elapsed since a point in time, which updateRelativeTimes() keeps current.
export const relativeTime = (since) =>
  el("time", { "data-since": since, datetime: new Date(since).toISOString() }, describeAge(since));

function describeAge(since) {
  const seconds = Math.max(0, Math.round((Date.now() - since) / 1000));
  return seconds < 1 ? "just now" : `${duration(seconds)} ago`;
}

export function updateRelativeTimes() {
  for (const each of document.querySelectorAll("[data-since]")) {
    const text = describeAge(Number(each.dataset.since));
    if (each.textContent !== text) each.textContent = text;
  }
}
