/** One message as elements: a question in a bubble, an answer as text, each with what can be done with it. */

import { AnswerDetails } from "./answer_details.js";
import { copyButton } from "./clipboard.js";
import { plainText } from "./conversation.js";
import { element, isComposing } from "./dom.js";
import { ErrorView } from "./error_view.js";
import { icon, iconButton } from "./icons.js";
import { MarkdownView } from "./markdown.js";
import { rateText } from "./status_line.js";
import { TokenView } from "./token_view.js";
import { ToolCallView, shownParts } from "./tool_call.js";

/** The pager through the variants of a message: `go(step)`. */
class VariantPager {
  constructor(go) {
    this.place = element("span", { class: "pager-place" });
    this.earlier = iconButton("left", "Earlier variant", () => go(-1));
    this.later = iconButton("right", "Later variant", () => go(1));
    this.root = element(
      "div",
      { class: "pager", role: "group", "aria-label": "Variants" },
      this.earlier,
      this.place,
      this.later,
    );
  }

  update(variants, id) {
    const index = variants.indexOf(id);
    this.root.hidden = variants.length < 2;
    this.place.textContent = `${index + 1}/${variants.length}`;
    this.earlier.disabled = index === 0;
    this.later.disabled = index === variants.length - 1;
  }
}

/** A question. `actions`: edit(id, text), showVariant(id, step), remove(id). */
export class QuestionView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.bubble = element("div", { class: "bubble" });
    this.pager = new VariantPager((step) => actions.showVariant(message.id, step));
    this.bar = element(
      "div",
      { class: "actions" },
      this.pager.root,
      iconButton("pencil", "Edit and send again", () => this.edit()),
      copyButton("Copy message", () => message.text),
      iconButton("trash", "Delete from here on", () => actions.remove(message.id)),
    );
    this.root = element("article", { class: "message question", "aria-label": "You" }, this.bubble, this.bar);
  }

  update(message, { variants }) {
    this.message = message;
    if (this.bubble.textContent !== message.text) this.bubble.textContent = message.text;
    this.pager.update(variants, message.id);
  }

  /** Turn the bubble into a box to write in. */
  edit() {
    if (this.editor) return;
    const box = element("textarea", { "aria-label": "Edit the message", enterkeyhint: "send" });
    box.value = this.message.text;
    const leave = () => {
      this.editor.replaceWith(this.bubble);
      this.editor = null;
      this.bar.hidden = false;
      this.bar.querySelector("[aria-label^=Edit]").focus();
    };
    const send = () => {
      if (!box.value.trim()) return;
      leave();
      this.actions.edit(this.message.id, box.value.trim());
    };
    const onkeydown = (event) => {
      if (isComposing(event)) return;
      if (event.key === "Escape") {
        event.stopPropagation();
        leave();
      } else if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        send();
      }
    };
    const buttons = element(
      "div",
      { class: "editor-row" },
      element("button", { type: "button", class: "plain-button", onclick: leave }, "Cancel"),
      element("button", { type: "button", class: "main-button", onclick: send }, "Send"),
    );
    box.addEventListener("keydown", onkeydown);
    this.editor = element("div", { class: "editor" }, box, buttons);
    this.bubble.replaceWith(this.editor);
    this.bar.hidden = true;
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  }
}

/**
 * An answer. `actions`: regenerate(id), continue(id), showVariant(id, step), recordTokens(id), refresh(), openKey(),
 * maxContext().
 */
