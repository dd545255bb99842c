// One rollout as it moves. The dialogs lie outside of what is renewed, so that an answer is not lost under the hand.
import { pollFragment } from "./fragments.js";
import { bindKeys } from "./keys.js";

const place = document.getElementById("rollout");
pollFragment("rollout", place.dataset.body, 2000);

document.addEventListener("click", (event) => {
  if (!(event.target instanceof Element)) return;
  const opener = event.target.closest("[data-opens]");
  if (opener) document.getElementById(opener.dataset.opens).showModal();
  event.target.closest("[data-close]")?.closest("dialog").close();
});

const press = (key) => () => {
  if (!document.querySelector("dialog[open]")) place.querySelector(`[data-key="${key}"]`)?.click();
};
bindKeys({ p: press("p"), a: press("a") });
