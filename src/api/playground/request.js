// The request that this page sends, as a command for a shell.

/** Longest body, in UTF-16 units, that stands in a command: Linux takes 128 KiB in one argument. */
const LONGEST_BODY = 30_000;

/** A word of POSIX shells that means this text, whatever is in it. */
export const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** What is asked for a text in a view: one body for each model that is to read it. */
export function bodiesOf(text, view) {
  return view === "both" ? [{ text, model: "heavy", strict: false }, { text, model: "light" }] : [{ text }];
}

/** What stands behind `-d`, and a remark in front of the command where that is a file. */
function dataOf(body) {
  const json = JSON.stringify(body);
  if (json.length <= LONGEST_BODY) return { data: shellQuoted(json), remark: "" };
  const file = `${body.model ?? "body"}.json`;
  const shape = JSON.stringify({ ...body, text: "…" });
  return { data: `@${file}`, remark: `# The text is too long for a command. Write ${shape} into the file ${file}.\n` };
}

function commandOf(body, withKey) {
  const { data, remark } = dataOf(body);
  const parts = [
    `curl -sS ${shellQuoted(new URL("analyze", document.baseURI).href)}`,
    "-H 'Content-Type: application/json'",
    `-d ${data}`,
  ];
  if (withKey) parts.splice(1, 0, '-H "Authorization: Bearer $API_KEY"');
  return remark + parts.join(" \\\n  ");
}

/** The same as commands of curl. A key is named, never shown. */
export const curlOf = (text, view, withKey) =>
  bodiesOf(text, view).map((body) => commandOf(body, withKey)).join("\n\n");

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
