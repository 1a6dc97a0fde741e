// Ties the parts together: what is typed, who is asked, what is shown.

import { Trouble, ask, currentKey, useKey } from "./api.js";
import { byId, make, setText } from "./dom.js";
import { Reading, spokenSummary } from "./reading.js";
import { bodiesOf, copy, curlOf } from "./request.js";
import { ServerPanel } from "./server.js";
import { capital } from "./words.js";

/** After the last key, in ms. */
const TYPING_PAUSE_MS = 250;

/** How often the page tries again by itself where the server says when. */
const MOST_RETRIES = 5;

const EXAMPLES = [
  ["Pride and loss", "I am so proud of you, but I will miss you terribly."],
  ["Thanks", "Thank you so much, this made my whole week!"],
  ["Anger", "They charged me twice and nobody answers the phone. I've had enough."],
  ["Worry", "I don't know what the doctor will say tomorrow and I can't sleep."],
  ["Surprise", "Wait, you mean to say that it worked the first time?"],
  ["Plain", "The meeting is on Tuesday at ten in the small room."],
];

const text = byId("text");
const readings = byId("readings");
const agreement = make("p", { className: "agreement" });
let cards = [];
let running = null;
let timer = null;
let retries = 0;
let serverWantsKey = false;
let failedOffline = false;

const view = () => document.querySelector("input[name=view]:checked").value;
const isBlank = () => text.value.trim() === "";

function showRequest() {
  const shown = isBlank() ? EXAMPLES[0][1] : text.value;
  setText(byId("curl"), curlOf(shown, view(), serverWantsKey || currentKey() !== ""));
  const characters = [...text.value].length;
  setText(byId("length"), characters ? `${characters} character${characters === 1 ? "" : "s"}` : "");
}

function layOut() {
  const asked = "as it was asked for";
  cards = view() === "both"
    ? [new Reading("Heavy model", asked), new Reading("Light model", asked)]
    : [new Reading("What it reads", "the first choice where it may run")];
  readings.dataset.view = view();
  readings.replaceChildren(agreement, ...cards.map((card) => card.element));
  setText(agreement, "");
}

/** Says a thing to those who do not see the page. */
const say = (what) => setText(byId("said"), what);

function whatHelps(trouble) {
  const button = (label, action) => make("button", { type: "button", onclick: action }, label);
  if (trouble.needsKey) {
    return make("div", {}, button("Enter a key", () => byId("key").focus()));
  }
  const again = button("Try again", () => run());
  if (trouble.retryAfterSeconds === null || retries >= MOST_RETRIES) return make("div", {}, again);
  const seconds = Math.max(1, trouble.retryAfterSeconds);
  return make("div", {}, `This page tries again by itself in ${seconds} s. `, make("br"), again);
}

/** Shows what became of each card's request, and says it. */
function settle(outcomes) {
  const said = outcomes.map(({ value, reason }, index) => {
    const name = outcomes.length > 1 ? `${index === 0 ? "Heavy" : "Light"}: ` : "";
    if (value) {
      cards[index].show(value);
      return name + spokenSummary(value.json);
    }
    cards[index].fail(reason, whatHelps(reason));
    return name + reason.message;
  });
  const troubles = outcomes.map(({ reason }) => reason).filter(Boolean);
  serverWantsKey ||= troubles.some((trouble) => trouble.status === 401);
  failedOffline = troubles.some((trouble) => trouble.status === 0);
  const [heavy, light] = outcomes.map(({ value }) => value?.json);
  if (heavy && light) {
    const [first, second] = [heavy.basic_emotion, light.basic_emotion];
    setText(agreement, heavy.model.role === "light"
      ? "Both columns are of the light model: the heavy one was replaced."
      : first === second
        ? `Both read ${first} as the basic emotion.`
        : `They differ in the basic emotion: heavy reads ${first}, light reads ${second}.`);
  }
  const waits = troubles.map((trouble) => trouble.retryAfterSeconds).filter((seconds) => seconds !== null);
  if (waits.length && retries < MOST_RETRIES) {
    retries += 1;
    timer = setTimeout(read, Math.max(1, ...waits) * 1000);
  } else if (!troubles.length) {
    retries = 0;
  }
  say(said.join(" "));
  showRequest();
}

function asTrouble(error) {
  return error instanceof Trouble ? error : new Trouble("This page failed", String(error));
}

/** Asks for the text as it is now. An answer that is still awaited is given up. */
async function read() {
  clearTimeout(timer);
  running?.abort();
  running = null;
  if (isBlank()) {
    readings.setAttribute("aria-busy", "false");
    setText(agreement, "");
    cards.forEach((card) => card.empty());
    say("");
    return;
  }
  const mine = new AbortController();
  running = mine;
  readings.setAttribute("aria-busy", "true");
  cards.forEach((card) => card.wait());
  const asked = bodiesOf(text.value, view()).map((body) => ask("analyze", { body, signal: mine.signal }));
  const outcomes = await Promise.allSettled(asked);
  if (running !== mine) return;
  running = null;
  readings.setAttribute("aria-busy", "false");
  settle(outcomes.map(({ value, reason }) => ({ value, reason: reason && asTrouble(reason) })));
}

/** Reads by a person's wish: as if for the first time. */
function run() {
  retries = 0;
  read();
}

function typed() {
  showRequest();
  clearTimeout(timer);
  // What was asked before is of no use any more.
  running?.abort();
  running = null;
  if (isBlank()) run();
  else timer = setTimeout(run, TYPING_PAUSE_MS);
}

function takeExample(example) {
  text.value = example;
  showRequest();
  run();
}

const panel = new ServerPanel({
  onChange: () => run(),
  onBack: () => {
    if (failedOffline) run();
  },
  onLocked: () => {
    serverWantsKey = true;
    showRequest();
  },
});

function showKeyState(problem) {
  setText(byId("key-state"), problem ?? (currentKey() ? "A key is in use in this tab." : ""));
  byId("forget").hidden = currentKey() === "";
}

function takeKey(key) {
  if (!useKey(key)) {
    showKeyState("This key has characters that cannot be sent: letters, digits and signs of ASCII can.");
    return;
  }
  byId("key").value = "";
  showKeyState();
  showRequest();
  panel.refresh();
  run();
}

byId("examples").append(...EXAMPLES.map(([name, example]) =>
  make("button", { type: "button", title: example, onclick: () => takeExample(example) }, capital(name))));
text.addEventListener("input", typed);
document.querySelectorAll("input[name=view]").forEach((input) => input.addEventListener("change", () => {
  layOut();
  showRequest();
  run();
}));
byId("copy").addEventListener("click", async () => {
  const copied = await copy(byId("curl").textContent, byId("curl"));
  setText(byId("copied"), copied ? "Copied." : "Selected; press Ctrl+C, or ⌘C, to copy.");
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  takeKey(byId("key").value);
});
byId("forget").addEventListener("click", () => {
  takeKey("");
  byId("key").focus();
});

layOut();
showKeyState();
showRequest();
run();
panel.start();
