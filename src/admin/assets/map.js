// Joins the content of the map, its drawing, the selection, the search and the tables.

import { MapState, health } from "./map-state.js";
import { MapView } from "./map-view.js";

const TABLE_MS = 5000;
const HASH_MS = 300;
const LISTED = 100;

const byId = (id) => document.getElementById(id);
const state = new MapState();
let view = null;
let needle = byId("map-q").value.trim().toLowerCase();
let isTableDue = false;
let hashTimer = 0;
let question = 0;

/** Creates an element with properties and children. */
function element(name, properties = {}, ...children) {
  const created = Object.assign(document.createElement(name), properties);
  created.append(...children.filter((child) => child !== null));
  return created;
}

function time(millis) {
  if (millis === null || millis === undefined) return "–";
  const at = new Date(millis);
  return element("time", { dateTime: at.toISOString(), title: at.toISOString() }, at.toLocaleString());
}

function seconds(millis) {
  const age = Math.max(0, Math.round((Date.now() - millis) / 1000));
  if (age < 120) return `${age} s`;
  return age < 7200 ? `${Math.round(age / 60)} min` : `${Math.round(age / 3600)} h`;
}

// --- search -----------------------------------------------------------------------------------------

function matches(item) {
  const place = state.places.get(item.board);
  const parts = [item.uid, item.product, item.location, item.board, place?.shelf, place?.furniture];
  return parts.some((part) => part?.toLowerCase().includes(needle));
}

function search(isMoving) {
  const found = needle === "" ? null : [...state.items.values()].filter(matches);
  view.found = found && new Set(found.map((item) => item.uid));
  if (!found) byId("map-found").textContent = "";
  else {
    const boards = new Set(found.map((item) => item.board)).size;
    const text = found.length === 0
      ? "Nothing on any board matches."
      : `${found.length} ${found.length === 1 ? "item" : "items"} on ${boards} ${boards === 1 ? "board" : "boards"}`;
    if (byId("map-found").textContent !== text) byId("map-found").textContent = text;
  }
  if (isMoving && found?.length > 0) {
    if (found.length === 1) select({ uid: found[0].uid, board: found[0].board }, true);
    else if (new Set(found.map((item) => item.board)).size === 1) view.goToBoard(found[0].board);
    else view.fit();
  } else if (isMoving && found && /^[0-9a-f]{8,}$/i.test(needle)) {
    select({ uid: byId("map-q").value.trim() }, false);
  }
  view.draw();
}

// --- selection --------------------------------------------------------------------------------------

function select(selected, isMoving) {
  view.selected = selected;
  if (selected && isMoving) view.goToBoard(selected.board ?? state.items.get(selected.uid)?.board);
  showSelection();
  if (selected?.uid) showHistory(selected.uid);
  writeHash();
  view.draw();
}

function facts(rows) {
  const list = element("dl", { className: "map-facts" });
  for (const [name, value] of rows) list.append(element("dt", {}, name), element("dd", {}, value ?? "–"));
  return list;
}

function boardFacts(sn) {
  const mark = state.boards.get(sn);
  const place = state.places.get(sn);
  const [glance, word] = health(mark);
  return facts([
    ["Health", element("span", { className: `badge ${glance}` }, word)],
    ["Shelf", place?.shelf], ["Furniture", place?.furniture || null],
    ["Status since", time(mark?.status_at)], ["Last item event", time(mark?.last_item_at)],
    ["Firmware", mark?.fw_version],
  ]);
}

function button(text, selected) {
  const created = element("button", { type: "button", className: "link" }, text);
  created.addEventListener("click", () => select(selected, true));
  return created;
}

function itemsOn(board) {
  return [...state.items.values()].filter((item) => item.board === board);
}

