/** Conversations out of the browser and into it: what is saved as a file, and what is read from one. */

import { conversationsFrom, exported, trainingLine } from "./conversation_file.js";
import { fileName, saveFile } from "./files.js";
import { toast } from "./toasts.js";

export class Exchange {
  constructor(chat, store) {
    Object.assign(this, { chat, store });
  }

  /** Save a conversation, branches and all. */
  async saveOne(id) {
    const conversation = await this.#find(id);
    saveFile(fileName(conversation.title, "json"), exported([conversation]));
  }

  /** Save what is shown of a conversation as training data. */
  async saveForTraining(id) {
    const conversation = await this.#find(id);
    saveFile(fileName(conversation.title, "jsonl"), trainingLine(conversation), "application/jsonl");
  }

  async saveAll() {
    saveFile("nanochat-conversations.json", exported(await this.store.all()));
  }

  /** Keep the conversations in the files; a file with only one is opened. */
  async readFiles(files) {
    for (const file of files) {
      try {
        const found = conversationsFrom(await file.text());
        await this.chat.restore(...found);
        toast(`${file.name}: ${found.length === 1 ? "one chat" : `${found.length} chats`} imported.`);
        if (found.length === 1) await this.chat.open(found[0].id);
      } catch (error) {
        toast(`${file.name} cannot be imported: ${error.message}.`);
      }
    }
  }

  async #find(id) {
    const { conversation } = this.chat;
    return id === conversation.id ? conversation : this.store.get(id);
  }
}
