/** Conversations kept in this browser (IndexedDB), never sent anywhere; all tabs see one another's changes. */

const DATABASE = "nanochat";
const VERSION = 1;
const FULL = "conversations";
const SUMMARIES = "summaries";

/** Return the store, or one that forgets where the browser has no storage (`isLasting` says which). */
export async function openStore() {
  try {
    return new ConversationStore(await openDatabase());
  } catch {
    return new ForgetfulStore();
  }
}

function openDatabase() {
  const request = indexedDB.open(DATABASE, VERSION);
  request.onupgradeneeded = () => {
    request.result.createObjectStore(FULL, { keyPath: "id" });
    request.result.createObjectStore(SUMMARIES, { keyPath: "id" });
  };
  return settled(request);
}

/** What the list shows of a conversation, so that it needs no full one. */
function summaryOf({ id, title, updated }) {
  return { id, title, updated };
}

class ConversationStore {
  isLasting = true;

  constructor(database) {
    this.database = database;
    this.channel = new BroadcastChannel(DATABASE);
    database.onversionchange = () => database.close();
  }

  /** Call `listener(id)` when another tab changed a conversation (null: several). */
  onForeignChange(listener) {
    this.channel.onmessage = (event) => listener(event.data);
  }

  /** {id, title, updated} of all conversations, the newest first. */
  async list() {
    const summaries = await settled(this.database.transaction(SUMMARIES).objectStore(SUMMARIES).getAll());
    return summaries.sort((a, b) => b.updated - a.updated);
  }

  /** The conversation, or undefined. */
  get(id) {
    return settled(this.database.transaction(FULL).objectStore(FULL).get(id));
  }

  all() {
    return settled(this.database.transaction(FULL).objectStore(FULL).getAll());
  }

  async put(...conversations) {
    await this.#write((full, summaries) => {
      for (const conversation of conversations) {
        full.put(conversation);
        summaries.put(summaryOf(conversation));
      }
    });
    this.channel.postMessage(conversations.length === 1 ? conversations[0].id : null);
  }

  async remove(id) {
    await this.#write((full, summaries) => [full, summaries].forEach((store) => store.delete(id)));
    this.channel.postMessage(id);
  }

  async clear() {
    await this.#write((full, summaries) => [full, summaries].forEach((store) => store.clear()));
    this.channel.postMessage(null);
  }

  #write(work) {
    const transaction = this.database.transaction([FULL, SUMMARIES], "readwrite");
    work(transaction.objectStore(FULL), transaction.objectStore(SUMMARIES));
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error);
    });
  }
}

/** The same, in memory: for browsers that are told to keep nothing. */
class ForgetfulStore {
  isLasting = false;
  conversations = new Map();

  onForeignChange() {}

  async list() {
    return [...this.conversations.values()].map(summaryOf).sort((a, b) => b.updated - a.updated);
  }

  async get(id) {
    return this.conversations.get(id);
  }

  async all() {
    return [...this.conversations.values()];
  }

  async put(...conversations) {
    for (const conversation of conversations) this.conversations.set(conversation.id, conversation);
  }

  async remove(id) {
    this.conversations.delete(id);
  }

  async clear() {
    this.conversations.clear();
  }
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older database"));
  });
}
