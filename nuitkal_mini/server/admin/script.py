"""The script; every page works without it.

It shows times in the browser's zone, filters a list while the user types, takes dropped files,
shows the progress of an upload, and copies text.
"""

from __future__ import annotations

import hashlib

TYPE = "text/javascript; charset=utf-8"
BODY = rb"""
"use strict";
const all = (selector) => document.querySelectorAll(selector);

for (const time of all("time")) {
  const format = {dateStyle: "medium", timeStyle: "short"};
  time.textContent = new Date(time.dateTime).toLocaleString(document.documentElement.lang, format);
}

const channel = document.querySelector("header form.channel");
if (channel) {
  channel.querySelector("button").hidden = true;
  channel.querySelector("select").addEventListener("change", () => channel.submit());
}

// What is on the page is filtered at once; the button asks the server for all the rest.
for (const input of all("input[data-filter]")) {
  input.addEventListener("input", () => {
    const words = input.value.trim().toLowerCase();
    for (const row of all("#" + input.dataset.filter + " tbody tr")) {
      row.hidden = !row.textContent.toLowerCase().includes(words);
    }
  });
}

for (const place of all(".copy")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = document.documentElement.lang === "en" ? "Copy" : "\u590d\u5236";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(place.querySelector("code").textContent);
      button.textContent = "\u2713";
    } catch {  // not over plain http
      getSelection().selectAllChildren(place.querySelector("code"));
    }
  });
  place.after(button);
}

const form = document.getElementById("upload");
if (form) {
  const drop = form.querySelector(".drop"), file = form.elements.file;
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    });
  }
  addEventListener("drop", (event) => {
    if (event.dataTransfer.files.length) file.files = event.dataTransfer.files;
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); send(form); });
}

function send(form) {
  const request = new XMLHttpRequest();
  const bar = form.querySelector("progress"), said = form.querySelector("output");
  const button = form.querySelector("[type=submit]");
  request.upload.addEventListener("progress", (event) => {
    bar.value = event.loaded / event.total;
    said.textContent = event.loaded < event.total ? Math.floor(100 * bar.value) + " %" : "\u2026";
  });
  request.addEventListener("loadend", () => {
    if (request.status === 200) { location.assign(request.responseURL); return; }
    bar.hidden = true;
    button.disabled = false;
    said.textContent = "";
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    const error = page.querySelector(".error");
    for (const old of all(".error")) old.remove();
    const shown = document.createElement("p");
    shown.className = "error";
    shown.setAttribute("role", "alert");
    const failure = request.status ? "HTTP " + request.status : form.dataset.broken;
    shown.textContent = error ? error.textContent : failure;
    form.before(shown);
    shown.scrollIntoView({block: "center"});
  });
  bar.hidden = false;
  bar.value = 0;
  button.disabled = true;
  request.open("POST", form.action);
  request.setRequestHeader("X-Requested-With", "XMLHttpRequest");
  request.send(new FormData(form));
}
"""
NAME = f"static/{hashlib.sha256(BODY).hexdigest()[:12]}.js"
