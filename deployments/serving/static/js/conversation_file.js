/**
 * Conversations as files. What is exported holds everything, branches too, and can be imported again. What is imported
 * may also be plain conversations, {"messages": [{"role", "content"}, …]} or a bare list of messages, one or many in
 * a JSON file or one a line (JSONL): the form in which training data is written here.
 */

import { addAnswer, addQuestion, newConversation, plainText, shownMessages } from "./conversation.js";
import { newId } from "./dom.js";

const FORMAT = "nanochat.conversations";
const STATES = ["done", "stopped", "failed"];
const PART_TYPES = ["text", "python", "python_output"];

/** Return the text of a file that `conversationsFrom` reads. */
export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, exported: new Date().toISOString(), conversations }, null, 1);
}

/** Return a conversation as one line of training data: what is shown of it, with the tool calls in parts. */
export function trainingLine(conversation) {
  const messages = shownMessages(conversation).map((message) => ({
    role: message.role,
    content:
      message.role === "user" || message.parts.every((part) => part.type === "text")
        ? plainText(message)
        : message.parts,
  }));
  if (conversation.system.trim()) messages.unshift({ role: "system", content: conversation.system.trim() });
  return `${JSON.stringify({ messages })}\n`;
}

/** Return the conversations in a file, with ids of their own; raises Error with what is wrong, and where. */
export function conversationsFrom(text) {
  const values = valuesIn(text);
  if (!values.length) throw new Error("there is no conversation in it");
  return values.map((value, index) => {
    try {
      return value?.messages && !Array.isArray(value.messages) ? checkedTree(value) : fromMessages(value, index);
    } catch (error) {
      throw new Error(`conversation ${index + 1}: ${error.message}`, { cause: error });
    }
  });
}

function valuesIn(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return text.split("\n").flatMap((line, index) => (line.trim() ? [parsedLine(line, index + 1)] : []));
  }
  if (value?.format === FORMAT && Array.isArray(value.conversations)) return value.conversations;
  const isList = Array.isArray(value) && typeof value[0]?.role !== "string"; // else it is a list of messages
  return isList ? value : [value];
}

function parsedLine(line, number) {
  try {
    return JSON.parse(line);
  } catch (error) {
    throw new Error(`line ${number} is no JSON`, { cause: error });
  }
}

/** `index` is the place in the file, which is kept in the list. */
function fromMessages(value, index) {
  const messages = Array.isArray(value) ? value : value?.messages;
  if (!Array.isArray(messages) || !messages.length)
    throw new Error('expected {"messages": [{"role": …, "content": …}, …]}');
  const conversation = newConversation();
  for (const [place, { role, content }] of messages.entries()) {
    if (role === "system" && place === 0 && typeof content === "string") conversation.system = content;
    else if (role === "user" && typeof content === "string") addQuestion(conversation, content, conversation.head);
    else if (role === "assistant" && conversation.messages[conversation.head]?.role === "user")
      Object.assign(addAnswer(conversation, conversation.head), { parts: partsOf(content), state: "done" });
    else throw new Error(`message ${place + 1} (${role}) cannot stand there in a chat`);
  }
  conversation.updated -= index;
  return conversation;
}

function partsOf(content) {
  const parts = typeof content === "string" ? [{ type: "text", text: content }] : content;
  const isFine =
    Array.isArray(parts) && parts.every((part) => PART_TYPES.includes(part?.type) && typeof part.text === "string");
  if (!isFine) throw new Error("an answer is text, or a list of parts with type and text");
  return parts.map(({ type, text }) => ({ type, text }));
}

/** Return a copy of an exported conversation, every message checked and the tree whole. */
function checkedTree(value) {
  const conversation = { ...newConversation(typeof value.system === "string" ? value.system : ""), isNamed: true };
  conversation.title = typeof value.title === "string" && value.title ? value.title : conversation.title;
  for (const time of ["created", "updated"]) if (Number.isFinite(value[time])) conversation[time] = value[time];
  const ids = new Map(Object.keys(value.messages).map((id) => [id, newId()]));
  for (const [id, message] of Object.entries(value.messages)) {
    if (message?.parent !== null && !ids.has(message?.parent))
      throw new Error(`message ${id} follows one that is missing`);
    const fields = { ...checkedMessage(message, id), id: ids.get(id), parent: ids.get(message.parent) ?? null };
    if (fields.role === "assistant" && value.messages[message.parent]?.role !== "user")
      throw new Error(`message ${id} answers no question`);
    conversation.messages[fields.id] = fields;
  }
  conversation.head = ids.get(value.head) ?? null;
  if (Object.keys(conversation.messages).length && conversation.head === null) throw new Error("its head is missing");
  rejectCircles(conversation);
  return conversation;
}

/** Return what is known of a message, each field of its type: a file may hold anything. */
function checkedMessage(message, id) {
  const created = Number(message.created) || 0;
  if (message.role === "user" && typeof message.text === "string") return { role: "user", created, text: message.text };
  if (message.role !== "assistant") throw new Error(`message ${id} has the role ${message.role}`);
  const state = STATES.includes(message.state) ? message.state : "stopped";
  const answer = { role: "assistant", created, parts: partsOf(message.parts), state };
  for (const name of ["model", "finish"]) if (typeof message[name] === "string") answer[name] = message[name];
  for (const name of ["dropped", "pieces", "carried"]) if (Number.isFinite(message[name])) answer[name] = message[name];
  if (["prompt", "cached", "completion"].every((name) => Number.isFinite(message.usage?.[name])))
    answer.usage = message.usage;
  if (["started", "first", "last"].every((name) => Number.isFinite(message.timing?.[name])))
    answer.timing = message.timing;
  if (Object.values(message.sampling ?? {}).every((value) => typeof value !== "object"))
    answer.sampling = { ...message.sampling };
  if (Array.isArray(message.tokens) && message.tokens.every(isToken)) answer.tokens = message.tokens;
  return answer;
}

function isToken(token) {
  const isScored = (entry) =>
    typeof entry?.text === "string" && (entry.logprob === null || Number.isFinite(entry.logprob));
  return (
    isScored(token) &&
    PART_TYPES.includes(token.type) &&
    Array.isArray(token.alternatives) &&
    token.alternatives.every((entry) => isScored(entry) && entry.logprob !== null)
  );
}

function rejectCircles({ messages }) {
  for (const start of Object.values(messages)) {
    let steps = Object.keys(messages).length;
    for (let at = start; at.parent !== null; at = messages[at.parent]) {
      if (steps-- === 0) throw new Error("its messages follow each other in a circle");
    }
  }
}
