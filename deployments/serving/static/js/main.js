/** The page put together: what each part is told, and what it may do. */

import { Announcer } from "./announcer.js";
import { tokenCount, tokensPerSecond } from "./answer.js";
import { Api } from "./api.js";
import { readKey } from "./api_key.js";
import { Chat } from "./chat.js";
import { makeCommands } from "./commands.js";
import { Composer } from "./composer.js";
import { waitForServer, wireModels } from "./connection.js";
import { plainText, shownMessages } from "./conversation.js";
import { conversationsFrom, exported, trainingLine } from "./conversation_file.js";
import { openStore } from "./conversation_store.js";
import { askForKey, confirmed } from "./dialogs.js";
import { byId, element, oncePerFrame } from "./dom.js";
import { Drawer } from "./drawers.js";
import { fileName, saveFile } from "./files.js";
import { drawIcons } from "./icons.js";
import { Settings } from "./settings.js";
import { fillSettings } from "./settings_panel.js";
import { Sidebar } from "./sidebar.js";
import { wireTheme } from "./theme.js";
import { toast } from "./toasts.js";
import { openPlayground } from "./tokenizer_playground.js";
import { Transcript } from "./transcript.js";
import { watchViewport } from "./viewport.js";
import { welcome } from "./welcome.js";

const ADDRESS = /^#chat-([0-9a-f]+)$/; // of a conversation, in the page's own address

const settings = new Settings();
const api = new Api(readKey);
const store = await openStore();
const chat = new Chat({ api, store, settings });
const announcer = new Announcer(byId("announcer"));
let info = {};

// --- What the parts may do -----------------------------------------------------------------------------------------

async function ask(text) {
  transcript.follow();
  await chat.ask(text);
}

async function enterKey() {
  if (!(await askForKey())) return composer.focus();
  await wireModels(api, settings, info);
  const last = shownMessages(chat.conversation).at(-1);
  if (last?.error?.status === 401) await chat.regenerate(last.id);
}

function startNew() {
  chat.startNew();
  composer.focus();
}

async function exportOne(id) {
  const conversation = id === chat.conversation.id ? chat.conversation : await store.get(id);
  saveFile(fileName(conversation.title, "json"), exported([conversation]));
}

async function exportTraining(id) {
  const conversation = await store.get(id);
  saveFile(fileName(conversation.title, "jsonl"), trainingLine(conversation), "application/jsonl");
}

async function importFiles(files) {
  for (const file of files) {
    try {
      const found = conversationsFrom(await file.text());
      await chat.restore(...found);
      toast(`${file.name}: ${found.length === 1 ? "one chat" : `${found.length} chats`} imported.`);
      if (found.length === 1) await chat.open(found[0].id);
    } catch (error) {
      toast(`${file.name} cannot be imported: ${error.message}.`);
    }
  }
}

async function removeConversation(id) {
  const undo = await chat.remove(id);
  toast("Chat deleted.", undo);
  composer.focus();
}

async function deleteAll() {
  if (await confirmed("Delete all chats in this browser? This cannot be undone.", "Delete all")) await chat.removeAll();
}

/** Run a change of the conversation that writes an answer, with its end in sight. */
const following = (work) => (...args) => {
  transcript.follow();
  composer.focus();
  return work(...args);
};

const messageActions = {
  edit: following((id, text) => chat.edit(id, text)),
  regenerate: following((id) => chat.regenerate(id)),
  continue: following((id) => chat.continue(id)),
  showVariant: (id, step) => chat.showVariant(id, step),
  async remove(id) {
    toast("Message deleted, with what followed.", await chat.removeFrom(id));
    composer.focus();
  },
  recordTokens: following((id) => {
    settings.set("showTokens", true);
    return chat.regenerate(id);
  }),
  refresh: () => transcript.draw(),
  openKey: enterKey,
  maxContext: () => info.max_context,
};

const commands = makeCommands({
  settings,
  startNew,
  setSystem: (text) => chat.setSystem(text),
  readSystem: () => chat.conversation.system,
  regenerateLast() {
    const last = shownMessages(chat.conversation).at(-1);
    if (!last) return "There is no question yet.";
    messageActions.regenerate(last.id);
    return "";
  },
  editLast: () => (transcript.editLast() ? "" : "There is no question yet."),
  openPlayground: () => void openPlayground(api),
  exportChat: () => exportOne(chat.conversation.id),
  showHelp() {
    const rows = Object.values(commands).flatMap(({ usage, hint }) => [element("dt", {}, element("code", {}, usage)), element("dd", {}, hint)]);
    const keys = [["Enter", "send"], ["Shift+Enter", "a new line"], ["Esc", "stop the answer"], ["↑", "edit the last question"], ["Ctrl+Shift+O", "a new chat"]];
    const shortcuts = keys.flatMap(([key, hint]) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, hint)]);
    transcript.note(element("h3", {}, "Commands"), element("dl", { class: "help" }, rows), element("h3", {}, "Keys"), element("dl", { class: "help" }, shortcuts));
    announcer.say("The commands are listed below the messages.");
  },
});

// --- The parts -----------------------------------------------------------------------------------------------------

