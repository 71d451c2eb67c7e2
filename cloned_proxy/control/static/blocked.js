// Blocked calls by tool and host: what, how often, why, and the three ways to let it through.

import { get } from "./api.js";
import { button, command, empty, h, reconcile } from "./dom.js";
import { ago, authority, badge, hostname, now, number, plain, plural, toolname } from "./format.js";
import { inWords } from "./reasons.js";
import { allow, literal } from "./rule_dialog.js";

const SPANS = [[1, "last hour"], [24, "last day"], [168, "last week"]];
const STEP = 40; // groups shown at once

/** The section; `changed` is called after a rule was written. */
export function blocked(changed) {
  const span = h("select", { "aria-label": "Time span", onchange: () => section.load() }, SPANS.map(([value, label]) => h("option", { value, selected: value === 24 }, label)));
  const find = h("input", { type: "search", placeholder: "Filter by host or tool", "aria-label": "Filter by host or tool", autocomplete: "off", oninput: () => draw() });
  const place = h("div", { class: "tools" });
  const rest = h("p", { class: "rest" });
  let groups = [];
  let limit = STEP;

  const section = {
    version: null,
    element: h("section", { "aria-labelledby": "blocked" },
      h("div", { class: "head" }, h("h2", { id: "blocked" }, "Blocked calls"), h("div", { class: "filters" }, find, span)), place, rest),
    async load() {
      const hours = Number(span.value);
      groups = (await get("/blocked", { since: Math.floor(now() - hours * 3600) })).groups.map(named);
      draw();
    },
  };

  function draw() {
    const word = find.value.trim().toLowerCase();
    const found = groups.filter((group) => !word || `${group.host} ${group.tool ?? ""}`.toLowerCase().includes(word));
    rest.replaceChildren();
    if (!found.length) {
      place.replaceChildren(word ? empty("No blocked call matches.", "Clear the filter to see all.") : nothing());
      return;
    }
    if (place.firstElementChild?.classList.contains("empty")) place.replaceChildren();
    reconcile(place, byTool(found.slice(0, limit)), ({ tool }) => `tool:${tool ?? ""}`, toolCard);
    if (found.length > limit) rest.append(button(`Show ${number(Math.min(STEP, found.length - limit))} more of ${number(found.length)}`, "more", () => { limit += STEP; draw(); }));
  }

  function toolCard({ tool, rows }) {
    const list = h("ul", { class: "groups" });
    reconcile(list, rows, key, row);
    const total = rows.reduce((sum, { count }) => sum + count, 0);
    return h("article", { class: "card" }, h("header", {}, h("h3", {}, toolname(tool)), h("span", { class: "quiet" }, `${plural(total, "call")} · ${plural(rows.length, "host")}`)), list);
  }

  function row(group) {
    const about = `${authority(group.host, group.port)} for ${group.tool ?? "callers without a name"}`;
    const open = (more) => async () => { if (await allow(group, { version: section.version, ...more })) await changed(); };
    const act = (label, options) => button(label, `${key(group)} ${label}`, open(options), { kind: "small", about });
    const actions = group.allowed_now ? badge("ok", "allowed by now") : group.allowable
      ? [act("Allow this host", {}), group.paths.some(literal) && act("Allow this path", { narrow: true }), act("For 30 min", { duration: "30m" })]
      : h("span", { class: "quiet" }, "No rule may allow this.");
    return h("li", { class: "group" },
      h("div", { class: "what" },
        h("p", { class: "target" }, hostname(group.host, group.port), " ", h("span", { class: "count" }, `${number(group.count)}×`)),
        h("p", { class: "why" }, why(group.reasons ?? []), " ", h("span", { class: "quiet" }, ago(group.last))),
        group.allowable && group.hint && h("p", { class: "hint" }, h("code", {}, plain(group.hint)))),
      h("div", { class: "actions" }, actions),
      details(group));
  }

  return section;
}

function why(reasons) {
  const [first, ...others] = reasons.map(({ reason }) => inWords(reason));
  return `${[first, ...others.slice(0, 1).map((words) => words[0].toLowerCase() + words.slice(1))].join("; ")}.`;
}

/** Without what stands for "and others" in the roll-up. */
const named = (group) => ({ ...group, methods: group.methods.filter(isName), paths: group.paths.filter(isName) });
const isName = (text) => text && text !== "_other";

const key = (group) => `${group.tool ?? ""} ${group.host}:${group.port}`;

function nothing() {
  return empty("Nothing was blocked in this time.", "A denied call appears here within a second or two. To see one:", command("curl --proxy http://127.0.0.1:8081 https://example.net/"));
}

function byTool(groups) {
  const tools = new Map();
  for (const group of groups) tools.set(group.tool, [...(tools.get(group.tool) ?? []), group]);
  return [...tools].map(([tool, rows]) => ({ tool, rows }));
}

function details(group) {
  const { paths } = group;
  const lines = [
    ["Port", String(group.port)],
    ["First seen", ago(group.first)],
    ["Reasons", (group.reasons ?? []).map(({ reason, count }) => `${reason} (${number(count)})`).join(", ")],
    ["Methods", group.methods.map(plain).join(", ")],
    ["Paths", paths.length ? h("ul", { class: "paths" }, paths.slice(0, 10).map((path) => h("li", {}, plain(path)))) : "not visible: TLS was not opened"],
    ["All of them", h("a", { href: `#/live?${new URLSearchParams({ verdict: "deny", host: group.host, ...(group.tool ? { tool: group.tool } : {}) })}` }, "in the live view")],
  ];
  return h("details", {}, h("summary", {}, "Details", h("span", { class: "unseen" }, ` of ${authority(group.host, group.port)}`)),
    group.hint && (group.allowable ? command(group.hint) : h("p", { class: "quiet" }, group.hint)),
    h("dl", { class: "facts" }, lines.map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)])));
}
