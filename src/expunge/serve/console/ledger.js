// The history of the ledger: its head, its last events, and whether the chain holds.

import { call, explain } from "./api.js";
import { $, cell, counters, el, emptyRow, every, redraw, say, time } from "./dom.js";

const SHOWN = 50;

export function startLedger() {
  return every(5, load);
}

async function load() {
  let events = [];
  try {
    // The epoch is the number of a row near the end: what is wanted are those before it and after it.
    let since = Math.max(0, (Number($("epoch").textContent) || 0) - SHOWN);
    for (let more = true; more; ) {
      const found = await call(`v1/ledger?limit=1000&since=${since}`);
      events = [...events, ...found.data].slice(-SHOWN);
      more = found.has_more;
      since = found.data.at(-1)?.seq;
    }
  } catch (error) {
    say($("ledger-said"), explain(error, "The ledger cannot be shown"), "bad");
    return;
  }
  events.reverse();
  const head = events[0];
  counters($("ledger-head"), [["events", head?.seq ?? 0], ["last event", head ? head.event : "none"], ["head", head?.hash ?? "–", true]]);
  redraw($("ledger-rows"), events, () => (events.length ? events.map(row) : [emptyRow(7, "Nothing has happened yet.")]));
}

function row(event) {
  return el("tr", {},
    cell("number", String(event.seq), "n"), cell("time", time(event.at)), cell("event", event.event),
    cell("request", event.request ? el("code", {}, event.request) : ""), cell("tenant", event.tenant), cell("who", event.actor),
    cell("hash", el("code", { title: event.hash }, (event.hash ?? "").slice(0, 12))),
  );
}

$("verify").addEventListener("click", async () => {
  $("verify").disabled = true;
  say($("ledger-said"), "Verifying …");
  try {
    const found = await call("v1/ledger/verify");
    if (found.ok) say($("ledger-said"), `The chain holds: ${found.entries} events${found.signed ? "" : "; signatures were not checked, for that takes the ledger's key"}. Head ${found.head}.`, "good");
    else say($("ledger-said"), `The ledger does not hold${found.broken_at === null ? "" : `, from event ${found.broken_at} on`}: ${found.why}`, "bad");
  } catch (error) {
    say($("ledger-said"), explain(error, "The chain was not verified"), "bad");
  }
  $("verify").disabled = false;
});
