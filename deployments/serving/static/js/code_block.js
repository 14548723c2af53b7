/** A block of code: its language, a button that copies it, and colours, which come when the highlighter is loaded. */

import { copyButton } from "./clipboard.js";
import { element } from "./dom.js";
import { sanitized } from "./sanitize.js";

const HIGHLIGHTED_CHARACTERS = 20_000; // longer code stays plain: it would take longer than a frame
let highlighter = null;

/** Return a new block; `language` may be "" or unknown. */
export function newCodeBlock(text, language) {
  const code = element("code");
  const block = element(
    "figure",
    { class: "code" },
    element(
      "figcaption",
      { class: "code-head" },
      element("span", {}, language || "text"),
      copyButton("Copy code", () => code.textContent),
    ),
    element("pre", { tabindex: 0, role: "group", "aria-label": language ? `Code, ${language}` : "Code" }, code),
  );
  block.dataset.language = language;
  fillCode(block, text);
  return block;
}

/** Put another text into a block, where it stands: its scroll position stays. */
export function fillCode(block, text) {
  const code = block.querySelector("code");
  const { language } = block.dataset;
  code.textContent = text;
  if (!language || text.length > HIGHLIGHTED_CHARACTERS) return;
  if (highlighter) paint(code, text, language);
  else loadHighlighter().then(() => code.textContent === text && paint(code, text, language));
}

/** Make a block out of a `<pre><code>` that stands in other markup, such as a list. */
export function decorateCode(code) {
  const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
  code.parentElement.replaceWith(newCodeBlock(code.textContent.replace(/\n$/, ""), language));
}

function paint(code, text, language) {
  if (!highlighter.getLanguage(language)) return;
  code.replaceChildren(sanitized(highlighter.highlight(text, { language, ignoreIllegals: true }).value));
}

let loading = null;

function loadHighlighter() {
  loading ??= import("../vendor/highlight/highlight.min.js").then((module) => {
    highlighter = module.default;
  });
  return loading;
}
