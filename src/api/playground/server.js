// The panel of the server: memory, models, queue and cache, while the page is looked at.

import { ask, currentKey } from "./api.js";
import { byId, make, setShare, setText } from "./dom.js";
import { amount, capital, duration, levelWords, megabytes, stateWords } from "./words.js";

const POLL_MS = 2000;
const HEALTH_TIMEOUT_MS = 6000;

/** Readings in the curve: two minutes. */
const HISTORY = 60;

const SVG = "http://www.w3.org/2000/svg";

/** One figure of memory against its limit. */
class Gauge {
  constructor(name) {
    this.name = name;
    this.value = make("span");
    this.fill = make("div", { className: "fill", share: 0 });
    this.track = make("div", { className: "track", aria: { role: "meter", label: name, valuemin: "0", valuemax: "100" } }, this.fill);
    this.element = make("div", { className: "gauge" },
      make("div", { className: "line" }, make("span", {}, name), this.value), this.track);
  }

  show(bytes, limit, level) {
    this.track.hidden = !limit;
    const text = limit ? `${megabytes(bytes)} of ${megabytes(limit)} MB` : `${megabytes(bytes)} MB`;
    setText(this.value, text);
    if (!limit) return;
    setShare(this.fill, bytes / limit);
    this.element.dataset.level = level;
    this.track.setAttribute("aria-valuenow", String(Math.round(Math.min(1, bytes / limit) * 100)));
    this.track.setAttribute("aria-valuetext", text);
  }
}

/** Resident memory over the last readings, under its limit where there is one. */
class History {
  constructor() {
    this.readings = [];
    this.curve = document.createElementNS(SVG, "polyline");
    this.bound = document.createElementNS(SVG, "line");
    this.element = document.createElementNS(SVG, "svg");
    this.element.setAttribute("viewBox", `0 0 ${HISTORY - 1} 40`);
    this.element.setAttribute("preserveAspectRatio", "none");
    this.element.setAttribute("class", "history");
    this.element.setAttribute("aria-hidden", "true");
    this.element.append(this.bound, this.curve);
  }

  add(bytes, limit) {
    this.readings = [...this.readings, bytes].slice(-HISTORY);
    const top = Math.max(limit ?? 0, Math.max(...this.readings) * 1.25);
    const height = (value) => (39 - (38 * value) / top).toFixed(1);
    const first = HISTORY - this.readings.length;
    const points = this.readings.map((value, index) => `${first + index},${height(value)}`);
    this.curve.setAttribute("points", points.join(" "));
    for (const [name, value] of [["x1", 0], ["x2", HISTORY - 1], ["y1", height(limit ?? 0)], ["y2", height(limit ?? 0)]]) {
      this.bound.setAttribute(name, value);
    }
    this.bound.style.display = limit ? "" : "none";
  }
}

/** One model with its button, which loads it or unloads it. */
class ModelRow {
  constructor(role, afterwards) {
    this.role = role;
    this.afterwards = afterwards;
    this.verb = "load";
    this.busy = false;
    this.name = make("span");
    this.state = make("p", { className: "state" });
    this.why = make("p", { className: "why" });
    this.outcome = make("p", { className: "outcome", aria: { role: "status" } });
    this.button = make("button", { type: "button", onclick: () => this.press() }, "Load");
    this.element = make("div", { className: "model", data: { role } },
      make("p", { className: "name" }, capital(role), " ", this.name), this.button, this.state, this.why, this.outcome);
  }

  show(status) {
    const [sign, word] = stateWords(status.state);
    const limited = status.barred_for_seconds;
    const wait = limited === null ? "" : ` for ${duration(limited)} more`;
    setText(this.name, status.name);
    this.state.dataset.mark = sign;
    this.element.dataset.state = status.state;
    setText(this.state, `${word}${status.state === "barred" ? wait : ` for ${duration(status.for_seconds)}`}: ${status.reason}`);
    const workers = status.workers ? `${status.workers} worker${status.workers === 1 ? "" : "s"}, ` : "";
    const weights = status.weights ? `${status.weights} weights, ` : "";
    setText(this.why, status.error ?? (status.workers ? `${workers}${weights}${status.precision}` : ""));
    this.verb = status.state === "ready" || status.state === "draining" ? "unload" : "load";
    this.label();
  }

  label() {
    const doing = { load: "Loading…", unload: "Unloading…" };
    setText(this.button, this.busy ? doing[this.verb] : capital(this.verb));
    this.button.setAttribute("aria-label", `${capital(this.verb)} the ${this.role} model`);
    this.button.setAttribute("aria-disabled", String(this.busy));
  }

  async press() {
    if (this.busy) return;
    const verb = this.verb;
    this.busy = true;
    this.label();
    setText(this.outcome, "");
    try {
      const { ms } = await ask(`admin/models/${this.role}/${verb}`, { method: "POST" });
      setText(this.outcome, `${verb === "load" ? "Loaded" : "Unloaded"} in ${duration(Math.max(1, ms / 1000))}.`);
    } catch (trouble) {
      // 403: the server says which setting turns the buttons on.
      const title = trouble.status === 401 ? "This needs the admin key" : trouble.title;
      setText(this.outcome, `${title}. ${trouble.detail ?? ""}`);
    }
    this.busy = false;
    this.label();
    this.afterwards();
  }
}

