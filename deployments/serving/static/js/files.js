/** Files to and from the user's disk. */

import { element } from "./dom.js";

/** Offer a text for saving under a name. */
export function saveFile(name, text, type = "application/json") {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A name for a file out of a title. */
export function fileName(title, ending) {
  const words = title.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  return `nanochat-${words.slice(0, 6).join("-") || "conversation"}.${ending}`;
}
