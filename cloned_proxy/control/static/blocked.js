// Blocked calls by tool and host: what, how often, why, and what lets it through.

import { get, post, remove } from "./api.js";
import { button, command, disclosure, empty, h, reconcile, toast } from "./dom.js";
import { ago, authority, badge, hostname, now, number, plain, plural, toolname } from "./format.js";
import { inWords } from "./reasons.js";
import { allow, literal } from "./rule_dialog.js";

const SPANS = [[1, "last hour"], [24, "last day"], [168, "last week"]];
const STEP = 40; // groups shown at once

/** The section; `changed` is called after a rule was written. */
export function blocked(changed) {
  const span = h("select", { "aria-label": "Time span", onchange: () => section.load() }, SPANS.map(([value, label]) => h("option", { value, selected: value === 24 }, label)));
  const find = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter by host or tool", autocomplete: "off", oninput: () => draw() });
  const place = h("div", { class: "tools" });
  const rest = h("p", { class: "rest" });
  let answer = { groups: [], ignored: 0 };
  let ignored = false; // whether those are shown in place of the others
  let limit = STEP;

  const section = {
    version: null,
    element: h("section", { "aria-labelledby": "blocked" },
      h("div", { class: "head" }, h("h2", { id: "blocked" }, "Blocked calls"), h("div", { class: "filters" }, find, span)), place, rest),
    async load() {
      const hours = Number(span.value);
      const { groups, ...more } = await get("/blocked", { since: Math.floor(now() - hours * 3600), ignored: ignored || "" });
      answer = { groups: groups.map(named), ...more };
      draw();
    },
  };

  function draw() {
    const word = find.value.trim().toLowerCase();
    const found = answer.groups.filter((group) => !word || `${group.host} ${group.tool ?? ""}`.toLowerCase().includes(word));
    if (found.length) {
      if (place.firstElementChild?.classList.contains("empty")) place.replaceChildren();
      reconcile(place, byTool(found.slice(0, limit)), ({ tool }) => `tool:${tool ?? ""}`, toolCard);
    } else {
      place.replaceChildren(word ? empty("No blocked call matches.", "Clear the filter to see all.") : nothing());
    }
    rest.replaceChildren(...[
      found.length > limit && button(`Show ${number(Math.min(STEP, found.length - limit))} more of ${number(found.length)}`, "more", () => { limit += STEP; draw(); }),
      ignored && button("Back to the others", "others", () => show(false)),
      !ignored && answer.ignored > 0 && button(`${plural(answer.ignored, "ignored host")}`, "ignored", () => show(true), { kind: "small plain" }),
    ].filter(Boolean));
  }

  async function show(which) {
    ignored = which;
    await section.load();
    rest.querySelector("button")?.focus();
  }

  function toolCard({ tool, rows }) {
    const list = h("ul", { class: "groups" });
    reconcile(list, rows, key, row);
    const total = rows.reduce((sum, { count }) => sum + count, 0);
    return h("article", { class: "card" }, h("header", {}, h("h3", {}, toolname(tool)), h("span", { class: "quiet" }, `${plural(total, "call")} · ${plural(rows.length, "host")}`)), list);
  }

  function row(group) {
    const about = `${authority(group.host)} for ${group.tool ?? "callers without a name"}`;
    const act = (label, how, kind = "small") => button(label, `${key(group)} ${label}`, how, { kind, about });
    const write = (more) => async () => { if (await allow(group, { version: section.version, ...more })) await changed(); };
    const region = h("div", { class: "details" });
    const inside = () => details(group, h("div", { class: "actions" },
      group.offers.length > 0 && group.paths.some(literal) && act("Allow this path", write({ narrow: true })),
      ignored ? act("Show again", () => notice(group, remove("/ignored", { tool: group.tool, host: group.host }), "Shown again")) : act("Ignore this host", () => notice(group, post("/ignored", { tool: group.tool, host: group.host }), "Ignored, and still refused"))));
    const offered = group.now !== "allowed" && group.offers.length > 0;
    return h("li", { class: "group" },
      h("div", { class: "what" },
        h("p", { class: "target" }, target(group), h("span", { class: "count" }, `${number(group.count)}×`)),
        h("p", { class: "why" }, why(group.reasons), group.refused_address && ` ${group.refused_address} is ${group.refused_class.replaceAll("_", "-")}.`, " ", h("span", { class: "quiet" }, ago(group.last)))),
      h("div", { class: "actions" },
        STANDING[group.now]?.(),
        offered ? [act("For 30 min", write({ duration: "30m" }), "small primary"), act("Allow this host", write({}))] : group.now === "refused" && !isCommand(group.hint) && h("span", { class: "quiet small" }, "No rule may allow this."),
        disclosure("Details", `${key(group)} details`, region, inside, { about: `of ${about}` })),
      region);
  }

  async function notice(group, asked, said) {
    await asked;
    toast(`${said}: ${authority(group.host)}`);
    await section.load();
  }

  return section;
}

