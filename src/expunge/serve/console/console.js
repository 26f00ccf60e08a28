// The page's frame: the key, the state of the server, and the four parts.

import { Refused, call, explain, key, onEpoch } from "./api.js";
import { startDecisions } from "./decisions.js";
import { $, every, say } from "./dom.js";
import { startLedger } from "./ledger.js";
import { startRequests } from "./requests.js";
import { startTry } from "./try.js";

const PARTS = { requests: startRequests, decisions: startDecisions, try: startTry, ledger: startLedger };
/** Each starts its part's work when it comes into view and returns what stops it. */
const tabs = [...$("tabs").children];
let stopPart = null;

onEpoch((epoch) => {
  $("epoch").textContent = epoch;
});

// --- state, always visible ----------------------------------------------------------------------------------------
async function state() {
  let health;
  try {
    health = await call("health");
  } catch (error) {
    health = error.body ?? { status: error.status ? "failing" : "unreachable" };
  }
  const status = health.status ?? "failing";
  say($("health"), status, status === "ok" ? "good" : "bad");
  $("health").title = health.why ?? "";
  const canary = health.canary ?? "unknown";
  say($("canary"), canary, { "held back": "good", failed: "bad" }[canary] ?? "");
  if (health.epoch !== undefined) $("epoch").textContent = health.epoch;
  if (health.model) $("model").textContent = health.model;
}

// --- the key -------------------------------------------------------------------------------------------------------
/** Whether the server takes the key that is kept. A key without the scope for the models is a key all the same. */
async function enter() {
  try {
    const models = await call("v1/models");
    $("model").textContent = models.data.map((model) => model.id).join(", ");
  } catch (error) {
    if (!(error instanceof Refused && error.status === 403)) throw error;
  }
  $("login").hidden = true;
  $("inside").hidden = $("leave").hidden = false;
  open(location.hash.slice(1) in PARTS ? location.hash.slice(1) : "requests");
}

/** The page starts anew, so that nothing of what was shown stays. */
function leave() {
  key.clear();
  location.reload();
}

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  key.set($("key").value.trim());
  say($("login-said"), "");
  try {
    await enter();
    $("key").value = "";
    $("main").focus();
  } catch (error) {
    key.clear();
    say($("login-said"), explain(error, "The key was not taken"), "bad");
    $("key").select();
  }
});
$("leave").addEventListener("click", leave);

// --- the parts -----------------------------------------------------------------------------------------------------
function open(name) {
  stopPart?.();
  for (const tab of tabs) {
    const own = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", own);
    tab.tabIndex = own ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !own;
  }
  history.replaceState(null, "", `#${name}`);
  stopPart = PARTS[name]() ?? null;
}

for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => open(tab.getAttribute("aria-controls")));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    next.focus();
    open(next.getAttribute("aria-controls"));
  });
}

every(5, state);
if (key.get() === null) $("key").focus();
else enter().catch((error) => {
  key.clear();
  say($("login-said"), explain(error, "The key was not taken"), "bad");
});
