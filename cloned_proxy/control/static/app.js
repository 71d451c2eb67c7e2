// The shell: which view is shown, what it is told, and what stands above it when the server does not answer.

import { ApiError, get, health } from "./api.js";
import { button, empty, h, toast } from "./dom.js";
import { devices } from "./devices.js";
import { history } from "./history.js";
import { live } from "./live.js";
import { model } from "./model.js";
import { overview } from "./overview.js";
import { rules } from "./rules.js";
import { sandbox } from "./sandbox.js";
import { listen } from "./stream.js";
import { tunnels } from "./tunnels.js";

const VIEWS = { "": overview, live, rules, tunnels, sandbox, model, history, devices };
const RETRY = 5; // seconds

const main = document.getElementById("main");
const banner = document.getElementById("banner");
const signal = document.getElementById("stream");
let shown = null;
let line = null;
let visit = 0;

/** `#/live?host=a` as `["live", URLSearchParams]`. */
function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return [path, new URLSearchParams(query)];
}

async function show(focus) {
  const [name, query] = route();
  const view = VIEWS[name];
  const mine = ++visit;
  shown?.close?.();
  document.querySelector("dialog")?.close(); // the way back leads out of it
  line?.stop();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view?.title ?? "Not found"} · cloned-proxy`;
  const heading = h("h1", { tabindex: "-1" }, view?.title ?? "Not found");
  const body = h("div", { class: "view", "aria-busy": "true" });
  main.replaceChildren(heading, body);
  if (focus) heading.focus();
  shown = view ? view.open(body, query) : { load: async () => body.append(empty("There is no such view.", "Choose one above.")) };
  follow(shown);
  await reload(mine);
}

function follow(view) {
  line = listen(view.filter?.() ?? { verdict: "deny" }, {
    on: (kind, item) => view.on?.(kind, item),
    state: (state) => {
      signal.replaceChildren(h("span", { class: `dot ${state}`, "aria-hidden": "true" }), state === "live" ? "live" : "not live");
    },
  });
}

/** A view whose filter changed: another line, the same page. */
addEventListener("refilter", () => {
  line?.stop();
  follow(shown);
});

async function reload(mine = visit) {
  try {
    await shown.load();
  } catch (error) {
    if (mine !== visit) return;
    if (error.status === undefined) throw error;
    const place = main.querySelector(".view");
    if (!place.childElementCount) place.append(empty("This could not be loaded.", error.message));
  }
  main.querySelector(".view")?.setAttribute("aria-busy", "false");
}

let countdown = 0;

function lost(error) {
  if (!banner.hidden) return;
  let left = Math.ceil(error?.wait ?? RETRY);
  const words = error?.status === 429 ? "Too many requests." : error?.status === 503 ? error.message : "The control server does not answer: what you see may be old.";
  const clock = h("span", { "aria-hidden": "true" });
  banner.replaceChildren(h("p", {}, words, " ", clock), button("Try now", "retry", retry, { kind: "small" }));
  banner.hidden = false;
  clearInterval(countdown);
  countdown = setInterval(() => {
    left -= 1;
    clock.textContent = left > 0 ? `Next try in ${left} s.` : "Trying…";
    if (left === 0) retry();
    if (left < -10) left = RETRY;
  }, 1000);
}

async function retry() {
  try {
    await get("/session");
    await reload();
  } catch {
    // The banner stays, and its clock begins again with the next failure.
    if (!banner.hidden) { banner.hidden = true; lost(); }
  }
}

health.addEventListener("down", (event) => lost(event.detail));
health.addEventListener("up", () => {
  clearInterval(countdown);
  banner.hidden = true;
});
/** What a click asked for and did not get; of a server that is gone the banner speaks. */
addEventListener("unhandledrejection", (event) => {
  if (!(event.reason instanceof ApiError)) return;
  event.preventDefault();
  if (![0, 401, 429, 503].includes(event.reason.status)) toast(event.reason.message, "bad");
});
addEventListener("hashchange", () => show(true));
document.addEventListener("visibilitychange", () => { if (!document.hidden) reload(); });
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is the view's
  main.focus();
});
show(false);
