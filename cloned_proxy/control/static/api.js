// The control API: one way to ask, one kind of error, and who wants to know whether the server answers.

const BASE = "/api/v1";
const TIMEOUT = 15_000; // milliseconds
const AGAIN = 300; // milliseconds
const GONE = "The control server does not answer.";

let leaving = false;

export class ApiError extends Error {
  /** `status` 0: nobody answered. `code`: the answer's `error`. `wait`: seconds of Retry-After, or null. `fields`: what is wrong with which of them. */
  constructor(status, message, { code = "", wait = null, fields = [], version = null } = {}) {
    super(message);
    Object.assign(this, { status, code, wait, fields, version });
  }
}

/** Fires `up` after an answer, `down` with the ApiError (status 0, 429 or 503) as its detail. */
export const health = new EventTarget();

export const get = (path, query = {}) => ask("GET", path + search(query));
export const post = (path, body = {}) => ask("POST", path, body);
export const remove = (path, query = {}) => ask("DELETE", path + search(query));

/** `?a=1&b=2` of what is set; "" for nothing. */
export function search(query) {
  const set = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return set.length ? `?${new URLSearchParams(set)}` : "";
}

async function ask(method, path, body) {
  const response = await send(method, path, body).catch(async () => {
    // A change of the machine's network breaks off requests to this very machine, too: reading is tried once more.
    await new Promise((done) => setTimeout(done, AGAIN));
    if (method !== "GET") throw failed(new ApiError(0, GONE));
    return send(method, path, body).catch(() => { throw failed(new ApiError(0, GONE)); });
  });
  const answer = await read(response);
  if (response.ok) {
    health.dispatchEvent(new Event("up"));
    return answer;
  }
  throw failed(errorOf(response, answer));
}

function send(method, path, body) {
  return fetch(BASE + path, {
    method,
    headers: headers(method, body),
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: "same-origin",
    cache: "no-store",
    redirect: "error",
    signal: AbortSignal.timeout(TIMEOUT),
  });
}

function headers(method, body) {
  const made = { Accept: "application/json" };
  if (method !== "GET") made["X-Cloned-Request"] = "1"; // a cross-site form cannot send it
  if (body !== undefined) made["Content-Type"] = "application/json";
  return made;
}

async function read(response) {
  try {
    return await response.json();
  } catch {
    return null;
  }
}

/** The error of an answer, for the stream as well. */
export function errorOf(response, answer) {
  const wait = Number.parseFloat(response.headers.get("Retry-After"));
  const message = answer?.message ?? `The server answered ${response.status}.`;
  const { error: code = "", fields = [], version = null } = answer ?? {};
  return new ApiError(response.status, message, { code, wait: Number.isFinite(wait) ? wait : null, fields, version });
}

/** Passes the error on; a session that is gone leads to the pairing page. */
export function failed(error) {
  if (error.status === 401 && !leaving && location.pathname !== "/pair") {
    leaving = true; // one call after the other finds out, and setting out twice breaks off the first time
    location.replace("/pair");
  }
  // A 503 that names no time is about what was asked for, such as a policy file that is broken, and not about the server.
  if ([0, 429].includes(error.status) || (error.status === 503 && error.wait !== null)) health.dispatchEvent(new CustomEvent("down", { detail: error }));
  return error;
}
