/** Reads answers to a screen reader sentence by sentence: a live region that grew by the token would stammer. */

import { element } from "./dom.js";

const KEPT_LINES = 20;
const SENTENCE_END = /[.!?…。！？:]["'”’)\]]*\s|\n/g;

export class Announcer {
  /** `region` is a polite live region that nobody sees. */
  constructor(region) {
    this.region = region;
    this.begin();
  }

  /** A new answer begins. */
  begin() {
    this.said = 0;
  }

  /** Say the sentences of `text` that are complete and new; with `isWhole` also what is left. */
  follow(text, { isWhole = false } = {}) {
    const rest = text.slice(this.said);
    const end = isWhole ? rest.length : lastSentenceEnd(rest);
    this.said += end;
    this.say(spoken(rest.slice(0, end)));
  }

  say(text) {
    if (!text.trim()) return;
    this.region.append(element("p", {}, text.trim()));
    while (this.region.children.length > KEPT_LINES) this.region.firstElementChild.remove();
  }
}

function lastSentenceEnd(text) {
  const ends = [...text.matchAll(SENTENCE_END)];
  return ends.length ? ends.at(-1).index + ends.at(-1)[0].length : 0;
}

/** Markdown without the marks that nobody wants read aloud. */
function spoken(text) {
  return text
    .replace(/^\s*(```|~~~).*$/gm, "")
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/^\s{0,3}(#{1,6}|[-*+>])\s+/gm, "")
    .replace(/\*\*|__|`/g, "");
}
