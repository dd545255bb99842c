// One uncertain image: its white cells as a gallery, the field beside them, and what a person says of each cell.
import { CellGallery } from "./cell_gallery.js";
import { FieldViewer, wireViewerBar } from "./field_viewer.js";
import { bindKeys } from "./keys.js";
import { LabelStore } from "./label_store.js";

const WITHDRAWN = "withdrawn";
const page = document.getElementById("review");
const canvas = document.getElementById("field");
const wait = document.getElementById("field-wait");
const line = document.getElementById("cell-line");
const mayLabel = page.dataset.mayLabel === "true";
const me = page.dataset.reader;
const total = Number(page.dataset.cells);
const root = document.getElementById("gallery");
const addedGroup = document.getElementById("added");
const words = new Map([...document.querySelectorAll("#label-words li")].map((item) => [item.dataset.label, item.textContent]));
const viewer = new FieldViewer(canvas, { layers: { rbc: false, platelets: false, edge: false, cloud: false } });
const gallery = new CellGallery(root, { numbers: false, many: mayLabel });
let image = null;
let field = null;
let follow = true;
let drafts = [];
let saved = new Map();

// --- places: a cell by its number, a cell that both models missed by its box ---

const missedPlace = (bbox) => `m${bbox.map((value) => Number(value.toFixed(2))).join(",")}`;
const placeOf = (label) => (Number.isInteger(label.cell) ? String(label.cell) : missedPlace(label.bbox));
const isMissed = (place) => place.startsWith("m");
const bboxAt = (place) => (isMissed(place) ? place.slice(1).split(",").map(Number) : field?.cells[Number(place)]?.bbox);
const said = (place, label) => (isMissed(place) ? { bbox: bboxAt(place), label } : { cell: Number(place), label });
const cellAt = (place) => root.querySelector(`[data-cell="${CSS.escape(place)}"]`);

/** What counts for each place: the server's labels, and on top of them what is on its way there. */
function labels() {
  const all = new Map(saved);
  for (const label of store.unsaved) {
    const place = placeOf(label);
    if (label.label === WITHDRAWN) all.delete(place);
    else all.set(place, { label: label.label, reader: me, onItsWay: true });
  }
  return all;
}

const store = new LabelStore({
  url: page.dataset.labels, key: `ahs-labels:${page.dataset.opinion}:${me}`, shown: page.dataset.blind !== "true",
});

// --- undo, kept for this tab so that a reload does not lose it ---

const undoKey = `ahs-undo:${page.dataset.opinion}`;
function readUndo() { try { return JSON.parse(sessionStorage.getItem(undoKey)) ?? []; } catch { return []; } }
function keepUndo(steps) { try { sessionStorage.setItem(undoKey, JSON.stringify(steps.slice(-200))); } catch { /* this page only */ } }
let steps = readUndo();

// --- drawing ---

function icon(kind) {
  const template = document.getElementById(`icon-${kind}`);
  return template ? template.content.cloneNode(true) : document.createTextNode("");
}

function showLabel(cell, label) {
  const place = cell.querySelector("[data-label-line]");
  const blindToIt = label && store.shown === false && label.reader !== me;
  cell.dataset.labelled = String(Boolean(label));
  cell.dataset.label = label && !blindToIt ? label.label : "";
  if (!label) { place.replaceChildren(document.createTextNode(mayLabel ? "no label yet" : "no label")); return; }
  const text = blindToIt ? `read by ${label.reader}` : words.get(label.label) ?? label.label;
  const bold = document.createElement("b");
  bold.textContent = text;
  const parts = [icon(label.onItsWay ? "busy" : "ok"), bold];
  if (label.onItsWay) parts.push(document.createTextNode(store.state === "saving" ? " saving" : " not saved yet"));
  else if (label.reader !== me && !blindToIt) parts.push(document.createTextNode(` ${label.reader}`));
  place.replaceChildren(...parts);
}

function crop(cell) {
  const bbox = bboxAt(cell.dataset.cell);
  const target = cell.querySelector("canvas");
  if (!image || !bbox || !target) return;
  const side = Math.max(field.window_px, 1.1 * Math.max(bbox[2], bbox[3]));
  const scale = image.width / field.width_px;
  const pixels = Math.round(target.clientWidth * (window.devicePixelRatio || 1)) || 264;
  target.width = pixels;
  target.height = pixels;
  const context = target.getContext("2d");
  context.imageSmoothingQuality = "high";
  const left = bbox[0] + bbox[2] / 2 - side / 2;
  const top = bbox[1] + bbox[3] / 2 - side / 2;
  context.drawImage(image, left * scale, top * scale, side * scale, side * scale, 0, 0, pixels, pixels);
}

