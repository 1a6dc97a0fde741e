// Asking the server, with its key, and what went wrong in words.

const KEY_NAME = "emotion-server-key";
let key = null;

/** The key of this tab, or an empty text. */
export function currentKey() {
  if (key === null) {
    try {
      key = sessionStorage.getItem(KEY_NAME) ?? "";
    } catch {
      key = "";
    }
  }
  return key;
}

/** Keeps a key for this tab; an empty one forgets it. False where it cannot be sent in a header. */
export function useKey(next) {
  if (!/^[\x20-\x7e]*$/.test(next)) return false;
  key = next.trim();
  try {
    if (key) sessionStorage.setItem(KEY_NAME, key);
    else sessionStorage.removeItem(KEY_NAME);
  } catch {
    // Without storage it holds until the page is left.
  }
  return true;
}

/** What went wrong: a title, a sentence or two, and what may be done. */
export class Trouble extends Error {
  constructor(title, detail, { status = 0, retryAfterSeconds = null } = {}) {
    super(`${title}. ${detail}`.trim());
    Object.assign(this, { title, detail, status, retryAfterSeconds });
  }

  /** Whether a key may help. */
  get needsKey() {
    return this.status === 401 || this.status === 403;
  }
}

/** Where nothing came back. */
const silence = () => new Trouble("The server does not answer", "It may have stopped, or the network is down.");

function titleOf(status) {
  switch (status) {
    case 400: return "There is nothing to read";
    case 401: return currentKey() ? "The key is not accepted" : "This server needs a key";
    case 403: return "Access is refused";
    case 404: return "The server does not know this path";
    case 408: return "The request arrived too slowly";
    case 413: return "The text is too large";
    case 422: return "The server cannot take this as it is";
    case 429: return "Too many requests for the moment";
    case 503: return "No model can answer for the moment";
    case 504: return "The answer took too long";
    default: return status >= 500 ? `The server failed (${status})` : `The server refused (${status})`;
  }
}

async function troubleOf(reply) {
  let said = "";
  try {
    const body = JSON.parse(await reply.text());
    said = String(body.error ?? body.detail ?? "");
  } catch {
    // Not from this server: a proxy in between, with a page of its own.
    said = reply.status === 403 ? "Something between this page and the server refuses the request." : "";
  }
  const wait = Number.parseInt(reply.headers.get("retry-after") ?? "", 10);
  // What the server says of keys is meant for programs.
  if (reply.status === 401) said = "enter one of its keys in the field “Key”; it is sent with all that this page asks";
  const detail = said ? `${said.charAt(0).toUpperCase()}${said.slice(1).replace(/\.$/, "")}.` : "";
  const retryAfterSeconds = Number.isFinite(wait) ? wait : null;
  return new Trouble(titleOf(reply.status), detail, { status: reply.status, retryAfterSeconds });
}

/**
 * Sends a request with this tab's key and reads the reply whole. Gives its JSON, its headers and the
 * milliseconds that all of it took; throws a `Trouble`, or an `AbortError` when `signal` ends it.
 */
export async function ask(path, { body, method = body === undefined ? "GET" : "POST", signal, timeoutMs = 95_000 } = {}) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (currentKey()) headers.authorization = `Bearer ${currentKey()}`;
  const limit = AbortSignal.timeout(timeoutMs);
  const started = performance.now();
  try {
    const reply = await fetch(path, {
      method, headers, cache: "no-store", credentials: "same-origin",
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    if (!reply.ok) throw await troubleOf(reply);
    const json = await reply.json();
    return { json, headers: reply.headers, ms: performance.now() - started };
  } catch (error) {
    if (signal?.aborted) throw new DOMException("a later request took its place", "AbortError");
    if (error instanceof Trouble) throw error;
    if (limit.aborted) throw new Trouble("The answer took too long", `Nothing came in ${Math.round(timeoutMs / 1000)} s.`);
    if (error instanceof SyntaxError) throw new Trouble("The reply cannot be read", "It is not JSON.");
    throw silence();
  }
}
