// Is the sandbox sealed, and what ran in it.

import { get } from "./api.js";
import { command, empty, h } from "./dom.js";
import { ago, badge, number, plural, took, toolname, visible } from "./format.js";
import { orEmpty, table } from "./table.js";

export const sandbox = { title: "Sandbox", open };

const RESULTS = { ok: "ok" };

function open(place) {
  const probe = h("div", { class: "card probe" });
  const rows = h("div", {});
  place.append(
    h("section", { "aria-labelledby": "probe" }, h("div", { class: "head" }, h("h2", { id: "probe" }, "Isolation probe")), probe),
    h("section", { "aria-labelledby": "runs" }, h("div", { class: "head" }, h("h2", { id: "runs" }, "Runs")), rows),
  );
  const list = table("Sandbox runs", [
    { label: "Result", cell: (run) => [badge(RESULTS[run.result] ?? "bad", visible(run.result)), run.dry_run ? " dry run" : ""] },
    { label: "Tool", cell: (run) => toolname(run.tool) },
    { label: "When", cell: (run) => ago(run.at) },
    { label: "Took", kind: "number", cell: (run) => took(run.seconds) },
    { label: "Start", kind: "number", cell: (run) => (run.start_seconds === null ? "–" : `${number(Math.round(run.start_seconds * 1000))} ms`) },
    { label: "Run", cell: (run) => h("span", { class: "mono quiet" }, visible(run.run)) },
    { label: "Why", cell: (run) => visible(run.reason) },
  ], (run) => `${run.run} ${run.at}`);

  async function load() {
    const [state, { items }] = await Promise.all([get("/probe"), get("/runs")]);
    showProbe(probe, state.probe);
    orEmpty(rows, list, items.slice(0, 200), () => empty("Nothing ran in a sandbox yet.", "Any command can:", command("cloned-proxy exec demo.tool@v1 -- curl https://example.com/")));
  }

  return { load, on: (kind) => { if (kind === "run" || kind === "probe") load().catch(() => {}); } };
}

function showProbe(place, state) {
  if (!state || !state.at) {
    place.replaceChildren(h("p", {}, badge("unknown", "not probed"), " No probe of this proxy is on record. With sandbox: {probe_interval: 3600} in config.yaml it tries to get round itself every hour; at once, in the terminal:"), command("cloned-proxy verify"));
    return;
  }
  const failures = state.failures ?? [];
  place.replaceChildren(
    h("p", {}, state.sealed ? badge("ok", "sealed") : badge("bad", "LEAK FOUND"), " ", state.sealed ? "The only way out was the proxy." : "A tool could get round the proxy. Stop the tools, then run cloned-proxy verify."),
    h("p", { class: "quiet" }, `${plural(state.attempts, "attempt")}, ${plural(state.controls, "control")}, ${took(state.seconds)} · `, ago(state.at)),
    failures.length ? h("ul", { class: "failures" }, failures.map((failure) => h("li", {}, visible(failure)))) : "",
  );
}
