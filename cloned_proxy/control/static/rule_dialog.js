// "Allow this": shows the very rule that will be written, lets it be narrowed, writes it.

import { get, post } from "./api.js";
import { ask, choice, field, terms, termsOf, writing } from "./dialogs.js";
import { h } from "./dom.js";
import { authority, hostname, visible } from "./format.js";
import { asCommand, asYaml, portsInWords, portsToWrite } from "./rule_text.js";

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
  const several = group.offers.length > 1;
  const body = [
    h("p", {}, group.tool ? h("bdi", { class: "tool" }, visible(group.tool)) : "A caller without a name", " was denied ", hostname(group.host), " on ", portsInWords(group.ports.map(({ port }) => port)), "."),
    several && choice("Which ports", "offer", group.offers.map(({ ports }, at) => [String(at), portsInWords(ports)]), "0"),
    choice("What", "what", [["host", "The whole host"], ["path", "This path only"]], narrow ? "path" : "host"),
    pathField,
    choice("For whom", "scope", scopes, scopes[0][0]),
    ...terms(duration),
  ];
  return ask({
    title: `Allow ${authority(group.host)}`,
    label: "Write this rule",
    ...writing(body, seen, currentVersion, (form) => {
      const wanted = requestOf(form, group);
      pathField.hidden = !wanted.paths;
      path.required = Boolean(wanted.paths);
      return wanted;
    }, (wanted) => `Allowed: ${authority(wanted.host)}, ${portsInWords(wanted.ports)}`),
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