function addedCell(place) {
  const cell = document.getElementById("added-cell").content.firstElementChild.cloneNode(true);
  cell.dataset.cell = place;
  addedGroup.querySelector(".gallery").append(cell);
  addedGroup.hidden = false;
  gallery.renew();
  crop(cell);
  return cell;
}

function showAdded(all) {
  const wanted = new Set([...all.keys()].filter(isMissed).concat(drafts));
  for (const cell of addedGroup.querySelectorAll("[data-cell]")) if (!wanted.has(cell.dataset.cell)) cell.remove();
  for (const place of wanted) if (!cellAt(place)) addedCell(place);
  addedGroup.hidden = wanted.size === 0;
  gallery.renew();
}

function showBoxes(all) {
  if (!field) return;
  const chosen = gallery.cells[gallery.current]?.dataset.cell;
  const shown = [...field.cells.map((_, index) => String(index)), ...[...all.keys(), ...drafts].filter(isMissed)];
  const own = [...new Set(shown)].map((place) => {
    const label = all.get(place);
    const hidden = store.shown === false && label && label.reader !== me;
    const text = label && !hidden ? words.get(label.label) ?? label.label : "";
    return { cls: "WBC", source: "cell", bbox: bboxAt(place), counted: true, label: text, dotted: !label, place };
  });
  viewer.field.boxes = [...own, ...field.boxes];
  viewer.selected = viewer.field.boxes.findIndex((box) => box.place === chosen);
  viewer.redraw();
}

function show() {
  const all = labels();
  showAdded(all);
  gallery.cells.forEach((cell) => showLabel(cell, all.get(cell.dataset.cell)));
  showBoxes(all);
  const done = [...all.keys()].filter((place) => !isMissed(place)).length;
  const left = total - done;
  document.getElementById("progress-text").textContent = total ? `${done} of ${total} cells labelled` : "no white cell to label";
  document.getElementById("left-text").textContent = left ? `${left} left` : "none left";
  document.getElementById("progress-done").setAttribute("width", `${total ? (100 * done) / total : 100}%`);
  document.querySelectorAll("[data-group]").forEach((group) => {
    const cells = [...group.querySelectorAll("[data-cell]")];
    const labelled = cells.filter((cell) => cell.dataset.labelled === "true").length;
    group.querySelector("[data-group-count]").textContent = `${labelled} of ${cells.length}`;
  });
  document.getElementById("done")?.classList.toggle("button-first", left === 0);
  const undo = document.getElementById("undo");
  if (undo) undo.disabled = steps.length === 0;
  const chosen = gallery.cells[gallery.current];
  document.querySelectorAll("#labels [data-label]").forEach((button) => {
    button.setAttribute("aria-pressed", String(chosen?.dataset.label === button.dataset.label));
  });
}

function showFacts(place) {
  document.querySelectorAll("[data-facts]").forEach((facts) => { facts.hidden = facts.dataset.facts !== (isMissed(place) ? "added" : place); });
}

function say(text) { line.textContent = text; }

// --- choosing ---

gallery.addEventListener("select", (event) => {
  const place = event.detail.cell.dataset.cell;
  showFacts(place);
  if (field) {
    showBoxes(labels());
    if (follow) viewer.select(viewer.selected, { reveal: true, keepZoom: true });
  }
  show();
});
gallery.addEventListener("mark", (event) => {
  const count = event.detail.marked.length;
  const text = document.getElementById("marked-text");
  if (text) text.textContent = count ? `${count} selected` : "";
});

function goNextOpen(from) {
  const count = gallery.cells.length;
  for (let step = 1; step <= count; step += 1) {
    const index = (from + step) % count;
    if (gallery.cells[index].dataset.labelled !== "true") { gallery.go(index); return true; }
  }
  return false;
}

// --- labelling ---

