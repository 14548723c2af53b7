/** A tool call and what came back, folded into one line that can be opened. */

import { element } from "./dom.js";
import { icon } from "./icons.js";

const PREVIEW_CHARACTERS = 48;

export class ToolCallView {
  constructor() {
    this.call = element("code", { class: "tool-preview" });
    this.result = element("code", { class: "tool-preview" });
    this.arrow = element("span", { class: "tool-arrow", "aria-label": "gives" }, "→");
    this.code = element("pre");
    this.output = element("pre");
    this.outputLabel = element("h3", {}, "Output");
    this.root = element(
      "details",
      { class: "tool" },
      element(
        "summary",
        {},
        icon("calculator"),
        element("span", { class: "tool-name" }, "Tool"),
        this.call,
        this.arrow,
        this.result,
        icon("right"),
      ),
      element("div", { class: "tool-body" }, element("h3", {}, "Call"), this.code, this.outputLabel, this.output),
    );
  }

  /** `output` is null while the tool has not answered; `isLive`: it still may. */
  update(code, output, isLive) {
    this.call.textContent = preview(code);
    this.code.textContent = code;
    this.result.textContent = output === null ? (isLive ? "…" : "no answer") : preview(output);
    this.output.textContent = output ?? "";
    this.output.hidden = this.outputLabel.hidden = output === null;
  }
}

function preview(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > PREVIEW_CHARACTERS ? `${line.slice(0, PREVIEW_CHARACTERS - 1)}…` : line;
}

/**
 * Return an answer's parts as they are shown: a call and the output after it belong together.
 * [{type: "text", text}] and [{type: "tool", code, output or null}].
 */
export function shownParts(parts) {
  const shown = [];
  for (const { type, text } of parts) {
    const last = shown.at(-1);
    if (type === "text") shown.push({ type, text });
    else if (type === "python_output" && last?.type === "tool" && last.output === null) last.output = text;
    else if (type === "python_output") shown.push({ type: "tool", code: "", output: text });
    else shown.push({ type: "tool", code: text, output: null });
  }
  return shown;
}
