/** The one door through which markup enters the page: everything is made harmless here, whoever wrote it. */

import DOMPurify from "../vendor/dompurify/purify.es.js";

const TAGS =
  "a blockquote br code del div em h2 h3 h4 h5 h6 hr li ol p pre span strong table tbody td th thead tr ul".split(" ");
const ADDRESSES = /^(?:https?:\/\/|mailto:)/i;

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

/**
 * Return a fragment with only text, plain formatting, and links that leave the page. No image: fetching one would tell
 * a stranger that the answer was read.
 */
export function sanitized(html) {
  return DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", "title", "class", "start"],
    ALLOWED_URI_REGEXP: ADDRESSES,
    ADD_URI_SAFE_ATTR: ["start"],
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
}
