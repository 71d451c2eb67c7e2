// Exchanges the one-time code for a session of this browser.

import { post } from "./api.js";

const form = document.getElementById("pair");
const problem = document.getElementById("problem");
const code = document.getElementById("code");
const name = document.getElementById("name");
const submit = form.querySelector("button");

name.value = `Browser on ${navigator.userAgentData?.platform || navigator.platform.split(" ")[0] || "this computer"}`;

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
