// What the API's values mean, in words.

const KINDS = {
  positive: ["admiration", "amusement", "approval", "caring", "excitement", "gratitude", "joy", "love", "optimism",
    "pride", "relief"],
  negative: ["anger", "annoyance", "disappointment", "disapproval", "disgust", "embarrassment", "fear", "grief",
    "nervousness", "remorse", "sadness"],
  ambiguous: ["confusion", "curiosity", "desire", "realization", "surprise"],
};
const KIND_OF = new Map(Object.entries(KINDS).flatMap(([kind, labels]) => labels.map((label) => [label, kind])));

/** A mark for each kind, so that colour is never the only difference. */
export const MARKS = { positive: "▲", negative: "▼", ambiguous: "◆", neutral: "●" };

/** positive, negative, ambiguous, or neutral, which labels that are not known count as too. */
export const kindOf = (label) => KIND_OF.get(label) ?? "neutral";

/** The part of 1 as a percentage; small ones are not made zero. */
export function percent(share) {
  const hundredths = share * 100;
  if (hundredths > 0 && hundredths < 0.1) return "<0.1 %";
  return `${hundredths < 10 ? hundredths.toFixed(1) : Math.round(hundredths)} %`;
}

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** "a", "a and b", "a, b and c". */
export function list(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

const STATES = {
  confused_mixed: "Confused, with several feelings at once",
  confused: "Confused",
  conflicted: "Conflicted: the words set one thing against another",
  mixed_positive: "Several feelings, on the whole positive",
  mixed_negative: "Several feelings, on the whole negative",
  mixed_neutral: "Several feelings that balance each other",
  positive: "Positive",
  negative: "Negative",
  neutral: "Neutral",
};

const MIXTURES = {
  conflicted: "Positive and negative feelings are both among the strongest",
  complex: "Three or more feelings go together",
  layered: "A second feeling lies beneath the first",
};

const OVERALL = {
  positive: "On the whole positive",
  negative: "On the whole negative",
  neutral: "Neither clearly positive nor clearly negative",
};

const COMPLEXITIES = {
  simple: "Simple: the scores point one way",
  moderate: "Moderate: there is a second possibility",
  complex: "Complex: the scores are spread over several feelings",
  very_complex: "Very complex: the scores are spread over many feelings",
};

const spoken = (words, value) => words[value] ?? capital(String(value).replaceAll("_", " "));

/** One line each about what was read: name and sentence. */
export function sentences(answer) {
  const significant = answer.significant_emotions.length;
  const alone = significant === 0 ? "No feeling stands out" : "One feeling stands out";
  const conflict = answer.has_conflict
    ? "Yes: words such as “but”, “yet” or “torn” stand beside several feelings"
    : "None in the words";
  const lines = [
    ["Valence", spoken(OVERALL, answer.valence.overall)],
    ["State", spoken(STATES, answer.emotional_state)],
    ["Mixture", answer.is_mixed ? spoken(MIXTURES, answer.mixed_type) : alone],
    ["Conflict", conflict],
    ["Complexity", spoken(COMPLEXITIES, answer.complexity)],
  ];
  if (answer.has_confusion) lines.splice(4, 0, ["Confusion", "Yes: the score of confusion is over 15 %"]);
  return lines;
}

const FALLBACKS = {
  memory_limit: "It was unloaded because memory ran short.",
  does_not_fit: "There is not enough memory left to load it.",
  load_timeout: "It takes longer to load than the server waits; it goes on loading.",
  load_failed: "It could not be loaded.",
  thrashing: "Its weights did not stay in memory, so it was unloaded.",
  barred: "It was unloaded by hand.",
  use_light_model: "The server is set to let the light model answer everything (USE_LIGHT_MODEL).",
};

/** Why the light model answered instead of the heavy one. */
export const fallbackReason = (reason) => FALLBACKS[reason] ?? `The server says: ${String(reason).replaceAll("_", " ")}.`;

const LEVELS = {
  normal: ["Normal", "there is room."],
  pressure: ["Pressure", "the cache is dropped and batches are smaller."],
  evict: ["Over the limit", "the heavy model has to go."],
};

/** How near memory is to its bounds: a word and what it means. */
export const levelWords = (level) => LEVELS[level] ?? [capital(String(level)), ""];

const MODEL_STATES = {
  ready: ["●", "Ready"],
  loading: ["◐", "Loading"],
  absent: ["○", "Not loaded"],
  draining: ["◑", "Being unloaded"],
  barred: ["⊘", "Kept away"],
};

/** A model's state: a mark and a word. */
export const stateWords = (state) => MODEL_STATES[state] ?? ["○", capital(String(state))];

/** Seconds as people say them. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

/** Milliseconds, or seconds where they are many. */
export function milliseconds(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 2000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** A few bytes, in kB or MB. */
export const amount = (bytes) => (bytes < 1048576 ? `${Math.ceil(bytes / 1024)} kB` : `${megabytes(bytes)} MB`);

/** Bytes as MB, of 1024 × 1024, as the settings count them. */
export function megabytes(bytes) {
  const value = bytes / 1048576;
  return value > 0 && value < 10 ? value.toFixed(1) : String(Math.round(value));
}
