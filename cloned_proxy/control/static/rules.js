// The rules in force: where each comes from, what is left of it, and how much it is used.

import { get, remove } from "./api.js";
import { ask } from "./dialogs.js";
import { button, command, empty, h } from "./dom.js";
import { ago, authority, badge, hostname, number, plain, plural, toolname, until, visible } from "./format.js";
import { orEmpty, table } from "./table.js";

const STEP = 200; // rows shown at once

export const rules = { title: "Rules", open };

function open(place) {
  const find = h("input", { type: "search", placeholder: "Filter by host, tool or reason", "aria-label": "Filter by host, tool or reason", autocomplete: "off", oninput: () => draw() });
  const note = h("p", { class: "quiet" });
  const rows = h("div", {});
  const rest = h("p", { class: "rest" });
  let state = { items: [], version: null };
  let limit = STEP;
  place.append(h("div", { class: "head" }, h("div", { class: "filters" }, find), note), rows, rest);

  const list = table("Rules in force", [
    { label: "Rule", cell: (rule) => [badge(rule.action, rule.action), " ", hostname(rule.host), narrowing(rule)] },
    { label: "For", cell: (rule) => (rule.scope === "global" ? "every tool" : toolname(rule.scope)) },
    { label: "Left", cell: left },
    { label: "Hits", kind: "number", cell: (rule) => number(rule.hits) },
    { label: "Last hit", cell: (rule) => ago(rule.last_hit) },
    { label: "Origin", cell: (rule) => [rule.reason && h("span", { class: "line" }, visible(rule.reason)), h("span", { class: "quiet mono" }, visible(rule.origin))] },
    { label: "", kind: "act", cell: (rule) => button("Remove", "remove", () => takeBack(rule), { kind: "small", about: `the rule for ${authority(rule.host)} (${rule.scope})` }) },
  ], ({ id }) => id);

  function draw() {
    const word = find.value.trim().toLowerCase();
    const found = state.items.filter((rule) => !word || `${rule.host} ${rule.scope} ${rule.reason}`.toLowerCase().includes(word));
    note.textContent = `${plural(found.length, "rule")} of policy ${String(state.version).slice(0, 12)}`;
    orEmpty(rows, list, found.slice(0, limit), () => empty(word ? "No rule matches." : "There is no rule: everything is denied.", word ? "Clear the filter to see all." : "Allow a blocked call in the overview, or in the terminal:", ...(word ? [] : [command("cloned-proxy allow api.example.com")])));
    rest.replaceChildren(...(found.length > limit ? [button(`Show more of ${number(found.length)}`, "more", () => { limit += STEP; draw(); })] : []));
  }

  async function load() {
    state = await get("/rules");
    draw();
  }

  async function takeBack(rule) {
    const done = await ask({
      title: `Remove the rule for ${authority(rule.host)}`,
      body: [h("p", {}, rule.action === "deny" ? "What it denied is then decided by the other rules." : "Calls that only this rule allowed are refused from now on, and its open tunnels are cut within a second."), h("code", { class: "rule" }, `${visible(rule.id)}  ${rule.action} ${authority(rule.host)}  (${visible(rule.scope)})`)],
      label: "Remove",
      kind: "danger",
      done: "Removed.",
      act: (form) => remove(`/rules/${encodeURIComponent(rule.id)}`, { expected_version: state.version }).then(() => undefined).catch(async (error) => {
        if (error.status === 409) await load();
        throw error;
      }),
    });
    if (done) await load();
  }

  return { load, on: (kind) => { if (kind === "policy") load().catch(() => {}); } };
}

function narrowing(rule) {
  const ports = (rule.ports ?? []).join(", ");
  const parts = [
    ports && ports !== "80, 443" && `port ${ports}`,
    rule.methods?.map(plain).join(", "),
    rule.paths?.map(plain).join(", "),
    rule.protocols?.length && `protocols ${rule.protocols.join(", ")}`,
    rule.addresses?.length && `addresses ${rule.addresses.join(", ")}`,
    rule.inject_header && `adds ${plain(rule.inject_header)}`,
  ].filter(Boolean);
  return parts.length > 0 && h("span", { class: "quiet line" }, parts.join(" · "));
}

function left(rule) {
  const parts = [rule.expires && until(rule.expires), rule.max_uses && `${number(rule.uses_left)} of ${plural(rule.max_uses, "use")}`].filter(Boolean);
  return parts.length ? parts.map((part, at) => [at ? ", " : "", part]) : h("span", { class: "quiet" }, "no end");
}
