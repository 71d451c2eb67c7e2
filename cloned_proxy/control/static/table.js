// Rows of one kind: a table that a narrow window shows as cards, with roles that survive it.

import { h, reconcile } from "./dom.js";

/** `columns`: {label, cell: (item) => node or text, kind}. `show(items)` draws; `element` is what goes on the page. */
export function table(caption, columns, keyOf) {
  const body = h("tbody", { role: "rowgroup" });
  const heads = columns.map(({ label, kind }) => h("th", { role: "columnheader", scope: "col", class: kind }, label || h("span", { class: "unseen" }, "Actions")));
  const element = h(
    "table",
    { role: "table", class: "records" },
    h("caption", { class: "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
    body,
  );
  const row = (item) => h("tr", { role: "row" }, columns.map(({ label, cell, kind }) => h("td", { role: "cell", class: kind, "data-label": label }, h("div", {}, cell(item)))));
  return { element, body, show: (items) => reconcile(body, items, keyOf, row) };
}

/** Shows either the table or what stands in for an empty one. */
export function orEmpty(place, list, items, nothing) {
  if (!items.length) {
    place.replaceChildren(nothing());
    return;
  }
  if (list.element.parentNode !== place) place.replaceChildren(list.element);
  list.show(items);
}
