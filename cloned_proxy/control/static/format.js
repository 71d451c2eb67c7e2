// Numbers, times and foreign text as a person reads them.

import { h } from "./dom.js";

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const wholes = new Intl.NumberFormat();

export const now = () => Date.now() / 1000;
export const number = (value) => wholes.format(value ?? 0);
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** `45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`: never more than two units. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < MINUTE) return `${whole} s`;
  if (whole < HOUR) return `${Math.floor(whole / MINUTE)} min${whole < 10 * MINUTE && whole % MINUTE ? ` ${whole % MINUTE} s` : ""}`;
  if (whole < DAY) return pair(Math.floor(whole / HOUR), "h", Math.floor((whole % HOUR) / MINUTE), "min");
  return pair(Math.floor(whole / DAY), "d", Math.floor((whole % DAY) / HOUR), "h");
}

const pair = (large, unit, small, part) => `${large} ${unit}${small ? ` ${small} ${part}` : ""}`;

export function bytes(count) {
  let value = count ?? 0;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return `${value < 10 && unit !== "B" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} TiB`;
}

export const took = (seconds) => (seconds < 10 ? `${(seconds ?? 0).toFixed(1)} s` : duration(seconds));

const past = (at) => {
  const age = now() - at;
  return age < 2 ? "just now" : `${duration(age < HOUR && age >= MINUTE ? age - (age % MINUTE) : age)} ago`;
};
const future = (at) => {
  const left = at - now();
  return left <= 0 ? "expired" : `${duration(left)} left`;
};

/** A time that keeps itself relative; the absolute one is its title. */
export function ago(at) {
  return time(at, "past", past);
}

export function until(at) {
  return time(at, "future", future);
}

function time(at, tense, words) {
  if (!at) return h("span", { class: "quiet" }, "never");
  const date = new Date(at * 1000);
  return h("time", { datetime: date.toISOString(), title: clock.format(date), "data-at": at, "data-tense": tense }, words(at));
}

export const absolute = (at) => clock.format(new Date(at * 1000));

function tick() {
  for (const element of document.querySelectorAll("time[data-at]")) {
    const text = (element.dataset.tense === "past" ? past : future)(Number(element.dataset.at));
    if (element.textContent !== text) element.textContent = text;
  }
}
setInterval(tick, 1000);

// Control, format (bidirectional overrides among them), surrogate, private and unassigned characters, and odd spaces.
const INVISIBLE = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;
const BEYOND_ASCII = /[^\x20-\x7e]/gu;
const escaped = (character) => `\\u{${character.codePointAt(0).toString(16)}}`;

/** Text of a stranger: what cannot be seen, or turns the line round, stands as `\u{202e}`. */
export const visible = (text) => String(text ?? "").replace(INVISIBLE, escaped);

/** A host or path of a stranger. The canonical ones are ASCII, so whatever else is in it stands escaped: no look-alikes. */
export const plain = (text) => String(text ?? "").replace(BEYOND_ASCII, escaped);

/** `host`, with the port where it is not the one of https or http. */
export function authority(host, port) {
  if (!host) return "(no readable host)";
  if (host === "_other") return "(further hosts)";
  const name = plain(host);
  const written = name.includes(":") && !name.startsWith("[") ? `[${name}]` : name;
  return port && port !== 443 && port !== 80 ? `${written}:${port}` : written;
}

export const hostname = (host, port) => h("bdi", { class: "host", dir: "ltr" }, authority(host, port));
/** May be broken after its dots, as long names are. */
export const toolname = (tool) => (tool ? h("bdi", { class: "tool", dir: "ltr" }, visible(tool).split(/(?<=[.@])/u).map((part) => [part, h("wbr")])) : h("span", { class: "tool" }, "no tool (anonymous)"));

const MARKS = { allow: "✓", deny: "✕", report: "◐", ok: "✓", bad: "✕", warn: "!", unknown: "?" };

/** A mark and a word: colour only repeats what they say. */
export function badge(kind, word) {
  return h("span", { class: `badge ${kind}` }, h("span", { "aria-hidden": "true" }, MARKS[kind] ?? "•"), ` ${word}`);
}

const VERDICTS = { allow: "allowed", deny: "denied", report: "reported" };
export const verdict = (word) => badge(word in VERDICTS ? word : "unknown", VERDICTS[word] ?? visible(word));
