// Pieces of a page renewed in place: by server-sent events (edge) or by asking again (cloud). When nobody answers the
// page says so, shows the age of what it shows, and greys it.
import { ageText, renewAges } from "./frame.js";

const STALE_AFTER_MS = 6000;
let heardAt = Date.now();

/** Puts HTML rendered by our own server into the element of that id. */
export function showFragment(id, html) {
  const element = document.getElementById(id);
  if (!element) return;
  const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
  const template = document.createElement("template");
  template.innerHTML = html;
  element.replaceChildren(template.content);
  renewAges(element);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function heard() {
  heardAt = Date.now();
  document.body.dataset.stale = "false";
}

function watchStaleness(staleAfterMs) {
  const note = document.getElementById("stale-text");
  setInterval(() => {
    const silentMs = Date.now() - heardAt;
    if (silentMs < staleAfterMs) return;
    document.body.dataset.stale = "true";
    if (note) note.textContent = `No answer. What you see is from ${ageText(silentMs / 1000)}.`;
  }, 1000);
}

/**
 * Follows a stream of events. `fragment` events name an element and its HTML; other topics go to `handlers`.
 * Tries again every few seconds for ever: the agent may be restarting.
 */
export function followEvents(url, topics, handlers = {}) {
  watchStaleness(STALE_AFTER_MS);
  let source = null;
  const open = () => {
    source = new EventSource(url);
    source.addEventListener("beat", heard);
    for (const topic of topics) {
      source.addEventListener(topic, (event) => { heard(); showFragment(topic, event.data); });
    }
    for (const [topic, handler] of Object.entries(handlers)) {
      source.addEventListener(topic, (event) => { heard(); handler(event.data); });
    }
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) setTimeout(open, 3000);
    });
  };
  open();
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => { if (event.persisted) open(); });
}

/** Asks for an element's content again and again; stops while the page is hidden. */
export function pollFragment(id, url, everyMs) {
  watchStaleness(everyMs * 3);
  setInterval(async () => {
    if (document.hidden) { heardAt = Date.now(); return; }
    try {
      const answer = await fetch(url, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(everyMs * 2) });
      if (answer.status === 401 || answer.redirected) { location.reload(); return; }
      if (!answer.ok) return;
      showFragment(id, await answer.text());
      heard();
    } catch { /* shown by its age */ }
  }, everyMs);
}
