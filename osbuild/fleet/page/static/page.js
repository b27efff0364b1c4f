// Makes pages follow the fleet, shows what a rollout would select, and how far an upload is. Each page is complete
// without it.
"use strict";

const main = document.querySelector("main");

// Returns the page that the server answers with; null if it does not answer, or this page is being left.
async function load(address, options) {
  try {
    const answer = await fetch(address, options);
    if (answer.redirected) location.reload(); // the session has ended
    return new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch {
    return null;
  }
}

// Replaces the parts of this page that differ on `page`, but no form in which somebody is. Returns whether all are new.
function replaceParts(page) {
  let complete = true;
  for (const part of document.querySelectorAll("[data-part]")) {
    const fresh = page.getElementById(part.id);
    if (!fresh || fresh.innerHTML === part.innerHTML) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    if (focused?.closest("form")) {
      complete = false;
      continue;
    }
    const address = focused?.getAttribute("href");
    part.replaceChildren(...fresh.childNodes);
    if (address) part.querySelector(`[href="${CSS.escape(address)}"]`)?.focus();
  }
  return complete;
}

function follow(address) {
  let source = null;
  let stale = false;
  const refresh = async () => {
    const page = await load(location.href);
    if (page) stale = !replaceParts(page);
  };
  // A browser has few connections to a server: pages that nobody sees need none.
  const connect = () => {
    source?.close();
    source = null;
    if (document.hidden) return;
    source = new EventSource(address);
    source.onmessage = refresh;
  };
  document.addEventListener("visibilitychange", () => {
    connect();
    if (!document.hidden) refresh();
  });
  document.addEventListener("focusout", () => {
    if (stale) setTimeout(refresh);
  });
  connect();
}

function preview(form) {
  let newest = 0;
  form.addEventListener("change", async () => {
    const turn = ++newest;
    const fields = new URLSearchParams(new FormData(form));
    fields.set("order", "preview");
    const page = await load(form.action, { method: "POST", body: fields });
    const fresh = page?.getElementById("preview");
    if (fresh && turn === newest) document.getElementById("preview").replaceChildren(...fresh.childNodes);
  });
}

function upload(form) {
  const box = form.querySelector("[data-progress]");
  const [bar, text] = [box.querySelector("progress"), box.querySelector("[role=status]")];
  form.addEventListener("submit", (event) => {
    const file = form.querySelector("input[type=file]").files[0];
    event.preventDefault();
    box.hidden = false;
    if (file.size > Number(form.dataset.upload)) {
      text.textContent = "This file is too large for the server.";
      return;
    }
    form.querySelector("button").disabled = true;
    const request = new XMLHttpRequest();
    request.responseType = "document";
    request.upload.onprogress = (progress) => {
      const percent = Math.trunc((100 * progress.loaded) / progress.total);
      bar.value = percent;
      text.textContent = percent < 100 ? `${percent} %` : "The server checks the signature…";
    };
    request.onload = () => {
      if (request.status === 200) {
        location.assign(request.responseURL);
        return;
      }
      main.replaceChildren(...request.response.querySelector("main").childNodes);
      start();
      main.focus();
    };
    request.onerror = () => {
      form.querySelector("button").disabled = false;
      text.textContent = "The connection has ended. Upload the file again.";
    };
    request.open("POST", form.action);
    request.send(new FormData(form));
  });
}

function start() {
  for (const form of document.querySelectorAll("form[data-preview]")) preview(form);
  for (const form of document.querySelectorAll("form[data-upload]")) upload(form);
}

if (main.dataset.live) follow(main.dataset.live);
start();
