// Runs before the first paint (not a module), so that a dark page never flashes white.
(() => {
  const KEY = "ahs-theme";
  let theme = null;
  try { theme = localStorage.getItem(KEY); } catch { /* storage is switched off: follow the system */ }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element ? event.target.closest("[data-theme-toggle]") : null;
    if (!button) return;
    const shown = document.documentElement.dataset.theme
      ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    const next = shown === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem(KEY, next); } catch { /* lasts for this page only */ }
    document.dispatchEvent(new CustomEvent("themechange"));
  });
})();