function label(name) {
  if (!mayLabel) return;
  const cells = gallery.chosen;
  if (!cells.length) { say("Choose a cell first: click it, or use the arrow keys."); return; }
  const all = labels();
  const places = cells.map((cell) => cell.dataset.cell);
  steps.push(places.map((place) => ({ place, before: all.get(place)?.reader === me ? all.get(place).label : null })));
  keepUndo(steps);
  const wasMarked = gallery.marked.length > 0;
  gallery.setMarked(gallery.marked, false);
  drafts = drafts.filter((place) => !places.includes(place));
  store.push(places.map((place) => said(place, name)));
  const last = gallery.cells.indexOf(cells.at(-1));
  show();
  const what = `Labelled ${places.length > 1 ? `${places.length} cells` : ""} ${words.get(name).toLowerCase()}`.replace("  ", " ");
  if (goNextOpen(last)) say(`${what}. Now the next cell.`);
  else {
    if (wasMarked) gallery.go(last);
    say(`${what}. Every cell has a label: Enter ends the image.`);
  }
}

function undo() {
  const step = steps.pop();
  if (!mayLabel || !step) { say("There is nothing to take back on this image."); return; }
  keepUndo(steps);
  store.push(step.map(({ place, before }) => said(place, before ?? WITHDRAWN)));
  show();
  const cell = cellAt(step[0].place);
  if (cell) gallery.go(gallery.cells.indexOf(cell));
  say(step.length > 1 ? `Taken back: ${step.length} cells.` : "Taken back.");
}

function end() {
  if (!mayLabel) { location.assign(page.dataset.next); return; }
  const open = gallery.cells.findIndex((cell) => cell.dataset.labelled !== "true" && !isMissed(cell.dataset.cell));
  if (open >= 0) {
    gallery.go(open);
    const left = document.getElementById("left-text").textContent;
    say(`Not done yet: ${left}. Use n for a cell that cannot be told.`);
    return;
  }
  if (drafts.length) { gallery.go(gallery.cells.indexOf(cellAt(drafts[0]))); say("The added cell has no label yet. Esc takes it away."); return; }
  say("Saving the end of the reading …");
  store.end();
}

// --- adding a cell that both models missed ---

function setDrawing(on) {
  viewer.setDrawing(on);
  document.getElementById("add-cell")?.setAttribute("aria-pressed", String(on));
  if (on) { viewer.fit(); say("Drag a box round the cell that was missed. Esc stops."); }
}

viewer.addEventListener("box", (event) => {
  const { bbox } = event.detail;
  setDrawing(false);
  if (Math.min(bbox[2], bbox[3]) < 4) { say("That box was too small: press b and drag round the whole cell."); return; }
  const place = missedPlace(bbox);
  drafts.push(place);
  show();
  gallery.go(gallery.cells.indexOf(cellAt(place)));
  say("Give the added cell a label to keep it; Esc takes it away.");
});

// --- what the server says ---

store.addEventListener("labels", (event) => {
  saved = new Map(event.detail.labels.map((row) => [placeOf(row), row]));
  page.dataset.state = event.detail.state;
  show();
});
store.addEventListener("done", () => location.assign(page.dataset.next));
store.addEventListener("refused", (event) => {
  const problem = event.detail;
  showState("fault", `Not saved: ${problem.detail || problem.title}`, problem.hint);
  setTimeout(() => store.refresh());
});
store.addEventListener("state", (event) => {
  const count = store.unsaved.length;
  const kept = count ? `${count} ${count === 1 ? "label is" : "labels are"} kept in this browser and sent when it is back.` : "It is tried again.";
  if (event.detail === "saved") showState("ok", "All saved");
  if (event.detail === "saving") showState("busy", "Saving …");
  if (event.detail === "away") showState("fault", "The server does not answer.", kept);
  if (event.detail === "signed_out") showState("fault", "Your session is over: sign in again in another tab.", kept);
  show();
});

function showState(kind, text, more = "") {
  const state = document.getElementById("save-state");
  if (!state) return;
  state.dataset.kind = kind;
  state.className = `chip chip-${kind}`;
  const bold = document.createElement("span");
  bold.className = "chip-text";
  bold.textContent = text;
  state.replaceChildren(icon(kind), bold);
  const bar = document.getElementById("save-problem");
  bar.hidden = kind !== "fault";
  if (kind === "fault") {
    document.getElementById("save-problem-text").textContent = [text, more].filter(Boolean).join(" ");
    state.replaceChildren(icon("fault"), bold);
    bold.textContent = "Not saved";
  }
}

// --- the picture ---