/** Polls `/health` while the page is visible. */
export class ServerPanel {
  /**
   * `onChange` after a model was loaded or unloaded here; `onBack` when the server answers again;
   * `onLocked` when it asks for a key.
   */
  constructor({ onChange, onBack, onLocked }) {
    this.onBack = onBack;
    this.onLocked = onLocked;
    this.timer = null;
    this.asking = null;
    this.isAway = false;
    this.gauges = [new Gauge("Resident"), new Gauge("Not reclaimable")];
    this.history = new History();
    this.level = make("p", { className: "level" });
    const [resident, unreclaimable] = this.gauges.map((gauge) => gauge.element);
    const key = make("p", { className: "hint history-key", aria: { hidden: "true" } },
      make("span", {}, "last two minutes"), make("span", {}, "resident"));
    byId("memory").append(resident, this.history.element, key, unreclaimable, this.level);
    this.models = ["heavy", "light"].map((role) => new ModelRow(role, () => {
      this.refresh();
      onChange();
    }));
    byId("models").append(...this.models.map((model) => model.element));
    this.figures = new Map();
  }

  start() {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.pause();
      else this.refresh();
    });
    if (!document.hidden) this.refresh();
  }

  pause() {
    clearTimeout(this.timer);
    this.asking?.abort();
    this.asking = null;
    this.tell("paused", "paused");
  }

  /** Asks now, and again in two seconds. */
  async refresh() {
    clearTimeout(this.timer);
    this.asking?.abort();
    const mine = new AbortController();
    this.asking = mine;
    let wait = POLL_MS;
    try {
      const { json } = await ask("health", { signal: mine.signal, timeoutMs: HEALTH_TIMEOUT_MS });
      if (this.asking !== mine) return;
      this.show(json);
    } catch (trouble) {
      if (this.asking !== mine) return;
      this.fail(trouble);
      // Without another key the answer stays the same.
      if (trouble.needsKey) return;
      wait = Math.max(wait, (trouble.retryAfterSeconds ?? 0) * 1000);
    }
    if (!document.hidden) this.timer = setTimeout(() => this.refresh(), wait);
  }

  tell(state, text) {
    byId("live").dataset.state = state;
    setText(byId("live"), text);
  }

  show(health) {
    byId("server-notice").replaceChildren();
    byId("server-body").hidden = false;
    this.tell("live", health.status === "ok" ? "live" : health.status);
    setText(byId("version"), `emotion-server ${health.version}, up for ${duration(health.uptime_seconds)}`);
    this.showMemory(health.memory);
    this.models.forEach((model) => model.show(health.roles[model.role]));
    this.showFigures(health);
    if (this.isAway) {
      this.isAway = false;
      this.onBack();
    }
  }

  showMemory(memory) {
    const [resident, unreclaimable] = this.gauges;
    resident.show(memory.resident_bytes, memory.limit_bytes, memory.level);
    unreclaimable.show(memory.unreclaimable_bytes, memory.unreclaimable_limit_bytes, memory.level);
    this.history.add(memory.resident_bytes, memory.limit_bytes);
    const [word, meaning] = levelWords(memory.level);
    const bounded = memory.limit_bytes || memory.unreclaimable_limit_bytes;
    const text = bounded ? `: ${meaning}` : ": no limit is known for the server, its container or its machine.";
    this.level.dataset.level = memory.level;
    this.level.replaceChildren(make("strong", {}, word), text);
  }

  showFigures({ queued_texts: queued, roles, cache, memory }) {
    const asked = cache.hits + cache.misses;
    const limit = memory.container_limit_bytes
      ? `${megabytes(memory.container_usage_bytes ?? 0)} of ${megabytes(memory.container_limit_bytes)} MB (${memory.limit_from})`
      : "not known";
    this.figure("Texts waiting", `${queued}`);
    this.figure("Tokens waiting", `${roles.heavy.queued_tokens + roles.light.queued_tokens}`);
    this.figure("Cache hits", asked ? `${cache.hits} of ${asked}` : "none asked");
    this.figure("Cache holds", amount(cache.bytes));
    this.figure("Nearest limit", limit);
  }

  figure(name, value) {
    if (!this.figures.has(name)) {
      const shown = make("dd");
      byId("figures").append(make("dt", {}, name), shown);
      this.figures.set(name, shown);
    }
    setText(this.figures.get(name), value);
  }

  fail(trouble) {
    if (trouble.needsKey) this.tell("locked", "needs a key");
    else this.tell("away", trouble.status ? `refused (${trouble.status})` : "no answer");
    this.isAway ||= trouble.status === 0;
    if (trouble.status === 401) this.onLocked();
    const detail = trouble.needsKey
      ? (currentKey() ? "The key in use does not open it." : "Enter a key below to see memory, models and queue.")
      : trouble.detail;
    const title = trouble.needsKey ? "The server's state needs a key" : trouble.title;
    byId("server-body").hidden = true;
    byId("server-notice").replaceChildren(
      make("div", { className: `notice ${trouble.needsKey ? "warn" : "bad"}` }, make("strong", {}, title), detail));
  }
}
