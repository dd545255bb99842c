// A field of blood cells on a canvas: picture, cells as shape + colour, layers, zoom, selection, scale bar.
// Boxes are x, y, width, height in pixels of the original frame; the picture may be smaller than the frame.

const COLOURS = { RBC: "#d55e00", WBC: "#0057b8", Platelets: "#007a5a" };
const LAYERS = { RBC: "rbc", WBC: "wbc", Platelets: "platelets" };
const HALO = "rgba(255, 255, 255, 0.85)";
const MAX_ZOOM = 12;
const SCALE_BARS_UM = [1, 2, 5, 10, 20, 50, 100, 200];

export class FieldViewer extends EventTarget {
  /** canvas fills its parent; `layers` says which are shown at first. */
  constructor(canvas, { layers = {} } = {}) {
    super();
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.layers = { rbc: true, wbc: true, platelets: true, overlay: true, edge: true, cloud: true, ...layers };
    this.field = null;
    this.selected = -1;
    this.zoom = 1;
    this.centre = { x: 0, y: 0 };
    this.pointers = new Map();
    this.drawing = false;
    this.rubber = null;
    this.frameAsked = false;
    new ResizeObserver(() => this.redraw()).observe(canvas);
    this.#listen();
  }

  /**
   * Shows a field: { image, width, height, boxes: [{ cls, bbox, counted, label, text, source, key, dotted }], umPerPx }.
   * A dotted box is a suggestion that nobody has confirmed.
   */
  setField(field) {
    const sameSize = this.field && this.field.width === field.width && this.field.height === field.height;
    if (this.field?.image?.close && this.field.image !== field.image) this.field.image.close();
    this.field = field;
    this.selected = -1;
    if (!sameSize) this.fit();
    this.redraw();
  }

  /** Toggles a layer and says whether it is shown now. */
  toggle(layer) {
    this.layers[layer] = !this.layers[layer];
    this.redraw();
    this.dispatchEvent(new CustomEvent("layers"));
    return this.layers[layer];
  }

  /** The whole field. */
  fit() {
    this.zoom = 1;
    if (this.field) this.centre = { x: this.field.width / 2, y: this.field.height / 2 };
    this.#zoomed();
  }