const STANDING = {
  allowed: () => badge("ok", "allowed by now"),
  reported: () => badge("report", "passes in report mode"),
};

/** `host`, `host:8080`, or the host with several ports beside it; those of http and https need no word. */
function target(group) {
  const all = group.ports.map(({ port }) => port).filter(Boolean).sort((a, b) => a - b); // 0: nobody could read it
  if (all.length <= 1) return [hostname(group.host, all[0])];
  const usual = all.every((port) => port === 80 || port === 443);
  return [hostname(group.host), !usual && h("span", { class: "quiet small" }, ` ports ${all.slice(0, 6).join(", ")}${all.length > 6 ? ", …" : ""}`)];
}

function why(reasons) {
  const [first, ...others] = reasons.map(({ reason }) => inWords(reason));
  return `${[first, ...others.slice(0, 1).map((words) => words[0].toLowerCase() + words.slice(1))].join("; ")}.`;
}

/** Without what stands for "and others" in the roll-up. */
const named = (group) => ({ ...group, methods: group.methods.filter(isName), paths: group.paths.filter(isName), offers: group.offers.map((offer) => ({ ...offer, methods: offer.methods.filter(isName) })) });
const isName = (text) => text && text !== "_other";

const isCommand = (hint) => hint.startsWith("cloned-proxy ");

const key = (group) => `${group.tool ?? ""} ${group.host}`;

function nothing() {
  return empty("Nothing was blocked in this time.", "A denied call appears here within a second or two. To see one:", command("curl --proxy http://127.0.0.1:8081 https://example.net/"));
}

function byTool(groups) {
  const tools = new Map();
  for (const group of groups) tools.set(group.tool, [...(tools.get(group.tool) ?? []), group]);
  return [...tools].map(([tool, rows]) => ({ tool, rows }));
}

function details(group, actions) {
  const { paths } = group;
  const lines = [
    ["Ports", group.ports.map(({ port, count }) => `${port} (${number(count)})`).join(", ")],
    ["First seen", ago(group.first)],
    ["Reasons", group.reasons.map(({ reason, count }) => `${reason} (${number(count)})`).join(", ")],
    ["Methods", group.methods.map(plain).join(", ")],
    ["Paths", paths.length ? h("ul", { class: "paths" }, paths.slice(0, 10).map((path) => h("li", {}, plain(path)))) : "not visible: TLS was not opened"],
    ["All of them", h("a", { href: `#/live?${new URLSearchParams({ verdict: "deny", host: group.host, ...(group.tool ? { tool: group.tool } : {}) })}` }, "in the live view")],
  ];
  return [
    ...(group.offers.length ? group.offers.map((offer) => command(plain(offer.command))) : [isCommand(group.hint) ? command(plain(group.hint)) : group.hint && h("p", { class: "quiet" }, plain(group.hint))]),
    h("dl", { class: "facts" }, lines.map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)])),
    actions,
  ];
}
