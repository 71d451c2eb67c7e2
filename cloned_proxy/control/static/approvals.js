// Requests that wait for a person: who asks for what and why, what it would open, and the narrowest rule that would do.

import { get, post } from "./api.js";
import { ask, choice, editing, reasonField, terms, termsOf } from "./dialogs.js";
import { button, h, reconcile } from "./dom.js";
import { ago, duration, hostname, number, plain, plural, toolname, until, visible } from "./format.js";

const FEW = 2; // requests shown at first: what was blocked must stay in the first window
const MOST = 20;

/** The section, absent while nothing waits; `changed` is called after a decision. */
export function approvals(changed) {
  const list = h("ul", { class: "groups" });
  const rest = h("p", { class: "actions" });
  let shown = FEW;
  const section = {
    element: h("section", { class: "waiting", "aria-labelledby": "waiting", hidden: true },
      h("div", { class: "head" }, h("h2", { id: "waiting" }, "Waiting for your answer"), rest),
      h("div", { class: "card" }, list)),
    async load() {
      const { items } = await get("/approvals", { state: "pending" });
      const whole = await Promise.all(items.slice(0, shown).map(withEvidence));
      section.element.hidden = !items.length;
      rest.replaceChildren(...(items.length > shown ? more(items.length) : []));
      reconcile(list, whole.map((request) => ({ ...request, alone: whole.length === 1 })), ({ id }) => id, card);
    },
  };

  function more(count) {
    const words = h("span", { class: "quiet" }, `the newest ${shown} of ${number(count)}`);
    return shown < MOST ? [words, button("Show more", "more", () => { shown = MOST; return section.load(); }, { kind: "small" })] : [words];
  }

  function card(request) {
    const about = `${hostsOf(request)} for ${request.tool ?? "every tool"}`;
    return h("li", { class: "group request" },
      h("div", { class: "what" },
        h("p", { class: "target" }, request.entries.map((entry) => [hostname(entry.host), narrowing(entry)]), request.action === "deny" && " (deny)"),
        h("p", { class: "why" }, "for ", request.tool ? toolname(request.tool) : "every tool", asker(request), replica(request), terms_(request)),
        request.reason && h("blockquote", {}, visible(request.reason)),
        h("p", { class: "terms" }, "asked ", ago(request.created), " · ", until(request.expires), ` to answer`, deniedCalls(request.evidence)),
        evidence(request.evidence, request.alone)),
      h("div", { class: "actions" },
        button("Approve…", `${request.id} approve`, () => decide(request, approve), { kind: "small primary", about }),
        button("Reject…", `${request.id} reject`, () => decide(request, reject), { kind: "small", about })));
  }

  async function decide(request, how) {
    await how(request);
    await changed().catch(() => {});
  }

  return section;
}

/** Calls that were refused and that it would let pass, by the record; how often somebody asked is another number. */
function deniedCalls(evidence) {
  if (!evidence) return "";
  const count = evidence.denied.reduce((sum, call) => sum + call.count, 0);
  return count ? ` · ${plural(count, "denied call")}` : " · no denied call so far";
}

async function withEvidence(request) {
  try {
    return await get(`/approvals/${encodeURIComponent(request.id)}`);
  } catch {
    return request;
  }
}

/** What a rule says beside its host, in one line. */
function narrowed(entry) {
  const { ports = [], methods = [], paths = [], protocols = [], addresses = [] } = entry;
  const extra = [...protocols.map((name) => `protocol ${name}`), ...addresses.map((name) => `${name} addresses`)];
  return [ports.length && `port ${ports.join(", ")}`, methods.map(plain).join(", "), paths.map(plain).join(", "), ...extra].filter(Boolean).join(" · ");
}

const narrowing = (entry) => h("span", { class: "quiet" }, ` ${narrowed(entry)} `);
const inLine = (entry) => [plain(entry.host), narrowed(entry)].filter(Boolean).join(" · ");
const inLines = (entries) => entries.map(inLine).join("; ");
const hostsOf = (request) => request.entries.map((entry) => plain(entry.host)).join(", ");

