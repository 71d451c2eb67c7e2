// The first view: is all well, who waits for an answer, and what was blocked and why.

import { get } from "./api.js";
import { approvals } from "./approvals.js";
import { blocked } from "./blocked.js";
import { h, speak } from "./dom.js";
import { ago, badge, number, plural, visible } from "./format.js";

const PAUSE = 1500; // milliseconds between two reloads that the stream asks for

export const overview = { title: "Overview", open };

function open(place) {
  const strip = h("dl", { class: "strip" });
  const waiting = approvals(() => load());
  const calls = blocked(() => load());
  place.append(strip, waiting.element, calls.element);
  let closed = false;
  let timer = 0;
  let news = 0;

  async function load() {
    const [state] = await Promise.all([
      get("/overview").then((answer) => { show(answer); return answer; }),
      calls.load(),
      waiting.load(),
    ]);
    calls.version = state.policy.version || null;
  }

  function show(state) {
    strip.replaceChildren(...cells(state));
    place.classList.toggle("report", state.policy.mode === "report");
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

function cells(state) {
  return [
    cell("Policy", policyState(state.policy), policyMore(state.policy)),
    cell("Isolation", ...probeState(state.probe)),
    cell("Waiting for you", h("a", { href: "#/" , class: "plain" }, number(state.pending)), state.pending === 1 ? "request" : "requests"),
    cell("Denied, last hour", h("a", { href: "#/live?verdict=deny" }, number(state.denied_last_hour)), `${number(state.allowed_last_hour)} allowed`),
    cell("Open tunnels", h("a", { href: "#/tunnels" }, number(state.open_tunnels)), serving(state.serving)),
  ];
}

const cell = (term, value, more = "") => h("div", { class: "cell" }, h("dt", {}, term), h("dd", {}, h("span", { class: "value" }, value), h("span", { class: "more" }, more)));

function policyState(policy) {
  if (policy.error) return badge("bad", policy.version ? "file is broken" : "not serving");
  return policy.mode === "report" ? badge("warn", "report only") : badge("ok", "enforcing");
}

function policyMore(policy) {
  if (policy.error) return visible(policy.error) + (policy.version ? ` (version ${policy.version} stays in force)` : "");
  return [h("a", { href: "#/history", class: "mono" }, visible(policy.version ?? "none").slice(0, 12)), ` · ${plural(policy.rules, "rule")} · `, ago(policy.loaded_at)];
}

function probeState(probe) {
  if (!probe) return [badge("unknown", "not probed"), h("code", {}, "sandbox: {probe_interval: 3600}"), " in config.yaml"];
  const when = [plural(probe.attempts, "attempt"), " · ", ago(probe.at)];
  return [h("a", { href: "#/sandbox" }, probe.sealed ? badge("ok", "sealed") : badge("bad", "LEAK FOUND")), when];
}

function serving({ workers, ready, problems }) {
  if (problems?.length) return visible(problems[0]);
  if (!ready) return "the proxy is not ready";
  return workers === 1 ? "1 worker" : `${number(workers)} workers`;
}
