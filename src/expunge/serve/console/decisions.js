// What the guard decided just now: counts, a chart by the minute, and the last decisions. No text of anybody's.

import { call, explain } from "./api.js";
import { $, cell, counters, el, emptyRow, every, milliseconds, moment, redraw, say, svg, time } from "./dom.js";

const SHOWN = 100;
const KEPT = 5000;
const MINUTES = 30;
let paused = false;
let kept = []; // newest first

export function startDecisions() {
  kept = [];
  return every(2, async () => {
    if (!paused) await load();
  });
}

async function load() {
  try {
    const found = (await call(`v1/decisions?limit=1000&since=${kept[0]?.number ?? 0}`)).data;
    kept = [...found, ...kept].slice(0, KEPT);
    say($("decisions-said"), "");
  } catch (error) {
    kept = []; // the server may have started anew, and its numbers with it
    say($("decisions-said"), explain(error, "The decisions cannot be shown"), "bad");
    return;
  }
  draw(kept);
}

function draw(decisions) {
  const guarded = decisions.filter((one) => one.action !== "plain");
  const held = guarded.filter(isHeld);
  const waits = guarded.filter((one) => one.stage === "input").map((one) => one.ms).sort((a, b) => a - b);
  counters($("decisions-counters"), [
    ["let through", guarded.length - held.length], ["held back", held.length], ["asked without the guard", decisions.length - guarded.length],
    ["median latency", milliseconds(waits[Math.floor(waits.length / 2)])], ["slowest", milliseconds(waits.at(-1))],
  ]);
  chart(guarded);
  const shown = decisions.slice(0, SHOWN);
  redraw($("decisions-rows"), shown, () => (shown.length ? shown.map(row) : [emptyRow(6, "No decision yet. Ask something under Try a prompt.")]));
}

/** Of what the guard was asked about: "plain" says that an administrator went past it. */
const isHeld = (decision) => decision.action !== "pass";
const KINDS = { pass: "ok", plain: "" };

function row(decision) {
  return el("tr", {},
    cell("time", time(decision.time, { date: false })),
    cell("tenant", decision.tenant || "–"),
    cell("stage", decision.stage),
    cell("action", el("span", { class: `tag ${KINDS[decision.action] ?? "so"}` }, decision.action)),
    cell("requests", decision.requests.length ? el("span", {}, ...decision.requests.flatMap((id) => [el("code", {}, id), " "])) : ""),
    cell("latency", milliseconds(decision.ms), "n"),
  );
}

/** Bars by the minute, the newest at the right; held back at the foot of each. */
function chart(decisions) {
  const now = Math.floor(Date.now() / 60000);
  const all = Array(MINUTES).fill(0);
  const held = Array(MINUTES).fill(0);
  for (const decision of decisions) {
    const place = MINUTES - 1 - (now - Math.floor(moment(decision.time) / 60000));
    if (place < 0 || place >= MINUTES) continue;
    all[place] += 1;
    if (isHeld(decision)) held[place] += 1;
  }
  redraw($("decisions-chart"), { all, held }, () => {
    const [width, height, foot] = [600, 90, 24];
    const top = Math.max(1, ...all);
    const step = (width - 40) / MINUTES;
    const bar = (kind, place, from, count) => svg("rect", { class: kind, x: 36 + place * step, width: step - 3, y: 8 + (height - 8) * (1 - (from + count) / top), height: ((height - 8) * count) / top });
    const sum = (counts) => counts.reduce((a, b) => a + b, 0);
    return [
      svg("svg", { viewBox: `0 0 ${width} ${height + foot}`, role: "img", "aria-label": `Decisions per minute over ${MINUTES} minutes: ${sum(all)} in all, ${sum(held)} held back, ${top} at most in a minute.` },
        svg("line", { class: "axis", x1: 34, x2: width, y1: height, y2: height }),
        svg("text", { x: 30, y: 14, "text-anchor": "end" }, String(top)), svg("text", { x: 30, y: height, "text-anchor": "end" }, "0"),
        svg("text", { x: 36, y: height + 17 }, `${MINUTES} minutes ago`), svg("text", { x: width, y: height + 17, "text-anchor": "end" }, "now"),
        ...all.flatMap((count, place) => [bar("held", place, 0, held[place]), bar("bar", place, held[place], count - held[place])])),
      el("p", { class: "small soft" }, "Decisions per minute: ", el("span", { class: "key held" }), " held back  ", el("span", { class: "key" }), " let through"),
    ];
  });
}

$("decisions-pause").addEventListener("click", () => {
  paused = !paused;
  $("decisions-pause").setAttribute("aria-pressed", paused);
  $("decisions-pause").textContent = paused ? "Go on" : "Pause";
});