/** Of a fleet: on which other proxy it was asked. What it is called there is only text. */
const replica = (request) => request.replica && [" on ", h("bdi", { class: "replica" }, visible(request.replica))];
const asker = (request) => request.asker && request.asker !== request.tool && [", asked by ", h("bdi", { class: "tool" }, visible(request.asker))];
const terms_ = (request) => [request.for_seconds ? `, for ${duration(request.for_seconds)}` : ", with no end", request.uses ? `, ${plural(request.uses, "use")}` : ""];

function evidence(found, open) {
  if (!found) return null;
  const matched = found.matched ?? [];
  const calls = matched.reduce((sum, { passed, denied }) => sum + passed + denied, 0);
  const reach = found.wildcard_reach ?? [];
  const narrowest = found.narrowest ?? [];
  return h("details", { open, class: "evidence" }, h("summary", {}, "What it would open"),
    h("ul", {},
      h("li", {}, calls ? `It covers ${plural(calls, "call")} of the last 7 days: ` : "It covers no call of the last 7 days.", some(matched, 6, match), found.matched_more > 0 && ` and ${number(found.matched_more)} more`),
      reach.length > 0 && h("li", {}, h("strong", {}, "Its wildcard also reaches "), some(reach, 8, (host) => hostname(host))),
      (found.notes ?? []).map((note) => h("li", {}, h("strong", {}, visible(note.charAt(0).toUpperCase() + note.slice(1)), "."))),
      narrowest.length > 0 && h("li", {}, "The narrowest that covers what was denied: ", some(narrowest, 6, (entry) => [hostname(entry.host), narrowing(entry)]))));
}

const match = ({ tool, host, passed, denied }) => [hostname(host), ` ${[denied && `${number(denied)} denied`, passed && `${number(passed)} passed`].filter(Boolean).join(", ")}`, tool ? [" (", toolname(tool), ")"] : ""];

function some(items, most, show) {
  return [items.slice(0, most).map((item, at) => [at ? ", " : "", show(item)]), items.length > most && ` and ${number(items.length - most)} more`];
}

/** The rules to choose from, and what the choice was made on: a later denial or edit makes it another one. */
function choices(request, place) {
  const narrowest = request.evidence?.narrowest ?? [];
  const asked = inLines(request.entries);
  place.replaceChildren(narrowest.length
    ? choice("Which rule", "choice", [["narrowest", `Narrowest: ${inLines(narrowest)}`], ["proposed", `As asked: ${asked}`]], "narrowest")
    : h("p", {}, "The rule as it was asked for: ", h("code", { class: "rule" }, asked)));
  if (request.evidence) place.append(evidence(request.evidence, true));
  return { expected_version: request.evidence?.policy_version, seen: request.evidence?.digest };
}

function approve(request) {
  const place = h("div", {});
  const address = `/approvals/${encodeURIComponent(request.id)}`;
  let basis = choices(request, place);
  const lasting = request.for_seconds;
  return ask({
    title: `Approve ${hostsOf(request)}`,
    body: [place, ...terms(lasting ? "" : "30m", request.uses ?? "", lasting ? `As asked: ${duration(lasting)}` : "No end")],
    label: "Approve",
    done: "Approved.",
    act: editing(null, async () => {
      basis = choices(await get(address), place);
    }, async (form, { update_tests }) => {
      const chosen = new FormData(form).get("choice") ?? "proposed";
      await post(`${address}/approve`, { choice: chosen, ...termsOf(form), ...basis, update_tests });
    }),
  });
}

function reject(request) {
  return ask({
    title: `Reject ${hostsOf(request)}`,
    body: [h("p", {}, "The policy stays as it is, and the tool is told no."), reasonField()],
    label: "Reject",
    kind: "danger",
    done: "Rejected.",
    act: (form) => post(`/approvals/${encodeURIComponent(request.id)}/reject`, { reason: new FormData(form).get("reason").trim() }).then(() => undefined),
  });
}