export class AnswerView {
  constructor(message, actions) {
    Object.assign(this, { message, actions, parts: [], tokenView: null, isTokens: null });
    this.notice = element("p", { class: "notice", hidden: true });
    this.body = element("div", { class: "answer-body" });
    this.caret = element(
      "span",
      { class: "thinking", role: "img", "aria-label": "Writing" },
      element("i"),
      element("i"),
      element("i"),
    );
    this.error = new ErrorView({ retry: () => actions.regenerate(message.id), openKey: actions.openKey });
    this.endingText = element("span", {});
    const goOn = element(
      "button",
      { type: "button", class: "text-button", onclick: () => actions.continue(this.message.id) },
      "Continue",
    );
    this.ending = element("p", { class: "ending", hidden: true }, this.endingText, goOn);
    this.pager = new VariantPager((step) => actions.showVariant(message.id, step));
    this.details = new AnswerDetails(() => this.message);
    this.stats = element("span", { class: "stats" });
    this.tokensButton = iconButton("bars", "Token probabilities", () => this.#toggleTokens(), {
      "aria-pressed": "false",
    });
    this.bar = element(
      "div",
      { class: "actions" },
      this.pager.root,
      copyButton("Copy answer", () => plainText(this.message)),
      iconButton("redo", "Answer again", () => actions.regenerate(message.id)),
      this.tokensButton,
      this.details.button,
      this.stats,
    );
    this.root = element(
      "article",
      { class: "message answer", "aria-label": "Model" },
      this.notice,
      this.body,
      this.caret,
      this.ending,
      this.error.root,
      this.bar,
    );
  }

  /** Called for every frame of any answer: what is as it was is left alone. */
  update(message, { variants, isTokensWanted }) {
    this.message = message;
    const isTokens = this.isTokens ?? isTokensWanted;
    const { state, pieces, tokens, error } = message;
    const shown = [message, state, pieces, tokens?.length, error, isTokens, variants.join(), this.actions.maxContext()];
    if (shown.every((value, index) => value === this.shown?.[index])) return;
    this.shown = shown;
    this.#show(message, variants, isTokens);
  }

  #show(message, variants, isTokens) {
    const isLive = message.state === "streaming";
    this.root.setAttribute("aria-busy", String(isLive));
    this.root.classList.toggle("live", isLive);
    this.caret.hidden = !isLive || message.parts.length > 0;
    this.bar.hidden = isLive || (!message.parts.length && variants.length < 2);
    this.bar.classList.toggle("empty", !message.parts.length);
    this.#showNotice(message.dropped);
    this.#showBody(message, isLive, isTokens);
    this.error.update(message.error);
    this.endingText.textContent = endingOf(message);
    this.ending.hidden = !this.endingText.textContent;
    this.pager.update(variants, message.id);
    this.stats.textContent = rateText(message) ?? "";
  }

  #showNotice(dropped) {
    this.notice.hidden = !dropped;
    if (!dropped) return;
    const context = this.actions.maxContext();
    const [what, size] = [
      dropped === 1 ? "message does" : `${dropped} messages do`,
      context ? ` of ${context.toLocaleString("en")} tokens` : "",
    ];
    this.notice.replaceChildren(
      icon("info"),
      `The oldest ${what} not fit into the model's context${size} any more: this answer was written without.`,
    );
  }

  #showBody(message, isLive, isTokens) {
    const hasTokens = Boolean(message.tokens?.length);
    const asTokens = isTokens && hasTokens;
    this.tokensButton.setAttribute("aria-pressed", String(Boolean(asTokens)));
    if (asTokens !== Boolean(this.tokenView)) {
      this.body.replaceChildren();
      this.parts = [];
      this.tokenView = asTokens ? new TokenView() : null;
      if (asTokens) this.body.append(this.tokenView.root);
    }
    if (asTokens) this.tokenView.update(message.tokens);
    else this.#showParts(shownParts(message.parts), isLive);
  }

  #showParts(parts, isLive) {
    for (const [index, part] of parts.entries()) {
      if (this.parts[index]?.type !== part.type) this.#placePart(index, part.type);
      const { view, type } = this.parts[index];
      if (type === "text") view.update(part.text, { isContinued: index > 0 && !part.text.startsWith("\n") });
      else view.update(part.code, part.output, isLive && index === parts.length - 1);
    }
    for (const { view } of this.parts.splice(parts.length)) view.root.remove();
  }

  #placePart(index, type) {
    const view = type === "text" ? new MarkdownView() : new ToolCallView();
    for (const old of this.parts.splice(index)) old.view.root.remove();
    this.body.append(view.root);
    this.parts[index] = { type, view };
  }

  /** Tokens that were not asked for are not there: the answer has to be written again with them. */
  #toggleTokens() {
    if (this.message.tokens?.length) {
      this.isTokens = !this.tokenView;
      this.actions.refresh();
    } else {
      this.actions.recordTokens(this.message.id);
    }
  }
}

/** Why an answer could go on, or "". */
function endingOf({ state, finish, parts }) {
  if (state === "stopped") return parts.length ? "Stopped." : "Stopped before the first word.";
  return finish === "length" ? "Cut off at the limit of tokens." : "";
}
