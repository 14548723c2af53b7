/** The tokenizer at work: a text cut into its tokens while it is typed, and ids turned back into text. */

import { openDialog } from "./dialogs.js";
import { element } from "./dom.js";
import { iconButton } from "./icons.js";
import { quoted } from "./token_card.js";

const PAUSE_MILLISECONDS = 120; // of typing, before the server is asked
const COLOURS = 6;
const SHOWN_TOKENS = 4000;
const EXAMPLE =
  "The tokenizer cuts a text into pieces: frequent words whole, rare ones like antidisestablishmentarianism in " +
  "parts, 3.14159 in digits.";

export function openPlayground(api, text = EXAMPLE) {
  return openDialog("Tokenizer playground", (close) => new Playground(api, text).nodes(close), "playground");
}

class Playground {
  constructor(api, text) {
    this.api = api;
    this.box = element("textarea", {
      id: "playground-text",
      rows: 4,
      spellcheck: "false",
      oninput: () => this.#wait(() => this.#tokenize()),
    });
    this.ids = element("textarea", {
      id: "playground-ids",
      rows: 2,
      spellcheck: "false",
      inputmode: "numeric",
      oninput: () => this.#wait(() => this.#detokenize()),
    });
    this.counts = element("p", { class: "playground-counts", role: "status" });
    this.pieces = element("div", { class: "pieces", tabindex: 0, role: "group", "aria-label": "Tokens" });
    this.box.value = text;
  }

  nodes(close) {
    this.#tokenize();
    return [
      element(
        "div",
        { class: "settings-head" },
        element("h2", {}, "Tokenizer playground"),
        iconButton("close", "Close", () => close()),
      ),
      element("label", { for: "playground-text" }, "Text"),
      this.box,
      this.counts,
      this.pieces,
      element("label", { for: "playground-ids" }, "Ids"),
      this.ids,
    ];
  }

  #wait(work) {
    clearTimeout(this.timer);
    this.timer = setTimeout(work, PAUSE_MILLISECONDS);
  }

  /** Run the newest request only: what an older one says comes too late. */
  async #ask(work) {
    this.controller?.abort();
    this.controller = new AbortController();
    const { signal } = this.controller;
    try {
      await work(signal);
    } catch (error) {
      if (!signal.aborted) this.counts.textContent = error.message;
    }
  }

  #tokenize() {
    const text = this.box.value;
    return this.#ask(async (signal) => {
      const tokens = text ? await this.api.tokenize(text, signal) : [];
      this.#show(text, tokens);
      this.ids.value = tokens.map(({ id }) => id).join(" ");
    });
  }

  #detokenize() {
    const ids = (this.ids.value.match(/\d+/g) ?? []).map(Number);
    return this.#ask(async (signal) => {
      const text = ids.length ? await this.api.detokenize(ids, signal) : "";
      const tokens = text ? await this.api.tokenize(text, signal) : [];
      this.box.value = text;
      this.#show(text, tokens);
    });
  }

  #show(text, tokens) {
    const bytes = new TextEncoder().encode(text).length;
    const rate = tokens.length ? `, ${(bytes / tokens.length).toFixed(2)} bytes a token` : "";
    const count = `${tokens.length} ${tokens.length === 1 ? "token" : "tokens"}`;
    this.counts.textContent = `${count}, ${[...text].length} characters, ${bytes} bytes${rate}`;
    const pieces = tokens
      .slice(0, SHOWN_TOKENS)
      .map(({ id, text: piece }, index) =>
        element(
          "span",
          { class: `piece c${index % COLOURS}`, title: `${quoted(piece)} is ${id}` },
          element("span", {}, quoted(piece)),
          element("small", {}, String(id)),
        ),
      );
    const rest = tokens.length > SHOWN_TOKENS ? [`… and ${tokens.length - SHOWN_TOKENS} more`] : [];
    this.pieces.replaceChildren(...pieces, ...rest);
  }
}
