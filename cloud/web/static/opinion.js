// One uncertain image: the field with the boxes of both models, tied to the table of white cells.
import { FieldViewer, wireViewerBar } from "./field_viewer.js";
import { bindKeys } from "./keys.js";

const canvas = document.getElementById("field");
const wait = document.getElementById("field-wait");
const line = document.getElementById("cell-line");
const rows = [...document.querySelectorAll("#cells tbody tr")];
const viewer = new FieldViewer(canvas, { layers: { rbc: false, platelets: false } });

async function load() {
  const [boxes, picture] = await Promise.all([fetch(canvas.dataset.boxes), fetch(canvas.dataset.image)]);
  if (!boxes.ok || !picture.ok) throw new Error(`boxes ${boxes.status}, picture ${picture.status}`);
  const field = await boxes.json();
  canvas.parentElement.style.aspectRatio = `${field.width_px} / ${field.height_px}`;
  const image = await createImageBitmap(await picture.blob());
  viewer.setField({ image, width: field.width_px, height: field.height_px, boxes: field.boxes, umPerPx: field.um_per_px });
  wait.hidden = true;
}

/** Marks a white cell of the table and shows it large; the cloud's box when only the cloud sees it. */
function choose(index, { reveal = true } = {}) {
  rows.forEach((row, at) => {
    row.setAttribute("aria-selected", String(at === index));
    row.tabIndex = at === Math.max(0, index) ? 0 : -1;
  });
  if (index < 0) { viewer.select(-1); line.textContent = ""; return; }
  rows[index].scrollIntoView({ block: "nearest" });
  const boxes = viewer.field?.boxes ?? [];
  viewer.select(boxes.findIndex((box) => box.cell === index), { reveal });
  const [edge, cloud] = [...rows[index].querySelectorAll("td")].map((cell) => cell.querySelector("b")?.textContent ?? "not seen");
  line.textContent = `White cell ${index + 1}: edge ${edge.toLowerCase()}, cloud ${cloud.toLowerCase()}.`;
}

const current = () => rows.findIndex((row) => row.getAttribute("aria-selected") === "true");
const step = (by) => () => {
  if (!rows.length) return;
  const at = current();
  const next = Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + by));
  choose(next);
  rows[next].focus({ preventScroll: true });
};

rows.forEach((row, index) => row.addEventListener("click", () => choose(index)));
canvas.addEventListener("pointerup", () => requestAnimationFrame(() => {
  const box = viewer.field?.boxes[viewer.selected];
  if (!box) return;
  if (Number.isInteger(box.cell)) choose(box.cell, { reveal: false });
  else line.textContent = `${box.cls === "RBC" ? "Red cell" : box.cls === "WBC" ? "White cell" : "Platelet"} seen by the ${box.source}, score ${box.score.toFixed(2)}${box.counted ? "" : ", not counted"}.`;
}));
bindKeys({
  ...wireViewerBar(viewer, document.getElementById("field-bar")),
  ArrowDown: step(1), ArrowUp: step(-1), Escape: () => { choose(-1); viewer.fit(); },
});
load().catch((error) => {
  wait.textContent = `The picture could not be loaded (${error.message}). The words of both models stand in the table.`;
});
