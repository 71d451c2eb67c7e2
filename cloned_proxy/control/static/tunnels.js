// The open tunnels, and a way to cut one.

import { get, post } from "./api.js";
import { button, empty, h, toast } from "./dom.js";
import { ago, authority, badge, bytes, hostname, toolname, visible } from "./format.js";
import { orEmpty, table } from "./table.js";

const size = (count) => (count === null ? "per request" : bytes(count));
const EVERY = 3000; // milliseconds

export const tunnels = { title: "Tunnels", open };

function open(place) {
  const rows = h("div", {});
  place.append(h("p", { class: "quiet" }, "Connections that a rule opened. A cut ends one at once; the rule stays, so the tool may connect again."), rows);
  const list = table("Open tunnels", [
    { label: "Host", cell: (tunnel) => [hostname(tunnel.host, tunnel.port), tunnel.inspected ? [" ", badge("report", "TLS opened")] : ""] },
    { label: "Tool", cell: (tunnel) => toolname(tunnel.tool) },
    { label: "Open since", cell: (tunnel) => ago(tunnel.since) },
    { label: "Sent", kind: "number", cell: (tunnel) => size(tunnel.bytes_up) },
    { label: "Received", kind: "number", cell: (tunnel) => size(tunnel.bytes_down) },
    { label: "Rule", cell: (tunnel) => h("span", { class: "mono quiet whole" }, visible(tunnel.rule)) },
    { label: "", kind: "act", cell: (tunnel) => button("Cut", "cut", () => cut(tunnel), { kind: "small danger", about: `the tunnel to ${authority(tunnel.host, tunnel.port)}` }) },
  ], ({ id }) => id);
  const timer = setInterval(() => { if (!document.hidden) load().catch(() => {}); }, EVERY);

  async function load() {
    const { items } = await get("/tunnels");
    orEmpty(rows, list, items, () => empty("No tunnel is open.", "A tool that talks HTTPS through the proxy appears here while its connection lasts."));
  }

  async function cut(tunnel) {
    try {
      await post(`/tunnels/${encodeURIComponent(tunnel.id)}/cut`);
      toast(`Cut: ${authority(tunnel.host, tunnel.port)}`);
    } catch (error) {
      toast(error.status === 404 ? "It was closed already." : error.message, error.status === 404 ? "done" : "bad");
    }
    await load().catch(() => {});
    if (!document.activeElement || document.activeElement === document.body) document.querySelector("main h1")?.focus();
  }

  return { load, close: () => clearInterval(timer) };
}
