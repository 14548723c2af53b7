/** The messages of the conversation that is shown. Made anew at most once a frame, and of it only what changed. */

import { variantsOf, shownMessages } from "./conversation.js";
import { byId, element, oncePerFrame } from "./dom.js";
import { AnswerView, QuestionView } from "./message_view.js";
import { Follower } from "./scroll.js";

export class Transcript {
  /** `actions` are those of the message views. */
  constructor(chat, settings, actions) {
    Object.assign(this, { chat, settings, actions });
    this.root = byId("messages");
    this.views = []; // {id, view} in the order in which they stand there
    this.follower = new Follower(byId("scroller"), byId("messages"), byId("jump"));
    this.draw = oncePerFrame(() => this.#draw());
    chat.addEventListener("messages", this.draw);
    chat.addEventListener("open", () => this.#reset());
    settings.addEventListener("change", this.draw);
  }

  /** Show words of the page's own below the messages; they are not part of the conversation. */
  note(...content) {
    this.root.append(element("section", { class: "note", "aria-label": "Note" }, ...content));
    this.follower.follow();
  }

  /** Go to the end, and stay there. */
  follow() {
    this.follower.follow();
  }

  /** Edit the newest question; false where there is none. */
  editLast() {
    const last = this.views.findLast(({ view }) => view instanceof QuestionView);
    last?.view.edit();
    return Boolean(last);
  }

  #dropNotes() {
    for (const note of this.root.querySelectorAll(":scope > .note")) note.remove();
  }

  #reset() {
    this.views = [];
    this.root.replaceChildren();
    this.follower.follow();
  }

  #draw() {
    const { conversation } = this.chat;
    const isTokensWanted = this.settings.get("showTokens");
    const messages = shownMessages(conversation);
    if (messages.at(-1)?.id !== this.views.at(-1)?.id) this.#dropNotes();
    for (const [index, message] of messages.entries()) {
      this.#place(index, message).update(message, { variants: variantsOf(conversation, message.id), isTokensWanted });
    }
    for (const { view } of this.views.splice(messages.length)) view.root.remove();
  }

  #place(index, message) {
    const old = this.views[index];
    if (old?.id === message.id) return old.view;
    const view =
      message.role === "user" ? new QuestionView(message, this.actions) : new AnswerView(message, this.actions);
    if (old) old.view.root.replaceWith(view.root);
    else if (index) this.views[index - 1].view.root.after(view.root);
    else this.root.prepend(view.root);
    this.views[index] = { id: message.id, view };
    return view;
  }
}
