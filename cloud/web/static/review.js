// The queue: renewed while its first page is shown; arrows go from image to image.
import { bindKeys } from "./keys.js";
import { pollFragment } from "./fragments.js";

const links = () => [...document.querySelectorAll("#queue th a")];
const move = (step) => () => {
  const all = links();
  if (!all.length) return;
  const here = all.indexOf(document.activeElement);
  const next = all[Math.max(0, Math.min(all.length - 1, here < 0 ? 0 : here + step))];
  next.focus();
  next.closest("tr").scrollIntoView({ block: "nearest" });
};
bindKeys({ ArrowDown: move(1), ArrowUp: move(-1), Enter: () => location.assign("/review/next") });

const query = new URLSearchParams(location.search);
if (!query.has("cursor")) pollFragment("queue", `/review/queue?${query}`, 5000);
