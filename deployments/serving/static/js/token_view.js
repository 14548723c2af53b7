/**
 * An answer as its tokens, shaded by how likely the model thought each. Pointing at a token, tapping it, or walking
 * there with the arrow keys shows what else could have stood there.
 */

import { element } from "./dom.js";
import { hideTokenCard, showTokenCard } from "./token_card.js";

// The shades: a token of at least this probability has the class p0, p1, …; a rarer one the last.
export const SHADES = [0.9, 0.5, 0.2, 0.05];

export class TokenView {
  constructor() {
    this.tokens = [];
    this.summary = element("p", { class: "token-summary" });
    this.text = element("div", {
      class: "token-text",
      role: "group",
      tabindex: 0,
      "aria-label": "Tokens of the answer; the arrow keys go from one to the next",
      "aria-describedby": "token-card",
      onpointerover: (event) => event.pointerType !== "touch" && this.#show(event.target),
      onpointerleave: () => hideTokenCard(),
      onclick: (event) => this.#show(event.target),
      onkeydown: (event) => this.#walk(event),
      onfocus: () => this.#mark(this.at),
      onblur: () => this.#mark(null),
    });
    this.at = 0;
    this.root = element("div", { class: "token-view" }, this.text, this.summary, legend());
  }

  /** Tokens are only ever added: what stands there stays. */
  update(tokens) {
    this.text.append(...tokens.slice(this.tokens.length).map(tokenElement));
    this.tokens = [...tokens];
    this.summary.textContent = summaryOf(tokens);
  }

  #show(target) {
    const node = target.closest(".token");
    if (!node) return hideTokenCard();
    this.at = indexOf(node);
    this.#mark(document.activeElement === this.text ? this.at : null);
    showTokenCard(node, this.tokens[this.at]);
  }

  #walk(event) {
    const last = this.tokens.length - 1;
    const targets = { ArrowRight: this.at + 1, ArrowLeft: this.at - 1, Home: 0, End: last };
    if (event.key === "Escape" && hideTokenCard()) event.stopPropagation();
    if (!(event.key in targets) || last < 0) return;
    event.preventDefault();
    const isFirst = !this.text.querySelector(".token.current");
    this.at = isFirst && event.key === "ArrowRight" ? this.at : Math.min(last, Math.max(0, targets[event.key]));
    this.#mark(this.at);
    const node = this.text.children[this.at];
    node.scrollIntoView({ block: "nearest" });
    showTokenCard(node, this.tokens[this.at]);
  }

  #mark(index) {
    this.text.querySelector(".token.current")?.classList.remove("current");
    if (index === null) hideTokenCard();
    else this.text.children[index]?.classList.add("current");
  }
}

function indexOf(node) {
  return Array.prototype.indexOf.call(node.parentElement.children, node);
}

function tokenElement(token) {
  const kind = token.type === "text" ? "" : ` ${token.type}`;
  return element("span", { class: `token ${shadeOf(token.logprob)}${kind}` }, visible(token.text));
}

/** Return the class of the shade for a log-probability; "forced" where a tool's output left no choice. */
export function shadeOf(logprob) {
  if (logprob === null) return "forced";
  const probability = Math.exp(logprob);
  const index = SHADES.findIndex((least) => probability >= least);
  return `p${index < 0 ? SHADES.length : index}`;
}

/** A line break is seen as a sign, and still breaks the line. */
function visible(text) {
  return text.replaceAll("\n", "↵\n");
}

function summaryOf(tokens) {
  const chosen = tokens.filter((token) => token.logprob !== null);
  if (!chosen.length) return "";
  const mean = chosen.reduce((sum, token) => sum + token.logprob, 0) / chosen.length;
  const first = chosen.filter((token) => !token.alternatives.some((other) => other.logprob > token.logprob)).length;
  const share = Math.round((100 * first) / chosen.length);
  return `${tokens.length} tokens, perplexity ${Math.exp(-mean).toFixed(2)}; ${share} % were the model's first choice`;
}

function legend() {
  const labels = [
    `≥ ${100 * SHADES[0]} %`,
    ...SHADES.slice(1).map((least) => `≥ ${100 * least} %`),
    `< ${100 * SHADES.at(-1)} %`,
  ];
  const entries = labels.map((label, index) =>
    element("li", {}, element("span", { class: `swatch p${index}` }), label),
  );
  return element("ul", { class: "token-legend", "aria-label": "Shades" }, entries);
}
