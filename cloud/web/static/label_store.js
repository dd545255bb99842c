// Labels on their way to the server: one after the other, kept in this browser until the server has them.
const FIRST_WAIT_MS = 1500;
const LAST_WAIT_MS = 15000;
const TIMEOUT_MS = 10000;

function read(key) {
  try { return JSON.parse(localStorage.getItem(key)) ?? []; } catch { return []; }
}

/**
 * Events: "labels" (detail: the server's answer, which is the truth), "state" (see `state`), "refused" (detail: the
 * server's words; what was refused is given up), "done" (the reading has ended on the server).
 */
export class LabelStore extends EventTarget {
  /** url of the labels; key names opinion and reader, so that nobody sends another's labels. */
  constructor({ url, key, shown }) {
    super();
    this.url = url;
    this.key = key;
    this.shown = shown;
    this.waiting = read(key);
    this.state = "saved";
    this.failures = 0;
    this.running = false;
    this.wake = null;
    addEventListener("beforeunload", (event) => { if (this.waiting.length) event.preventDefault(); });
    addEventListener("online", () => this.retry());
  }

  /** Labels that the server does not have yet, oldest first. */
  get unsaved() { return this.waiting.flatMap((item) => item.labels); }

  /** Asks for the labels as they are, and sends what was left from before. */
  async begin() {
    await this.refresh();
    this.#run();
  }

  /** Takes over what the server has, unless something of ours is on its way. */
  async refresh() {
    if (this.running) return;
    try {
      const answer = await fetch(this.url, { signal: AbortSignal.timeout(TIMEOUT_MS) });
      if (answer.ok && !this.running) this.#emit("labels", await answer.json());
    } catch { /* the next save tells whether the server is there */ }
  }

  /** labels: [{ cell, label }] or [{ bbox, label }]. */
  push(labels) {
    this.waiting.push({ labels });
    this.#keep();
    this.#run();
  }

  /** Ends the reading once everything before is saved. */
  end() {
    if (this.waiting.some((item) => item.done)) { this.retry(); return; }
    this.waiting.push({ labels: [], done: true });
    this.#run();
  }

  /** Tries at once instead of waiting. */
  retry() {
    this.wake?.();
    this.#run();
  }

  async #run() {
    if (this.running) return;
    this.running = true;
    while (this.waiting.length) {
      if (!["away", "signed_out"].includes(this.state)) this.#become("saving");
      const item = this.waiting[0];
      const outcome = await this.#send(item);
      if (outcome === "signed_out") { this.#become(outcome); break; }
      if (outcome === "away") {
        this.#become(outcome);
        await this.#pause();
        continue;
      }
      this.failures = 0;
      this.waiting.shift();
      this.#keep();
      if (outcome.problem) {
        this.waiting = this.waiting.filter((later) => !later.done);
        this.#emit("refused", outcome.problem);
      } else {
        this.#emit("labels", outcome.review);
        if (item.done) this.#emit("done", outcome.review);
      }
      this.#become(outcome.problem ? "refused" : this.waiting.length ? "saving" : "saved");
    }
    this.running = false;
  }

  async #send(item) {
    const body = JSON.stringify({ labels: item.labels, done: item.done === true, suggestion_shown: this.shown });
    try {
      const answer = await fetch(this.url, {
        method: "POST", body, headers: { "Content-Type": "application/json" }, signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      if (answer.ok) return { review: await answer.json() };
      if (answer.status === 401) return "signed_out";
      if (answer.status >= 500 || answer.status === 408 || answer.status === 429) return "away";
      return { problem: await answer.json() };
    } catch {
      return "away";
    }
  }

  #pause() {
    const waitMs = Math.min(LAST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.failures);
    this.failures += 1;
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, waitMs);
      this.wake = () => { clearTimeout(timer); resolve(); };
    });
  }

  #keep() {
    const labels = this.waiting.filter((item) => !item.done);
    try {
      if (labels.length) localStorage.setItem(this.key, JSON.stringify(labels));
      else localStorage.removeItem(this.key);
    } catch { /* storage is switched off: leaving the page is warned of */ }
  }

  #become(state) {
    this.state = state;
    this.#emit("state", state);
  }

  #emit(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }
}
