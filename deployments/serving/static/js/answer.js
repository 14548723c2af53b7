/**
 * One answer, from the request to its last token: what each chunk of the stream adds to the message.
 *
 *   answer += {model, sampling, finish: "stop" | "length" | null, dropped: number of old messages left out,
 *              usage: {prompt, cached, completion} or null, timing: {started, first, last}, pieces: chunks with text,
 *              tokens: [{text, logprob or null, alternatives: [{text, logprob}], type}],
 *              carried: number of tokens that it began with, error: {message, code, status, until}}
 *
 * Times are milliseconds since 1970; log-probabilities are natural logarithms.
 */

import { ApiError } from "./api.js";

export const ALTERNATIVES = 6; // tokens that are shown beside the chosen one
const SHORT_MILLISECONDS = 100;

/**
 * Stream the answer to `request` into `answer`, calling `changed` after every chunk; returns when it is over, however
 * that was: `answer.state` says it. What had come before a stop or an error is kept.
 */
export async function streamAnswer({ api, request, answer, signal, changed }) {
  const { messages: _, ...sampling } = request;
  Object.assign(answer, { model: request.model, sampling, finish: null, dropped: 0, usage: null, pieces: 0 });
  answer.tokens ??= [];
  answer.carried ??= 0;
  answer.timing = { started: Date.now(), first: null, last: null };
  try {
    for await (const chunk of api.streamChat(request, signal)) {
      addChunk(answer, chunk, Date.now());
      changed();
    }
    answer.state = "done";
  } catch (error) {
    answer.state = signal.aborted ? "stopped" : "failed";
    if (!signal.aborted) answer.error = described(error);
  }
  changed();
}

/** Add what one chunk of a streamed chat completion says. */
export function addChunk(answer, chunk, now) {
  if (chunk.nanochat_dropped_messages) answer.dropped = chunk.nanochat_dropped_messages;
  if (chunk.usage) answer.usage = usageOf(chunk.usage);
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { type, text } = newText(choice.delta ?? {});
  if (text) {
    answer.timing.first ??= now;
    answer.timing.last = now;
    answer.pieces += 1;
    addText(answer.parts, type, text);
  }
  const tokens = choice.logprobs?.content ?? [];
  for (const token of tokens) answer.tokens.push({ ...scored(token), type });
  // What the tool said has no probability; it is shown among the tokens all the same.
  if (text && !tokens.length && answer.sampling?.logprobs)
    answer.tokens.push({ text, logprob: null, alternatives: [], type });
  if (choice.finish_reason) answer.finish = choice.finish_reason;
}

function newText(delta) {
  if (delta.nanochat) return { type: delta.nanochat.kind, text: delta.nanochat.text };
  return { type: "text", text: delta.content ?? "" };
}

function addText(parts, type, text) {
  const last = parts.at(-1);
  if (last?.type === type) last.text += text;
  else parts.push({ type, text });
}

function usageOf(usage) {
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  return { prompt: usage.prompt_tokens, cached, completion: usage.completion_tokens };
}

function scored({ token, bytes, logprob, top_logprobs: top }) {
  const alternatives = (top ?? []).map((entry) => ({ text: tokenText(entry), logprob: entry.logprob }));
  return { text: tokenText({ token, bytes }), logprob: logprob ?? null, alternatives };
}

/** The text of a token; one that is only a part of a character shows its bytes, as \xe2\x82. */
export function tokenText({ token, bytes }) {
  if (!Array.isArray(bytes)) return token;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(bytes));
  } catch {
    return bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  }
}

function described(error) {
  if (!(error instanceof ApiError))
    return { message: `The page broke: ${error.message}`, code: "page", status: 0, until: null };
  const { message, code, status, waitSeconds } = error;
  return { message, code, status, until: waitSeconds === null ? null : Date.now() + 1000 * waitSeconds };
}

/** How many tokens the answer has: the server's count, or about so many where it was stopped before it could say. */
export function tokenCount(answer) {
  return { count: newTokens(answer) + (answer.carried ?? 0), isExact: Boolean(answer.usage) };
}

function newTokens(answer) {
  return answer.usage?.completion ?? answer.pieces ?? 0;
}

/**
 * Tokens a second between the first and the last, or null where there are too few to say. Short answers may come in one
 * piece: of those it is the whole time, the wait for the first token included.
 */
export function tokensPerSecond(answer) {
  const { started, first, last } = answer.timing ?? {};
  const count = newTokens(answer);
  if (count < 2 || !(last > started)) return null;
  return last - first >= SHORT_MILLISECONDS ? (1000 * (count - 1)) / (last - first) : (1000 * count) / (last - started);
}
