// The browsers and programs that may use this page and its API.

import { get, remove } from "./api.js";
import { ask } from "./dialogs.js";
import { button, command, empty, h } from "./dom.js";
import { ago, until, visible } from "./format.js";
import { orEmpty, table } from "./table.js";

export const devices = { title: "Devices", open };

function open(place) {
  const rows = h("div", {});
  place.append(h("div", { class: "intro" }, h("p", { class: "quiet" }, "Who may use this page and its API. To pair another one:"), command("cloned-proxy pair")), rows);
  const list = table("Paired devices", [
    { label: "Name", cell: (device) => [h("strong", {}, visible(device.name)), device.current ? [" ", h("span", { class: "badge ok" }, "this browser")] : ""] },
    { label: "Kind", cell: (device) => visible(device.kind) },
    { label: "Paired", cell: (device) => ago(device.created) },
    { label: "Last seen", cell: (device) => ago(device.seen) },
    { label: "Ends", cell: (device) => (device.expires ? until(device.expires) : "no end") },
    { label: "", kind: "act", cell: (device) => button("Revoke", "revoke", () => revoke(device), { kind: "small danger", about: visible(device.name) }) },
  ], ({ id }) => id);

  async function load() {
    const { items } = await get("/devices");
    orEmpty(rows, list, items, () => empty("No device is paired."));
  }

  async function revoke(device) {
    const done = await ask({
      title: `Revoke ${visible(device.name)}`,
      body: [h("p", {}, device.current ? "This is the browser in front of you: it must be paired again." : "It can do nothing from now on. To come back it must be paired again.")],
      label: "Revoke",
      kind: "danger",
      done: "Revoked.",
      act: () => remove(`/devices/${encodeURIComponent(device.id)}`).then(() => undefined),
    });
    if (!done) return;
    if (device.current) location.replace("/pair");
    else await load();
  }

  return { load, on: (kind) => { if (kind === "device") load().catch(() => {}); } };
}