function showSelection() {
  const selection = byId("map-selection");
  const { uid, board } = view.selected ?? {};
  byId("map-detail").classList.toggle("selected", Boolean(view.selected));
  if (uid) {
    const item = state.items.get(uid);
    const position = item && item.x !== null ? `${item.x}, ${item.y} mm` : "not known";
    selection.replaceChildren(
      element("h2", { className: "wrap" }, `Item ${uid}`),
      item
        ? facts([
          ["Board", button(item.board, { board: item.board })], ["Position", position],
          ["Product", item.product], ["Location", item.location],
          ["On board since", time(item.enteredAt)], ["Last event", time(item.movedAt)],
        ])
        : element("p", {}, "On no board now."),
      element("div", { id: "map-history" }),
    );
  } else if (board) {
    const items = itemsOn(board);
    items.sort((a, b) => (a.uid < b.uid ? -1 : 1));
    const focused = selection.contains(document.activeElement) ? document.activeElement.textContent : null;
    const lines = items.slice(0, LISTED).map((item) =>
      element("li", {}, button(item.uid, { uid: item.uid, board }), item.product ? ` ${item.product}` : ""));
    selection.replaceChildren(
      element("h2", { className: "wrap" }, `Board ${board}`), boardFacts(board),
      element("h3", {}, `Items (${items.length})`), element("ul", { className: "map-list" }, ...lines),
      items.length > LISTED ? element("p", { className: "muted" }, `The first ${LISTED} are listed.`) : "",
    );
    if (focused) [...selection.querySelectorAll("button")].find((each) => each.textContent === focused)?.focus({ preventScroll: true });
  } else {
    selection.replaceChildren(element("p", { className: "muted" }, "Select an item or a board to see more."));
  }
}

async function showHistory(uid) {
  question += 1;
  const asked = question;
  let lists;
  try {
    const response = await fetch(`api/map/item?uid=${encodeURIComponent(uid)}`);
    if (!response.ok) throw new Error(await response.text());
    const { stays, moves } = await response.json();
    const stay = (line) => element("li", {}, line.board ?? "no board", ": ", time(line.entered_at), " – ",
      line.left_at === null ? "now" : time(line.left_at));
    const move = (line) => element("li", {}, time(line.at),
      line.is_in ? ` on ${line.board ?? "no board"}${line.x === null ? "" : ` at ${line.x}, ${line.y}`}` : ` left ${line.board ?? "no board"}`);
    lists = [
      element("h3", {}, "Last stays"), element("ul", { className: "map-list" }, ...stays.map(stay)),
      element("h3", {}, "Last moves"), element("ul", { className: "map-list" }, ...moves.map(move)),
    ];
    if (stays.length + moves.length === 0) lists = [element("p", {}, "No event of this tag is stored.")];
  } catch (error) {
    lists = [element("p", { className: "note" }, String(error.message ?? error))];
  }
  if (asked === question) byId("map-history")?.replaceChildren(...lists);
}

// --- tables, status, address ------------------------------------------------------------------------

/** Replaces the tables by those of the server. The form of the search is their query. */
async function refreshTables(address = location.search) {
  isTableDue = false;
  const response = await fetch(`map${address}`).catch(() => null);
  if (!response?.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const [before, after] = [byId("map-tables"), page.getElementById("map-tables")];
  const active = before.contains(document.activeElement) ? document.activeElement : null;
  const again = active?.matches("summary") ? "summary" : active?.matches("[href]") ? `[href="${CSS.escape(active.getAttribute("href"))}"]` : null;
  // An element that cannot be found again keeps the focus.
  if (!after || (active && !again)) return;
  const isOpen = before.querySelector("details")?.open;
  before.replaceWith(after);
  if (isOpen) after.querySelector("details").open = true;
  if (active) after.querySelector(again)?.focus({ preventScroll: true });
}

function showStatus() {
  const live = byId("map-live");
  const banner = byId("map-banner");
  const isStale = state.problem !== null || state.isAway;
  const since = state.readAt === null ? "" : ` This is the state of ${new Date(state.readAt).toLocaleString()}, ${seconds(state.readAt)} ago.`;
  const isWaiting = state.paused || state.readAt === null;
  live.className = `badge ${isStale ? "bad" : isWaiting ? "idle" : "good"}`;
  const word = isStale ? "Not live" : state.paused ? "Paused" : isWaiting ? "Loading" : "Live";
  if (live.textContent !== word) live.textContent = word;
  banner.hidden = !isStale;
  const text = state.isAway ? `The program does not answer.${since}` : `The database cannot be read.${since}`;
  if (isStale && banner.textContent !== text) banner.textContent = text;
  byId("map-stage").classList.toggle("stale", isStale);
  byId("map-empty").hidden = isStale || state.readAt === null || state.plan.boards.length > 0;
}

function showScale() {
  const { scale } = view.position;
  byId("map-scale").hidden = scale === 0;
  const lengths = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000];
  const length = lengths.findLast((mm) => mm * scale <= 140) ?? 10;
  byId("map-scale").style.width = `${length * scale}px`;
  byId("map-scale").textContent = length < 1000 ? `${length} mm` : `${length / 1000} m`;
}

