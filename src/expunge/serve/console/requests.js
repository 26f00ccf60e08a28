// Removal requests: the list, a new one, one in full, its evidence, and its withdrawal.

import { call, explain, idempotencyKey } from "./api.js";
import { $, cell, el, emptyRow, every, milliseconds, redraw, say, time } from "./dom.js";

const PAGE = 1000; // asked for at once
const ROWS = 200; // drawn at once
const KINDS = { active: "ok", pending: "so" };
let entries = []; // newest first
let more = false; // whether the server has further ones
const near = new Map(); // those added or looked up here, by id: they are shown although their page is not loaded
let pages = 1;
let rows = ROWS;
let drawnAt = null; // the epoch of what is shown
let again = idempotencyKey(); // of the form as it stands: sent twice, it is done once

export function startRequests() {
  drawnAt = null;
  return every(5, () => ($("epoch").textContent !== drawnAt || entries.some((entry) => entry.method) ? load() : null));
}

async function load() {
  const found = [];
  const epoch = $("epoch").textContent;
  try {
    more = true;
    for (let page = 0; page < pages && more; page += 1) {
      const query = new URLSearchParams({ limit: PAGE, order: "newest" });
      if (found.length) query.set("after", found.at(-1).id);
      if ($("status").value) query.set("status", $("status").value);
      const answer = await call(`v1/requests?${query}`);
      found.push(...answer.data);
      more = answer.has_more;
    }
  } catch (error) {
    drawnAt = null;
    say($("requests-said"), explain(error, "The requests cannot be listed"), "bad");
    return;
  }
  if ($("requests-said").classList.contains("bad")) say($("requests-said"), "");
  const loaded = new Set(found.map((entry) => entry.id));
  for (const id of loaded) near.delete(id);
  const status = $("status").value;
  entries = [...[...near.values()].reverse().filter((entry) => !status || entry.status === status), ...found];
  drawnAt = epoch;
  draw();
}

function draw() {
  const wanted = $("filter").value.trim().toLowerCase();
  const fitting = entries.filter((entry) => words(entry).toLowerCase().includes(wanted));
  const shown = fitting.slice(0, rows);
  $("requests-count").textContent = `${shown.length} of ${entries.length}${more ? " or more" : ""}`;
  $("requests-more").hidden = shown.length === fitting.length && !more;
  redraw($("requests-rows"), shown, () => (shown.length ? shown.map(row) : [emptyRow(9, entries.length ? "No request fits the filter." : "No removal request.")]));
}

/** An id that is typed whole is looked up, wherever in the list it stands. */
async function lookUp() {
  const id = $("filter").value.trim();
  if (!more || !/^[A-Za-z0-9][\w.-]{4,99}$/.test(id) || entries.some((entry) => words(entry).includes(id))) return;
  try {
    near.set(id, await call(`v1/requests/${encodeURIComponent(id)}`));
    await load();
  } catch {
    // no such request: the list says already that none fits
  }
}

const words = (entry) => [entry.id, entry.tenant, entry.status, action(entry.action), entry.method].join(" ");

function row(entry) {
  const done = ["withdrawn", "expired"].includes(entry.status);
  return el("tr", {},
    cell("request", el("code", {}, entry.id)),
    cell("tenant", entry.tenant || "everybody"),
    cell("status", tag(entry.status)),
    cell("enforced by", entry.note ? el("span", { class: "tag so", title: entry.note }, enforced(entry)) : enforced(entry)),
    cell("version", String(entry.version), "n"),
    cell("created", time(entry.created)),
    cell("expires", entry.expires ? time(entry.expires) : "never"),
    cell("epoch", String(entry.epoch), "n"),
    el("td", { class: "do" },
      el("button", { type: "button", class: "quiet", "data-focus": `show ${entry.id}`, "aria-label": `Show request ${entry.id}`, click: () => show(entry.id) }, "Show"),
      done ? null : el("button", { type: "button", class: "quiet", "data-focus": `withdraw ${entry.id}`, "aria-label": `Withdraw request ${entry.id}`, click: () => askToWithdraw(entry.id) }, "Withdraw")),
  );
}

const tag = (status) => el("span", { class: `tag ${KINDS[status] ?? ""}` }, status);
const action = (value) => (value && typeof value === "object" ? value.name : value) ?? "";

/** "refuse", or with a method "refuse; eco building": what was asked for, and how far what is slower has come. */
function enforced(entry) {
  const instant = action(entry.action);
  return entry.method ? `${instant}; ${entry.method} ${entry.state || "not begun"}` : instant;
}

// --- a new one ------------------------------------------------------------------------------------------------------
const lines = (id) => $(id).value.split("\n").map((line) => line.trim()).filter(Boolean);

$("add-form").addEventListener("input", () => {
  again = idempotencyKey();
});

$("add-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  const button = form.querySelector("button");
  const body = {
    subject: $("subject").value.trim(), aliases: lines("aliases"), statements: lines("statements"),
    pairs: lines("questions").map((question) => ({ question })),
    scope: { input: $("scope-input").checked, context: $("scope-context").checked, output: $("scope-output").checked },
    action: $("action").value.trim(), method: $("method").value.trim(), tenant: $("tenant").value.trim(),
    expires: $("expires").value ? new Date($("expires").value).toISOString() : null,
  };
  if (!body.subject && (body.aliases.length || !(body.statements.length || body.pairs.length))) {
    say($("add-said"), "Give a subject, statements or questions; other names need the subject that they are names of.", "bad");
    $("subject").focus();
    return;
  }
  button.disabled = true;
  say($("add-said"), "Adding …");
  const from = performance.now();
  try {
    const entry = await call("v1/requests", { method: "POST", body, headers: { "Idempotency-Key": again } });
    say($("add-said"), `Request ${entry.id} is ${entry.status === "active" ? "in force" : entry.status}: ${milliseconds(performance.now() - from)} from the click, epoch ${entry.epoch}.`, "good");
    near.set(entry.id, entry);
    form.reset();
    again = idempotencyKey();
    await load();
  } catch (error) {
    say($("add-said"), explain(error, "The request was not added"), "bad");
  }
  button.disabled = false;
});

