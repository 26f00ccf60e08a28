// One prompt to the guarded and to the plain model, side by side, with what the guard decides about it.

import { Refused, call, explain, stream } from "./api.js";
import { $, el, milliseconds, say } from "./dom.js";

let running = null;
let model = "";

export function startTry() {}

$("try-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (running) return;
  running = new AbortController();
  const button = event.currentTarget.querySelector("button.main");
  button.disabled = true;
  $("try-stop").hidden = false;
  say($("try-said"), "Asking …");
  const messages = [{ role: "user", content: $("prompt").value }];
  try {
    model ||= (await call("v1/models")).data[0].id;
    const body = { model, messages, max_tokens: Number($("max-tokens").value) || 64, temperature: 0, stream: true, stream_options: { include_usage: true } };
    clear("plain", $("with-plain").checked ? "" : "Not asked.");
    clear("guarded");
    await Promise.all([
      decision(messages), write("guarded", "v1/chat/completions", body, running.signal),
      $("with-plain").checked ? write("plain", "v1/plain", body, running.signal) : null,
    ]);
    say($("try-said"), running.signal.aborted ? "Stopped." : "Done.");
  } catch (error) {
    say($("try-said"), explain(error, "The prompt was not asked"), "bad");
  }
  running = null;
  button.disabled = false;
  $("try-stop").hidden = true;
});

$("try-stop").addEventListener("click", () => running?.abort());

function clear(who, said = "") {
  $(`${who}-answer`).textContent = "";
  $(`${who}-answer`).classList.remove("off");
  say($(`${who}-said`), said);
}

/** Streams one answer into its column. Says when the first words came, how long all took, and why it ended. */
async function write(who, path, body, signal) {
  const from = performance.now();
  let first = null;
  let finish = "";
  let tokens = null;
  try {
    for await (const event of stream(path, body, signal)) {
      const choice = event.choices?.[0];
      const words = choice?.delta?.content;
      if (words) {
        first ??= performance.now() - from;
        $(`${who}-answer`).append(words);
      }
      finish = choice?.finish_reason ?? finish;
      tokens = event.usage?.completion_tokens ?? tokens;
    }
    const parts = [`${milliseconds(performance.now() - from)} in all`];
    if (first !== null) parts.unshift(`first words after ${milliseconds(first)}`);
    if (tokens !== null) parts.push(`${tokens} tokens`);
    if (finish) parts.push(`ended by ${finish}`);
    say($(`${who}-said`), parts.join(" · "));
  } catch (error) {
    if (error.name === "AbortError") return say($(`${who}-said`), "Stopped.");
    $(`${who}-answer`).classList.add("off");
    const missing = who === "plain" && error instanceof Refused && [403, 404, 405].includes(error.status);
    if (missing) $("plain-answer").textContent = "Not available on this server, or not with this key.";
    else say($(`${who}-said`), explain(error, "No answer"), "bad");
  }
}

/** What the guard decides, without asking the model. Admin keys only: it tells what is on the list. */
async function decision(messages) {
  const box = $("try-decision");
  box.hidden = false;
  try {
    const found = await call("v1/check", { method: "POST", body: { messages } });
    const held = found.flagged;
    box.replaceChildren(
      el("b", {}, "Decision: "), el("span", { class: `tag ${held ? "so" : "ok"}` }, held ? `held back: ${found.action}` : "let through"),
      ...found.requests.flatMap((id) => [" ", el("code", {}, id)]),
      el("span", { class: "soft small" }, ` decided in ${milliseconds(found.ms)}, epoch ${found.epoch}`),
    );
  } catch (error) {
    box.replaceChildren(el("span", { class: "soft" }, explain(error, "The decision cannot be shown")));
  }
}