drawIcons(document);
watchViewport();
wireTheme(byId("theme-toggle"), settings);
const transcript = new Transcript(chat, settings, messageActions);
new Sidebar(chat, store, { open: openConversation, rename: (id, title) => chat.rename(id, title), remove: removeConversation, exportOne, exportTraining });
const composer = new Composer({ commands, send: ask, stop: () => chat.stop(), editLast: () => transcript.editLast(), say: toast });
const list = new Drawer("sidebar", byId("open-sidebar"), { isOpen: settings.get("sidebar"), remember: (isOpen) => settings.set("sidebar", isOpen) });
const panel = new Drawer("settings", byId("open-settings"), { isOpen: false });

async function openConversation(id) {
  list.closeIfAbove();
  await chat.open(id);
  composer.focus();
}

byId("close-sidebar").addEventListener("click", () => list.set(false));
byId("new-chat").addEventListener("click", () => {
  list.closeIfAbove();
  startNew();
});
byId("open-playground").addEventListener("click", () => openPlayground(api));
byId("export-all").addEventListener("click", async () => saveFile("nanochat-conversations.json", exported(await store.all())));
byId("import").addEventListener("click", () => byId("import-file").click());
byId("import-file").addEventListener("change", async (event) => {
  await importFiles([...event.target.files]);
  event.target.value = "";
});
byId("sampling-summary").addEventListener("click", () => panel.set(true));
byId("show-tokens").addEventListener("click", () => settings.set("showTokens", !settings.get("showTokens")));

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing && chat.isRunning) {
    chat.stop();
    composer.focus();
  }
  if ((event.ctrlKey || event.metaKey) && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    startNew();
  }
});

// --- What is shown beside the messages -----------------------------------------------------------------------------

/** The newest answer on the shown path, or undefined. */
function lastAnswer() {
  return shownMessages(chat.conversation).findLast((message) => message.role === "assistant");
}

const showState = oncePerFrame(() => {
  const isEmpty = chat.conversation.head === null;
  byId("welcome").hidden = !isEmpty;
  document.title = isEmpty ? "nanochat" : `${chat.conversation.title} · nanochat`;
  byId("meter").textContent = meterText(lastAnswer());
});

/** While it is written, how fast; afterwards, how much of the context is full. */
function meterText(answer) {
  if (!answer) return "";
  if (answer.state === "streaming") {
    const rate = tokensPerSecond(answer);
    return rate === null ? "" : `${tokenCount(answer).count} tokens · ${rate.toFixed(rate < 10 ? 1 : 0)} tok/s`;
  }
  if (!answer.usage || !info.max_context) return "";
  const full = answer.usage.prompt + answer.usage.completion;
  return `${full.toLocaleString("en")} of ${info.max_context.toLocaleString("en")} tokens`;
}

function showSettings() {
  const seed = settings.get("seed");
  const words = [`Temp ${settings.get("temperature")}`];
  if (settings.get("top_k") > 0) words.push(`top-k ${settings.get("top_k")}`);
  if (settings.get("top_p") < 1) words.push(`top-p ${settings.get("top_p")}`);
  if (seed !== null) words.push(`seed ${seed}`);
  byId("sampling-summary").textContent = words.join(" · ");
  byId("show-tokens").setAttribute("aria-pressed", String(settings.get("showTokens")));
}

chat.addEventListener("messages", showState);
chat.addEventListener("messages", () => {
  if (chat.isRunning) announcer.follow(plainText(chat.runs.get(chat.conversation.id).answer));
});
chat.addEventListener("running", () => {
  composer.setRunning(chat.isRunning);
  if (chat.isRunning) announcer.begin();
});
chat.addEventListener("answered", ({ detail: { answer, conversation } }) => {
  if (conversation !== chat.conversation) return toast(`“${conversation.title}” has its answer.`);
  announcer.follow(plainText(answer), { isWhole: true });
  if (answer.state === "failed") announcer.say(`Error: ${answer.error.message}`);
});
chat.addEventListener("open", () => {
  const { id, head } = chat.conversation;
  composer.moveTo(id);
  rememberAddress(head === null ? "" : `#chat-${id}`);
});
chat.addEventListener("messages", () => chat.conversation.head !== null && rememberAddress(`#chat-${chat.conversation.id}`));
chat.addEventListener("locked", enterKey);
chat.addEventListener("unsaved", ({ detail }) => toast(`This chat could not be kept: ${detail.message}`));
settings.addEventListener("change", showSettings);
showSettings();

function rememberAddress(hash) {
  if (location.hash !== hash) history.pushState(null, "", hash || location.pathname + location.search);
}

async function openAddress() {
  const id = ADDRESS.exec(location.hash)?.[1];
  if (id === chat.conversation.id) return;
  if (!id || !(await chat.open(id))) chat.startNew();
}

// --- Beginning -----------------------------------------------------------------------------------------------------

addEventListener("popstate", openAddress);
await openAddress();
if (!store.isLasting) toast("This browser keeps no data: chats are lost when the page is closed.");
composer.focus();
info = await waitForServer(api);
settings.learn(info);
await wireModels(api, settings, info);
byId("welcome").replaceChildren(...welcome(settings.get("model"), info.max_context, ask));
fillSettings(settings, chat, { needsKey: info.needs_key, version: info.version }, { close: () => panel.set(false), openKey: enterKey, deleteAll });
showState();
if (info.needs_key && !readKey()) await enterKey();
document.documentElement.dataset.ready = "true";
