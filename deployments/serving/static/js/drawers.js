/** The panels at both sides: beside the chat where there is room, above it on a narrow screen. */

import { byId } from "./dom.js";

const NARROW = matchMedia("(max-width: 56rem)");

/** A panel that is opened by `opener`; while it lies above the chat, the rest is out of reach. */
export class Drawer {
  /** `side` is "sidebar" or "settings"; `remember(isOpen)` keeps what the user wants on a wide screen. */
  constructor(side, opener, { isOpen, remember = () => {} }) {
    Object.assign(this, { side, opener, remember, isWanted: isOpen });
    this.panel = byId(side);
    opener.addEventListener("click", () => this.set(!this.isOpen));
    byId("scrim").addEventListener("click", () => this.isOpen && NARROW.matches && this.set(false));
    this.panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#isAbove()) return;
      event.stopPropagation();
      this.set(false);
    });
    NARROW.addEventListener("change", () => this.#show(this.isWanted && !NARROW.matches));
    this.#show(isOpen && !NARROW.matches);
  }

  set(isOpen) {
    if (!NARROW.matches) {
      this.isWanted = isOpen;
      this.remember(isOpen);
    }
    this.#show(isOpen);
    if (isOpen && this.#isAbove()) this.panel.querySelector("button, input, textarea").focus();
    if (!isOpen) this.opener.focus();
  }

  /** Give the chat back to sight, where the panel lies above it. */
  closeIfAbove() {
    if (this.#isAbove()) this.set(false);
  }

  #isAbove() {
    return this.isOpen && NARROW.matches;
  }

  #show(isOpen) {
    this.isOpen = isOpen;
    this.panel.hidden = !isOpen;
    this.opener.setAttribute("aria-expanded", String(isOpen));
    document.documentElement.classList.toggle(`with-${this.side}`, isOpen);
    byId("stage").inert = this.#isAbove();
    byId("scrim").hidden = !this.#isAbove();
  }
}
