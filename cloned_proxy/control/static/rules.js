// The rules in force, by tool: where each comes from, what is left of it, and how much it is used.

import { get, remove } from "./api.js";
import { ask, editing } from "./dialogs.js";
import { button, command, empty, h, reconcile } from "./dom.js";
import { ago, authority, badge, hostname, number, plain, plural, toolname, until, visible } from "./format.js";
import { add } from "./rule_dialog.js";
import { edit, extend } from "./rule_edit.js";
import { table } from "./table.js";

const STEP = 200; // rows shown at once

export const rules = { title: "Rules", open };

function open(place) {
  const find = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter by host, tool or reason", autocomplete: "off", oninput: () => draw() });
  const note = h("p", { class: "quiet" });
  const groups = h("div", { class: "scopes" });
  const rest = h("p", { class: "rest" });
  let state = { items: [], version: null };
  let limit = STEP;
  const changing = (how) => async () => { if (await how()) await load(); };
  place.append(h("div", { class: "head" }, h("div", { class: "filters" }, find), note, button("Add a rule…", "add", changing(() => add(tools(), state.version)), { kind: "primary" })), groups, rest);

  const tools = () => [...new Set(state.items.map(({ scope }) => scope))].filter((scope) => scope !== "global");

  function draw() {
    const word = find.value.trim().toLowerCase();
    const found = state.items.filter((rule) => !word || `${rule.host} ${rule.scope} ${rule.reason}`.toLowerCase().includes(word));
    note.replaceChildren(`${plural(found.length, "rule")} of policy `, h("span", { class: "mono" }, String(state.version).slice(0, 12)));
    rest.replaceChildren(...(found.length > limit ? [button(`Show more of ${number(found.length)}`, "more", () => { limit += STEP; draw(); })] : []));
    if (!found.length) {
      groups.replaceChildren(empty(word ? "No rule matches." : "There is no rule: everything is denied.", word ? "Clear the filter to see all." : "Allow a blocked call in the overview, or in the terminal:", ...(word ? [] : [command("cloned-proxy allow api.example.com")])));
      return;
    }
    if (groups.firstElementChild?.classList.contains("empty")) groups.replaceChildren();
    reconcile(groups, byScope(found.slice(0, limit)), ({ scope }) => scope, scopeSection);
  }

  function scopeSection({ scope, items }) {
    const heading = scope === "global" ? "Every tool" : toolname(scope);
    const list = table(`Rules for ${scope === "global" ? "every tool" : scope}`, columns, ({ id }) => id);
    list.show(items);
    return h("section", {}, h("div", { class: "head" }, h("h2", {}, heading), h("span", { class: "quiet" }, plural(items.length, "rule"))), list.element);
  }

  const columns = [
    { label: "Rule", kind: "wide", cell: (rule) => [badge(rule.action, rule.action), " ", rule.kind === "public" ? badge("bad", "the whole public internet") : hostname(rule.host), narrowing(rule), where(rule)] },
    { label: "Left", cell: left },
    { label: "Hits", kind: "number", cell: (rule) => number(rule.hits) },
    { label: "Last hit", cell: (rule) => ago(rule.last_hit) },
    { label: "", kind: "act", cell: actions },
  ];

  function actions(rule) {
    const about = `the rule for ${authority(rule.host)} (${rule.scope})`;
    const act = (label, how, kind = "small") => button(label, `${rule.id} ${label}`, changing(() => how(rule, state.version)), { kind, about });
    if (rule.preset) return h("span", { class: "quiet small" }, "goes with its preset");
    return h("div", { class: "actions" }, rule.expires && act("Extend…", extend), rule.kind !== "public" && act("Edit…", edit), act("Remove", takeBack));
  }

  async function load() {
    state = await get("/rules");
    draw();
  }

  function takeBack(rule) {
    return ask({
      title: `Remove the rule for ${authority(rule.host)}`,
      body: [h("p", {}, rule.action === "deny" ? "What it denied is then decided by the other rules." : "Calls that only this rule allowed are refused from now on, and its open tunnels are cut within a second."), h("code", { class: "rule" }, `${visible(rule.id)}  ${rule.action} ${authority(rule.host)}  (${visible(rule.scope)})`)],
      label: "Remove",
      kind: "danger",
      done: "Removed.",
      act: editing(state.version, async () => {
        await load();
        return state.version;
      }, async (_form, more) => { await remove(`/rules/${encodeURIComponent(rule.id)}`, more); }),
    });
  }

  return { load, on: (kind) => { if (kind === "policy") load().catch(() => {}); } };
}

function byScope(items) {
  const scopes = new Map();
  for (const rule of items) scopes.set(rule.scope, [...(scopes.get(rule.scope) ?? []), rule]);
  return [...scopes].map(([scope, found]) => ({ scope, items: found }));
}

function narrowing(rule) {
  const ports = (rule.ports ?? []).join(", ");
  const parts = [
    ports && ports !== "80, 443" && `port ${ports}`,
    rule.methods?.map(plain).join(", "),
    rule.paths?.map(plain).join(", "),
    rule.protocols?.length && `protocols ${rule.protocols.join(", ")}`,
    rule.addresses?.length && `addresses ${rule.addresses.join(", ")}`,
    rule.registry && `registry ${plain(rule.registry)}`,
    rule.exceptions?.length && `except ${rule.exceptions.map(plain).join(", ")}`,
    rule.inject_header && `adds ${plain(rule.inject_header)}`,
    rule.idle && `idle ${rule.idle}`,
  ].filter(Boolean);
  return parts.length > 0 && h("span", { class: "quiet" }, ` ${parts.join(" · ")}`);
}

const where = (rule) => h("span", { class: "quiet small line" }, rule.reason ? [visible(rule.reason), " · "] : "", h("span", { class: "mono", title: visible(rule.origin) }, visible(rule.place)));

function left(rule) {
  const parts = [rule.expires && until(rule.expires), rule.max_uses && `${number(rule.uses_left)} of ${plural(rule.max_uses, "use")}`].filter(Boolean);
  return parts.length ? parts.map((part) => h("span", { class: "line" }, part)) : h("span", { class: "quiet" }, "no end");
}
