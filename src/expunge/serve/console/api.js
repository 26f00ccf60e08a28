// The only place that speaks to the server. Addresses are relative, so that the page works behind a path prefix.

const STORE = "expunge-key";
let listener = () => {};

/** The key in this tab: null before the person has given one, "" for a server without keys. */
export const key = {
  get: () => sessionStorage.getItem(STORE),
  set: (value) => sessionStorage.setItem(STORE, value),
  clear: () => sessionStorage.removeItem(STORE),
};

/** Calls `heard` with the epoch of each answer that has one. */
export function onEpoch(heard) {
  listener = heard;
}

export class Refused extends Error {
  /** `status` is 0 where no answer came. */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, { method = "GET", body, headers = {}, signal } = {}) {
  const sent = { Accept: "application/json", ...headers };
  if (key.get()) sent.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method, headers: sent, signal, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server cannot be reached.");
  }
  const epoch = answer.headers.get("x-expunge-epoch");
  if (epoch !== null) listener(epoch);
  return answer;
}

async function refusal(answer) {
  let said = null;
  try {
    said = await answer.json();
  } catch {
    // not JSON: the status has to do
  }
  const message = said?.error?.message ?? (typeof said?.detail === "string" ? said.detail : `The server answered ${answer.status}.`);
  const wait = answer.headers.get("retry-after");
  return Object.assign(new Refused(answer.status, wait ? `${message} Try again in ${wait} s.` : message), { body: said });
}

/** One call; returns the JSON of the answer (null for none). Raises Refused. */
export async function call(path, options) {
  const answer = await ask(path, options);
  if (!answer.ok) throw await refusal(answer);
  return answer.status === 204 ? null : answer.json();
}

/** A streamed answer: yields each event's JSON until [DONE]. Raises Refused, also for an error inside of the stream. */
export async function* stream(path, body, signal) {
  const answer = await ask(path, { method: "POST", body, signal, headers: { Accept: "text/event-stream" } });
  if (!answer.ok) throw await refusal(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(answer.status, event.error.message);
      yield event;
    }
  }
}

/** A random name for an act, so that sending it twice does it once. */
export function idempotencyKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What to tell a person about an error. */
export function explain(error, doing) {
  if (!(error instanceof Refused)) return `${doing}: ${error.message}`;
  if (error.status === 401) return "This key is not valid, or not any more.";
  if (error.status === 403) return `${doing}: this key may not do that. It takes a key with another scope.`;
  return `${doing}: ${error.message}`;
}
