// The state every page of this console follows: chips and problems.
import { followEvents } from "./fragments.js";

const announce = (text) => {
  const place = document.getElementById("announce");
  if (place && place.textContent !== text) place.textContent = text;
};

/** Follows the agent; `topics` are further fragments of this page, `handlers` take topics that are not HTML. */
export function followAgent(topics = [], handlers = {}) {
  followEvents("/events", ["chips", "problems", ...topics], { announce, ...handlers });
}

if (document.querySelector('script[src="/static/follow.js"]')) followAgent();
