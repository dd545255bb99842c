// A gallery of cells that is worked with the keyboard: arrows move, Home and End jump, numbers go to a class. With `many`
// several cells can be marked: space, a click with Ctrl or Shift, or each tap while `marking`.
import { bindKeys } from "./keys.js";

export class CellGallery extends EventTarget {
  /** root holds [data-cell] buttons, grouped in [data-group] sections. `numbers`: whether 1 to 6 go to a class. */
  constructor(root, { numbers = true, many = false } = {}) {
    super();
    this.root = root;
    this.many = many;
    this.marking = false;
    this.cells = [];
    this.current = -1;
    this.renew();
    root.addEventListener("click", (event) => {
      const cell = event.target.closest("[data-cell]");
      if (cell) this.#clicked(this.cells.indexOf(cell), event);
    });
    const move = (step) => () => this.go(this.current < 0 ? 0 : this.current + step);
    const groups = Object.fromEntries([1, 2, 3, 4, 5, 6].map((n) => [String(n), () => this.goGroup(n - 1)]));
    bindKeys({
      ArrowRight: move(1), ArrowLeft: move(-1),
      ArrowDown: () => this.goLine(1), ArrowUp: () => this.goLine(-1),
      Home: () => this.go(0), End: () => this.go(this.cells.length - 1),
      ...(numbers ? groups : {}), ...(many ? { " ": () => this.toggleMark(this.current) } : {}),
    });
  }

  /** The marked cells, in their order. */
  get marked() { return this.cells.filter((cell) => cell.getAttribute("aria-pressed") === "true"); }

  /** What an action is about: the marked cells, else the current one. */
  get chosen() {
    const marked = this.marked;
    if (marked.length) return marked;
    return this.current < 0 ? [] : [this.cells[this.current]];
  }

  /** Reads the cells again after the content changed; keeps the selection by its id. */
  renew() {
    const id = this.cells[this.current]?.dataset.cell;
    this.cells = [...this.root.querySelectorAll("[data-cell]:not([hidden])")];
    this.current = this.cells.findIndex((cell) => cell.dataset.cell === id);
    this.#mark();
  }

  go(index, { focus = true } = {}) {
    if (!this.cells.length) return;
    this.current = Math.max(0, Math.min(this.cells.length - 1, index));
    this.#mark();
    const cell = this.cells[this.current];
    if (focus) cell.focus({ preventScroll: true });
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

  /** Marks a cell or takes its mark away. */
  toggleMark(index) {
    if (!this.many || !this.cells[index]) return;
    const cell = this.cells[index];
    this.setMarked([cell], cell.getAttribute("aria-pressed") !== "true");
  }

  /** Marks cells, or takes their marks away. */
  setMarked(cells, marked) {
    cells.forEach((cell) => cell.setAttribute("aria-pressed", String(marked)));
    this.dispatchEvent(new CustomEvent("mark", { detail: { marked: this.marked } }));
  }

  #clicked(index, event) {
    if (this.many && event.shiftKey && this.current >= 0) {
      const [first, last] = [Math.min(index, this.current), Math.max(index, this.current)];
      this.setMarked(this.cells.slice(first, last + 1), true);
    } else if (this.many && (this.marking || event.ctrlKey || event.metaKey)) this.toggleMark(index);
    this.go(index);
  }

  #mark() {
    this.cells.forEach((cell, index) => {
      cell.setAttribute("aria-selected", String(index === this.current));
      if (this.many && !cell.hasAttribute("aria-pressed")) cell.setAttribute("aria-pressed", "false");
      cell.tabIndex = index === Math.max(0, this.current) ? 0 : -1;
    });
  }
}
