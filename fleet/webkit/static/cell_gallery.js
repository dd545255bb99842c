// A gallery of cells that is worked with the keyboard: arrows move, Home and End jump, numbers go to a class.
import { bindKeys } from "./keys.js";

export class CellGallery extends EventTarget {
  /** root holds [data-cell] buttons, grouped in [data-group] sections. */
  constructor(root) {
    super();
    this.root = root;
    this.cells = [];
    this.current = -1;
    this.renew();
    root.addEventListener("click", (event) => {
      const cell = event.target.closest("[data-cell]");
      if (cell) this.go(this.cells.indexOf(cell));
    });
    const move = (step) => () => this.go(this.current < 0 ? 0 : this.current + step);
    const groups = Object.fromEntries([1, 2, 3, 4, 5, 6].map((n) => [String(n), () => this.goGroup(n - 1)]));
    bindKeys({
      ArrowRight: move(1), ArrowLeft: move(-1),
      ArrowDown: () => this.goLine(1), ArrowUp: () => this.goLine(-1),
      Home: () => this.go(0), End: () => this.go(this.cells.length - 1), ...groups,
    });
  }

  /** Reads the cells again after the content changed; keeps the selection by its id. */
  renew() {
    const id = this.cells[this.current]?.dataset.cell;
    this.cells = [...this.root.querySelectorAll("[data-cell]:not([hidden])")];
    this.current = this.cells.findIndex((cell) => cell.dataset.cell === id);
    this.#mark();
  }

  go(index) {
    if (!this.cells.length) return;
    this.current = Math.max(0, Math.min(this.cells.length - 1, index));
    this.#mark();
    const cell = this.cells[this.current];
    cell.focus({ preventScroll: true });
    cell.scrollIntoView({ block: "nearest" });
    this.dispatchEvent(new CustomEvent("select", { detail: { cell } }));
  }

  goGroup(n) {
    const group = this.root.querySelectorAll("[data-group]:not([hidden])")[n];
    const first = group?.querySelector("[data-cell]:not([hidden])");
    if (first) this.go(this.cells.indexOf(first));
  }

  goLine(direction) {
    if (this.current < 0) { this.go(0); return; }
    const here = this.cells[this.current].getBoundingClientRect();
    let best = -1;
    let bestCost = Infinity;
    this.cells.forEach((cell, index) => {
      const there = cell.getBoundingClientRect();
      const dy = (there.top - here.top) * direction;
      if (dy < 4) return;
      const cost = dy * 1000 + Math.abs(there.left - here.left);
      if (cost < bestCost) { best = index; bestCost = cost; }
    });
    if (best >= 0) this.go(best);
  }

  #mark() {
    this.cells.forEach((cell, index) => {
      cell.setAttribute("aria-selected", String(index === this.current));
      cell.tabIndex = index === Math.max(0, this.current) ? 0 : -1;
    });
  }
}
