// Is the sandbox sealed, and what ran in it.

import { get, post } from "./api.js";
import { button, command, empty, h, toast } from "./dom.js";
import { ago, badge, number, plural, took, toolname, visible } from "./format.js";
import { orEmpty, table } from "./table.js";

export const sandbox = { title: "Sandbox", open };

const RESULTS = { ok: "ok" };
const LOOK = 700; // milliseconds between two looks at a probe that is under way

function open(place) {
  const probe = h("div", { class: "card probe" });
  const progress = h("p", { class: "progress", role: "status", hidden: true });
  const now = button("Probe now", "probe", start, { kind: "primary" });
  const rows = h("div", {});
  now.hidden = true;
  place.append(
    h("section", { "aria-labelledby": "probe" }, h("div", { class: "head" }, h("h2", { id: "probe" }, "Isolation probe"), h("div", { class: "actions" }, progress, now)), probe),
    h("section", { "aria-labelledby": "runs" }, h("div", { class: "head" }, h("h2", { id: "runs" }, "Runs")), rows),
  );
  let timer = 0;
  const list = table("Sandbox runs", [
    { label: "Command", kind: "wide", cell: (run) => [h("code", {}, visible(run.command) || "–"), h("span", { class: "quiet line small" }, toolname(run.tool), " · run ", h("span", { class: "mono" }, visible(run.run)))] },
    { label: "Result", cell: (run) => [badge(RESULTS[run.result] ?? "bad", visible(run.result)), run.dry_run ? " dry run" : "", run.reason && h("span", { class: "quiet line small" }, visible(run.reason))] },
    { label: "When", cell: (run) => ago(run.at) },
    { label: "Took", kind: "number", cell: (run) => took(run.seconds) },
    { label: "Start", kind: "number", cell: (run) => (run.start_seconds === null ? "–" : `${number(Math.round(run.start_seconds * 1000))} ms`) },
  ], (run) => `${run.run} ${run.at}`);

  async function load() {
    const [state, { items }] = await Promise.all([get("/probe"), get("/runs")]);
    showProbe(probe, state);
    follow(state);
    orEmpty(rows, list, items.slice(0, 200), () => empty("Nothing ran in a sandbox yet.", "Any command can:", command("cloned-proxy exec demo.tool@v1 -- curl https://example.com/")));
  }

  function follow(state) {
    clearTimeout(timer);
    now.hidden = !state.possible;
    now.disabled = state.running;
    progress.hidden = !state.running;
    if (!state.running) return;
    if (progress.textContent !== `Probing: ${state.stage}…`) progress.textContent = `Probing: ${state.stage}…`;
    timer = setTimeout(() => load().catch(() => {}), LOOK);
  }

  async function start() {
    now.disabled = true;
    try {
      await post("/probe");
    } catch (error) {
      if (error.status === undefined) throw error;
      toast(error.message, "bad");
    }
    await load();
  }

  return { load, close: () => clearTimeout(timer), on: (kind) => { if (kind === "run" || kind === "probe") load().catch(() => {}); } };
}

/** For the overview as well. A probe without attempts could not be made: that is no leak, and no seal. */
export function probeBadge(probe) {
  if (!probe) return badge("unknown", "not probed");
  if (!probe.attempts) return badge("warn", "no probe possible");
  if (probe.sealed) return badge("ok", "sealed");
  return leaked(probe) ? badge("bad", "LEAK FOUND") : badge("bad", "NOT SEALED");
}

/** Whether something got out: a way that must be open and was not, or a control that saw nothing, is no leak. */
const leaked = ({ failures }) => failures.some((failure) => failure.endsWith(": leak"));

const WORDS = {
  canary: "the canary of serve",
};
const who = (actor) => WORDS[actor] ?? visible(actor).replace(/^cli:(.*)$/, "$1, with verify in a terminal").replace(/^device:/, "");

function showProbe(place, { probe, possible }) {
  if (!probe) {
    place.replaceChildren(
      h("p", {}, probeBadge(null), " Nobody has tried yet whether a sandboxed tool can get round the proxy."),
      possible ? h("p", { class: "quiet" }, "The probe starts a container of its own and tries every known way out; it takes a few seconds.") : h("p", { class: "quiet" }, "No container engine answers here. Once one does, in a terminal:"),
      ...(possible ? [] : [command("cloned-proxy verify")]));
    return;
  }
  const failures = probe.failures ?? [];
  place.replaceChildren(
    h("p", {}, probeBadge(probe), " ", verdictOf(probe)),
    h("p", { class: "quiet" }, probe.attempts ? `${plural(probe.attempts, "attempt")}, ${plural(probe.controls, "control")}, ${took(probe.seconds)} · ` : "", `by ${who(probe.actor)} · `, ago(probe.at)),
    failures.length ? h("ul", { class: "failures" }, failures.map((failure) => h("li", {}, visible(failure)))) : "",
  );
}

function verdictOf(probe) {
  if (!probe.attempts) return "The probe could not be made, so nothing is known.";
  if (probe.sealed) return "The only way out was the proxy.";
  return leaked(probe) ? "A tool could get round the proxy. Stop the tools, then look at each attempt: cloned-proxy verify." : "Nothing got out, but the probe did not go as it must, so it proves nothing. Each attempt: cloned-proxy verify.";
}
