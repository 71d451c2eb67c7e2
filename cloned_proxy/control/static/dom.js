// Elements from values. Text only ever becomes text nodes: nothing here, or anywhere else, parses markup.

/** An element; attributes that are null or false are left out, `onclick: f` listens, `value` and the like are properties. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (["value", "checked", "selected", "disabled"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...kept(children));
  return element;
}

function kept(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** A button that does something on this page. `act` names it among its siblings, so that focus finds it again. */
export function button(label, act, onclick, { kind = "", about = "" } = {}) {
  return h("button", { type: "button", class: kind, "data-act": act, onclick }, label, about && h("span", { class: "unseen" }, ` ${about}`));
}

/** A button that shows and hides `region`, which `fill` makes when it is first looked at. */
export function disclosure(label, act, region, fill, { about = "" } = {}) {
  const toggle = button(label, act, () => {
    if (!region.childElementCount) region.append(...kept([fill()]));
    region.hidden = !region.hidden;
    toggle.setAttribute("aria-expanded", String(!region.hidden));
  }, { kind: "small plain", about });
  region.hidden = true;
  toggle.setAttribute("aria-expanded", "false");
  return toggle;
}

const prints = new WeakMap();

/** Makes the children of `parent` show `items`: what did not change stays, and so do focus and opened details. */
export function reconcile(parent, items, keyOf, render) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let next = parent.firstElementChild;
  let heir = null;
  for (const item of items) {
    const key = String(keyOf(item));
    const had = old.get(key);
    const node = unchanged(had, item) ?? fresh(render(item), key, item, had);
    old.delete(key);
    if (had && had !== node) {
      if (focused && had.contains(focused)) heir = counterpart(node, focused);
      if (had === next) next = next.nextElementSibling;
      had.remove();
    }
    if (node === next) next = next.nextElementSibling;
    else parent.insertBefore(node, next);
  }
  for (const gone of old.values()) gone.remove();
  if (focused && document.activeElement !== focused) (focused.isConnected ? focused : heir)?.focus({ preventScroll: true });
}

function unchanged(node, item) {
  return node && prints.get(node) === JSON.stringify(item) ? node : null;
}

function fresh(node, key, item, had) {
  node.dataset.key = key;
  prints.set(node, JSON.stringify(item));
  if (had?.querySelector("details[open]")) node.querySelector("details")?.setAttribute("open", "");
  for (const opened of had?.querySelectorAll("[aria-expanded=true]") ?? []) counterpart(node, opened)?.click();
  return node;
}

function counterpart(node, focused) {
  if (focused.localName === "summary") return node.querySelector("summary");
  const act = focused.dataset.act;
  return act ? node.querySelector(`[data-act="${CSS.escape(act)}"]`) : null;
}

let speaking = 0;
let waiting = "";

/** Tells a screen reader, politely and at most every five seconds: the newest text wins. */
export function speak(text) {
  waiting = text;
  if (speaking) return;
  document.getElementById("spoken").textContent = waiting;
  waiting = "";
  speaking = setTimeout(() => {
    speaking = 0;
    if (waiting) speak(waiting);
  }, 5000);
}

/** A short message in the bar at the top, where no button is; it is spoken, too. The newest replaces the one before. */
export function toast(text, kind = "done") {
  const shown = h("p", { class: `toast ${kind}`, title: text }, text);
  document.getElementById("toasts").replaceChildren(shown);
  setTimeout(() => shown.remove(), 8000);
}

/** What stands where nothing is: one sentence that says so, and one that says what to do. */
export function empty(title, ...more) {
  return h("div", { class: "empty" }, h("p", {}, h("strong", {}, title)), more.map((line) => h("p", { class: "quiet" }, line)));
}

/** A command to copy, with its button. */
export function command(text) {
  const copy = button("Copy", "copy", async () => {
    await navigator.clipboard.writeText(text).then(() => toast("Copied."), () => toast("The browser refused to copy.", "bad"));
  }, { kind: "small", about: `the command ${text}` });
  return h("span", { class: "copy" }, h("code", { class: "command" }, text), copy);
}
