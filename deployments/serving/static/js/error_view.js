/** What went wrong with an answer, in words that say what to do, and a button that tries again. */

import { element } from "./dom.js";
import { icon } from "./icons.js";

const ADVICE = {
  401: "This server answers only with its API key.",
  404: "Choose another model above.",
  413: "Shorten the message.",
  429: "You have asked more often than the server allows.",
  503: "The server has too much to do, or is about to stop.",
};
const CONTEXT_ADVICE = "Shorten the message, or begin a new chat.";

export class ErrorView {
  constructor({ retry, openKey }) {
    this.text = element("p", {});
    this.wait = element("p", { class: "error-wait" });
    this.retry = element(
      "button",
      { type: "button", class: "plain-button", onclick: () => this.#isOpen() && retry() },
      "Retry",
    );
    this.key = element("button", { type: "button", class: "main-button", onclick: openKey }, "Enter the key");
    this.root = element(
      "div",
      { class: "error", hidden: true },
      icon("alert"),
      element("div", { class: "error-words" }, this.text, this.wait),
      element("div", { class: "error-buttons" }, this.key, this.retry),
    );
  }

  /** `error` is an answer's, or undefined for none. */
  update(error) {
    if (error === this.error) return;
    this.error = error;
    this.root.hidden = !error;
    clearInterval(this.timer);
    if (!error) return;
    const advice = error.code === "context_length_exceeded" ? CONTEXT_ADVICE : ADVICE[error.status];
    this.text.replaceChildren(element("strong", {}, error.message), ...(advice ? [` ${advice}`] : []));
    this.key.hidden = error.status !== 401;
    this.#countDown();
    if (!this.#isOpen()) this.timer = setInterval(() => this.#countDown(), 250);
  }

  #isOpen() {
    return !(this.error?.until > Date.now());
  }

  #countDown() {
    const seconds = Math.ceil(((this.error.until ?? 0) - Date.now()) / 1000);
    const isOpen = seconds <= 0;
    this.retry.textContent = isOpen ? "Retry" : `Retry in ${seconds} s`;
    this.retry.setAttribute("aria-disabled", String(!isOpen));
    this.wait.hidden = isOpen;
    this.wait.textContent = isOpen ? "" : "It asks to wait a moment.";
    if (isOpen) clearInterval(this.timer);
  }
}
