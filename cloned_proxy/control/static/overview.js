// The first view: is all well, who waits for an answer, and what was blocked and why.

import { answered } from "./answered.js";
import { get } from "./api.js";
import { approvals } from "./approvals.js";
import { blocked } from "./blocked.js";
import { h, speak } from "./dom.js";
import { ago, badge, number, plural, visible } from "./format.js";
import { probeBadge } from "./sandbox.js";
import { sparkline } from "./sparkline.js";

const PAUSE = 1500; // milliseconds between two reloads that the stream asks for

export const overview = { title: "Overview", open };

function open(place) {
  const strip = h("dl", { class: "strip" });
  const trouble = h("div", { class: "trouble", role: "alert", hidden: true });
  const waiting = approvals(() => load());
  const calls = blocked(() => load());
  const decided = answered();
  place.append(strip, trouble, waiting.element, calls.element, decided.element);
  let closed = false;
  let timer = 0;
  let news = 0;

  async function load() {
    const [state] = await Promise.all([
      get("/overview").then((answer) => { show(answer); return answer; }),
      calls.load(),
      waiting.load(),
      decided.load(),
    ]);
    calls.version = state.policy.version || null;
  }

  function show(state) {
    strip.replaceChildren(...cells(state));
    const lines = troubles(state);
    trouble.hidden = !lines.length;
    if (trouble.textContent !== lines.join("")) trouble.replaceChildren(...lines.map((line) => h("p", {}, line))); // an alert is read aloud: once
  }

  function later() {
    if (timer || closed) return;
    timer = setTimeout(async () => {
      timer = 0;
      if (closed || document.hidden) return;
      await load().catch(() => {}); // the banner says it
      if (news) speak(`${plural(news, "new blocked call")}.`);
      news = 0;
    }, PAUSE);
  }

  return {
    load,
    on(kind, item) {
      if (kind === "decision" && item.verdict === "deny") news += 1;
      if (kind === "approval") speak("The pending requests changed.");
      later();
    },
    close() { closed = true; clearTimeout(timer); },
  };
}

/** What is wrong, whole and once. */
function troubles({ policy, serving }) {
  if (!serving.workers) return ["No serving process answers, so what becomes of calls now cannot be seen from here. In a terminal: cloned-proxy status"];
  const found = (policy.error ?? "").split("\n").filter(Boolean);
  return [...found, ...serving.problems].map(visible);
}

function cells(state) {
  return [
    cell("Policy", policyState(state), policyMore(state)),
    cell("Isolation", h("a", { href: "#/sandbox" }, probeBadge(state.probe)), state.probe ? ago(state.probe.at) : h("a", { href: "#/sandbox" }, "Probe it now")),
    cell("Waiting for you", number(state.pending), state.pending === 1 ? "request" : "requests"),
    cell("Denied, last hour", [h("a", { href: "#/live?verdict=deny" }, number(state.denied_last_hour)), spark(state.denied_by_hour)], [trend(state.denied_by_hour), ` · ${number(state.allowed_last_hour)} allowed`]),
    cell("Open tunnels", h("a", { href: "#/tunnels" }, number(state.open_tunnels)), workers(state.serving)),
  ];
}

const cell = (term, value, more = "") => h("div", { class: "cell" }, h("dt", {}, term), h("dd", {}, h("span", { class: "value" }, value), h("span", { class: "more" }, more)));

function policyState({ policy, serving }) {
  if (!serving.workers) return badge("bad", "no answer");
  if (policy.error) return badge("bad", "file is broken");
  return policy.mode === "report" ? badge("warn", "report only") : badge("ok", "enforcing");
}

function policyMore({ policy, serving }) {
  if (!serving.workers) return "";
  if (policy.error) return ["the last good version stays in force: ", h("a", { href: "#/history", class: "mono" }, visible(policy.version).slice(0, 12))];
  return [h("a", { href: "#/history", class: "mono" }, visible(policy.version).slice(0, 12)), ` · ${plural(policy.rules, "rule")} · `, ago(policy.loaded_at)];
}

const spark = (hours) => sparkline(hours, `Denied calls by the hour, the last day: ${hours.join(", ")}`);

/** The last hour beside the one before, as a sign; the words are its title, and for who cannot see it. */
function trend(hours) {
  const [before, last] = hours.slice(-2);
  const [sign, words] = last > before ? ["▲", "more than in the hour before"] : last < before ? ["▼", "fewer than in the hour before"] : ["=", "as in the hour before"];
  return h("span", { title: words, class: last > before ? "rising" : "" }, `${sign} ${number(Math.abs(last - before))}`, h("span", { class: "unseen" }, ` ${words}`));
}

const workers = ({ workers: count }) => (count ? `through ${plural(count, "worker")}` : "none that answers");
