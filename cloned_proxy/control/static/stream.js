// The live stream (text/event-stream), read with fetch: unlike EventSource it tells a revoked session from a server
// that is gone, and takes up where it stopped although the filters are part of the address.

import { ApiError, errorOf, failed, health, search } from "./api.js";

const FIRST_WAIT = 1000; // milliseconds, doubled up to
const LAST_WAIT = 15_000;

/** Listens until `stop()`. `on(kind, item)` gets each entry, `state("live" | "waiting")` what became of the line. */
export function listen(query, { on, state }) {
  const ended = new AbortController();
  let last = null;
  let wait = FIRST_WAIT;

  async function follow() {
    while (!ended.signal.aborted) {
      let retry = null;
      try {
        const response = await open(query, last, ended.signal);
        wait = FIRST_WAIT;
        state("live");
        health.dispatchEvent(new Event("up"));
        await read(response, (kind, id, data) => {
          last = id || last;
          const item = parse(data);
          if (item) on(kind, item);
        });
      } catch (error) {
        if (ended.signal.aborted) return;
        retry = error instanceof ApiError ? error : null;
        if (retry?.status === 401) return;
      }
      if (ended.signal.aborted) return;
      state("waiting");
      await pause(retry?.wait ? retry.wait * 1000 : wait, ended.signal);
      wait = Math.min(wait * 2, LAST_WAIT);
    }
  }

  follow();
  return { stop: () => ended.abort() };
}

async function open(query, last, signal) {
  const headers = { Accept: "text/event-stream" };
  if (last) headers["Last-Event-ID"] = last;
  let response;
  try {
    response = await fetch(`/api/v1/stream${search(query)}`, { headers, credentials: "same-origin", cache: "no-store", signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw failed(new ApiError(0, "The control server does not answer."));
  }
  if (!response.ok) throw failed(errorOf(response, await response.json().catch(() => null)));
  return response;
}

/** Lines as the specification has them: `event`, `id`, `data`; an empty one ends the entry. */
async function read(response, emit) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let entry = { kind: "message", id: "", data: [] };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) entry = take(entry, line.endsWith("\r") ? line.slice(0, -1) : line, emit);
  }
}

function take(entry, line, emit) {
  if (line === "") {
    if (entry.data.length) emit(entry.kind, entry.id, entry.data.join("\n"));
    return { kind: "message", id: "", data: [] };
  }
  const at = line.indexOf(":");
  const name = at < 0 ? line : line.slice(0, at);
  const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
  if (name === "event") entry.kind = value;
  else if (name === "id") entry.id = value;
  else if (name === "data") entry.data.push(value);
  return entry;
}

function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    return null;
  }
}

function pause(milliseconds, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); done(); }, { once: true });
  });
}
