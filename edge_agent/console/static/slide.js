// The gallery: cells by class, worst first; filters; the chosen cell large with both words on it.
import { CellGallery } from "./cell_gallery.js";
import { followAgent } from "./follow.js";
import { pollFragment } from "./fragments.js";
import { bindKeys } from "./keys.js";

const root = document.getElementById("gallery");
const detail = document.getElementById("cell-detail");
const count = document.getElementById("gallery-count");
const buttons = [...document.querySelectorAll("[data-filter]")];
const gallery = new CellGallery(root);
let filter = "all";

function apply() {
  const cells = [...root.querySelectorAll("[data-cell]")];
  for (const cell of cells) cell.hidden = filter !== "all" && cell.dataset[filter] !== "true";
  for (const group of root.querySelectorAll("[data-group]")) group.hidden = !group.querySelector("[data-cell]:not([hidden])");
  const seen = cells.filter((cell) => !cell.hidden).length;
  if (count) count.textContent = seen === cells.length ? `${seen} white cells` : `${seen} of ${cells.length} white cells`;
  gallery.renew();
}

function choose(name) {
  filter = name;
  buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.filter === name)));
  apply();
}

function line(list, name, text) {
  const term = document.createElement("dt");
  const value = document.createElement("dd");
  term.textContent = name;
  value.textContent = text;
  list.append(term, value);
}

gallery.addEventListener("select", (event) => {
  const { cell } = event.detail;
  const data = cell.dataset;
  const image = document.createElement("img");
  image.src = cell.querySelector("img").src;
  image.alt = cell.querySelector("img").alt;
  const heading = document.createElement("h2");
  heading.textContent = `${data.label} ${data.probability}`;
  const list = document.createElement("dl");
  list.className = "facts";
  line(list, "Possible", data.set || "none of the types fits");
  line(list, "Image", data.domain);
  line(list, "Second opinion", data.second ? `${data.second} (${data.source})` : "none yet");
  line(list, "Field", data.capture);
  detail.replaceChildren(image, heading, list);
});

buttons.forEach((button) => button.addEventListener("click", () => choose(button.dataset.filter)));
bindKeys({ a: () => choose("all"), d: () => choose("doubtful"), s: () => choose("differs") });
new MutationObserver(apply).observe(root, { childList: true });
apply();
followAgent();
pollFragment("gallery", `/fragments/gallery${location.search}`, 5000);
