// The versions of the policy: who changed what and why, the difference, and the way back.

import { get, post } from "./api.js";
import { ask, reasonField } from "./dialogs.js";
import { button, empty, h, reconcile } from "./dom.js";
import { ago, visible } from "./format.js";

const MOST_LINES = 2000;

export const history = { title: "History", open };

function open(place) {
  const list = h("ol", { class: "versions" });
  place.append(h("p", { class: "quiet" }, "Every version of the policy file, hand edits included. A roll-back is a new version with the old text."), list);
  let newest = null;

  async function load() {
    const { items } = await get("/history");
    const current = items.find((item) => item.current) ?? null;
    newest = current?.version ?? undefined;
    reconcile(list, items.map((item) => ({ ...item, current: item === current })), ({ version, at }) => `${version} ${at}`, row);
    if (!items.length) list.replaceChildren(h("li", {}, empty("No version is on record yet.", "The first edit makes one.")));
  }

  function row(item) {
    const short = visible(item.version).slice(0, 12);
    const diff = h("div", { class: "difference" });
    const details = h("details", { ontoggle: () => { if (details.open && !diff.childElementCount) showDiff(diff, item.version); } },
      h("summary", {}, "Difference", h("span", { class: "unseen" }, ` of version ${short}`)), diff);
    return h("li", { class: "card" },
      h("div", { class: "version" },
        h("div", { class: "what" },
          h("p", {}, h("span", { class: "mono" }, short), item.current ? [" ", h("span", { class: "badge ok" }, "in the file now")] : "", " ", h("strong", {}, visible(item.summary || "edited by hand"))),
          h("p", { class: "quiet" }, visible(item.actor), " · ", ago(item.at), item.why ? ` · ${visible(item.why)}` : "")),
        item.current ? null : h("div", { class: "actions" }, button("Roll back to this…", "restore", () => restore(item), { kind: "small", about: `version ${short}` }))),
      details);
  }

  async function restore(item) {
    const preview = h("div", { class: "difference" });
    showDiff(preview, item.version);
    const done = await ask({
      title: `Roll back to ${visible(item.version).slice(0, 12)}`,
      body: [h("p", {}, "The file gets the text of this version. Tunnels that no longer pass are cut within a second."), h("p", { class: "quiet" }, "What this version had changed:"), preview, reasonField()],
      label: "Roll back",
      kind: "danger",
      done: "Rolled back.",
      act: (form) => post(`/history/${encodeURIComponent(item.version)}/restore`, { reason: new FormData(form).get("reason").trim(), expected_version: newest }).then(() => undefined),
    });
    if (done) await load();
  }

  return { load, on: (kind) => { if (kind === "policy") load().catch(() => {}); } };
}

async function showDiff(place, version) {
  place.replaceChildren(h("p", { class: "quiet" }, "Loading…"));
  try {
    const { diff, text } = await get(`/history/${encodeURIComponent(version)}`);
    const lines = (diff || text || "").trimEnd().split("\n").slice(0, MOST_LINES);
    // The + and - at the front say it; colour repeats it. Reachable by key, because a long line scrolls.
    place.replaceChildren(h("pre", { class: "diff", tabindex: "0", role: "region", "aria-label": "Difference" }, lines.map((line) => h("span", { class: kindOf(line) }, `${visible(line)}\n`))));
  } catch (error) {
    place.replaceChildren(h("p", { class: "problem" }, error.message));
  }
}

function kindOf(line) {
  if (/^(\+\+\+|---|@@)/.test(line)) return "hunk";
  return { "+": "added", "-": "removed" }[line[0]] ?? "same";
}
