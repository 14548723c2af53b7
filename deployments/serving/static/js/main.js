/** The page put together: what each part is told, and what it may do. */

import { wireAddress } from "./address.js";
import { Announcer } from "./announcer.js";
import { Api } from "./api.js";
import { readKey } from "./api_key.js";
import { Chat } from "./chat.js";
import { makeCommands } from "./commands.js";
import { Composer } from "./composer.js";
import { waitForServer, wireModels } from "./connection.js";
import { plainText, shownMessages } from "./conversation.js";
import { openStore } from "./conversation_store.js";
import { askForKey, confirmed } from "./dialogs.js";
import { byId, oncePerFrame } from "./dom.js";
import { Drawer } from "./drawers.js";
import { Exchange } from "./exchange.js";
import { help } from "./help.js";
import { drawIcons } from "./icons.js";
import { Settings } from "./settings.js";
import { fillSettings, showServer } from "./settings_panel.js";
import { Sidebar } from "./sidebar.js";
import { wireStatusLine } from "./status_line.js";
import { wireTheme } from "./theme.js";
import { toast } from "./toasts.js";
import { openPlayground } from "./tokenizer_playground.js";
import { Transcript } from "./transcript.js";
import { watchViewport } from "./viewport.js";
import { welcome } from "./welcome.js";

const settings = new Settings();
const api = new Api(readKey);
const store = await openStore();
const chat = new Chat({ api, store, settings });
const exchange = new Exchange(chat, store);
const announcer = new Announcer(byId("announcer"));
let server = {}; // what it says of itself, once it has

// --- What the parts may do -------------------------------------------------------------------------------------------

function startNew() {
  list.closeIfAbove();
  chat.startNew();
  composer.focus();
}

async function open(id) {
  list.closeIfAbove();
  await chat.open(id);
  composer.focus();
}

async function remove(id) {
  toast("Chat deleted.", await chat.remove(id));
  composer.focus();
}

async function removeAll() {
  if (await confirmed("Delete all chats in this browser? This cannot be undone.", "Delete all")) await chat.removeAll();
}

async function enterKey() {
  if (!(await askForKey())) return composer.focus();
  await wireModels(api, settings, server);
  const last = shownMessages(chat.conversation).at(-1);
  if (last?.error?.status === 401) await chat.regenerate(last.id);
}

/** Do something that has an answer written, with its end in sight. */
function following(work) {
  return (...values) => {
    transcript.follow();
    composer.focus();
    return work(...values);
  };
}

const ask = following((text) => chat.ask(text));

const messageActions = {
  edit: following((id, text) => chat.edit(id, text)),
  regenerate: following((id) => chat.regenerate(id)),
  continue: following((id) => chat.continue(id)),
  recordTokens: following((id) => {
    settings.set("showTokens", true);
    return chat.regenerate(id);
  }),
  showVariant: (id, step) => chat.showVariant(id, step),
  async remove(id) {
    toast("Message deleted, with what followed.", await chat.removeFrom(id));
    composer.focus();
  },
  refresh: () => transcript.draw(),
  openKey: enterKey,
  maxContext: () => server.max_context,
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
  exportChat: () => exchange.saveOne(chat.conversation.id),
  showHelp() {
    transcript.note(...help(commands));
    announcer.say("The commands are listed below the messages.");
  },
});

// --- The parts -------------------------------------------------------------------------------------------------------

drawIcons(document);
watchViewport();
wireTheme(byId("theme-toggle"), settings);
wireStatusLine(chat, settings, () => server.max_context);
const transcript = new Transcript(chat, settings, messageActions);
const composer = new Composer({
  commands,
  send: ask,
  stop: () => chat.stop(),
  editLast: () => transcript.editLast(),
  say: toast,
});
const list = new Drawer("sidebar", byId("open-sidebar"), {
  isOpen: settings.get("sidebar"),
  remember: (isOpen) => settings.set("sidebar", isOpen),
});
const panel = new Drawer("settings", byId("open-settings"), { isOpen: false });
new Sidebar(chat, store, {
  open,
  remove,
  rename: (id, title) => chat.rename(id, title),
  saveOne: (id) => exchange.saveOne(id),
  saveForTraining: (id) => exchange.saveForTraining(id),
});
fillSettings(settings, chat, { close: () => panel.set(false), openKey: enterKey, removeAll });

const clicks = {
  "close-sidebar": () => list.set(false),
  "new-chat": startNew,
  "open-playground": () => openPlayground(api),
  "export-all": () => exchange.saveAll(),
  import: () => byId("import-file").click(),
  "sampling-summary": () => panel.set(true),
  "show-tokens": () => settings.set("showTokens", !settings.get("showTokens")),
};
for (const [id, act] of Object.entries(clicks)) byId(id).addEventListener("click", act);

byId("import-file").addEventListener("change", async (event) => {
  await exchange.readFiles([...event.target.files]);
  event.target.value = "";
});

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

// --- What follows from what ------------------------------------------------------------------------------------------

const showBeginning = () => {
  const isEmpty = chat.conversation.head === null;
  byId("welcome").hidden = !isEmpty;
  document.title = isEmpty ? "nanochat" : `${chat.conversation.title} · nanochat`;
};
const readOut = () => {
  const run = chat.runs.get(chat.conversation.id);
  if (run) announcer.follow(plainText(run.answer));
};
chat.addEventListener("messages", oncePerFrame(showBeginning));
chat.addEventListener("messages", oncePerFrame(readOut));
chat.addEventListener("open", () => composer.moveTo(chat.conversation.id));
chat.addEventListener("running", () => {
  composer.setRunning(chat.isRunning);
  if (chat.isRunning) announcer.begin();
});
chat.addEventListener("answered", ({ detail: { answer, conversation } }) => {
  if (answer.error?.code === "model_not_found") wireModels(api, settings, server);
  if (conversation === chat.conversation) {
    announcer.follow(plainText(answer), { isWhole: true });
    if (answer.error) announcer.say(`Error: ${answer.error.message}`);
  } else if (answer.state === "done") toast(`“${conversation.title}” has its answer.`);
});
chat.addEventListener("locked", enterKey);
chat.addEventListener("unsaved", ({ detail }) => toast(`This chat could not be kept: ${detail.message}`));

// --- Beginning -------------------------------------------------------------------------------------------------------

await wireAddress(chat);
showBeginning();
if (!store.isLasting) toast("This browser keeps no data: chats are lost when the page is closed.");
composer.focus();
server = await waitForServer(api);
settings.learn(server);
await wireModels(api, settings, server);
showServer(server);
byId("welcome").replaceChildren(...welcome(settings.get("model"), server.max_context, ask));
if (server.needs_key && !readKey()) await enterKey();
document.documentElement.dataset.ready = "true";
