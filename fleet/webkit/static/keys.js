// One key, one action. Never while a person types, never with a modifier that belongs to the browser.
const actions = new Map();

/** Binds keys: { r: fn, Escape: fn }. A single letter is bound in both cases. */
export function bindKeys(bindings) {
  for (const [key, action] of Object.entries(bindings)) actions.set(key.length === 1 ? key.toLowerCase() : key, action);
}

// Enter and space press what has the focus; a cell of a gallery is chosen already, so there they are free.
const PRESSES = new Set(["Enter", " "]);
const PRESSED = "a, button:not([data-cell]), summary";

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (!(event.target instanceof Element)) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  if (PRESSES.has(event.key) && event.target.closest(PRESSED)) return;
  if (document.querySelector("dialog[open]")) return;
  const action = actions.get(event.key.length === 1 ? event.key.toLowerCase() : event.key);
  if (!action) return;
  event.preventDefault();
  if (event.repeat && PRESSES.has(event.key)) return;
  action(event);
});
