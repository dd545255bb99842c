// One key, one action. Never while a person types, never with a modifier that belongs to the browser.
const actions = new Map();

/** Binds keys: { r: fn, Escape: fn }. A single letter is bound in both cases. */
export function bindKeys(bindings) {
  for (const [key, action] of Object.entries(bindings)) actions.set(key.length === 1 ? key.toLowerCase() : key, action);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target instanceof Element && event.target.closest("input, textarea, select, [contenteditable]")) return;
  if (document.querySelector("dialog[open]")) return;
  const action = actions.get(event.key.length === 1 ? event.key.toLowerCase() : event.key);
  if (!action) return;
  event.preventDefault();
  action(event);
});
