// The request that this page sends, as a command for a shell.

/** A word of POSIX shells that means this text, whatever is in it. */
export const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** What is asked for a text in a view: one body for each model that is to read it. */
export function bodiesOf(text, view) {
  return view === "both" ? [{ text, model: "heavy", strict: false }, { text, model: "light" }] : [{ text }];
}

/** The same as commands of curl. A key is named, never shown. */
export function curlOf(text, view, withKey) {
  const url = new URL("analyze", document.baseURI).href;
  const lines = (body) => [
    `curl -sS ${shellQuoted(url)}`,
    ...(withKey ? [`-H "Authorization: Bearer $API_KEY"`] : []),
    "-H 'Content-Type: application/json'",
    `-d ${shellQuoted(JSON.stringify(body))}`,
  ].join(" \\\n  ");
  return bodiesOf(text, view).map(lines).join("\n\n");
}

/** Puts a text into the clipboard; false where the browser does not let it. */
export async function copy(text, shownIn) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Pages that were not loaded by HTTPS or from this machine have no clipboard: select, at least.
    const selection = getSelection();
    selection.selectAllChildren(shownIn);
    return document.execCommand("copy");
  }
}
