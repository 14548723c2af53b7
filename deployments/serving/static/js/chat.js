/**
 * What the user does with conversations: ask, stop, ask again, edit, switch, delete. It holds the conversation that is
 * shown and the answers that are being written, also those of conversations that are not shown. The views listen:
 *
 *   "messages"  something of the shown conversation changed    "list"   the list of conversations changed
 *   "running"   an answer began or ended                        "open"   another conversation is shown
 *   "answered"  an answer ended (detail: the message)           "locked" the server wants an API key
 */

import { ALTERNATIVES, streamAnswer, tokenCount } from "./answer.js";
import * as conversations from "./conversation.js";

const SAVE_MILLISECONDS = 1000; // at least so often while an answer is being written

export class Chat extends EventTarget {
  constructor({ api, store, settings }) {
    super();
    Object.assign(this, { api, store, settings });
    this.conversation = conversations.newConversation(settings.get("system"));
    this.runs = new Map(); // conversation id -> {conversation, answer, controller, done}
    store.onForeignChange((id) => this.#reload(id));
  }

  // --- Conversations -------------------------------------------------------------------------------------------

  /** Show the conversation with this id; false where there is none. */
  async open(id) {
    const found = this.runs.get(id)?.conversation ?? (await this.store.get(id));
    if (!found) return false;
    settleInterrupted(found, this.runs.get(id)?.answer);
    this.#show(found);
    return true;
  }

  /** Show an empty conversation; it is kept from its first question on. */
  startNew() {
    this.#show(conversations.newConversation(this.settings.get("system")));
  }

  async rename(id, title) {
    await this.#change(id, (conversation) => Object.assign(conversation, { title, isNamed: true }));
  }

  /** Delete a conversation and return what brings it back. */
  async remove(id) {
    this.stop(id);
    await this.runs.get(id)?.done;
    const gone = await this.store.get(id);
    await this.store.remove(id);
    if (this.conversation.id === id) this.startNew();
    this.#tell("list");
    return () => this.restore(gone);
  }

  async removeAll() {
    for (const id of this.runs.keys()) this.stop(id);
    await Promise.all([...this.runs.values()].map((run) => run.done));
    await this.store.clear();
    this.startNew();
    this.#tell("list");
  }

  /** Keep conversations that were deleted, or come from a file. */
  async restore(...found) {
    await this.store.put(...found);
    this.#tell("list");
  }

  async setSystem(text) {
    this.conversation.system = text;
    if (this.conversation.head !== null) await this.#save(this.conversation);
    this.#tell("messages");
  }

  // --- Questions and answers -----------------------------------------------------------------------------------

  /** Whether an answer is being written in the conversation that is shown. */
  get isRunning() {
    return this.runs.has(this.conversation.id);
  }

  /** Ask, below what is shown; not while an answer is being written. */
  async ask(text) {
    if (this.isRunning) return;
    const { conversation } = this;
    const question = conversations.addQuestion(conversation, text, conversation.head);
    await this.#answer(conversation, question.id);
  }

  /** Ask again in other words; the old question stays as a variant. */
  async edit(id, text) {
    const { conversation } = this;
    await this.#finish();
    const question = conversations.addQuestion(conversation, text, conversation.messages[id].parent);
    return this.#answer(conversation, question.id);
  }

  /** Answer a question again; the old answer stays as a variant, unless nothing had come of it. */
  async regenerate(id) {
    const { conversation } = this;
    await this.#finish();
    const { parent, parts, role } = conversation.messages[id];
    const question = role === "user" ? id : parent;
    if (role === "assistant" && !parts.length) conversations.removeFrom(conversation, id);
    return this.#answer(conversation, question);
  }

  /** Write on where an answer was stopped or cut off, in its place. */
  async continue(id) {
    const { conversation } = this;
    await this.#finish();
    const { parent, parts, tokens, ...old } = conversation.messages[id];
    conversations.removeFrom(conversation, id);
    return this.#answer(conversation, parent, { parts, tokens, carried: tokenCount(old).count });
  }

  /** Stop the answer of a conversation; what has come is kept. */
  stop(id = this.conversation.id) {
    this.runs.get(id)?.controller.abort();
  }

  async showVariant(id, step) {
    conversations.showVariant(this.conversation, id, step);
    this.#tell("messages");
    await this.#save(this.conversation);
  }

  /** Remove a question with all that follows, and return what brings it back. */
  async removeFrom(id) {
    const { conversation } = this;
    await this.#finish();
    const before = structuredClone({ messages: conversation.messages, head: conversation.head });
    conversations.removeFrom(conversation, id);
    this.#tell("messages");
    await this.#save(conversation);
    return async () => {
      Object.assign(conversation, before);
      this.#tell("messages");
      await this.#save(conversation);
    };
  }

  async #finish() {
    this.stop();
    await this.runs.get(this.conversation.id)?.done;
  }

