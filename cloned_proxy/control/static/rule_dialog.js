// "Allow this": shows the very rule that will be written, lets it be narrowed, writes it.

import { get, post } from "./api.js";
import { ask, choice, field, terms, termsOf } from "./dialogs.js";
import { h } from "./dom.js";
import { authority, hostname, plain, visible } from "./format.js";

/** `group`: a group of blocked calls. `narrow`: begin with its path. `version`: of the policy that was looked at. Resolves to whether a rule was written. */
export async function allow(group, { narrow = false, duration = "", version: seen = null } = {}) {
  let version = seen ?? (await currentVersion());
  const askedFor = (group.paths ?? []).filter(Boolean);
  const start = askedFor.length ? askedFor.find(literal) ?? "" : "/";
  const path = h("input", { name: "path", class: "mono", maxlength: 1024, autocomplete: "off", spellcheck: "false", value: start });
  const pathField = field("Path", path, "/v1/** covers all below /v1/, /v1/* one step.");
  const scopes = group.tool ? [["tool", "Only this tool"], ["global", "Every tool"]] : [["global", "Every tool, and callers without a name"]];
  const written = h("code", { class: "rule", "aria-live": "polite" });
  const note = h("p", { class: "quiet" });
  const body = [
    h("p", {}, group.tool ? h("bdi", { class: "tool" }, visible(group.tool)) : "A caller without a name", " was denied ", hostname(group.host, group.port), "."),
    choice("What", "what", [["host", "The whole host"], ["path", "This path only"]], narrow ? "path" : "host"),
    pathField,
    choice("For whom", "scope", scopes, scopes[0][0]),
    ...terms(duration),
    h("div", { class: "preview" }, h("p", {}, "This will be written into the policy:"), written, note),
  ];
  const sync = (form) => {
    const wanted = requestOf(form, group);
    pathField.hidden = !wanted.paths;
    path.required = Boolean(wanted.paths);
    written.textContent = asYaml(wanted);
    note.textContent = wanted.paths && group.port === 443 ? "A rule with a path opens TLS to this host with the workspace CA: the tool must trust it." : "";
  };
  const asked = ask({
    title: `Allow ${authority(group.host, group.port)}`,
    body,
    label: "Write this rule",
    act: async (form) => {
      try {
        await post("/rules", { ...requestOf(form, group), expected_version: version || undefined });
      } catch (error) {
        if (error.status === 409) {
          version = error.version ?? (await currentVersion());
          error.message = "Somebody changed the policy while this was open. Press again to add the rule to the new version.";
        }
        throw error;
      }
      return `Allowed: ${authority(group.host, group.port)}`;
    },
  });
  const form = written.closest("form");
  form.addEventListener("input", () => sync(form));
  sync(form);
  return asked;
}

/** Whether a rule with this path allows it and nothing else: a caller that asks for a star must not get a pattern. */
export const literal = (path) => Boolean(path) && !path.includes("*");

const currentVersion = async () => (await get("/overview")).policy.version;

/** The body of POST /rules. */
function requestOf(form, group) {
  const data = new FormData(form);
  const wanted = { action: "allow", tool: data.get("scope") === "tool" ? group.tool : null, host: group.host, ports: [group.port] };
  if (data.get("what") === "path") {
    wanted.paths = [data.get("path").trim()];
    const methods = (group.methods ?? []).filter((method) => method !== "CONNECT");
    if (methods.length) wanted.methods = methods;
  }
  return { ...wanted, ...termsOf(form) };
}

function asYaml(wanted) {
  const list = (values) => `[${values.map(plain).join(", ")}]`;
  const quoted = (text) => JSON.stringify(visible(text));
  const parts = [`host: ${plain(wanted.host)}`, `ports: ${list(wanted.ports.map(String))}`];
  if (wanted.methods) parts.push(`methods: ${list(wanted.methods)}`);
  if (wanted.paths) parts.push(`paths: [${wanted.paths.map((path) => JSON.stringify(plain(path))).join(", ")}]`);
  if (wanted.for) parts.push(`expires: in ${wanted.for}`);
  if (wanted.uses) parts.push(`max_uses: ${wanted.uses}`);
  if (wanted.reason) parts.push(`reason: ${quoted(wanted.reason)}`);
  return `${wanted.tool ? `tools → ${visible(wanted.tool)}` : "global"} → allow\n- {${parts.join(", ")}}`;
}
