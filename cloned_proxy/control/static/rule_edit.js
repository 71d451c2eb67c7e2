// Rules made and changed by hand: a new one, another wording of one, more time for a lease.

import { post } from "./api.js";
import { ask, choice, field, lengths, terms, termsOf, writing } from "./dialogs.js";
import { h } from "./dom.js";
import { authority, plain, visible } from "./format.js";
import { currentVersion } from "./rule_dialog.js";
import { portsInWords } from "./rule_text.js";

const words = (text) => text.split(/[\s,]+/).filter(Boolean);
const text = (name, value = "", more = {}) => h("input", { name, value, autocomplete: "off", spellcheck: "false", class: "mono", ...more });

/** `tools`: ids to choose from. Resolves to whether a rule was written. */
export function add(tools, version) {
  const known = h("datalist", { id: "known-tools" }, tools.map((tool) => h("option", { value: tool })));
  const narrow = h("div", { class: "pair even" },
    field("Ports", text("ports", "", { placeholder: "80, 443" })),
    field("Methods", text("methods", "", { placeholder: "any" })));
  const paths = field("Paths", text("paths", "", { placeholder: "any" }), "A rule with methods or paths opens TLS to this host with the workspace CA.");
  const lasting = h("div", { class: "group-of-fields" }, ...terms(""));
  const body = [
    choice("What", "action", [["allow", "Allow"], ["deny", "Deny, whatever else allows it"]], "allow"),
    field("Host", text("host", "", { required: true, maxlength: 255, placeholder: "api.example.com" }), "*.example.com is one label more, **.example.com any number."),
    field("For which tool", text("tool", "", { list: "known-tools", maxlength: 256, placeholder: "every tool" })), known,
    narrow, paths, lasting,
  ];
  return ask({
    title: "Add a rule",
    label: "Write this rule",
    ...writing(body, version, currentVersion, (form) => {
      const data = new FormData(form);
      const denies = data.get("action") === "deny";
      for (const part of [narrow, paths, lasting.firstElementChild, lasting.querySelector(".pair")]) part.toggleAttribute("data-deny", denies);
      narrow.hidden = denies;
      paths.hidden = denies;
      const wanted = { action: data.get("action"), tool: data.get("tool").trim() || null, host: data.get("host").trim() };
      const details = { ...(denies ? {} : narrowing(data)), ...termsOf(form) };
      return { ...wanted, ...Object.fromEntries(Object.entries(details).filter(([, value]) => !Array.isArray(value) || value.length)) };
    }, (wanted) => `Written: ${wanted.action} ${authority(wanted.host)}`),
  });
}

/** Sends what the form changed, and nothing else. */
export function edit(rule, version) {
  const denies = rule.action === "deny";
  const before = { ports: (rule.ports ?? []).join(", "), methods: (rule.methods ?? []).join(", "), paths: (rule.paths ?? []).join(" ") };
  const body = [
    about(rule),
    !denies && h("div", { class: "pair even" }, field("Ports", text("ports", before.ports)), field("Methods", text("methods", before.methods, { placeholder: "any" }))),
    !denies && field("Paths", text("paths", before.paths, { placeholder: "any" })),
    ...lengths("For how long", [["keep", rule.expires ? "As it is" : "No end"], ...(rule.expires ? [["", "No end"]] : [])], "keep"),
    h("div", { class: "pair" },
      field("Uses left", text("uses", rule.uses_left ?? "", { type: "number", min: 1, max: 1_000_000, inputmode: "numeric" }), "Empty: any number."),
      field("Reason", text("reason", visible(rule.reason), { maxlength: 200, class: "" }))),
  ];
  return ask({
    title: `Change the rule for ${authority(rule.host)}`,
    body,
    label: "Write the change",
    done: "Changed.",
    act: (form) => send(rule, changeOf(form, rule, before), version),
  });
}

function changeOf(form, rule, before) {
  const data = new FormData(form);
  const change = {};
  for (const [name, values] of Object.entries(rule.action === "deny" ? {} : narrowing(data))) if (data.get(name).trim() !== before[name]) change[name] = values.length ? values : null;
  const { for: length } = termsOf(form);
  if (data.get("for") !== "keep") change.for = length ?? null;
  const uses = data.get("uses") ? Number(data.get("uses")) : null;
  if (uses !== rule.uses_left) change.uses = uses;
  if (data.get("reason").trim() !== visible(rule.reason)) change.reason = data.get("reason").trim();
  return change;
}

/** More time, from now on. */
export function extend(rule, version) {
  return ask({
    title: `Extend the lease of ${authority(rule.host)}`,
    body: [about(rule), ...lengths("From now on, for", [], "30m")],
    label: "Extend",
    done: "Extended.",
    act: (form) => send(rule, { for: termsOf(form).for }, version),
  });
}

const about = (rule) => h("code", { class: "rule" }, `${rule.action} ${plain(rule.host)}, ${rule.action === "deny" ? "every port" : portsInWords(rule.ports)}  (${visible(rule.scope)}, ${visible(rule.place)})`);

const narrowing = (data) => ({ ports: words(data.get("ports")).map(Number), methods: words(data.get("methods")).map((word) => word.toUpperCase()), paths: words(data.get("paths")) });

async function send(rule, change, version) {
  if (!Object.keys(change).length) return "Nothing was changed.";
  await post(`/rules/${encodeURIComponent(rule.id)}`, { ...change, expected_version: version });
  return undefined;
}
