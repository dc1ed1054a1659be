// Content of the map in the browser: the snapshot, and the stream of changes to it.

const RETRY_MS = 5000;
const SILENT_MS = 15000;

/** Returns the health of a board and its word. The page of the server has the same rule. */
export function health(mark) {
  const status = mark?.status ?? null;
  if (mark?.is_silent && (status === null || status === "CONNECTED")) return ["warn", "silent"];
  if (status === null) return ["idle", "no status"];
  if (status === "CONNECTED") return ["good", "connected"];
  const word = status.toLowerCase().replaceAll("_", " ").replace("onerror", "error");
  return [status === "DEGRADED" || status === "MAINTENANCE" ? "warn" : "bad", word];
}

/** Returns a number from 0 to 1 that follows from a text. */
function fraction(text, seed) {
  let hash = seed;
  for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 16777619);
  return (hash >>> 8) / 16777216;
}

export class MapState extends EventTarget {
  plan = { w: 0, h: 0, furniture: [], shelves: [], boards: [], locations: [], storeys: [] };
  places = new Map();
  boards = new Map();
  items = new Map();
  readAt = null;
  problem = null;
  heardAt = 0;
  paused = false;
  #id = null;
  #source = null;

  /** Loads the snapshot and follows the changes. */
  async start() {
    this.#source?.close();
    try {
      const response = await fetch("api/map");
      if (!response.ok) throw new Error(await response.text());
      const snapshot = await response.json();
      this.#load(snapshot);
    } catch (error) {
      this.problem = this.readAt === null ? String(error.message ?? error) : this.problem;
      this.#changed(false);
      setTimeout(() => this.start(), RETRY_MS);
      return;
    }
    this.#follow();
  }

  pause(paused) {
    this.paused = paused;
    if (paused) this.#source?.close();
    else this.#follow();
    this.#changed(false);
  }

  /** True while nothing was heard of the program for a while. */
  get isAway() {
    return !this.paused && this.heardAt > 0 && Date.now() - this.heardAt > SILENT_MS;
  }

  #load(snapshot) {
    this.boards = new Map(Object.entries(snapshot.boards));
    this.items.clear();
    this.#setPlan(snapshot.plan);
    for (const line of snapshot.items) this.#setItem(line, false);
    this.#id = snapshot.id;
    this.#note(snapshot);
    this.#changed(true);
  }

  #follow() {
    this.#source?.close();
    const source = new EventSource(`api/map/events?since=${encodeURIComponent(this.#id)}`);
    this.#source = source;
    source.addEventListener("delta", (event) => {
      this.#id = event.lastEventId;
      this.#apply(JSON.parse(event.data));
    });
    source.addEventListener("beat", (event) => {
      this.#note(JSON.parse(event.data));
      this.#changed(false);
    });
    source.addEventListener("reset", () => this.start());
    source.addEventListener("error", () => {
      if (source.readyState !== EventSource.CLOSED || this.paused) return;
      setTimeout(() => { if (this.#source === source) this.start(); }, RETRY_MS);
    });
  }

  #note(status) {
    this.readAt = status.read_at ?? this.readAt;
    this.problem = status.problem ?? null;
    this.heardAt = Date.now();
  }

  #apply(delta) {
    if (delta.plan) this.#setPlan(delta.plan);
    for (const [sn, mark] of Object.entries(delta.boards ?? {})) {
      if (mark) this.boards.set(sn, mark);
      else this.boards.delete(sn);
    }
    for (const uid of delta.gone ?? []) this.items.delete(uid);
    for (const line of delta.items ?? []) this.#setItem(line, true);
    this.#note(delta);
    this.#changed(Boolean(delta.plan || delta.boards || delta.gone || delta.items));
  }

  #setPlan(plan) {
    this.plan = plan;
    this.places = new Map();
    for (const board of plan.boards) {
      const angle = (board.r * Math.PI) / 180;
      this.places.set(board.sn, { ...board, cos: Math.cos(angle), sin: Math.sin(angle) });
    }
    for (const item of this.items.values()) this.#place(item, false);
  }

  #setItem([uid, board, x, y, product, location, movedAt, enteredAt], animated) {
    const known = this.items.get(uid);
    const item = known ?? { uid, px: null, py: null, since: 0 };
    Object.assign(item, { board, x, y, product, location, movedAt, enteredAt });
    this.#place(item, animated && known !== undefined);
    this.items.set(uid, item);
  }

  /** Computes the place of an item on the plan. An animated one moves there from where it is drawn. */
  #place(item, animated) {
    const board = this.places.get(item.board);
    if (!board) {
      item.wx = null;
      return;
    }
    const x = item.x === null ? board.w * (0.08 + 0.84 * fraction(item.uid, 7)) : item.x;
    const y = item.y === null ? board.h * (0.08 + 0.84 * fraction(item.uid, 99)) : item.y;
    const bx = Math.min(Math.max(x, 0), board.w);
    const by = Math.min(Math.max(y, 0), board.h);
    const before = item.wx;
    [item.fx, item.fy] = [item.px ?? before, item.py ?? item.wy];
    item.wx = board.x + board.cos * bx - board.sin * by;
    item.wy = board.y - board.sin * bx - board.cos * by;
    item.since = animated && item.fx !== null && item.fx !== undefined ? performance.now() : 0;
  }

  #changed(content) {
    this.dispatchEvent(new CustomEvent("change", { detail: { content } }));
  }
}
