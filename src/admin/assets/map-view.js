// Draws the map on a canvas, and moves the view by mouse, touch and keys.

import { drawDots, drawSign } from "./map-shapes.js";
import { health } from "./map-state.js";

const MOVE_MS = 400;
const MARGIN = 24;
// Height of the scale bar, which lies on the canvas.
const SCALE_BAR = 24;
const MIN_SCALE = 0.005;
const MAX_SCALE = 4;
const COLOURS = [
  "page", "surface", "sunken", "line", "text", "muted", "accent", "good", "good-soft", "warn", "warn-soft",
  "bad", "bad-soft", "idle", "idle-soft", "series-1", "series-2",
];

export class MapView extends EventTarget {
  selected = null;
  found = null;
  #canvas;
  #state;
  #context;
  #colours = {};
  #width = 0;
  #height = 0;
  #ratio = 1;
  #scale = 0;
  #x = 0;
  #y = 0;
  #fitted = true;
  #queued = false;
  #pointers = new Map();
  #moved = 0;
  #texts = new Map();
  #calm = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(canvas, state) {
    super();
    this.#canvas = canvas;
    this.#state = state;
    this.#context = canvas.getContext("2d");
    for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)", "(forced-colors: active)"]) {
      matchMedia(query).addEventListener("change", () => this.#readColours());
    }
    this.#readColours();
    new ResizeObserver(() => this.#resize()).observe(canvas);
    this.#listen();
  }

  get position() {
    return { x: this.#x, y: this.#y, scale: this.#scale, fitted: this.#fitted };
  }

  /** Shows the whole plan. */
  fit() {
    const { w, h } = this.#state.plan;
    this.#fitted = true;
    if (w > 0 && h > 0 && this.#width > 0) {
      const room = (size) => Math.max(size - 2 * MARGIN, 40);
      this.#scale = Math.min(room(this.#width) / w, room(this.#height - SCALE_BAR) / h, 1.5);
      this.#x = w / 2;
      this.#y = h / 2 + SCALE_BAR / 2 / this.#scale;
    }
    this.#viewChanged();
  }

  /** Shows a point of the plan in the middle. */
  goTo(x, y, scale) {
    this.#fitted = false;
    [this.#x, this.#y] = [x, y];
    this.#scale = Math.min(Math.max(scale, MIN_SCALE), MAX_SCALE);
    this.#viewChanged();
  }

  /** Shows a board so that it fills about a third of the canvas. */
  goToBoard(sn) {
    const board = this.#state.places.get(sn);
    if (!board) return;
    const x = board.x + (board.cos * board.w - board.sin * board.h) / 2;
    const y = board.y - (board.sin * board.w + board.cos * board.h) / 2;
    this.goTo(x, y, Math.min(this.#width / board.w, this.#height / board.h) / 2.5);
  }

  zoom(factor, atX = this.#width / 2, atY = this.#height / 2) {
    const scale = Math.min(Math.max(this.#scale * factor, MIN_SCALE), MAX_SCALE);
    const [px, py] = [this.#toPlanX(atX), this.#toPlanY(atY)];
    this.#scale = scale;
    this.#x = px - (atX - this.#width / 2) / scale;
    this.#y = py - (atY - this.#height / 2) / scale;
    this.#fitted = false;
    this.#viewChanged();
  }

  pan(dx, dy) {
    this.#x -= dx / this.#scale;
    this.#y -= dy / this.#scale;
    this.#fitted = false;
    this.#viewChanged();
  }

  /** Draws in the next frame. */
  draw() {
    if (this.#queued) return;
    this.#queued = true;
    requestAnimationFrame((now) => {
      this.#queued = false;
      if (this.#paint(now)) this.draw();
    });
  }

  contentChanged() {
    if (this.#fitted) this.fit();
    else this.draw();
  }

  #toPlanX(x) { return this.#x + (x - this.#width / 2) / this.#scale; }
  #toPlanY(y) { return this.#y + (y - this.#height / 2) / this.#scale; }

  #viewChanged() {
    this.dispatchEvent(new Event("view"));
    this.draw();
  }

  #readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of COLOURS) this.#colours[name] = style.getPropertyValue(`--${name}`).trim() || "gray";
    this.draw();
  }

  #resize() {
    const { clientWidth, clientHeight } = this.#canvas;
    this.#ratio = devicePixelRatio || 1;
    [this.#width, this.#height] = [clientWidth, clientHeight];
    this.#canvas.width = Math.round(clientWidth * this.#ratio);
    this.#canvas.height = Math.round(clientHeight * this.#ratio);
    this.contentChanged();
  }

  /** Paints everything that is visible. Returns true while something moves. */
  #paint(now) {
    const { plan, places } = this.#state;
    const [c, k, s] = [this.#context, this.#colours, this.#scale];
    c.setTransform(this.#ratio, 0, 0, this.#ratio, 0, 0);
    c.fillStyle = k.page;
    c.fillRect(0, 0, this.#width, this.#height);
    if (!(s > 0) || plan.w === 0) return false;
    const [ox, oy] = [this.#width / 2 - this.#x * s, this.#height / 2 - this.#y * s];
    const visible = (x, y, w, h) =>
      ox + (x + w) * s > 0 && ox + x * s < this.#width && oy + (y + h) * s > 0 && oy + y * s < this.#height;
    c.lineWidth = 1;
    for (const f of plan.furniture) {
      if (!visible(f.x, f.y, f.w, f.h)) continue;
      c.fillStyle = k.surface;
      c.strokeStyle = k.line;
      c.beginPath();
      c.roundRect(ox + f.x * s, oy + f.y * s, f.w * s, f.h * s, Math.min(8, 40 * s));
      c.fill();
      c.stroke();
      this.#text(f.title, ox + (f.x + 60) * s, oy + (f.y + 140) * s, (f.w - 120) * s, 150 * s, k.text, true);
    }
    for (const t of plan.storeys) {
      this.#text(t.title, ox + t.x * s, oy + (t.y + 150) * s, this.#width, 120 * s, k.text, true);
    }
    for (const shelf of plan.shelves) {
      if (!visible(shelf.x, shelf.y - 80, shelf.w, shelf.h + 80)) continue;
      c.fillStyle = k.sunken;
      c.fillRect(ox + shelf.x * s, oy + shelf.y * s, shelf.w * s, shelf.h * s);
      this.#text(shelf.title, ox + shelf.x * s, oy + (shelf.y - 36) * s, shelf.w * s, 48 * s, k.muted, false);
    }
    for (const board of places.values()) {
      const reach = board.w + board.h;
      if (visible(board.x - reach, board.y - reach, 2 * reach, 2 * reach)) this.#board(board, ox, oy);
    }
    this.#locations(plan.locations, ox, oy, visible);
    const isMoving = this.#items(now, ox, oy);
    for (const board of places.values()) {
      const reach = board.w + board.h;
      if (visible(board.x - reach, board.y - reach, 2 * reach, 2 * reach)) this.#boardSign(board, ox, oy);
    }
    return isMoving;
  }

  #board(board, ox, oy) {
    const [c, k, s] = [this.#context, this.#colours, this.#scale];
    const [state] = health(this.#state.boards.get(board.sn));
    c.save();
    c.translate(ox + board.x * s, oy + board.y * s);
    c.rotate((-board.r * Math.PI) / 180);
    c.fillStyle = state === "good" ? k.surface : k[`${state}-soft`];
    c.strokeStyle = k[state];
    c.lineWidth = this.selected?.board === board.sn ? 3 : state === "bad" ? 2 : 1;
    if (state === "idle") c.setLineDash([4, 3]);
    c.fillRect(0, -board.h * s, board.w * s, board.h * s);
    c.strokeRect(0, -board.h * s, board.w * s, board.h * s);
    c.restore();
  }

  /** Draws shape and words over the items, so that they do not hide them. */
  #boardSign(board, ox, oy) {
    const [c, k, s] = [this.#context, this.#colours, this.#scale];
    const [state, word] = health(this.#state.boards.get(board.sn));
    const width = (board.r % 180 === 0 ? board.w : board.h) * s;
    const turned = board.r % 360 !== 0;
    const x = ox + board.x * s;
    const top = oy + (turned ? board.y - board.h / 2 : board.y - board.h) * s;
    if (state === "warn" || state === "bad") {
      const size = Math.min(Math.max(width / 3, 5), 18);
      drawSign(c, state === "warn", k[state], k.surface, x + Math.min(width, board.w * s) - size - 3, top + 3, size);
    }
    if (width < 84) return;
    const text = state === "good" ? board.sn : `${board.sn} · ${word}`;
    c.font = "600 11px system-ui, sans-serif";
    const fitted = this.#fittedText(text, width - 30);
    c.globalAlpha = 0.85;
    c.fillStyle = state === "good" ? k.surface : k[`${state}-soft`];
    c.fillRect(x + 2, top + 2, c.measureText(fitted).width + 6, 15);
    c.globalAlpha = 1;
    c.fillStyle = state === "good" ? k.muted : k[state];
    c.textBaseline = "middle";
    c.fillText(fitted, x + 5, top + 10);
  }

  #locations(locations, ox, oy, visible) {
    const [c, k, s] = [this.#context, this.#colours, this.#scale];
    c.save();
    c.strokeStyle = k["series-2"];
    c.lineWidth = 1;
    c.setLineDash([6, 4]);
    for (const l of locations) {
      if (l.h * s < 36 || !visible(l.x, l.y, l.w, l.h)) continue;
      c.strokeRect(ox + l.x * s - 2, oy + l.y * s - 2, l.w * s + 4, l.h * s + 4);
    }
    c.restore();
    for (const l of locations) {
      if (l.h * s < 60 || l.w * s < 90 || !visible(l.x, l.y, l.w, l.h)) continue;
      this.#text(l.title, ox + l.x * s + 3, oy + (l.y + l.h) * s - 7, l.w * s - 6, 11, k["series-2"], false);
    }
  }

  #items(now, ox, oy) {
    const [c, k, s] = [this.#context, this.#colours, this.#scale];
    const radius = Math.min(Math.max(14 * s, 0.7), 9);
    const plain = [], found = [];
    let isMoving = false;
    for (const item of this.#state.items.values()) {
      if (item.wx === null) continue;
      let [x, y] = [item.wx, item.wy];
      const part = item.since ? (now - item.since) / MOVE_MS : 1;
      if (part < 1 && !this.#calm.matches) {
        const eased = 1 - (1 - Math.max(part, 0)) ** 3;
        x = item.fx + (x - item.fx) * eased;
        y = item.fy + (y - item.fy) * eased;
        isMoving = true;
      } else {
        item.since = 0;
      }
      [item.px, item.py] = [x, y];
      const [sx, sy] = [ox + x * s, oy + y * s];
      if (sx < -9 || sy < -9 || sx > this.#width + 9 || sy > this.#height + 9) continue;
      (this.found?.has(item.uid) ? found : plain).push(sx, sy, item.x === null ? 1 : 0);
    }
    c.globalAlpha = this.found ? 0.3 : 0.85;
    drawDots(c, plain, radius, k["series-1"], this.#ratio);
    c.globalAlpha = 1;
    drawDots(c, found, radius + 2, k["series-2"], this.#ratio);
    const chosen = this.selected?.uid && this.#state.items.get(this.selected.uid);
    if (chosen && chosen.wx !== null) {
      c.strokeStyle = k.text;
      c.lineWidth = 3;
      c.beginPath();
      c.arc(ox + chosen.px * s, oy + chosen.py * s, radius + 5, 0, 2 * Math.PI);
      c.stroke();
    }
    return isMoving;
  }

  /** Draws a text if it is legible, cut to a width. */
  #text(text, x, y, width, size, colour, bold) {
    if (size < 6.5 || width < 24) return;
    const c = this.#context;
    c.font = `${bold ? 600 : 400} ${Math.min(Math.max(size, 9), bold ? 22 : 16).toFixed(1)}px system-ui, sans-serif`;
    c.fillStyle = colour;
    c.textBaseline = "middle";
    c.fillText(this.#fittedText(text, width), x, y);
  }

  #fittedText(text, width) {
    const key = `${this.#context.font}|${Math.round(width)}|${text}`;
    const known = this.#texts.get(key);
    if (known !== undefined) return known;
    if (this.#texts.size > 5000) this.#texts.clear();
    let fitted = text;
    while (fitted.length > 1 && this.#context.measureText(fitted).width > width) {
      fitted = `${fitted.replace(/…$/, "").slice(0, -1)}…`;
    }
    this.#texts.set(key, fitted);
    return fitted;
  }

  /** Returns the item nearest to a point of the canvas, else the board below it, else null. */
  at(x, y) {
    const [px, py, s] = [this.#toPlanX(x), this.#toPlanY(y), this.#scale];
    let best = null;
    let nearest = Math.max(12 / s, 14) ** 2;
    for (const item of this.#state.items.values()) {
      if (item.wx === null) continue;
      const distance = (item.wx - px) ** 2 + (item.wy - py) ** 2;
      if (distance < nearest) [best, nearest] = [item, distance];
    }
    if (best && s > 0.08) return { uid: best.uid, board: best.board };
    for (const board of this.#state.places.values()) {
      const [dx, dy] = [px - board.x, py - board.y];
      const [bx, by] = [board.cos * dx - board.sin * dy, -board.sin * dx - board.cos * dy];
      if (bx >= 0 && by >= 0 && bx <= board.w && by <= board.h) return { board: board.sn };
    }
    return null;
  }

  #listen() {
    const canvas = this.#canvas;
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...point(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, point(event));
      if (this.#pointers.size === 1) this.#moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = this.#pointers.get(event.pointerId);
      if (!before) return;
      const now = point(event);
      const others = [...this.#pointers].filter(([id]) => id !== event.pointerId);
      this.#pointers.set(event.pointerId, now);
      this.#moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
      if (others.length === 0) {
        this.pan(now[0] - before[0], now[1] - before[1]);
        return;
      }
      const other = others[0][1];
      const spread = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      this.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
      this.zoom(spread(now) / spread(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    });
    const end = (event) => {
      const wasDown = this.#pointers.delete(event.pointerId);
      if (event.type === "pointerup" && wasDown && this.#pointers.size === 0 && this.#moved < 6) this.#select(...point(event));
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("keydown", (event) => {
      const keys = {
        ArrowLeft: () => this.pan(60, 0), ArrowRight: () => this.pan(-60, 0),
        ArrowUp: () => this.pan(0, 60), ArrowDown: () => this.pan(0, -60),
        "+": () => this.zoom(1.4), "=": () => this.zoom(1.4), "-": () => this.zoom(1 / 1.4),
        0: () => this.fit(), Enter: () => this.#select(this.#width / 2, this.#height / 2),
        Escape: () => this.dispatchEvent(new CustomEvent("select", { detail: null })),
      };
      if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
  }

  #select(x, y) {
    this.dispatchEvent(new CustomEvent("select", { detail: this.at(x, y) }));
  }
}
