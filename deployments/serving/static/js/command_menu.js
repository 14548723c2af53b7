/** The list of commands above the message box, while one is being typed. */

import { matching } from "./commands.js";
import { element } from "./dom.js";

export class CommandMenu {
  /** `box` is the textarea, `root` the listbox, `choose(name)` is called for the one that was taken. */
  constructor(box, root, commands, choose) {
    Object.assign(this, { box, root, commands, choose, names: [], at: 0 });
    box.addEventListener("input", () => this.#refresh());
    box.addEventListener("blur", () => this.close());
    root.addEventListener("pointerdown", (event) => event.preventDefault()); // the box keeps the focus
  }

  get isOpen() {
    return !this.root.hidden;
  }

  close() {
    this.root.hidden = true;
    this.box.setAttribute("aria-expanded", "false");
    this.box.removeAttribute("aria-activedescendant");
  }

  /** Take a key press; true where it was for the menu. */
  takeKey(event) {
    if (!this.isOpen) return false;
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps) this.#mark((this.at + steps[event.key] + this.names.length) % this.names.length);
    else if (event.key === "Escape") this.close();
    else if (event.key === "Tab" || (event.key === "Enter" && this.names[this.at] !== this.#typed()))
      this.choose(this.names[this.at]);
    else return false;
    event.preventDefault();
    event.stopPropagation();
    return true;
  }

  #typed() {
    return /^\/([a-z]*)$/i.exec(this.box.value)?.[1].toLowerCase() ?? null;
  }

  #refresh() {
    const typed = this.#typed();
    this.names = typed === null ? [] : matching(Object.keys(this.commands), typed);
    if (!this.names.length) return this.close();
    this.root.replaceChildren(...this.names.map((name, index) => this.#option(name, index)));
    this.root.hidden = false;
    this.box.setAttribute("aria-expanded", "true");
    this.#mark(0);
  }

  #option(name, index) {
    const { usage, hint } = this.commands[name];
    return element(
      "div",
      {
        class: "command",
        role: "option",
        id: `command-${name}`,
        onclick: () => this.choose(name),
        onpointermove: () => this.at !== index && this.#mark(index),
      },
      element("code", {}, usage),
      element("span", {}, hint),
    );
  }

  #mark(index) {
    this.at = index;
    for (const [place, option] of [...this.root.children].entries())
      option.setAttribute("aria-selected", String(place === index));
    const option = this.root.children[index];
    this.box.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView({ block: "nearest" });
  }
}
