/** What can be typed after a slash. */

import { SAMPLING } from "./settings.js";

/**
 * Return the commands: {name: {usage, hint, run(argument)}}. `run` returns what to say to the user, or nothing; it
 * raises RangeError with what was expected. `page` does what they need: see main.js.
 */
export function makeCommands(page) {
  const { settings } = page;
  const number = (name, title) => ({
    usage: `/${title} [number]`,
    hint: SAMPLING[name].hint,
    run(argument) {
      if (argument) settings.set(name, argument);
      return `${SAMPLING[name].label} is ${settings.get(name)}.`;
    },
  });
  return {
    clear: { usage: "/clear", hint: "Begin a new chat; this one stays in the list", run: page.startNew },
    system: {
      usage: "/system [text]",
      hint: "What the model is told before this chat; /system - removes it",
      async run(argument) {
        if (argument) await page.setSystem(argument === "-" ? "" : argument);
        return page.readSystem() ? `System prompt: ${page.readSystem()}` : "This chat has no system prompt.";
      },
    },
    temperature: number("temperature", "temperature"),
    topk: number("top_k", "topk"),
    topp: number("top_p", "topp"),
    max: number("max_tokens", "max"),
    seed: {
      usage: "/seed [number]",
      hint: "Equal seeds give equal answers; /seed - draws a new one each time",
      run(argument) {
        if (argument) settings.set("seed", argument === "-" ? null : argument);
        const seed = settings.get("seed");
        return seed === null ? "Every answer draws its own seed." : `The seed is ${seed}.`;
      },
    },
    retry: { usage: "/retry", hint: "Answer the last question again", run: page.regenerateLast },
    edit: { usage: "/edit", hint: "Edit the last question", run: page.editLast },
    tokens: {
      usage: "/tokens",
      hint: "Show or hide the probabilities of tokens",
      run() {
        settings.set("showTokens", !settings.get("showTokens"));
        return settings.get("showTokens")
          ? "New answers come with the probability of every token."
          : "Answers come without probabilities.";
      },
    },
    tokenizer: { usage: "/tokenizer", hint: "Open the tokenizer playground", run: page.openPlayground },
    export: { usage: "/export", hint: "Save this chat as a file", run: page.exportChat },
    help: { usage: "/help", hint: "List the commands", run: () => page.showHelp() },
  };
}

/**
 * Return what a text that was sent is: {name, argument} for a command, {text} for a message. Two slashes begin a
 * message with one.
 */
export function parseCommand(text) {
  if (text.startsWith("//")) return { text: text.slice(1) };
  const match = /^\/([a-z]*)(?:\s+([\s\S]*))?$/i.exec(text);
  return match ? { name: match[1].toLowerCase(), argument: (match[2] ?? "").trim() } : { text };
}

/** The names that begin as this one does, or else the one that is nearest. */
export function matching(names, start) {
  const found = names.filter((name) => name.startsWith(start));
  return found.length ? found : names.filter((name) => distance(name, start) <= 2);
}

/** The number of letters to insert, remove or replace to make one word of the other (Levenshtein 1966). */
function distance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] !== b[j - 1]));
    row = next;
  }
  return row[b.length];
}
