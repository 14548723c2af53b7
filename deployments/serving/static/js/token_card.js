/** The card beside a token: how likely it was, and what else could have stood in its place. One for the whole page. */

import { element } from "./dom.js";

const GAP_PIXELS = 6;
const MARGIN_PIXELS = 8;

const card = element("div", { class: "token-card", id: "token-card", popover: "manual", role: "status" });

/** Show the card of a token beside its element. */
export function showTokenCard(node, token) {
  if (!card.isConnected) document.body.append(card);
  card.replaceChildren(...contentOf(token));
  card.showPopover();
  place(node.getClientRects()[0] ?? node.getBoundingClientRect());
  addEventListener("scroll", hideTokenCard, { capture: true, once: true, passive: true });
}

/** Hide it; whether it was there. */
export function hideTokenCard() {
  const wasShown = card.isConnected && card.matches(":popover-open");
  if (wasShown) card.hidePopover();
  return wasShown;
}

function contentOf({ text, logprob, alternatives }) {
  if (logprob === null)
    return [element("p", { class: "token-card-note" }, "Put there by the tool: the model had no choice.")];
  const isAmong = alternatives.some((other) => other.text === text && other.logprob === logprob);
  const rows = isAmong ? alternatives : [...alternatives, { text, logprob }];
  return [
    element(
      "p",
      { class: "token-card-head" },
      element("code", {}, quoted(text)),
      element("strong", {}, percent(logprob)),
    ),
    element(
      "ol",
      {},
      rows.map((row) => rowOf(row, row.text === text && row.logprob === logprob)),
    ),
    element(
      "p",
      { class: "token-card-note" },
      `log-probability ${logprob.toFixed(3).replace("-0.000", "0.000")}, before temperature`,
    ),
  ];
}

function rowOf({ text, logprob }, isChosen) {
  const bar = element("span", { class: "bar" }, element("span", { class: "bar-fill" }));
  bar.firstChild.style.width = `${100 * Math.exp(logprob)}%`;
  const mark = isChosen ? element("span", { class: "visually-hidden" }, "(chosen)") : null;
  return element(
    "li",
    { class: isChosen ? "chosen" : null },
    element("code", {}, quoted(text), mark),
    bar,
    element("span", { class: "percent" }, percent(logprob)),
  );
}

/** A token's text with its blanks made visible. */
export function quoted(text) {
  return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "(empty)";
}

function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  if (share >= 99.95) return "≈ 100 %";
  return share < 0.01 ? "< 0.01 %" : `${share.toFixed(share < 1 ? 2 : 1)} %`;
}

function place(rect) {
  const { offsetWidth: width, offsetHeight: height } = card;
  const left = Math.min(Math.max(MARGIN_PIXELS, rect.left), innerWidth - width - MARGIN_PIXELS);
  const isBelow = rect.bottom + GAP_PIXELS + height < innerHeight - MARGIN_PIXELS;
  card.style.left = `${left}px`;
  card.style.top = `${isBelow ? rect.bottom + GAP_PIXELS : Math.max(MARGIN_PIXELS, rect.top - GAP_PIXELS - height)}px`;
}
