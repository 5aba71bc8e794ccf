// Builds the page's parts. Everything shown is set as text, never as markup: a key may hold anything.

export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "width%") element.style.width = `${value}%`;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

// Numbers.

const plain = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (number) => plain.format(Math.round(number));
export const rate = (number) => (number >= 10_000 ? short.format(number) : number >= 100 ? count(number) : plain.format(Math.round(number * 10) / 10));
export const percent = (part, digits = 1) => `${(part * 100).toFixed(digits)}%`;

export function bytes(number) {
  let value = number;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024 || unit === "GiB") return `${unit === "B" ? value : value >= 100 ? Math.round(value) : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return "";
}

export function span(seconds) {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

export function took(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.1) return `${(seconds * 1000).toFixed(1)} ms`;
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`;
}

// Parts that several pages have.

export function title(text, about, ...more) {
  document.title = `${text} · cachenode`;
  return h("div", { class: "title" }, h("h1", {}, text), h("span", { class: "grow" }), ...more, about ? h("p", {}, about) : null);
}

export function card(heading, note, ...children) {
  return h("section", { class: "card" }, h("header", {}, h("h2", {}, heading), note ? h("span", { class: "muted" }, note) : null), ...children);
}

// Text with `commands` between backticks, as the nodes' own advice has them.
export const prose = (text) => text.split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part));

export const capital = (text) => text[0].toUpperCase() + text.slice(1);

export function empty(what, next) {
  return h("div", { class: "empty" }, h("strong", {}, what), h("span", {}, prose(next)));
}

export function problem(error) {
  const text = error.text || error.message || "that did not work";
  return h("div", { class: "problem", role: "alert" }, h("strong", {}, capital(text)), error.hint ? h("p", {}, prose(error.hint)) : null);
}

// columns: [heading, cell of a row, "n" for numbers | "head" | "acts"]
export function table(caption, columns, rows) {
  const heads = columns.map(([name, , kind]) => h("th", { scope: "col", class: kind === "n" ? "n" : null }, name));
  const lines = rows.map((row) => h("tr", {}, columns.map(([name, cell, kind]) => h("td", { class: kind || null, "data-label": name }, cell(row)))));
  return h("div", { class: "scroll" }, h("table", { class: "folds" }, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, heads)), h("tbody", {}, lines)));
}

export function field(label, input, kind = "") {
  return h("label", { class: kind || null }, label, input);
}

// How full something is; what is nearly full is red, unless to be full is what is wanted.
export function meter(part, label, { wanted = false } = {}) {
  const bounded = Math.max(0, Math.min(1, part || 0));
  return h("span", { class: "meter", role: "img", "aria-label": label }, h("i", { class: bounded > 0.9 && !wanted ? "high" : null, "width%": (bounded * 100).toFixed(1) }));
}

export const silentNote = (nodes) =>
  nodes.length ? h("div", { class: "problem", role: "status" }, h("strong", {}, `${nodes.join(", ")} did not answer`), h("p", {}, "What it knows is missing here. Overview shows whether it is up.")) : null;

export function say(text) {
  byId("say").textContent = text;
}

export function toast(text) {
  const box = h("div", { class: "toast" }, text);
  byId("toasts").append(box);
  say(text);
  setTimeout(() => box.remove(), 6000);
}
