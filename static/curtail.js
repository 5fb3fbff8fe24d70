// Conveniences only: every page works without this file.
"use strict";

// A treatment shows the parameters of the policy that is chosen.
document.addEventListener("change", (event) => {
  const select = event.target;
  if (select.matches("select[data-panels]")) {
    for (const panel of select.closest("fieldset").querySelectorAll("[data-panel]")) {
      panel.toggleAttribute("data-open", panel.dataset.panel === select.value);
    }
  } else if (select.matches("#new select[name=use_case]")) {
    redraw(select.form, null, "refresh");
  }
});

// Buttons that only change the form: the server draws it anew, the page keeps its place.
document.addEventListener("submit", (event) => {
  if (event.submitter?.matches("[data-partial]")) {
    event.preventDefault();
    redraw(event.target, event.submitter, event.submitter.name);
  }
});

async function redraw(form, button, name) {
  const data = new FormData(form);
  data.set(name, button?.value ?? "1");
  form.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(form.getAttribute("action"), { method: "POST", body: data });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.getElementById(form.id);
    if (!response.ok || !fresh) throw new Error(`status ${response.status}`);
    form.replaceWith(fresh);
    const keys = fresh.querySelectorAll(".treatment input[name$=-key]");
    const target = button?.dataset.focus === "last" ? keys[keys.length - 1] : fresh.querySelector("#" + (button?.id || "id_use_case"));
    (target ?? fresh.querySelector("#even")).focus({ preventScroll: button?.dataset.focus !== "last" });
  } catch {
    form.removeAttribute("aria-busy");
    const hidden = Object.assign(document.createElement("input"), { type: "hidden", name, value: button?.value ?? "1" });
    form.append(hidden);
    form.submit();
  }
}

// A look was asked for: show it when it is stored, stop asking after a minute.
const awaited = document.querySelector("[data-awaits]");
if (awaited) {
  let left = 60;
  const timer = setInterval(async () => {
    const response = await fetch(awaited.dataset.awaits).catch(() => null);
    const newest = response?.ok ? (await response.json()).snapshot : null;
    if (newest !== null && String(newest) !== awaited.dataset.newest) {
      clearInterval(timer);
      location.replace(location.pathname);
    } else if (--left === 0) {
      clearInterval(timer);
      awaited.textContent = "No new look within a minute: is a background worker running? Reload to see.";
    }
  }, 1000);
}

// Times in the reader's zone; the exact one stays on hover.
for (const time of document.querySelectorAll("time[datetime]")) {
  const at = new Date(time.dateTime);
  time.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}
