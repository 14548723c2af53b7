/** The list of conversations: by day, each with a menu. */

import { byId, element, isComposing, oncePerFrame } from "./dom.js";
import { icon, iconButton } from "./icons.js";
import { openMenu } from "./popup.js";

const DAY_MILLISECONDS = 86_400_000;

export class Sidebar {
  /** `actions`: open(id), rename(id, title), remove(id), saveOne(id), saveForTraining(id). */
  constructor(chat, store, actions) {
    Object.assign(this, { chat, store, actions, renaming: null, drawn: null });
    this.root = byId("conversation-list");
    this.draw = oncePerFrame(() => this.#draw());
    for (const event of ["list", "open", "running"]) chat.addEventListener(event, this.draw);
    this.draw();
  }

  async #draw() {
    const summaries = await this.store.list();
    const { conversation, runs } = this.chat;
    const state = JSON.stringify([summaries, conversation.id, [...runs.keys()]]);
    if (this.renaming || state === this.drawn) return; // what is focused or open there stays
    this.drawn = state;
    const focused = document.activeElement?.closest?.("[data-id]")?.dataset.id;
    const groups = Map.groupBy(summaries, ({ updated }) => dayOf(updated, new Date()));
    const lists = [...groups].map(([day, members]) => this.#group(day, members));
    this.root.replaceChildren(
      ...(lists.length ? lists : [element("p", { class: "list-empty" }, "What you ask stays here, in this browser.")]),
    );
    if (focused) this.root.querySelector(`[data-id="${focused}"] .conversation-open`)?.focus();
  }

  #group(day, members) {
    return element(
      "section",
      {},
      element("h2", {}, day),
      element(
        "ul",
        {},
        members.map((summary) => this.#entry(summary)),
      ),
    );
  }

  #entry({ id, title }) {
    const isShown = id === this.chat.conversation.id;
    const isRunning = this.chat.runs.has(id);
    const open = element(
      "button",
      {
        type: "button",
        class: "conversation-open",
        "aria-current": isShown ? "true" : null,
        onclick: () => this.actions.open(id),
      },
      element("span", { class: "conversation-title" }, title),
      isRunning ? element("span", { class: "running-dot", role: "img", "aria-label": "is being answered" }) : null,
    );
    const menu = iconButton("dots", `Menu of ${title}`, () => this.#menu(menu, entry, id, title), {
      "aria-haspopup": "menu",
      "aria-expanded": "false",
    });
    const entry = element("li", { class: "conversation-entry" }, open, menu);
    entry.dataset.id = id;
    return entry;
  }

  #menu(button, entry, id, title) {
    openMenu(button, `Menu of ${title}`, [
      { label: "Rename", icon: icon("pencil"), act: () => this.#rename(entry, id, title) },
      { label: "Export", icon: icon("download"), act: () => this.actions.saveOne(id) },
      { label: "Export for training", icon: icon("download"), act: () => this.actions.saveForTraining(id) },
      { label: "Delete", icon: icon("trash"), act: () => this.actions.remove(id), isGrave: true },
    ]);
  }

  #rename(entry, id, title) {
    const box = element("input", { class: "rename", "aria-label": "Name of the conversation", maxlength: 120 });
    box.value = title;
    this.renaming = id;
    const leave = async (isKept) => {
      if (!this.renaming) return;
      this.renaming = this.drawn = null;
      if (isKept && box.value.trim()) await this.actions.rename(id, box.value.trim());
      this.draw();
    };
    box.addEventListener("blur", () => leave(true));
    box.addEventListener("keydown", (event) => {
      if (isComposing(event) || !["Enter", "Escape"].includes(event.key)) return;
      event.stopPropagation();
      leave(event.key === "Enter");
    });
    entry.replaceChildren(box);
    box.focus();
    box.select();
  }
}

/** Return the heading under which a time stands. */
function dayOf(time, now) {
  const today = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
  if (time >= today) return "Today";
  if (time >= today - DAY_MILLISECONDS) return "Yesterday";
  if (time >= today - 7 * DAY_MILLISECONDS) return "Last seven days";
  return new Date(time).toLocaleDateString("en", { month: "long", year: "numeric" });
}
