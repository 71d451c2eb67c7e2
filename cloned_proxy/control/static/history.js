// The versions of the policy: who changed what and why, the difference, and the way back.

import { get, post } from "./api.js";
import { ask, editing, reasonField } from "./dialogs.js";
import { button, empty, h, reconcile, toast } from "./dom.js";
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
    const details = h("details", { ontoggle: () => { if (details.open && !diff.childElementCount) showDiff(diff, `/history/${encodeURIComponent(item.version)}`); } },
      h("summary", {}, "Difference", h("span", { class: "unseen" }, ` of version ${short}`)), diff);
    return h("li", { class: "card" },
      h("div", { class: "version" },
        h("div", { class: "what" },
          h("p", {}, h("strong", {}, visible(item.summary || "edited by hand")), item.current ? [" ", h("span", { class: "badge ok" }, "in the file now")] : ""),
          h("p", { class: "quiet small" }, h("span", { class: "mono" }, short), " · ", visible(item.actor), " · ", ago(item.at), item.why ? ` · ${visible(item.why)}` : "")),
        item.current ? null : h("div", { class: "actions" }, button("Roll back to this…", "restore", () => restore(item), { kind: "small", about: `version ${short}` }))),
      details);
  }

  /** What it would change in the file as it is now is known before anything is asked. */
  async function restore(item) {
    const address = `/history/${encodeURIComponent(item.version)}/restore`;
    const preview = h("div", { class: "difference" });
    const look = async () => preview.replaceChildren(difference((await post(address, { dry_run: true })).diff));
    try {
      await look();
    } catch (error) {
      if (error.status === undefined) throw error;
      toast(error.message, "bad");
      return;
    }
    const done = await ask({
      title: `Roll back to ${visible(item.version).slice(0, 12)}`,
      body: [h("p", {}, "The file gets the text of this version. Tunnels that no longer pass are cut within a second."), h("p", { class: "quiet" }, "What changes now:"), preview, reasonField()],
      label: "Roll back",
      kind: "danger",
      done: "Rolled back.",
      act: editing(newest, async () => {
        await Promise.all([load(), look()]); // looked at again, before it is pressed again
        return newest;
      }, async (form, more) => { await post(address, { reason: new FormData(form).get("reason").trim(), ...more }); }),
    });
    if (done) await load();
  }

  return { load, on: (kind) => { if (kind === "policy") load().catch(() => {}); } };
}

async function showDiff(place, address) {
  place.replaceChildren(h("p", { class: "quiet" }, "Loading…"));
  try {
    const { diff, text } = await get(address);
    place.replaceChildren(difference(diff || text || ""));
  } catch (error) {
    place.replaceChildren(h("p", { class: "problem" }, error.message));
  }
}

/** The + and - at the front say it; colour repeats it. Reachable by key, because a long line scrolls. */
function difference(diff) {
  if (!diff) return h("p", {}, "Nothing: the file says so already.");
  const lines = diff.trimEnd().split("\n").filter((line) => !/^(\+\+\+|---) /.test(line)).slice(0, MOST_LINES);
  return h("pre", { class: "diff", tabindex: "0", role: "region", "aria-label": "Difference" }, lines.map((line) => h("span", { class: kindOf(line) }, `${visible(line)}\n`)));
}

function kindOf(line) {
  if (line.startsWith("@@")) return "hunk";
  return { "+": "added", "-": "removed" }[line[0]] ?? "same";
}
