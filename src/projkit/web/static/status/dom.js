// Making elements, and writing figures for people. Text from the server only ever becomes text.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

export const el = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);

export const svg = (name, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, name), attributes, children);

// Puts children in place, unless what they are made of is as before: selected text stays selected.
const shown = new WeakMap();
export function render(node, made_of, make) {
  const key = JSON.stringify(made_of);
  if (shown.get(node) === key) return;
  shown.set(node, key);
  node.replaceChildren(...make());
}

export const facts = (pairs) => pairs.filter(([, value]) => value !== null).map(
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

export function share(value) {
  if (!value) return "0 %";
  return value < 0.0005 ? "< 0.1 %" : `${round(value * 100, 1)} %`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${round(value, value < 10 ? 1 : 0)} ${units[unit]}`;
}

export function duration(seconds) {
  const all = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [Math.floor(all / 86400), Math.floor(all / 3600) % 24, Math.floor(all / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${all % 60} s` : `${all} s`;
}

export const clock = (moment) => new Date(moment).toLocaleTimeString("en-GB");

// An element that tells how long ago something was, and is kept right by tick().
export const ago = (since) => el("time", { "data-since": since, datetime: new Date(since).toISOString() }, told(since));

function told(since) {
  const seconds = Math.max(0, Math.round((Date.now() - since) / 1000));
  return seconds < 1 ? "just now" : `${duration(seconds)} ago`;
}

export function tick() {
  for (const each of document.querySelectorAll("[data-since]")) {
    const text = told(Number(each.dataset.since));
    if (each.textContent !== text) each.textContent = text;
  }
}