function writeHash() {
  clearTimeout(hashTimer);
  hashTimer = setTimeout(() => {
    const { x, y, scale, fitted } = view.position;
    const parts = new URLSearchParams();
    if (!fitted) parts.set("at", `${x.toFixed(0)},${y.toFixed(0)},${scale.toPrecision(3)}`);
    if (view.selected?.uid) parts.set("item", view.selected.uid);
    else if (view.selected?.board) parts.set("board", view.selected.board);
    history.replaceState(null, "", `${location.pathname}${location.search}${parts.size ? `#${parts}` : ""}`);
  }, HASH_MS);
}

function readHash() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const at = parts.get("at")?.split(",").map(Number);
  if (at?.length === 3 && at.every(Number.isFinite)) view.goTo(...at);
  const [uid, board] = [parts.get("item"), parts.get("board")];
  if (uid) select({ uid, board: state.items.get(uid)?.board }, !at);
  else if (board) select({ board }, !at);
}

function start() {
  byId("map-app").hidden = false;
  byId("map-buttons").hidden = false;
  view = new MapView(byId("map-canvas"), state);
  let isFirst = true;
  let selectedText = "";
  state.addEventListener("change", ({ detail }) => {
    showStatus();
    if (!detail.content) return;
    isTableDue = true;
    view.contentChanged();
    if (needle !== "" || isFirst) search(isFirst);
    if (isFirst) readHash();
    isFirst = false;
    const { uid, board } = view.selected ?? {};
    const item = state.items.get(uid);
    const content = !uid && board ? itemsOn(board).map((other) => [other.uid, other.product]) : null;
    const text = JSON.stringify([item?.movedAt, item?.board, state.boards.get(board), content]);
    if (text !== selectedText) {
      selectedText = text;
      if (!view.selected?.uid) showSelection();
      else select(view.selected, false);
    }
  });
  view.addEventListener("select", ({ detail }) => select(detail, false));
  view.addEventListener("view", () => { showScale(); writeHash(); });
  byId("map-fit").addEventListener("click", () => view.fit());
  byId("map-in").addEventListener("click", () => view.zoom(1.5));
  byId("map-out").addEventListener("click", () => view.zoom(1 / 1.5));
  byId("map-pause").addEventListener("click", ({ target }) => {
    state.pause(!state.paused);
    target.setAttribute("aria-pressed", String(state.paused));
    target.textContent = state.paused ? "Continue" : "Pause";
  });
  byId("map-search").addEventListener("submit", (event) => {
    event.preventDefault();
    needle = byId("map-q").value.trim().toLowerCase();
    const query = needle === "" ? "" : `?${new URLSearchParams({ q: byId("map-q").value.trim() })}`;
    history.replaceState(null, "", `${location.pathname}${query}${location.hash}`);
    search(true);
    refreshTables();
  });
  byId("map-q").addEventListener("input", () => {
    needle = byId("map-q").value.trim().toLowerCase();
    search(false);
  });
  addEventListener("hashchange", readHash);
  setInterval(showStatus, 1000);
  setInterval(() => {
    const isSeen = !document.hidden && byId("map-tables").getBoundingClientRect().top < innerHeight;
    if (isTableDue && isSeen && !state.paused) refreshTables();
  }, TABLE_MS);
  showSelection();
  state.start();
}

start();
