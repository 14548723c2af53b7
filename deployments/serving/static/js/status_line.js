/** The line below the message box: how answers are sampled, and how much of the context the chat fills. */

import { tokenCount, tokensPerSecond } from "./answer.js";
import { shownMessages } from "./conversation.js";
import { byId, oncePerFrame } from "./dom.js";

/** Keep the line up to date; `readMaxContext` returns the context's size in tokens, or undefined. */
export function wireStatusLine(chat, settings, readMaxContext) {
  const showMeter = oncePerFrame(() => {
    const answer = shownMessages(chat.conversation).findLast((message) => message.role === "assistant");
    byId("meter").textContent = answer ? meterText(answer, readMaxContext()) : "";
  });
  const showSampling = () => {
    byId("sampling-summary").textContent = samplingText(settings);
    byId("show-tokens").setAttribute("aria-pressed", String(settings.get("showTokens")));
  };
  chat.addEventListener("messages", showMeter);
  settings.addEventListener("change", () => {
    showSampling();
    showMeter();
  });
  showSampling();
}

/** While an answer is written, how fast; afterwards, how much of the context is full. */
function meterText(answer, maxContext) {
  if (answer.state === "streaming") return rateText(answer) ?? "";
  if (!answer.usage || !maxContext) return "";
  const full = answer.usage.prompt + answer.usage.completion;
  return `${full.toLocaleString("en")} of ${maxContext.toLocaleString("en")} tokens`;
}

function samplingText(settings) {
  const words = [`Temp ${settings.get("temperature")}`];
  if (settings.get("top_k") > 0) words.push(`top-k ${settings.get("top_k")}`);
  if (settings.get("top_p") < 1) words.push(`top-p ${settings.get("top_p")}`);
  if (settings.get("seed") !== null) words.push(`seed ${settings.get("seed")}`);
  return words.join(" · ");
}

/** The numbers of an answer in words, such as "156 tokens · 44 tok/s"; null where it has no token. */
export function rateText(answer) {
  const { count, isExact } = tokenCount(answer);
  if (!count) return null;
  const rate = tokensPerSecond(answer);
  const about = isExact || answer.state === "streaming" ? "" : "about ";
  const words = `${about}${count.toLocaleString("en")} ${count === 1 ? "token" : "tokens"}`;
  return rate === null ? words : `${words} · ${rate.toFixed(rate < 10 ? 1 : 0)} tok/s`;
}
