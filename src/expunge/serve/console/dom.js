// Small helpers around the document. Data goes in as text nodes and attributes, never as HTML.

export const $ = (id) => document.getElementById(id);

/** An element with attributes (a function value: a listener) and children (strings become text). */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** A sentence in a live region; `kind`: "good", "bad" or "". */
export function say(node, text, kind = "") {
  node.textContent = text;
  node.classList.toggle("bad", kind === "bad");
  node.classList.toggle("good", kind === "good");
}

/** A moment (ISO text or Unix seconds) as a Date; null where there is none. */
export function moment(value) {
  if (value === null || value === undefined || value === "") return null;
  const date = new Date(typeof value === "number" ? value * 1000 : value);
  return Number.isNaN(date.getTime()) ? null : date;
}

/** A moment in the reader's own time zone and manner. */
export function time(value, { date = true } = {}) {
  const when = moment(value);
  if (!when) return "–";
  const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const text = date ? when.toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : when.toLocaleTimeString([], clock);
  return el("time", { datetime: when.toISOString(), title: when.toISOString() }, text);
}

export function milliseconds(value) {
  if (typeof value !== "number") return "–";
  return value < 10 ? `${value.toFixed(1)} ms` : value < 10000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

/** A table cell; on a narrow screen its label stands before it. */
export function cell(label, content, kind = "") {
  const empty = content === "" || content === null || content === undefined;
  return el("td", { "data-label": label, class: kind + (empty ? " void" : "") || null }, el("span", {}, empty ? "" : content));
}

export function emptyRow(columns, text) {
  return el("tr", { class: "empty" }, el("td", { colspan: columns }, text));
}

const drawn = new WeakMap();

/** Puts rows made from `data` into a table body, only where the data changed, and gives the focus back to the same button. */
export function redraw(body, data, make) {
  const as = JSON.stringify(data);
  if (drawn.get(body) === as) return;
  drawn.set(body, as);
  const focused = body.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  body.replaceChildren(...make(data));
  if (focused) [...body.querySelectorAll("[data-focus]")].find((node) => node.dataset.focus === focused)?.focus();
}

export function counters(node, pairs) {
  redraw(node, pairs, () => pairs.map(([name, value, code]) => el("div", {}, el("dt", {}, name), el("dd", {}, code ? el("code", {}, String(value)) : String(value)))));
}

/** Calls `work` now and then every `seconds`, one call at a time, while the page is visible. Returns a function that stops it. */
export function every(seconds, work) {
  let timer = 0;
  let on = true;
  const turn = async () => {
    if (!document.hidden) await work();
    if (on) timer = setTimeout(turn, seconds * 1000);
  };
  turn();
  return () => {
    on = false;
    clearTimeout(timer);
  };
}
