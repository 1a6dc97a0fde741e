// Shows openapi.json: every path with its fields and replies, and a way to try it.

// Builds an element; children that are strings become text, never markup.
function make(name, properties, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children.filter((child) => child !== ""));
  return element;
}

// Text in which what stands between backquotes is code.
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", { className: "inline" }, part) : part));
}

const pretty = (value) => JSON.stringify(value, null, 2);

// A box that scrolls, so that the keyboard can too.
function box(text, label) {
  const pre = make("pre", { tabIndex: 0 }, text);
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", label);
  return pre;
}

function resolve(api, schema) {
  return schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema;
}

function exampleOf(api, content) {
  if (!content) return "";
  const schema = resolve(api, content.schema) ?? {};
  const alternative = resolve(api, schema.oneOf?.[0]) ?? {};
  const example = content.example ?? schema.example ?? schema.examples?.[0] ?? alternative.example;
  if (example === undefined) return "";
  return typeof example === "string" ? example : pretty(example);
}

// The schema with what it refers to in place, to a depth that can be read.
function written(api, schema, depth = 0) {
  if (Array.isArray(schema)) return schema.map((part) => written(api, part, depth));
  if (schema === null || typeof schema !== "object") return schema;
  const { $ref, ...rest } = schema;
  const whole = $ref && depth < 4 ? { ...resolve(api, { $ref }), ...rest } : schema;
  return Object.fromEntries(Object.entries(whole).map(([name, part]) => [name, written(api, part, depth + 1)]));
}

async function send(path, method, type, body) {
  const headers = type ? { "content-type": type } : {};
  const key = document.getElementById("key").value;
  if (key) headers.authorization = `Bearer ${key}`;
  try {
    const answer = await fetch(`.${path}`, { method: method.toUpperCase(), headers, body, signal: AbortSignal.timeout(95_000) });
    const text = await answer.text();
    const status = `${answer.status} ${answer.statusText}`;
    try {
      return [status, pretty(JSON.parse(text))];
    } catch {
      return [status, text];
    }
  } catch {
    return ["No answer", "The server did not answer, or the key has characters that cannot be sent."];
  }
}

function tryOut(path, method, operation, api) {
  const form = make("form", {});
  const parameters = (operation.parameters ?? []).filter((parameter) => parameter.in === "path");
  const fields = parameters.map(({ name, schema }) => {
    const input = make("input", { type: "text", value: schema.enum?.[0] ?? "", name, autocomplete: "off" });
    return { input, label: make("label", {}, name, input) };
  });
  if (fields.length) form.append(make("div", { className: "fields" }, ...fields.map((field) => field.label)));
  const content = operation.requestBody?.content;
  const type = content && Object.keys(content)[0];
  const body = content && make("textarea", { value: exampleOf(api, content[type]), spellcheck: false });
  if (body) form.append(make("label", { className: "body-label" }, `Body, ${type}`, body));
  const reply = make("div", { className: "reply" });
  reply.setAttribute("role", "status");
  form.append(make("button", { type: "submit" }, "Send"), reply);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    reply.replaceChildren(make("p", { className: "status" }, "…"));
    const filled = fields.reduce((all, { input }) => all.replace(`{${input.name}}`, encodeURIComponent(input.value)), path);
    const [status, text] = await send(filled, method, type, body?.value);
    reply.replaceChildren(make("p", { className: "status" }, status), text === "" ? "" : box(text, "Reply"));
  });
  return form;
}

function replies(operation, api) {
  const rows = Object.entries(operation.responses).map(([status, response]) => {
    const example = exampleOf(api, Object.values(response.content ?? {})[0]);
    const head = make("th", { scope: "row" }, status);
    return make("tr", {}, head, make("td", {}, ...prose(response.description), example ? make("pre", {}, example) : ""));
  });
  return make("details", {}, make("summary", {}, "Replies"), make("table", { className: "replies" }, make("tbody", {}, ...rows)));
}

function describe(path, method, operation, api) {
  const content = operation.requestBody && Object.values(operation.requestBody.content)[0];
  const fields = content?.schema && pretty(written(api, content.schema));
  return make("details", { className: "operation" },
    make("summary", {}, make("span", { className: `method ${method}` }, method.toUpperCase()),
      make("span", {}, make("code", {}, path), " ", make("span", { className: "what" }, ...prose(operation.summary ?? "")))),
    make("div", { className: "inside" },
      operation.description ? make("p", {}, ...prose(operation.description)) : "",
      tryOut(path, method, operation, api),
      fields ? make("details", {}, make("summary", {}, "Fields of the request"), box(fields, "Fields of the request")) : "",
      replies(operation, api)));
}

function show(api) {
  document.getElementById("about").replaceChildren(...prose(api.info.description));
  document.getElementById("version").textContent = `emotion-server ${api.info.version}`;
  const operations = Object.entries(api.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, operation })));
  for (const tag of api.tags) {
    const ofTag = operations.filter(({ operation }) => operation.tags?.includes(tag.name));
    document.getElementById("operations").append(make("h2", {}, tag.description),
      ...ofTag.map(({ path, method, operation }) => describe(path, method, operation, api)));
  }
}

// The key is only read from its field.
document.getElementById("key-form").addEventListener("submit", (event) => event.preventDefault());
try {
  const reply = await fetch("openapi.json", { signal: AbortSignal.timeout(30_000) });
  if (!reply.ok) throw new Error(`the server says ${reply.status}`);
  show(await reply.json());
} catch (error) {
  document.getElementById("about").textContent = `The description cannot be read: ${error.message}.`;
}
