// Refreshes the page in place: fetches it again and replaces the parts that changed. All content comes from
// the server, so that a browser without scripts shows the same.

const EVERY = 2000;

let failures = 0;
let shown = new Date();

async function refresh() {
  try {
    const response = await fetch(location.pathname, { cache: "no-store", redirect: "manual" });
    if (response.type === "opaqueredirect" || response.status === 401) return location.reload();
    if (!response.ok) throw new Error(response.statusText);
    const next = new DOMParser().parseFromString(await response.text(), "text/html");
    document.title = next.title;
    replaceIcon(next);
    for (const part of next.querySelectorAll("[data-live]")) replace(part);
    failures = 0;
    shown = new Date();
  } catch {
    failures += 1;
  }
  report();
}

// Leaves a part alone that is the same, so that a screen reader announces changes only, and a part that is
// in use keeps its focus and selection.
function replace(part) {
  const old = document.getElementById(part.id);
  if (!old || old.isEqualNode(part)) return;
  const focused = old.contains(document.activeElement) && old !== document.activeElement;
  const selection = document.getSelection();
  const selected = !selection.isCollapsed && old.contains(selection.anchorNode);
  if (focused || selected) return;
  if (part.getAttribute("role") === "status") {
    // A live region must stay in the document to be announced.
    old.className = part.className;
    old.replaceChildren(...part.childNodes);
  } else {
    old.replaceWith(part);
  }
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
