// Exchanges the one-time code for a session of this browser.

import { post } from "./api.js";

const form = document.getElementById("pair");
const problem = document.getElementById("problem");
const code = document.getElementById("code");
const name = document.getElementById("name");
const submit = form.querySelector("button");

name.value = `Browser on ${navigator.userAgentData?.platform || navigator.platform.split(" ")[0] || "this computer"}`;

// A link of `cloned-proxy pair` carries the code behind the #, which no browser sends. It goes from the address at once,
// and so from the history and the bookmarks.
const carried = new URLSearchParams(location.hash.slice(1)).get("code");
if (location.hash) history.replaceState(null, "", location.pathname);
if (carried) {
  code.value = carried.slice(0, code.maxLength);
  submit.focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.textContent = "";
  submit.disabled = true;
  try {
    await post("/pair", { code: code.value.trim(), name: name.value.trim() });
    location.replace("/");
  } catch (error) {
    problem.textContent = explain(error);
    submit.disabled = false;
    code.select();
    code.focus();
  }
});

function explain(error) {
  if (error.status === 429) return `Too many wrong codes: pairing is locked${error.wait ? ` for ${Math.ceil(error.wait)} s` : ""}. ${error.message}`;
  if (error.status === 401 || error.status === 403) return "This code is wrong, was used, or has expired. Print a new one: cloned-proxy pair";
  return error.fields?.length ? error.fields.map((field) => `${field.path}: ${field.message}`).join("; ") : error.message;
}