// --- one in full -----------------------------------------------------------------------------------------------------
async function show(id) {
  const body = $("show-body");
  $("show-title").textContent = `Request ${id}`;
  body.replaceChildren(el("p", { class: "soft" }, "Loading …"));
  $("show").showModal();
  try {
    const entry = await call(`v1/requests/${encodeURIComponent(id)}`);
    body.replaceChildren(facts(entry), ...texts(entry));
  } catch (error) {
    body.replaceChildren(el("p", { class: "bad" }, explain(error, "The request cannot be shown")));
    return;
  }
  try {
    const found = await call(`v1/requests/${encodeURIComponent(id)}/evidence`);
    body.append(...evidence(id, found));
  } catch (error) {
    body.append(el("p", { class: "soft" }, explain(error, "The evidence cannot be shown")));
  }
}

function pairs(values) {
  return el("dl", {}, values.filter(([, value]) => value !== "" && value !== null && value !== undefined).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function facts(entry) {
  const scope = Object.entries(entry.scope ?? {}).filter(([, on]) => on).map(([name]) => name).join(", ");
  return pairs([
    ["status", tag(entry.status)], ["enforced by", enforced(entry)], ["but", entry.status === "active" && entry.in_force === false ? "not in force on this server yet" : entry.note], ["tenant", entry.tenant || "everybody"], ["scope", scope || "none"], ["version", String(entry.version)], ["epoch", String(entry.epoch)],
    ["created", time(entry.created)], ["in force from", entry.effective ? time(entry.effective) : "at once"], ["expires", entry.expires ? time(entry.expires) : "never"],
  ]);
}

function texts(entry) {
  const request = entry.request;
  if (!request) {
    const why = ["withdrawn", "expired"].includes(entry.status) ? "The key of this request's texts is destroyed: they cannot be read again." : "Names and statements are shown to admin keys only.";
    return [el("p", { class: "soft" }, why)];
  }
  return [el("h3", {}, "Texts"), pairs([
    ["subject", request.subject], ["other names", (request.aliases ?? []).join("\n")], ["statements", (request.statements ?? []).join("\n")],
    ["questions", (request.pairs ?? []).map((pair) => `${pair.question}\n${pair.answer}`).join("\n\n")], ["note", request.note],
  ])];
}

function evidence(id, found) {
  const list = found.data;
  const made = found.artifacts.map((one) => el("div", { class: "box" }, pairs([
    ["made by", one.recipe], ["digest", el("code", {}, one.sha256)], ["folder", one.folder], ["recorded", time(one.recorded)],
  ])));
  if (!list.length && !made.length) return [el("h3", {}, "Evidence"), el("p", { class: "soft" }, "None yet.")];
  const save = el("button", { type: "button", class: "quiet", click: () => download(`${id}-evidence.json`, found) }, "Save as JSON");
  return [
    el("div", { class: "row between" }, el("h3", {}, "Evidence"), save),
    ...list.map((one) => el("div", { class: "box" }, pairs([
      ["kind", one.kind], ["digest", el("code", {}, one.digest)], ["file", one.path], ["recorded", time(one.recorded)],
      ...Object.entries(one.summary).map(([name, value]) => [name, figure(value)]),
    ]))),
    ...made,
  ];
}

function figure(value) {
  if (typeof value === "number") return String(Number(value.toPrecision(4)));
  return typeof value === "object" && value !== null ? JSON.stringify(value) : value === undefined || value === null ? "" : String(value);
}

function download(name, data) {
  const address = URL.createObjectURL(new Blob([JSON.stringify(data, null, 2)], { type: "application/json" }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// --- withdrawal --------------------------------------------------------------------------------------------------------
function askToWithdraw(id) {
  $("withdraw-id").textContent = id;
  say($("withdraw-said"), "");
  $("withdraw").showModal();
}

$("withdraw-yes").addEventListener("click", async () => {
  const id = $("withdraw-id").textContent;
  $("withdraw-yes").disabled = true;
  const from = performance.now();
  try {
    const entry = await call(`v1/requests/${encodeURIComponent(id)}`, { method: "DELETE" });
    if (near.has(id)) near.set(id, entry);
    $("withdraw").close();
    say($("requests-said"), `Request ${id} is withdrawn, ${milliseconds(performance.now() - from)} from the click. The key of its texts is destroyed.`, "good");
    await load();
  } catch (error) {
    say($("withdraw-said"), explain(error, "The request was not withdrawn"), "bad");
  }
  $("withdraw-yes").disabled = false;
});

$("filter").addEventListener("input", draw);
$("filter").addEventListener("change", lookUp);
$("status").addEventListener("change", () => {
  pages = 1;
  rows = ROWS;
  load();
});
$("requests-more").addEventListener("click", () => {
  rows += ROWS;
  if (rows <= entries.length || !more) return draw();
  pages += 1;
  return load();
});