async function load() {
  const [boxes, picture] = await Promise.all([fetch(canvas.dataset.boxes), fetch(canvas.dataset.image)]);
  if (!boxes.ok || !picture.ok) throw new Error(`boxes ${boxes.status}, picture ${picture.status}`);
  const found = await boxes.json();
  canvas.parentElement.style.aspectRatio = `${found.width_px} / ${found.height_px}`;
  image = await createImageBitmap(await picture.blob());
  field = found;
  viewer.setField({ image, width: field.width_px, height: field.height_px, boxes: field.boxes, umPerPx: field.um_per_px });
  wait.hidden = true;
  root.querySelectorAll("[data-cell]").forEach(crop);
}

canvas.addEventListener("pointerup", () => requestAnimationFrame(() => {
  const box = viewer.field?.boxes[viewer.selected];
  if (!box) return;
  const place = box.place ?? (Number.isInteger(box.cell) ? String(box.cell) : null);
  const cell = place === null ? null : cellAt(place);
  if (cell) {
    const followed = follow;
    follow = false;
    gallery.go(gallery.cells.indexOf(cell));
    follow = followed;
  } else say(`${box.cls === "RBC" ? "Red cell" : box.cls === "WBC" ? "White cell" : "Platelet"} seen by the ${box.source}, score ${box.score.toFixed(2)}${box.counted ? "" : ", not counted"}.`);
}));
new ResizeObserver(() => root.querySelectorAll("[data-cell]").forEach(crop)).observe(root);

function escape() {
  if (viewer.drawing) { setDrawing(false); say("No cell added."); return; }
  if (gallery.marked.length) { gallery.setMarked(gallery.marked, false); return; }
  const place = gallery.cells[gallery.current]?.dataset.cell;
  if (drafts.includes(place)) {
    drafts = drafts.filter((draft) => draft !== place);
    show();
    gallery.go(0);
    say("The added cell is taken away.");
    return;
  }
  wholeField();
}

function wholeField() { follow = false; showFollow(); viewer.fit(); }
function zoomToCell() {
  follow = true;
  showFollow();
  if (viewer.selected >= 0) viewer.select(viewer.selected, { reveal: true });
}
function showFollow() { document.getElementById("follow").setAttribute("aria-pressed", String(follow)); }

const barKeys = wireViewerBar(viewer, document.getElementById("field-bar"));
bindKeys({ ...barKeys, 0: wholeField, z: zoomToCell, Escape: escape, Enter: end });
document.querySelector("#field-bar [data-zoom=fit]").addEventListener("click", wholeField);
document.getElementById("follow").addEventListener("click", () => (follow ? wholeField() : zoomToCell()));
document.getElementById("done")?.addEventListener("click", end);
if (mayLabel) {
  const keys = {};
  document.querySelectorAll("#labels [data-label]").forEach((button) => {
    keys[button.dataset.key] = () => label(button.dataset.label);
    button.addEventListener("click", () => label(button.dataset.label));
  });
  bindKeys({ ...keys, u: undo, b: () => setDrawing(!viewer.drawing) });
  document.getElementById("undo").addEventListener("click", undo);
  document.getElementById("add-cell").addEventListener("click", () => setDrawing(!viewer.drawing));
  document.getElementById("select-many").addEventListener("click", (event) => {
    gallery.marking = !gallery.marking;
    event.currentTarget.setAttribute("aria-pressed", String(gallery.marking));
    if (!gallery.marking) gallery.setMarked(gallery.marked, false);
  });
  document.querySelectorAll("[data-select-group]").forEach((button) => button.addEventListener("click", () => {
    const cells = [...button.closest("[data-group]").querySelectorAll("[data-cell]")];
    gallery.setMarked(cells, !cells.every((cell) => cell.getAttribute("aria-pressed") === "true"));
    gallery.go(gallery.cells.indexOf(cells[0]));
  }));
  document.getElementById("try-now").addEventListener("click", () => store.retry());
}
addEventListener("visibilitychange", () => { if (!document.hidden) store.refresh(); });

const loaded = load().catch((error) => {
  wait.textContent = `The picture could not be loaded (${error.message}). Reload the page to try again; your labels are safe.`;
});
Promise.all([loaded, store.begin()]).then(() => {
  show();
  if (gallery.current < 0 && !goNextOpen(-1) && gallery.cells.length) gallery.go(0);
  page.dataset.ready = "true";
});
