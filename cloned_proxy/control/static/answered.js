// Requests that people have answered lately: what became of each, who said so, where and when.

import { get } from "./api.js";
import { h, reconcile } from "./dom.js";
import { ago, badge, hostname, number, toolname, visible } from "./format.js";

const LOOKED_AT = 200; // of the newest requests, whatever became of them
const MOST = 10;

/** The section, absent while nobody has answered anything. */
export function answered() {
  const list = h("ul", { class: "groups" });
  const rest = h("p", { class: "quiet small", hidden: true });
  const section = h("section", { class: "answered", "aria-labelledby": "answered", hidden: true },
    h("div", { class: "head" }, h("h2", { id: "answered" }, "Answered lately"), rest), h("div", { class: "card" }, list));
  return {
    element: section,
    async load() {
      const { items } = await get("/approvals", { limit: LOOKED_AT });
      const found = items.filter(({ state }) => state === "approved" || state === "rejected").sort((one, other) => other.decided_at - one.decided_at);
      section.hidden = !found.length;
      rest.hidden = found.length <= MOST;
      rest.textContent = `the last ${MOST} of ${number(found.length)}`;
      reconcile(list, found.slice(0, MOST), ({ id }) => id, row);
    },
  };
}

function row(request) {
  return h("li", { class: "group decided" },
    h("div", { class: "what" },
      h("p", { class: "target" }, badge(request.state === "approved" ? "ok" : "bad", request.state), " ",
        request.entries.map((entry, at) => [at ? ", " : "", hostname(entry.host)]), request.action === "deny" && " (deny)"),
      h("p", { class: "why" }, "for ", request.tool ? toolname(request.tool) : "every tool", askedOn(request),
        " · ", request.state, " by ", h("bdi", { class: "decider" }, visible(request.decided_by)), " ", ago(request.decided_at)),
      request.decided_reason && h("blockquote", {}, visible(request.decided_reason))));
}

const askedOn = ({ replica }) => replica && [", asked on ", h("bdi", { class: "replica" }, visible(replica))];