  /** Zooms by a factor about a point of the canvas (CSS pixels; its middle when none is given). */
  zoomBy(factor, at = null) {
    if (!this.field) return;
    const point = at ?? { x: this.canvas.clientWidth / 2, y: this.canvas.clientHeight / 2 };
    const before = this.toField(point);
    this.zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor));
    const after = this.toField(point);
    this.centre.x += before.x - after.x;
    this.centre.y += before.y - after.y;
    this.#keepInside();
    this.#zoomed();
  }

  /** Moves the view by CSS pixels. */
  panBy(dx, dy) {
    const scale = this.scale();
    this.centre.x -= dx / scale;
    this.centre.y -= dy / scale;
    this.#keepInside();
    this.redraw();
  }

  /** Marks a cell by its index in `boxes` (-1: none); `reveal` brings it into view, `keepZoom` without zooming again. */
  select(index, { reveal = false, keepZoom = false } = {}) {
    this.selected = index;
    const box = this.field?.boxes[index];
    if (box && reveal) {
      const [x, y, w, h] = box.bbox;
      const wanted = Math.min(this.canvas.clientWidth, this.canvas.clientHeight) / (Math.max(w, h) * 2);
      if (!keepZoom || this.zoom <= 1) this.zoom = Math.min(MAX_ZOOM, Math.max(1.5, wanted / this.#fitScale()));
      this.centre = { x: x + w / 2, y: y + h / 2 };
      this.#keepInside();
      this.#zoomed();
    }
    this.redraw();
    this.dispatchEvent(new CustomEvent("select", { detail: { index, box: box ?? null } }));
  }

  /** While it is on, dragging draws a box: event "box" with detail.bbox in pixels of the field. */
  setDrawing(on) {
    this.drawing = on;
    this.rubber = null;
    this.canvas.dataset.drawing = String(on);
    this.redraw();
  }

  /** Whether a box is shown with the layers as they are. */
  shown(box) {
    return this.layers.overlay && this.layers[LAYERS[box.cls]] !== false && this.layers[box.source ?? "edge"] !== false;
  }

  /** CSS pixels of the canvas for one pixel of the field. */
  scale() { return this.#fitScale() * this.zoom; }

  /** A point of the canvas (CSS pixels) in pixels of the field. */
  toField(point) {
    const scale = this.scale();
    return {
      x: this.centre.x + (point.x - this.canvas.clientWidth / 2) / scale,
      y: this.centre.y + (point.y - this.canvas.clientHeight / 2) / scale,
    };
  }

  redraw() {
    if (this.frameAsked) return;
    this.frameAsked = true;
    requestAnimationFrame(() => { this.frameAsked = false; this.#draw(); });
  }

  #fitScale() {
    if (!this.field) return 1;
    return Math.min(this.canvas.clientWidth / this.field.width, this.canvas.clientHeight / this.field.height);
  }

  #zoomed() {
    this.redraw();
    this.dispatchEvent(new CustomEvent("zoom", { detail: { zoom: this.zoom } }));
  }

  #keepInside() {
    const { width, height } = this.field;
    const halfW = Math.min(width, this.canvas.clientWidth / this.scale()) / 2;
    const halfH = Math.min(height, this.canvas.clientHeight / this.scale()) / 2;
    this.centre.x = Math.min(width - halfW, Math.max(halfW, this.centre.x));
    this.centre.y = Math.min(height - halfH, Math.max(halfH, this.centre.y));
  }

  #draw() {
    const { canvas, context } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio);
    const height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.field || !width || !height) return;
    this.#keepInside();
    const scale = this.scale();
    const left = canvas.clientWidth / 2 - this.centre.x * scale;
    const top = canvas.clientHeight / 2 - this.centre.y * scale;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (this.field.image) {
      context.imageSmoothingEnabled = scale < 4;
      context.imageSmoothingQuality = "high";
      context.drawImage(this.field.image, left, top, this.field.width * scale, this.field.height * scale);
    }
    this.drawn = 0;
    if (this.layers.overlay) {
      this.field.boxes.forEach((box, index) => {
        if (!this.shown(box)) return;
        this.drawn += 1;
        this.#drawCell(box, left, top, scale, index === this.selected);
      });
      this.#drawLabels(left, top, scale);
    }
    if (this.rubber) this.#drawCell({ cls: "WBC", bbox: bboxOf(this.rubber), counted: true }, left, top, scale, true);
    this.#drawScaleBar(scale);
    canvas.dataset.drawn = String(this.drawn);
  }

  #drawCell(box, left, top, scale, selected) {
    const { context } = this;
    const pad = box.source === "cloud" ? 3 : box.source === "cell" ? 5 : 0;
    const x = left + box.bbox[0] * scale - pad;
    const y = top + box.bbox[1] * scale - pad;
    const w = box.bbox[2] * scale + 2 * pad;
    const h = box.bbox[3] * scale + 2 * pad;
    const base = box.cls === "RBC" ? 1.25 : box.cls === "WBC" ? 2.25 : 1.75;
    context.beginPath();
    if (box.cls === "RBC") context.ellipse(x + w / 2, y + h / 2, w / 2, h / 2, 0, 0, Math.PI * 2);
    else if (box.cls === "Platelets") {
      context.moveTo(x + w / 2, y - 2); context.lineTo(x + w + 2, y + h / 2);
      context.lineTo(x + w / 2, y + h + 2); context.lineTo(x - 2, y + h / 2); context.closePath();
    } else if (box.source === "cloud") context.roundRect(x, y, w, h, Math.min(w, h) / 4);
    else context.rect(x, y, w, h);
    context.setLineDash([]);
    context.lineWidth = base + (selected ? 4 : 2);
    context.strokeStyle = selected ? "#ffd400" : HALO;
    context.globalAlpha = box.cls === "RBC" && !selected ? 0.6 : 1;
    context.stroke();
    context.globalAlpha = 1;
    context.lineWidth = selected ? base + 0.75 : base;
    context.strokeStyle = box.source === "cloud" ? "#7a1fa2" : COLOURS[box.cls];
    if (box.source === "cloud") context.setLineDash([7, 4]);
    else if (box.dotted) context.setLineDash([3, 3]);
    else if (!box.counted) context.setLineDash([2, 3]);
    context.stroke();
    context.setLineDash([]);
  }

  #drawLabels(left, top, scale) {
    const { context, canvas } = this;
    context.font = "600 12px system-ui, sans-serif";
    context.textBaseline = "middle";
    this.field.boxes.forEach((box) => {
      if (!box.label || !this.shown(box)) return;
      const below = box.source === "cloud";
      const text = box.label;
      const w = context.measureText(text).width + 10;
      const x = Math.max(2, Math.min(canvas.clientWidth - w - 2, left + box.bbox[0] * scale - 1));
      const edgeTop = top + box.bbox[1] * scale;
      const edgeBottom = edgeTop + box.bbox[3] * scale;
      let y = below ? edgeBottom + 5 : edgeTop - 20;
      if (y < 2) y = edgeTop + 3;
      if (y > canvas.clientHeight - 20) y = edgeBottom - 22;
      context.fillStyle = below ? "#7a1fa2" : COLOURS[box.cls];
      context.beginPath();
      context.roundRect(x, y, w, 18, below ? 9 : 2);
      context.fill();
      context.fillStyle = "#ffffff";
      context.fillText(text, x + 5, y + 9.5);
    });
  }

  #drawScaleBar(scale) {
    const umPerPx = this.field.umPerPx;
    if (!umPerPx) return;
    const { context, canvas } = this;
    const pxPerUm = scale / umPerPx;
    const um = SCALE_BARS_UM.find((length) => length * pxPerUm >= 80) ?? SCALE_BARS_UM.at(-1);
    const w = um * pxPerUm;
    const x = canvas.clientWidth - w - 20;
    const y = canvas.clientHeight - 16;
    context.fillStyle = "rgba(255, 255, 255, 0.85)";
    context.fillRect(x - 8, y - 22, w + 16, 32);
    context.fillStyle = "#12181f";
    context.fillRect(x, y, w, 3);
    context.font = "600 12px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    context.fillText(`${um} µm`, x + w / 2, y - 5);
    context.textAlign = "start";
  }

  #hit(point) {
    if (!this.field) return -1;
    const { x, y } = this.toField(point);
    let best = -1;
    let bestArea = Infinity;
    this.field.boxes.forEach((box, index) => {
      const [bx, by, bw, bh] = box.bbox;
      if (!this.shown(box) || x < bx || y < by || x > bx + bw || y > by + bh) return;
      const area = bw * bh * (box.cls === "WBC" ? 0.2 : 1);
      if (area < bestArea) { best = index; bestArea = area; }
    });
    return best;
  }

  #inside(point) {
    return {
      x: Math.min(this.field.width, Math.max(0, point.x)),
      y: Math.min(this.field.height, Math.max(0, point.y)),
    };
  }

  #point(event) {
    const frame = this.canvas.getBoundingClientRect();
    return { x: event.clientX - frame.left, y: event.clientY - frame.top };
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), this.#point(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, this.#point(event));
      this.moved = 0;
      if (this.drawing && this.field && this.pointers.size === 1) {
        const start = this.#inside(this.toField(this.#point(event)));
        this.rubber = { start, end: start };
      }
    });
    canvas.addEventListener("pointermove", (event) => this.#drag(event));
    const release = (event) => {
      const down = this.pointers.delete(event.pointerId);
      if (this.rubber) {
        const bbox = bboxOf(this.rubber);
        this.rubber = null;
        this.redraw();
        if (event.type === "pointerup") this.dispatchEvent(new CustomEvent("box", { detail: { bbox } }));
        return;
      }
      if (down && event.type === "pointerup" && this.moved < 5) this.select(this.#hit(this.#point(event)));
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
      if (!(event.key in steps) || this.zoom <= 1) return;
      event.preventDefault();
      event.stopPropagation();
      this.panBy(...steps[event.key]);
    });
  }

  #drag(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last || !this.field) return;
    const now = this.#point(event);
    this.moved += Math.hypot(now.x - last.x, now.y - last.y);
    if (this.rubber) {
      this.pointers.set(event.pointerId, now);
      this.rubber.end = this.#inside(this.toField(now));
      this.redraw();
      return;
    }
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    this.pointers.set(event.pointerId, now);
    if (others.length) {
      const other = others[0];
      const before = Math.hypot(last.x - other.x, last.y - other.y);
      const after = Math.hypot(now.x - other.x, now.y - other.y);
      if (before > 0) this.zoomBy(after / before, { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
    } else this.panBy(now.x - last.x, now.y - last.y);
  }
}

