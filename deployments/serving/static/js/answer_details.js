/** How an answer was made: a button, and the table it opens. */

import { tokenCount, tokensPerSecond } from "./answer.js";
import { element } from "./dom.js";
import { iconButton } from "./icons.js";
import { openBeside } from "./popup.js";

const NAMES = { temperature: "Temperature", top_k: "Top-k", top_p: "Top-p", max_tokens: "Max tokens", seed: "Seed" };
const ENDS = { stop: "the model ended it", length: "token limit" };

export class AnswerDetails {
  /** `read` returns the answer. */
  constructor(read) {
    const open = () =>
      openBeside(
        this.button,
        element("dl", { class: "details" }, rowsOf(read()).flatMap(cells)),
        "How this answer was made",
      );
    this.button = iconButton("info", "How this answer was made", open, { "aria-haspopup": "dialog" });
  }
}

function cells([name, value]) {
  return [element("dt", {}, name), element("dd", {}, String(value))];
}

function spelled(number) {
  return number.toLocaleString("en");
}

function rowsOf(answer) {
  const { usage, timing, sampling = {} } = answer;
  const { count, isExact } = tokenCount(answer);
  const rate = tokensPerSecond(answer);
  const rows = [
    ["Model", answer.model ?? "unknown"],
    [
      "Prompt",
      usage && `${spelled(usage.prompt)} tokens${usage.cached ? `, ${spelled(usage.cached)} of them cached` : ""}`,
    ],
    ["Answer", `${isExact ? "" : "about "}${spelled(count)} tokens`],
    ["First token after", timing?.first && `${((timing.first - timing.started) / 1000).toFixed(2)} s`],
    ["Speed", rate && `${rate.toFixed(1)} tokens/s`],
    ["Ended by", answer.state === "stopped" ? "you" : ENDS[answer.finish]],
    ...Object.entries(NAMES).map(([key, name]) => [name, sampling[key]]),
  ];
  return rows.filter(([, value]) => value !== null && value !== undefined);
}
