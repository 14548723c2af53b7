/** The message box: Enter sends, Shift+Enter starts a line, and nothing is sent while a word is being composed. */

import { CommandMenu } from "./command_menu.js";
import { matching, parseCommand } from "./commands.js";
import { byId, isComposing } from "./dom.js";

export class Composer {
  /**
   * `commands` as makeCommands returns them; `send(text)` asks, `stop()` stops, `editLast()` edits the newest question,
   * `say(text)` tells the user something.
   */
  constructor({ commands, send, stop, editLast, say }) {
    Object.assign(this, { commands, send, stop, editLast, say, isRunning: false, drafts: new Map(), place: "" });
    this.box = byId("prompt");
    this.menu = new CommandMenu(this.box, byId("command-menu"), commands, (name) => this.#complete(name));
    this.box.addEventListener("keydown", (event) => this.#key(event));
    this.box.addEventListener("input", () => this.#fit());
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    byId("stop").addEventListener("click", () => {
      stop();
      this.focus();
    });
    byId("composer").addEventListener("click", (event) => event.target === byId("composer") && this.focus());
  }

  focus() {
    this.box.focus({ preventScroll: true });
  }

  /** Put a text into the box. */
  fill(text) {
    this.box.value = text;
    this.#fit();
  }

  /** Show Stop in the place of Send, or the other way round. */
  setRunning(isRunning) {
    const stop = byId("stop");
    const hadFocus = document.activeElement === stop;
    this.isRunning = isRunning;
    stop.hidden = !isRunning;
    byId("send").hidden = isRunning;
    if (hadFocus && !isRunning) this.focus();
    this.#fit();
  }

  /** Keep what was typed in one conversation, and show what was typed in the next. */
  moveTo(place) {
    if (place === this.place) return;
    this.drafts.set(this.place, this.box.value);
    this.place = place;
    this.fill(this.drafts.get(place) ?? "");
  }

  #key(event) {
    if (isComposing(event) || this.menu.takeKey(event)) return;
    if (event.key === "Enter" && !event.shiftKey && !event.altKey) {
      event.preventDefault();
      this.#submit();
    } else if (event.key === "ArrowUp" && this.box.value === "" && this.editLast()) {
      event.preventDefault();
    }
  }

  async #submit() {
    const text = this.box.value.trim();
    if (!text) return;
    const { name, argument, text: message } = parseCommand(text);
    if (name === undefined) {
      if (this.isRunning) return this.say("The model is still writing: stop it first (Esc).");
      this.fill("");
      this.focus();
      return this.send(message);
    }
    this.fill("");
    this.menu.close();
    if (!(name in this.commands)) return this.#unknown(name, text);
    try {
      const said = await this.commands[name].run(argument);
      if (said) this.say(said);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.fill(text);
      this.say(error.message);
    }
  }

  #unknown(name, text) {
    const near = matching(Object.keys(this.commands), name);
    const guess = near.length && name ? ` Did you mean /${near[0]}?` : "";
    this.fill(text);
    this.say(
      `There is no command /${name}.${guess} /help lists them; a message that begins with a slash begins with two.`,
    );
  }

  #complete(name) {
    const takesMore = this.commands[name].usage.includes("[");
    this.fill(`/${name}${takesMore ? " " : ""}`);
    this.menu.close();
    this.focus();
    if (!takesMore) this.#submit();
  }

  /** Grow with the text where the browser does not do so by itself (field-sizing). */
  #fit() {
    byId("send").disabled = !this.box.value.trim();
    if (CSS.supports("field-sizing", "content")) return;
    this.box.style.height = "auto";
    this.box.style.height = `${this.box.scrollHeight}px`;
  }
}
