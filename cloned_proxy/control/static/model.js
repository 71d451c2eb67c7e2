// The local model: does it run, what does it do, and what was made with it.

import { get } from "./api.js";
import { command, empty, h } from "./dom.js";
import { badge, number, plural, took, visible } from "./format.js";
import { orEmpty, table } from "./table.js";

export const model = { title: "Model", open };

const HEALTH = { ready: "ok", loading: "unknown" };
const COUNTED = {
  tokens_written: (value) => `${number(value)} tokens written`,
  tokens_read: (value) => `${number(value)} tokens read`,
  requests_working: (value) => `${plural(value, "request")} at work`,
  requests_waiting: (value) => `${number(value)} waiting`,
  memory_bytes: (value) => `${number(Math.round(value / 1048576))} MiB`,
};

function open(place) {
  const state = h("div", { class: "card probe" });
  const rows = h("div", {});
  place.append(
    h("section", { "aria-labelledby": "model" }, h("div", { class: "head" }, h("h2", { id: "model" }, "Local model")), state),
    h("section", { "aria-labelledby": "reports" }, h("div", { class: "head" }, h("h2", { id: "reports" }, "Reports")), rows),
  );
  const list = table("Reports", [
    { label: "Title", cell: (report) => [visible(report.title), report.truncated ? [" ", badge("bad", "cut off")] : ""] },
    { label: "Pipeline", cell: (report) => visible(report.pipeline) },
    { label: "Created", cell: (report) => visible(report.created) },
    { label: "Tokens", kind: "number", cell: (report) => (report.tokens === null ? "–" : number(report.tokens)) },
    { label: "Took", kind: "number", cell: (report) => (report.seconds === null ? "–" : took(report.seconds)) },
    { label: "Run", cell: (report) => h("span", { class: "mono quiet" }, visible(report.id)) },
  ], (report) => report.id);

  async function load() {
    const found = await get("/model");
    show(state, found);
    orEmpty(rows, list, found.reports, () => empty("No report was kept yet.", "A pipeline makes one:", command("cloned-proxy run pipeline.folder.summary")));
  }

  return { load, on: (kind) => { if (kind === "run") load().catch(() => {}); } };
}

function show(place, found) {
  if (!found.running) {
    place.replaceChildren(h("p", {}, badge("unknown", found.engine ? "ended" : "none"), " No model of this workspace runs. One without any way out:"), command("cloned-proxy llm up"));
    return;
  }
  const counted = Object.entries(COUNTED).filter(([name]) => name in found.metrics).map(([name, words]) => words(found.metrics[name]));
  const speed = found.metrics.seconds_writing > 0 ? [`${number(Math.round(found.metrics.tokens_written / found.metrics.seconds_writing))} tokens/s`] : [];
  place.replaceChildren(
    h("p", {}, badge(HEALTH[found.health] ?? "bad", visible(found.health)), " ", visible(found.engine), ", sealed: it can answer, and ask nobody", found.key ? "; callers need its key." : "."),
    h("p", { class: "quiet" }, [visible(found.base), ...speed, ...counted].join(" · ")),
    found.health === "ready" ? "" : h("p", { class: "quiet" }, visible(found.said)),
  );
}