/** x, y, width, height of what was dragged. */
function bboxOf({ start, end }) {
  return [Math.min(start.x, end.x), Math.min(start.y, end.y), Math.abs(end.x - start.x), Math.abs(end.y - start.y)];
}

/** Wires a viewer's buttons: [data-layer], [data-zoom], and the zoom figure. Returns the keys to bind. */
export function wireViewerBar(viewer, bar) {
  const buttons = new Map([...bar.querySelectorAll("[data-layer]")].map((button) => [button.dataset.layer, button]));
  const show = () => buttons.forEach((button, layer) => button.setAttribute("aria-pressed", String(viewer.layers[layer])));
  const flip = (layer) => { viewer.toggle(layer); };
  viewer.addEventListener("layers", show);
  buttons.forEach((button, layer) => button.addEventListener("click", () => flip(layer)));
  const zooms = { in: () => viewer.zoomBy(1.5), out: () => viewer.zoomBy(1 / 1.5), fit: () => viewer.fit() };
  bar.querySelectorAll("[data-zoom]").forEach((button) => button.addEventListener("click", zooms[button.dataset.zoom]));
  const figure = bar.querySelector("[data-zoom-figure]");
  viewer.addEventListener("zoom", () => { if (figure) figure.textContent = `${viewer.zoom.toFixed(1)}×`; });
  show();
  const keys = { "+": zooms.in, "=": zooms.in, "-": zooms.out, 0: zooms.fit };
  const letters = { rbc: "r", wbc: "w", platelets: "p", overlay: "o", edge: "e", cloud: "c" };
  buttons.forEach((_, layer) => { keys[letters[layer]] = () => flip(layer); });
  return keys;
}
