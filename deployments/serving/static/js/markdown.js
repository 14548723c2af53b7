/** Markdown as elements, also while it is still being written: only the blocks that changed are made again. */

import { Marked } from "../vendor/marked/marked.esm.js";
import { decorateCode, fillCode, newCodeBlock } from "./code_block.js";
import { element } from "./dom.js";
import { sanitized } from "./sanitize.js";

const marked = new Marked({
  gfm: true,
  renderer: {
    // What a model writes as HTML is shown as it was written.
    html: ({ text }) => escaped(text),
    // The page has its own first two levels.
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + 2);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
    image({ href, title, text }) {
      return this.link({
        href,
        title,
        tokens: [{ type: "text", raw: text, text: `Image: ${text || href}`, escaped: false }],
      });
    },
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    tablecell({ tokens, header, align }) {
      const tag = header ? "th" : "td";
      return `<${tag}${align ? ` class="align-${align}"` : ""}>${this.parser.parseInline(tokens)}</${tag}>\n`;
    },
    code({ text, lang }) {
      const name = languageOf(lang);
      return `<pre><code${name ? ` class="language-${name}"` : ""}>${escaped(text)}</code></pre>\n`;
    },
  },
});

/** Shows a text that grows. `update` may be called for every frame. */
export class MarkdownView {
  constructor() {
    this.root = element("div", { class: "prose" });
    this.blocks = []; // {raw, node}: what stands in `root`
  }

  /** `isContinued`: the text goes on with a line that has begun elsewhere, so its first word is no mark of a list. */
  update(text, { isContinued = false } = {}) {
    const tokens = marked.lexer(isContinued ? unmarked(text) : text).map(withoutEmptyList);
    const written = tokens.filter((token) => token.type !== "space" && token.type !== "def");
    const links = JSON.stringify(tokens.filter((token) => token.type === "def"));
    if (links !== this.links) this.#truncate(0); // a reference that was defined late changes what stands before it
    this.links = links;
    for (const [index, token] of written.entries()) this.#place(index, token);
    this.#truncate(written.length);
  }

  #place(index, token) {
    const old = this.blocks[index];
    if (old?.raw === token.raw) return;
    if (old?.type === "code" && token.type === "code" && old.lang === token.lang) {
      fillCode(old.node, token.text);
      old.raw = token.raw;
      return;
    }
    const node = blockOf(token);
    if (old) old.node.replaceWith(node);
    else this.root.append(node);
    this.blocks[index] = { raw: token.raw, type: token.type, lang: token.lang, node };
  }

  #truncate(length) {
    for (const { node } of this.blocks.splice(length)) node.remove();
  }
}

function blockOf(token) {
  if (token.type === "code") return newCodeBlock(token.text, languageOf(token.lang));
  const block = element("div", { class: "block" });
  block.append(sanitized(marked.parser([token])));
  for (const code of block.querySelectorAll("pre > code")) decorateCode(code);
  for (const table of block.querySelectorAll("table")) {
    const frame = element("div", { class: "table-frame", tabindex: 0, role: "group", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  return block;
}

/** An answer such as "84." is a sentence and not an empty list. */
function withoutEmptyList(token) {
  if (token.type !== "list" || token.items.some((item) => item.text.trim())) return token;
  return {
    type: "paragraph",
    raw: token.raw,
    text: token.raw,
    tokens: [{ type: "text", raw: token.raw, text: token.raw.trim(), escaped: false }],
  };
}

function unmarked(text) {
  return text.replace(/^(\s*\d+)([.)])/, "$1\\$2").replace(/^(\s*)([-+*#>])/, "$1\\$2");
}

/** The first word behind a fence, if it could be the name of a language. */
function languageOf(lang) {
  return /^[\w+#.-]{1,30}/.exec(lang ?? "")?.[0].toLowerCase() ?? "";
}

function escaped(text) {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
