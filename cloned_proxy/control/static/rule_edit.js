// A rule that is there: another wording of it, more time for a lease. Only what was changed is sent.

import { post } from "./api.js";
import { ask, editing, field, lengthOf, lengths } from "./dialogs.js";
import { h } from "./dom.js";
import { authority, plain, visible } from "./format.js";
import { currentVersion } from "./rule_dialog.js";
import { portsInWords, words } from "./rule_text.js";

const LISTS = {
  ports: (text) => words(text).map(Number),
  methods: (text) => words(text).map((word) => word.toUpperCase()),
  paths: words,
};

/** Resolves to whether it was changed. */
export function edit(rule, version) {
  const text = (name, value, more = {}) => h("input", { name, value, autocomplete: "off", spellcheck: "false", ...more });
  const before = Object.fromEntries(Object.keys(LISTS).map((name) => [name, (rule[name] ?? []).join(name === "paths" ? " " : ", ")]));
  const ends = [["keep", rule.expires ? "As it is" : "No end"], ...(rule.expires ? [["", "No end"]] : [])];
  const body = [
    about(rule),
    rule.action === "allow" && [
      h("div", { class: "pair even" }, field("Ports", text("ports", before.ports)), field("Methods", text("methods", before.methods, { placeholder: "any" }))),
      field("Paths", text("paths", before.paths, { placeholder: "any", class: "mono" }))],
    ...lengths("For how long, from now on", ends, "keep"),
    h("div", { class: "pair" },
      field("Uses left", text("uses", rule.uses_left ?? "", { type: "number", min: 1, max: 1_000_000, inputmode: "numeric" }), "Empty: any number."),
      field("Reason", text("reason", visible(rule.reason), { maxlength: 200 }))),
  ];
  return change(rule, version, { title: `Change the rule for ${authority(rule.host)}`, body, label: "Write the change", done: "Changed." }, (form) => changed(new FormData(form), lengthOf(form), rule, before));
}

/** More time, from now on. */
export function extend(rule, version) {
  return change(rule, version, { title: `Extend the lease of ${authority(rule.host)}`, body: [about(rule), ...lengths("For how long, from now on", [], "30m")], label: "Extend", done: "Extended." }, (form) => ({ for: lengthOf(form) }));
}

function change(rule, version, dialog, changesOf) {
  return ask({
    ...dialog,
    act: editing(version, currentVersion, async (form, more) => {
      const changes = changesOf(form);
      if (!Object.keys(changes).length) return "Nothing was changed.";
      await post(`/rules/${encodeURIComponent(rule.id)}`, { ...changes, ...more });
      return undefined;
    }),
  });
}

function changed(data, length, rule, before) {
  const changes = {};
  for (const [name, read] of Object.entries(LISTS)) {
    const text = data.get(name)?.trim() ?? before[name];
    if (text !== before[name]) changes[name] = text ? read(text) : null;
  }
  if (data.get("for") !== "keep") changes.for = length || null;
  const uses = data.get("uses") ? Number(data.get("uses")) : null;
  if (uses !== rule.uses_left) changes.uses = uses;
  const reason = data.get("reason").trim();
  if (reason !== visible(rule.reason)) changes.reason = reason;
  return changes;
}

const about = (rule) => h("code", { class: "rule" }, `${rule.action} ${plain(rule.host)}, ${rule.action === "deny" ? "every port" : portsInWords(rule.ports)}\n${visible(rule.scope)}, ${visible(rule.place)}`);
