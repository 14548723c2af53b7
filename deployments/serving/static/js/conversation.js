/**
 * What a conversation is: a tree of messages, of which one path is shown. Editing a question or asking again for an
 * answer grows a branch beside the old one, so nothing is lost. Plain data and pure functions; nothing here knows the
 * page, the server or where conversations are kept.
 *
 *   conversation = {id, title, isNamed, system, created, updated, head, messages: {id: message}}
 *   question     = {id, parent, role: "user", created, text}
 *   answer       = {id, parent, role: "assistant", created, parts: [{type, text}], state, …what answer.js adds}
 *
 * `parent` and `head` are ids or null; `type` is "text", "python" or "python_output"; `state` is "streaming", "done",
 * "stopped" or "failed". Times are milliseconds since 1970.
 */

import { newId } from "./dom.js";

const TITLE_CHARACTERS = 60;

export function newConversation(system = "") {
  const now = Date.now();
  return {
    id: newId(),
    title: "New chat",
    isNamed: false,
    system,
    created: now,
    updated: now,
    head: null,
    messages: {},
  };
}

/** Add a question below `parent` (or as a beginning), show it, and return it. */
export function addQuestion(conversation, text, parent) {
  const question = add(conversation, { parent, role: "user", text });
  if (!conversation.isNamed && parent === null) conversation.title = titleOf(text);
  return question;
}

/** Add an empty answer below a question, show it, and return it. */
export function addAnswer(conversation, parent) {
  return add(conversation, { parent, role: "assistant", parts: [], state: "streaming" });
}

function add(conversation, fields) {
  const message = { id: newId(), created: Date.now(), ...fields };
  conversation.messages[message.id] = message;
  conversation.head = message.id;
  conversation.updated = message.created;
  return message;
}

/** The messages that are shown, the first one first. */
export function shownMessages(conversation) {
  const path = [];
  for (let id = conversation.head; id !== null; id = conversation.messages[id].parent)
    path.unshift(conversation.messages[id]);
  return path;
}

/** The ids of the messages that stand at the place of this one, itself among them, the oldest first. */
export function variantsOf(conversation, id) {
  const { parent } = conversation.messages[id];
  return childrenOf(conversation, parent);
}

function childrenOf(conversation, parent) {
  return Object.values(conversation.messages)
    .filter((message) => message.parent === parent)
    .map((message) => message.id);
}

/** Show the variant `step` places after this message's (-1: the one before), down to its newest answer. */
export function showVariant(conversation, id, step) {
  const variants = variantsOf(conversation, id);
  const chosen = variants[variants.indexOf(id) + step];
  if (chosen) conversation.head = newestBelow(conversation, chosen);
}

function newestBelow(conversation, id) {
  const children = childrenOf(conversation, id);
  return children.length ? newestBelow(conversation, children.at(-1)) : id;
}

/** Remove a message with all that follows it; a variant beside it is shown instead, if there is one. */
export function removeFrom(conversation, id) {
  const { parent } = conversation.messages[id];
  const doomed = [id];
  for (const next of doomed) doomed.push(...childrenOf(conversation, next));
  const wasShown = shownMessages(conversation).some((message) => message.id === id);
  for (const next of doomed) delete conversation.messages[next];
  if (wasShown) {
    const beside = childrenOf(conversation, parent).at(-1);
    conversation.head = beside ? newestBelow(conversation, beside) : parent;
  }
}

/** A title out of the first line of a question. */
export function titleOf(text) {
  const line = text.trim().split("\n")[0].replace(/\s+/g, " ");
  return line.length > TITLE_CHARACTERS ? `${line.slice(0, TITLE_CHARACTERS - 1).trimEnd()}…` : line || "New chat";
}

/** The text of an answer without its tool calls, or of a question. */
export function plainText(message) {
  if (message.role === "user") return message.text;
  return message.parts
    .filter((part) => part.type === "text")
    .map((part) => part.text)
    .join("");
}

/**
 * The messages as the API takes them, from the first to `last` (a message's id), which may be an answer to go on with.
 * A question to which no answer came is left out: the server may have refused it. An answer with tool calls goes back
 * in parts, as the model wrote it.
 */
export function apiMessages(conversation, last) {
  const messages = conversation.system.trim() ? [{ role: "system", content: conversation.system.trim() }] : [];
  const path = shownMessages({ ...conversation, head: last });
  for (const [index, message] of path.entries()) {
    const next = path[index + 1];
    const isInVain = next !== undefined && next.id !== last && !contentOf(next).length;
    if (!isInVain && contentOf(message).length) messages.push({ role: message.role, content: contentOf(message) });
  }
  return messages;
}

function contentOf(message) {
  const isPlain = message.role === "user" || message.parts.every((part) => part.type === "text");
  return isPlain ? plainText(message) : message.parts.map(({ type, text }) => ({ type, text }));
}
