// A new rule: for a call that was blocked, or for any host. Shows the very rule that will be written, then writes it.

import { get, post } from "./api.js";
import { ask, choice, editing, field, terms, termsOf } from "./dialogs.js";
import { command, h } from "./dom.js";
import { authority, hostname, visible } from "./format.js";
import { asCommand, asYaml, portsInWords, portsToWrite, words } from "./rule_text.js";

/**
 * `group`: a group of blocked calls, with its offers. `narrow`: begin with its path. `version`: of the policy that was
 * looked at. Resolves to whether a rule was written.
 */
export async function allow(group, { narrow = false, duration = "", version = null } = {}) {
  const seen = version ?? (await currentVersion());
  const start = group.paths.length ? group.paths.find(literal) ?? "" : "/";
  const path = h("input", { name: "path", class: "mono", maxlength: 1024, autocomplete: "off", spellcheck: "false", value: start });
  const pathField = field("Path", path, "/v1/** covers all below /v1/, /v1/* one step.");
  const scopes = group.tool ? [["tool", "Only this tool"], ["global", "Every tool"]] : [["global", "Every tool, and callers without a name"]];
  const body = [
    h("p", {}, group.tool ? h("bdi", { class: "tool" }, visible(group.tool)) : "A caller without a name", " was denied ", hostname(group.host), " on ", portsInWords(group.ports.map(({ port }) => port)), "."),
    group.offers.length > 1 && choice("Which ports", "offer", group.offers.map(({ ports }, at) => [String(at), portsInWords(ports)]), "0"),
    choice("What", "what", [["host", "The whole host"], ["path", "This path only"]], narrow ? "path" : "host"),
    pathField,
    choice("For whom", "scope", scopes, scopes[0][0]),
    ...terms(duration),
  ];
  return write(`Allow ${authority(group.host)}`, body, seen, (form) => {
    const wanted = requestOf(form, group);
    pathField.hidden = !wanted.paths;
    path.required = Boolean(wanted.paths);
    return wanted;
  });
}

/** Whether a rule with this path allows it and nothing else: a caller that asks for a star must not get a pattern. */
export const literal = (path) => Boolean(path) && !path.includes("*");

export const currentVersion = async () => (await get("/overview")).policy.version;

/** One recorded decision as a group, for the same dialog. */
export function groupOf({ tool, host, port, method, path }) {
  const ports = [80, 443].includes(port) ? [80, 443] : [port];
  const seen = { methods: [method], paths: [path].filter(Boolean) };
  return { tool, host, ports: [{ port, count: 1 }], ...seen, offers: [{ ports, ...seen }] };
}

/** A rule for any host; `tools` are ids to choose from. Resolves to whether it was written. */
export function add(tools, version) {
  const text = (name, more = {}) => h("input", { name, autocomplete: "off", spellcheck: "false", class: "mono", ...more });
  const narrowing = h("div", { class: "fields" },
    h("div", { class: "pair even" }, field("Ports", text("ports", { placeholder: "80, 443" })), field("Methods", text("methods", { placeholder: "any" }))),
    field("Paths", text("paths", { placeholder: "any" }), "/v1/** covers all below /v1/, /v1/* one step."));
  const body = [
    choice("What", "action", [["allow", "Allow"], ["deny", "Deny, whatever else allows it"]], "allow"),
    field("Host", text("host", { required: true, maxlength: 255, placeholder: "api.example.com" }), "*.example.com is one label more, **.example.com any number, 10.20.0.0/16 a network."),
    field("For which tool", text("tool", { list: "known-tools", maxlength: 256, placeholder: "every tool" })),
    h("datalist", { id: "known-tools" }, tools.map((tool) => h("option", { value: tool }))),
    narrowing, ...terms(""),
  ];
  return write("Add a rule", body, version, (form) => {
    const data = new FormData(form);
    const wanted = { action: data.get("action"), tool: data.get("tool").trim() || null, host: data.get("host").trim() };
    narrowing.hidden = wanted.action === "deny";
    if (!narrowing.hidden) {
      const details = { ports: words(data.get("ports")).map(Number), methods: words(data.get("methods")).map((word) => word.toUpperCase()), paths: words(data.get("paths")) };
      for (const [name, values] of Object.entries(details)) if (values.length) wanted[name] = values;
    }
    return { ...wanted, ...termsOf(form) };
  });
}

/** Asks with a preview of what `request(form)` gives, and sends it. */
function write(title, body, version, request) {
  const written = h("code", { class: "rule", "aria-live": "polite" });
  const note = h("p", { class: "quiet small" });
  const same = h("div", {});
  return ask({
    title,
    label: "Write this rule",
    body: [body, h("div", { class: "preview" }, h("p", {}, "This will be written into the policy:"), written, note,
      h("details", {}, h("summary", {}, "The same in a terminal"), same))],
    sync: (form) => {
      const wanted = request(form);
      written.textContent = asYaml(wanted);
      note.textContent = meaning(wanted);
      const typed = asCommand(wanted);
      same.replaceChildren(typed ? command(typed) : "No single command writes this.");
    },
    act: editing(version, currentVersion, async (form, more) => {
      const wanted = request(form);
      await post("/rules", { ...wanted, ...more });
      return wanted.action === "deny" ? `Denied: ${authority(wanted.host)}` : `Allowed: ${authority(wanted.host)}, ${portsInWords(wanted.ports)}`;
    }),
  });
}

function meaning(wanted) {
  if (wanted.action === "deny") return "It denies every port, whatever allows the host elsewhere.";
  const opened = `It opens ${portsInWords(wanted.ports)}.`;
  const inspects = wanted.paths || wanted.methods;
  return inspects && (!wanted.ports || wanted.ports.includes(443)) ? `${opened} For 443 TLS is opened with the workspace CA: the tool must trust it.` : opened;
}

/** The body of POST /rules. */
function requestOf(form, group) {
  const data = new FormData(form);
  const offer = group.offers[Number(data.get("offer") ?? 0)];
  const wanted = { action: "allow", tool: data.get("scope") === "tool" ? group.tool : null, host: group.host };
  const ports = portsToWrite(offer.ports);
  if (ports.length) wanted.ports = ports;
  if (data.get("what") === "path") {
    wanted.paths = [data.get("path").trim()];
    const methods = offer.methods.filter((method) => method !== "CONNECT");
    if (methods.length) wanted.methods = methods;
  }
  return { ...wanted, ...termsOf(form) };
}
