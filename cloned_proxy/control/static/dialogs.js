// Questions before something changes. <dialog> keeps the focus inside, Escape closes, focus goes back where it was.

import { button, h, speak, toast } from "./dom.js";

let serial = 0;

/**
 * Asks, then does: `act(form)` throws ApiError to stay open. `sync(form)` is called at first and at every input.
 * Resolves to whether it was done.
 */
export function ask({ title, body, label, act, sync = () => {}, kind = "primary", done = "" }) {
  const id = `dialog-${++serial}`;
  const problem = h("div", { class: "problem", role: "alert" });
  const submit = h("button", { type: "submit", class: kind }, label);
  const dialog = h("dialog", { "aria-labelledby": id });
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id }, title),
    body,
    problem,
    h("p", { class: "actions" }, button("Cancel", "cancel", () => dialog.close()), submit),
  );
  dialog.append(form);
  document.body.append(dialog);
  const before = document.activeElement;
  let outcome = false;
  form.addEventListener("input", () => sync(form));
  sync(form);
  return new Promise((resolve) => {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      submit.disabled = true;
      problem.replaceChildren();
      try {
        const said = await act(form);
        outcome = true;
        dialog.close();
        if (said ?? done) toast(said ?? done);
      } catch (error) {
        if (error.status === undefined) throw error;
        problem.replaceChildren(...explain(error), remedy(error, form));
      } finally {
        submit.disabled = false;
      }
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      const home = before?.isConnected ? before : document.querySelector("main h1");
      home?.focus({ preventScroll: true });
      resolve(outcome);
    });
    dialog.showModal();
    speak("");
  });
}

function explain(error) {
  if (error.status === 409) return [h("p", {}, h("strong", {}, "Nothing was changed. "), error.message)];
  const fields = (error.fields ?? []).filter(({ path }) => path).map(({ path, line, message }) => h("p", {}, h("code", {}, line ? `${path}, line ${line}` : path), ": ", message));
  if (error.code === "forbidden_by_test") return [h("p", {}, h("strong", {}, "Nothing was changed. ")), ...fields];
  return fields.length ? fields : [h("p", {}, error.message)]; // the message is the first of them
}

/** What a second press may do about it: `error.remedy` is {label, apply}. */
function remedy(error, form) {
  if (!error.remedy) return "";
  return h("p", { class: "actions" }, button(error.remedy.label, "remedy", () => { error.remedy.apply(); form.requestSubmit(); }, { kind: "small danger" }));
}

/**
 * An `act` that edits the policy: `send(form, more)` gets `expected_version`, and `update_tests` once somebody has
 * agreed to what the file's tests forbid. After a conflict `current()` says the version to press again for.
 */
export function editing(version, current, send) {
  let seen = version;
  let updating = false;
  return async (form) => {
    try {
      return await send(form, { expected_version: seen || undefined, ...(updating ? { update_tests: true } : {}) });
    } catch (error) {
      if (error.status === 409) {
        seen = await current();
        error.message = "Somebody changed the policy while this was open. Press again to make the edit in the new version.";
      }
      if (error.code === "forbidden_by_test") error.remedy = { label: error.fields.length === 1 ? "Change that test as well" : "Change those tests as well", apply: () => { updating = true; } };
      throw error;
    } finally {
      updating = false;
    }
  };
}

/** A labelled field; `input` gets the id. */
export function field(label, input, help = "") {
  const id = `field-${++serial}`;
  input.id = id;
  const note = help ? h("small", { id: `${id}-help`, class: "quiet" }, help) : null;
  if (note) input.setAttribute("aria-describedby", note.id);
  return h("p", { class: "field" }, h("label", { for: id }, label), input, note);
}

/** Radio buttons in a row: `options` are [value, label]. */
export function choice(legend, name, options, chosen) {
  const radios = options.map(([value, label]) =>
    h("label", { class: "option" }, h("input", { type: "radio", name, value, checked: value === chosen }), h("span", {}, label)));
  return h("fieldset", { class: "choice" }, h("legend", {}, legend), h("div", { class: "options" }, radios));
}

export const reasonField = (help = "It is recorded.") => field("Reason", h("input", { name: "reason", maxlength: 200, autocomplete: "off" }), help);

const LENGTHS = [["5m", "5 min"], ["30m", "30 min"], ["2h", "2 h"], ["1d", "1 day"]];

/** How long, with a field for a length of one's own; `more` are further options. `lengthOf` reads it. */
export function lengths(legend, more, chosen) {
  const other = field("Other length", h("input", { name: "other", autocomplete: "off", placeholder: "45s, 10m, 3h, 2d", maxlength: 12 }));
  const options = choice(legend, "for", [...LENGTHS, ...more, ["other", "Other"]], chosen);
  const sync = () => {
    other.hidden = options.querySelector(":checked")?.value !== "other";
    other.querySelector("input").required = !other.hidden;
  };
  options.addEventListener("change", sync);
  sync();
  return [options, other];
}

/** `30m`; "" for no end. */
export function lengthOf(form) {
  const data = new FormData(form);
  return data.get("for") === "other" ? data.get("other").trim() : data.get("for") ?? "";
}

/** How long, how often, and why: the terms of a rule. `termsOf` reads them; `unset` is what no length means. */
export function terms(duration, uses = "", unset = "No end") {
  return [
    ...lengths("For how long", [["", unset]], duration),
    h("div", { class: "pair" },
      field("Most uses", h("input", { name: "uses", type: "number", min: 1, max: 1_000_000, step: 1, inputmode: "numeric", value: uses }), "Empty: any number."),
      reasonField()),
  ];
}

/** `{for, uses, reason}` without what is not set. */
export function termsOf(form) {
  const data = new FormData(form);
  const made = { for: lengthOf(form) || null, uses: data.get("uses") ? Number(data.get("uses")) : null, reason: data.get("reason").trim() };
  return Object.fromEntries(Object.entries(made).filter(([, value]) => value !== null && value !== ""));
}
