/** What an empty chat shows: who answers, and a few things to ask. */

import { element } from "./dom.js";
import { icon } from "./icons.js";

const QUESTIONS = [
  "What is 12*7?",
  "Why is the sky blue?",
  "Spell the word “strawberry”.",
  "Write a short Python function that counts letters.",
];

/** Return the elements; `ask(text)` is called for a question that was chosen. */
export function welcome(model, maxContext, ask) {
  const size = maxContext ? `Remembers up to ${maxContext.toLocaleString("en")} tokens of a chat. ` : "";
  return [
    element("div", { class: "welcome-mark" }, icon("logo")),
    element("h2", {}, "Ask ", element("span", { class: "model-name" }, model)),
    element("p", {}, `${size}Chats are kept in this browser only.`),
    element(
      "ul",
      { class: "starters" },
      QUESTIONS.map((text) =>
        element("li", {}, element("button", { type: "button", class: "starter", onclick: () => ask(text) }, text)),
      ),
    ),
  ];
}
