// The live page: newest field with its cells, layers by key, freeze. One picture is under way at a time; a slow browser
// sees fewer of them and holds nothing up.
import { FieldViewer, wireViewerBar } from "./field_viewer.js";
import { bindKeys } from "./keys.js";
import { followAgent } from "./follow.js";

const MIN_INTERVAL_MS = 80;
const canvas = document.getElementById("field");
const wait = document.getElementById("field-wait");
const freezeButton = document.getElementById("freeze");
const frozenBadge = document.getElementById("field-frozen");
const cellLine = document.getElementById("cell-line");
const viewer = new FieldViewer(canvas);

let wanted = "";
let shownId = "";
let busy = false;
let frozen = false;

const label = (box) => (box.label ? `${box.label} ${Math.round((box.probability ?? 0) * 100)} %` : "");

async function load() {
  if (busy || frozen || wanted === shownId) return;
  busy = true;
  try {
    const answer = await fetch("/api/live", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) return;
    const field = await answer.json();
    const picture = await fetch(`/live.jpg?capture=${encodeURIComponent(field.capture_id)}`, { signal: AbortSignal.timeout(5000) });
    if (!picture.ok) return;
    const image = await createImageBitmap(await picture.blob());
    if (frozen) { image.close(); return; }
    show(field, image);
    shownId = field.capture_id;
  } catch { /* the next event tries again; silence is shown as stale */ } finally {
    setTimeout(() => { busy = false; if (wanted !== shownId && !frozen) load(); }, MIN_INTERVAL_MS);
  }
}

function show(field, image) {
  const boxes = field.boxes.map((box) => ({ ...box, label: label(box) }));
  viewer.setField({ image, width: field.width_px, height: field.height_px, boxes, umPerPx: field.um_per_px });
  wait.hidden = true;
  cellLine.textContent = "";
  const count = (cls) => boxes.filter((box) => box.cls === cls && box.counted).length;
  canvas.dataset.capture = field.capture_id;
  canvas.setAttribute("aria-label",
    `Field ${field.capture_id}: ${count("RBC")} red cells, ${count("WBC")} white cells, ${count("Platelets")} platelets`);
  canvas.parentElement.style.aspectRatio = `${field.width_px} / ${field.height_px}`;
}

function freeze() {
  frozen = !frozen;
  freezeButton.setAttribute("aria-pressed", String(frozen));
  frozenBadge.hidden = !frozen;
  frozenBadge.textContent = `Frozen at ${new Date().toLocaleTimeString()}, counting goes on`;
  if (!frozen) load();
}

viewer.addEventListener("select", (event) => {
  const { box } = event.detail;
  const names = { RBC: "Red cell", WBC: "White cell", Platelets: "Platelet" };
  cellLine.textContent = box
    ? `${names[box.cls]}${box.label ? `: ${box.label}` : ""}, score ${box.score.toFixed(2)}${box.counted ? "" : ", not counted"}`
    : "";
});
freezeButton.addEventListener("click", freeze);
bindKeys({ ...wireViewerBar(viewer, document.getElementById("field-bar")), f: freeze, Escape: () => viewer.select(-1) });
followAgent(["panel", "note"], { field: (captureId) => { wanted = captureId; if (captureId) load(); } });
