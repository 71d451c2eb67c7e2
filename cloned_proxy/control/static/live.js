// Every decision as it is made: filters, pause, a bounded list, and one decision in full.

import { get } from "./api.js";
import { button, command, empty, h } from "./dom.js";
import { ask } from "./dialogs.js";
import { absolute, hostname, plain, toolname, verdict, visible, ago } from "./format.js";
import { inWords, REASONS } from "./reasons.js";
import { allow, groupOf } from "./rule_dialog.js";

const MOST = 200; // rows on the page
const FLUSH = 250; // milliseconds

export const live = { title: "Live", open };

function open(place, query) {
  const input = (name, shown, label = shown) => h("input", { name, value: query.get(name) ?? "", placeholder: shown, "aria-label": label, autocomplete: "off", spellcheck: "false" });
  const select = (name, label, options) => h("select", { name, "aria-label": label }, h("option", { value: "" }, label), options.map(([value, text]) => h("option", { value, selected: query.get(name) === value }, text)));
  const filters = h("form", { class: "filters", role: "search", "aria-label": "Decisions" },
    input("tool", "Tool"), input("host", "Host", "Host, and names below it"),
    select("verdict", "Any verdict", [["deny", "denied"], ["allow", "allowed"], ["report", "reported"]]),
    select("reason", "Any reason", Object.keys(REASONS).map((reason) => [reason, reason])));
  const pause = button("Pause", "pause", () => { paused ? resume() : halt(); });
  const list = h("ol", { class: "decisions", "aria-label": "Decisions, the newest first" });
  const note = h("p", { class: "quiet" });
  const older = button("Older", "older", () => more());
  let paused = false;
  let pending = [];
  let skipped = 0;
  let next = null;
  let seen = 0;

  place.append(h("div", { class: "head" }, filters, pause), note, list, h("p", { class: "rest" }, older));
  filters.addEventListener("submit", (event) => { event.preventDefault(); refilter(); });
  filters.addEventListener("change", refilter);
  const timer = setInterval(flush, FLUSH);

  const wanted = () => Object.fromEntries([...new FormData(filters)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value));

  function refilter() {
    const text = new URLSearchParams(wanted()).toString();
    history.replaceState(null, "", `#/live${text ? `?${text}` : ""}`);
    dispatchEvent(new Event("refilter"));
    load().catch(() => {}); // the banner says it
  }

  async function load() {
    const answer = await get("/decisions", { ...wanted(), limit: 100 });
    next = answer.next;
    pending = [];
    seen = answer.items[0]?.seq ?? 0;
    list.replaceChildren(...answer.items.map(row));
    older.hidden = !next;
    say();
    await linked();
  }

  /** `#/live?decision=ID`, as Grafana links to it: that decision in full, once. */
  async function linked() {
    const id = query.get("decision");
    query.delete("decision");
    if (/^[0-9a-f]{24}$/.test(id ?? "")) detail(await get(`/decisions/${id}`));
  }

  async function more() {
    const answer = await get("/decisions", { ...wanted(), before: next, limit: 100 }).catch(() => null);
    if (!answer) return;
    next = answer.next;
    older.hidden = !next;
    const first = answer.items.map(row);
    list.append(...first);
    while (list.children.length > MOST) list.firstElementChild.remove();
    if (!paused) halt();
    first[0]?.querySelector("button").focus();
    say();
  }

  function flush() {
    if (paused || !pending.length) return;
    const newest = pending.splice(0).reverse();
    skipped = 0;
    const focused = list.contains(document.activeElement);
    list.prepend(...newest.map(row));
    for (const gone of [...list.children].slice(MOST)) {
      if (focused && gone.contains(document.activeElement)) list.querySelector("button").focus({ preventScroll: true });
      gone.remove();
    }
    say();
  }

  function halt() { paused = true; pause.firstChild.data = "Resume"; say(); }
  function resume() { paused = false; pause.firstChild.data = "Pause"; skipped ? load().catch(() => {}) : flush(); skipped = 0; say(); }

  function say() {
    const waiting = pending.length + skipped;
    note.textContent = paused ? `Paused; ${waiting} newer.` : list.children.length ? `The newest ${list.children.length}. At most ${MOST} are kept here; the log has all.` : "";
    place.querySelector(".empty")?.remove();
    if (!list.children.length) list.before(empty("No decision matches.", "Calls through the proxy appear here as they happen. Widen the filters, or make one."));
  }

  return {
    load,
    filter: () => { const { reason, ...rest } = wanted(); return rest; },
    on(kind, item) {
      const { reason } = wanted();
      if (kind !== "decision" || item.seq <= seen || (reason && item.reason !== reason)) return;
      seen = item.seq;
      pending.push(item);
      if (pending.length > MOST) { pending.shift(); skipped += 1; }
      if (paused) say();
    },
    close: () => clearInterval(timer),
  };
}

function row(item) {
  return h("li", {}, h("button", { type: "button", class: "decision", onclick: () => detail(item) },
    ago(item.at), verdict(item.verdict), h("span", { class: "call" }, h("span", { class: "method" }, plain(item.method)), " ", hostname(item.host, item.port), h("span", { class: "path" }, plain(item.path))),
    h("span", { class: "by" }, toolname(item.tool)), h("span", { class: "why" }, item.reason === "allowed" ? "" : inWords(item.reason) + (item.count > 1 ? ` (${item.count} times)` : ""))));
}

function detail(item) {
  const facts = [
    ["When", absolute(item.at)], ["Verdict", verdict(item.verdict)], ["Why", `${inWords(item.reason)} (${visible(item.reason)})`],
    ["Tool", toolname(item.tool)], ["Run", visible(item.run ?? "")], ["How", visible(item.kind).replaceAll("_", " ")],
    ["Method", plain(item.method)], ["Host", hostname(item.host)], ["Port", String(item.port)], ["Path", plain(item.path)],
    ["Rule", visible(item.rule)], ["Policy", visible(item.policy)], ["Decision", visible(item.id)], ["Times", item.count > 1 ? String(item.count) : ""],
  ].filter(([, value]) => value !== "");
  const hint = item.hint ? (item.hint.startsWith("cloned-proxy ") ? command(item.hint) : h("p", {}, item.hint)) : null;
  const allowable = item.verdict !== "allow" && item.hint?.startsWith("cloned-proxy allow ");
  const narrow = ["method_not_allowed", "path_not_allowed"].includes(item.reason);
  return ask({
    title: "One decision",
    body: [h("dl", { class: "facts" }, facts.map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)])), hint],
    label: allowable ? "Allow…" : "Close",
    act: async () => undefined,
  }).then((done) => done && allowable && allow(groupOf(item), { narrow }));
}
