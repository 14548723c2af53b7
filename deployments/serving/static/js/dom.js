/** Elements without strings of markup: nothing that a person or a model wrote is ever parsed as HTML here. */

/**
 * Return a new element. Attributes that are null, undefined or false are left out, true gives an empty value, and
 * `onclick` and its like add listeners. Children are nodes or text; null ones are left out.
 */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Return the element with this id; it must be there. */
export function byId(id) {
  const node = document.getElementById(id);
  if (!node) throw new Error(`index.html has no element #${id}`);
  return node;
}

/** Return an id that no other message or conversation has. (crypto.randomUUID exists only on secure origins.) */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return a function that has `work` done once before the next frame is drawn, however often it is called. */
export function oncePerFrame(work) {
  let frame = 0;
  return () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      work();
    });
  };
}

/** Whether a key press belongs to a word that is being composed (Safari sends the Enter that ends it with code 229). */
export function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}

/** Whether motion should be spared. */
export function prefersStillness() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
