/** What /help shows. */

import { element } from "./dom.js";

const KEYS = [
  ["Enter", "send"],
  ["Shift+Enter", "a new line"],
  ["Esc", "stop the answer"],
  ["↑", "edit the last question, from an empty box"],
  ["← →", "go from token to token, where probabilities are shown"],
  ["Ctrl+Shift+O", "a new chat"],
];

/** Return the elements that list the commands and the keys. */
export function help(commands) {
  const usages = Object.values(commands).flatMap(({ usage, hint }) => entry("code", usage, hint));
  const keys = KEYS.flatMap(([key, hint]) => entry("kbd", key, hint));
  return [
    element("h3", {}, "Commands"),
    element("dl", { class: "help" }, usages),
    element("h3", {}, "Keys"),
    element("dl", { class: "help" }, keys),
  ];
}

function entry(tag, name, hint) {
  return [element("dt", {}, element(tag, {}, name)), element("dd", {}, hint)];
}
