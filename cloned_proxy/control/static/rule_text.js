// A rule that is about to be written, as the file and as the command line would say it.

import { plain, visible } from "./format.js";

const list = (values) => `[${values.join(", ")}]`;

/** `wanted` is the body of POST /rules: without `ports` the rule is for 80 and 443. */
export function asYaml(wanted) {
  const network = wanted.host.includes("/");
  const parts = [`${network ? "cidr" : "host"}: ${plain(wanted.host)}`];
  if (wanted.ports?.length) parts.push(`ports: ${list(wanted.ports)}`);
  if (wanted.methods?.length) parts.push(`methods: ${list(wanted.methods.map(plain))}`);
  if (wanted.paths?.length) parts.push(`paths: ${list(wanted.paths.map((path) => JSON.stringify(plain(path))))}`);
  if (wanted.for) parts.push(`expires: in ${visible(wanted.for)}`);
  if (wanted.uses) parts.push(`max_uses: ${wanted.uses}`);
  if (wanted.reason) parts.push(`reason: ${JSON.stringify(visible(wanted.reason))}`);
  const entry = parts.length > 1 || network ? `{${parts.join(", ")}}` : plain(wanted.host);
  return `${wanted.tool ? `tools → ${visible(wanted.tool)}` : "global"} → ${wanted.action}\n- ${entry}`;
}

/** The command that writes the same; "" where one command cannot. */
export function asCommand(wanted) {
  const ports = wanted.ports ?? [];
  if (ports.length > 1) return "";
  const host = plain(wanted.host);
  const target = ports.length ? `${host.includes(":") ? `[${host}]` : host}:${ports[0]}` : host;
  const words = ["cloned-proxy", wanted.action, target];
  if (wanted.tool) words.push("--tool", wanted.tool);
  if (wanted.for) words.push("--for", wanted.for);
  if (wanted.uses) words.push("--uses", String(wanted.uses));
  for (const method of wanted.methods ?? []) words.push("--method", method);
  for (const path of wanted.paths ?? []) words.push("--path", path);
  if (wanted.reason) words.push("--reason", wanted.reason);
  return words.map(quoted).join(" ");
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${visible(word).replaceAll("'", `'"'"'`)}'`);

/** `ports 80 and 443`. */
export function portsInWords(ports) {
  const all = ports?.length ? ports : [80, 443];
  return all.length === 1 ? `port ${all[0]}` : `ports ${all.slice(0, -1).join(", ")} and ${all.at(-1)}`;
}

/** What POST /rules is told: the default ports are left out, as the command line does. */
export const portsToWrite = (ports) => (ports.length === 2 && ports.includes(80) && ports.includes(443) ? [] : ports);

/** What somebody typed with commas or spaces between. */
export const words = (text) => text.split(/[\s,]+/).filter(Boolean);
