// Small tools for building elements. Text is always set as text, never as markup.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** An element with properties, `data`, `aria` and `share` (a part of 1, for styles), and children. */
export function make(name, { data = {}, aria = {}, share, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  for (const [key, value] of Object.entries(data)) element.dataset[key] = value;
  for (const [key, value] of Object.entries(aria)) element.setAttribute(key === "role" ? key : `aria-${key}`, value);
  if (share !== undefined) setShare(element, share);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** Sets the part of 1 that a bar shows. */
export function setShare(element, share) {
  element.style.setProperty("--share", String(Math.min(1, Math.max(0, share))));
}

/** Sets a text only where it is another, so that screen readers and selections are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
