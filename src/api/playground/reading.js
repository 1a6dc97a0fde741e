// One card of what a model read in the text.

import { make, setText } from "./dom.js";
import { MARKS, capital, fallbackReason, kindOf, list, milliseconds, percent, sentences } from "./words.js";

/** Least score of a significant emotion where a request asks for no other. */
const SIGNIFICANT = 0.1;

/** How long an answer may take before the old one is shown as such, in ms. */
const PATIENCE_MS = 400;

/** And before the page says what may take so long. */
const LONG_WAIT_MS = 1500;

const mark = (kind) => make("span", { className: "mark", data: { kind }, aria: { hidden: "true" } }, MARKS[kind]);

function notice(kind, title, detail, ...more) {
  return make("div", { className: `notice ${kind}` }, make("strong", {}, title), detail, ...more);
}

/** Shares of the valence as one bar with its legend. */
function valence({ positive, negative, neutral }) {
  const parts = [["positive", positive, "positive"], ["neutral (ambiguous)", neutral, "ambiguous"], ["negative", negative, "negative"]];
  const shown = parts.filter(([, share]) => share > 0);
  return make("div", { className: "valence" },
    make("div", { className: "parts", aria: { hidden: "true" } },
      ...shown.map(([, share, kind]) => make("div", { className: "part", data: { kind }, share }))),
    make("p", { className: "key" },
      ...parts.map(([name, share, kind]) => make("span", {}, mark(kind), ` ${name} ${percent(share)}`))));
}

function bar(label, score, significant) {
  const kind = kindOf(label);
  return make("li", { className: significant ? "bar significant" : "bar", data: { kind, label, score } },
    mark(kind),
    make("span", { className: "label" }, label, make("span", { className: "unseen" }, ` (${kind}): `)),
    make("span", { className: "track", aria: { hidden: "true" } }, make("span", { className: "fill", share: score })),
    make("span", { className: "score" }, percent(score)));
}

/** All labels, highest first; the significant ones stand out and have a list of their own. */
function bars(answer) {
  const scores = Object.entries(answer.all_scores);
  const isSignificant = ([, score]) => score >= SIGNIFICANT;
  const [high, low] = [scores.filter(isSignificant), scores.filter((entry) => !isSignificant(entry))];
  return make("div", { className: "bars" },
    make("h3", {}, high.length ? `Significant: 10 % or more (${high.length} of ${scores.length})` : "Significant: none reaches 10 %"),
    make("ol", { className: "high" }, ...high.map(([label, score]) => bar(label, score, true))),
    low.length ? make("h3", {}, `The other ${low.length}`) : "",
    make("ol", { className: "rest" }, ...low.map(([label, score]) => bar(label, score, false))));
}

function legend() {
  const kinds = Object.keys(MARKS).map((kind) => make("span", {}, mark(kind), ` ${kind}`));
  return make("p", { className: "hint legend", aria: { hidden: "true" } }, ...kinds);
}

/** Who answered and why, and what it took: names and texts. */
function answered({ json, headers, ms }, why) {
  const { model, tokens, labels } = json;
  const source = headers.get("x-cache") === "hit" ? "from the cache" : "computed now";
  const reason = json.fallback ? "in place of the heavy one" : why;
  return [
    ["Answered by", `${model.name}, the ${model.role} model in ${model.precision}: ${reason}`],
    ["Took", `${milliseconds(ms)} to and from this browser, ${source}; ${tokens} ${tokens === 1 ? "token" : "tokens"}`],
    ["Labels", labels.length ? `${list(labels)}, by the model's own rule` : "None, by the model's own rule"],
  ];
}

function described(lines) {
  const rows = lines.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]);
  return make("dl", { className: "words" }, ...rows);
}

function notices({ json }) {
  const all = [];
  if (json.fallback) {
    all.push(notice("warn", `The light model answered instead of the ${json.fallback.from} one`, fallbackReason(json.fallback.reason)));
  }
  if (json.truncated) {
    const detail = `It read ${json.tokens} tokens from the start; what comes after them did not count.`;
    all.push(notice("warn", "The text is longer than the model reads", detail));
  }
  return all;
}

/** One sentence for those who do not see the bars. */
export function spokenSummary(answer) {
  const [[, overall], [, state]] = sentences(answer);
  const fallback = answer.fallback ? ` The light model answered: ${fallbackReason(answer.fallback.reason)}` : "";
  return `${capital(answer.emotion)}, ${percent(answer.confidence)}. ${overall}. ${state}.${fallback}`;
}

/** A card that shows an answer, a trouble, or what to do. */
export class Reading {
  /** `why`: the reason for which this model answers where no other takes its place. */
  constructor(title, why) {
    this.why = why;
    this.pending = make("p", { className: "pending" });
    this.content = make("div", { className: "content" });
    this.element = make("article", { className: "card reading", data: { stale: "false" } },
      make("div", { className: "heading" }, make("h2", {}, title), this.pending), this.content);
    this.timers = [];
  }

  /** An answer is on its way. What is there stays, and is marked as old if it takes long. */
  wait() {
    this.settle();
    const later = (ms, text) => this.timers.push(setTimeout(() => {
      this.element.dataset.stale = "true";
      setText(this.pending, text);
    }, ms));
    later(PATIENCE_MS, "reading…");
    later(LONG_WAIT_MS, "reading… the first text loads the model");
  }

  settle(text = "") {
    this.timers.splice(0).forEach(clearTimeout);
    this.element.dataset.stale = "false";
    setText(this.pending, text);
  }

  show(reply) {
    const answer = reply.json;
    this.settle(`${answer.model.name}, ${milliseconds(reply.ms)}`);
    this.content.replaceChildren(
      ...notices(reply),
      make("p", { className: "headline" },
        make("span", { className: "emotion" }, mark(kindOf(answer.emotion)), ` ${capital(answer.emotion)}`),
        make("span", { className: "confidence" }, percent(answer.confidence))),
      valence(answer.valence),
      described(sentences(answer)), bars(answer), legend(), described(answered(reply, this.why)));
  }

  fail(trouble, ...more) {
    this.settle();
    this.content.replaceChildren(notice("bad", trouble.title, trouble.detail, ...more));
  }

  empty() {
    this.settle();
    this.content.replaceChildren(make("p", { className: "empty" },
      make("strong", {}, "Nothing to read yet"), "Write or paste a text above, or take one of the examples."));
  }
}