  /** Begin an answer; `beginning` holds the fields of what is there already. */
  #answer(conversation, questionId, beginning = {}) {
    const answer = Object.assign(conversations.addAnswer(conversation, questionId), beginning);
    const request = this.#request(conversation, answer.id);
    const run = { conversation, answer, controller: new AbortController() };
    run.done = this.#run(run, request);
    this.runs.set(conversation.id, run);
    this.#tell("running", "messages", "list");
    return run.done;
  }

  async #run({ conversation, answer, controller }, request) {
    let saved = Date.now();
    await this.#save(conversation);
    const changed = () => {
      if (this.conversation === conversation) this.#tell("messages");
      if (Date.now() - saved < SAVE_MILLISECONDS) return;
      saved = Date.now();
      this.#save(conversation);
    };
    await streamAnswer({ api: this.api, request, answer, signal: controller.signal, changed });
    this.runs.delete(conversation.id);
    conversation.updated = Date.now();
    await this.#save(conversation);
    this.#tell("running", "messages");
    this.dispatchEvent(new CustomEvent("answered", { detail: { answer, conversation } }));
    if (answer.error?.status === 401) this.#tell("locked");
  }

  /** What to send for the messages down to `last`: one that ends with the beginning of an answer is continued. */
  #request(conversation, last) {
    const request = {
      model: this.settings.get("model"),
      messages: conversations.apiMessages(conversation, last),
      ...this.settings.sampling(),
    };
    if (!this.settings.get("useTools")) request.use_tools = false;
    if (this.settings.get("showTokens")) Object.assign(request, { logprobs: true, top_logprobs: ALTERNATIVES });
    return request;
  }

  // --- Keeping -------------------------------------------------------------------------------------------------

  #show(conversation) {
    this.conversation = conversation;
    this.#tell("open", "messages", "running");
  }

  async #change(id, work) {
    const isShown = this.conversation.id === id;
    const conversation = isShown ? this.conversation : (this.runs.get(id)?.conversation ?? (await this.store.get(id)));
    if (!conversation) return;
    work(conversation);
    await this.#save(conversation);
    if (isShown) this.#tell("messages");
  }

  async #save(conversation) {
    try {
      await this.store.put(conversation);
    } catch (error) {
      this.dispatchEvent(new CustomEvent("unsaved", { detail: error }));
    }
    this.#tell("list");
  }

  /** Another tab changed a conversation: show its words, unless we are writing in it ourselves. */
  async #reload(id) {
    this.#tell("list");
    if ((id !== null && id !== this.conversation.id) || this.isRunning) return;
    const found = await this.store.get(this.conversation.id);
    if (found && !this.isRunning && found.id === this.conversation.id) {
      this.conversation = found;
      this.#tell("messages");
    }
  }

  #tell(...names) {
    for (const name of names) this.dispatchEvent(new Event(name));
  }
}

/** An answer that was being written when its page was closed will never end: it counts as stopped. */
function settleInterrupted(conversation, running) {
  for (const message of Object.values(conversation.messages)) {
    if (message.state === "streaming" && message !== running) message.state = "stopped";
  }
}
