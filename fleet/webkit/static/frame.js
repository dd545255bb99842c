// What every page has: help on `?`, ages that grow, rows that open.
import { bindKeys } from "./keys.js";

const help = document.getElementById("help");
if (help) {
  const open = () => help.showModal();
  bindKeys({ "?": open });
  document.querySelectorAll("[data-help-open]").forEach((button) => button.addEventListener("click", open));
  help.addEventListener("click", (event) => {
    if (event.target === help || event.target.closest("[data-dialog-close]")) help.close();
  });
}

/** "12 s ago" for a number of seconds. The same words as the server's. */
export function ageText(seconds) {
  if (seconds < 5) return "just now";
  if (seconds < 90) return `${Math.floor(seconds)}\u00a0s ago`;
  if (seconds < 5400) return `${Math.floor(seconds / 60)}\u00a0min ago`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)}\u00a0h ago`;
  return `${Math.floor(seconds / 86400)}\u00a0days ago`;
}

// The server's clock counts, not the browser's: the difference is taken once from the page.
const served = Date.parse(document.body.dataset.servedAt ?? "");
const clockOffsetMs = Number.isNaN(served) ? 0 : served - Date.now();

/** Renews the text of every <time data-age>. */
export function renewAges(root = document) {
  for (const element of root.querySelectorAll("time[data-age][datetime]")) {
    const at = Date.parse(element.dateTime);
    if (!Number.isNaN(at)) element.textContent = ageText(Math.max(0, (Date.now() + clockOffsetMs - at) / 1000));
  }
}
setInterval(renewAges, 1000);

document.addEventListener("click", (event) => {
  if (!(event.target instanceof Element) || event.target.closest("a, button, input")) return;
  const row = event.target.closest("tr[data-href]");
  if (row) location.assign(row.dataset.href);
});
