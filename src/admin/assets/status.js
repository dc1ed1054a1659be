// Refreshes the page in place: fetches it again and replaces the parts that changed. All content comes from
// the server, so that a browser without scripts shows the same.

const EVERY = 2000;

let failures = 0;
let shown = new Date();
let announced = sentenceOf(document).words;

async function refresh() {
  try {
    const response = await fetch(location.pathname, { cache: "no-store", redirect: "manual" });
    if (response.type === "opaqueredirect" || response.status === 401) return location.reload();
    if (!response.ok) throw new Error(response.statusText);
    const next = new DOMParser().parseFromString(await response.text(), "text/html");
    document.title = next.title;
    replaceIcon(next);
    announce(next);
    for (const part of next.querySelectorAll("[data-live]")) replace(part);
    failures = 0;
    shown = new Date();
  } catch {
    failures += 1;
  }
  report();
}

// Leaves a part alone that is the same or has the selection. The table with the focus is found again by its
// label.
function replace(part) {
  const old = document.getElementById(part.id);
  if (!old || old.isEqualNode(part)) return;
  const selection = document.getSelection();
  const selected = !selection.isCollapsed && old.contains(selection.anchorNode);
  const active = document.activeElement;
  const focused = old !== active && old.contains(active);
  const label = focused ? active.getAttribute("aria-label") : null;
  if (selected || (focused && label === null)) return;
  const left = active?.scrollLeft ?? 0;
  old.replaceWith(part);
  const again = focused ? part.querySelector(`[aria-label="${CSS.escape(label)}"]`) : null;
  if (!again) return;
  again.focus({ preventScroll: true });
  again.scrollLeft = left;
}

// Without numbers, so that a growing time is not announced again.
function sentenceOf(page) {
  const sentence = page.querySelector("#verdict h1")?.textContent ?? "";
  return { sentence, words: sentence.replace(/[\d.,]+/g, "") };
}

function announce(page) {
  const { sentence, words } = sentenceOf(page);
  if (words !== announced) document.getElementById("announcement").textContent = sentence;
  announced = words;
}

function replaceIcon(next) {
  const [old, icon] = [document, next].map((page) => page.querySelector("link[rel=icon]"));
  if (old && icon && old.getAttribute("href") !== icon.getAttribute("href")) old.replaceWith(icon);
}

function report() {
  const line = document.getElementById("connection");
  if (!line) return;
  const lost = failures > 1;
  line.hidden = !lost;
  if (lost) {
    line.textContent = `The service does not answer. This page shows its state of ${shown.toLocaleTimeString()}.`;
  }
}

async function run() {
  if (!document.hidden) await refresh();
  setTimeout(run, EVERY);
}

document.addEventListener("visibilitychange", () => document.hidden || refresh());
setTimeout(run, EVERY);
