/** A small box beside a button: a menu, or a table. Escape or a click elsewhere closes it. */

import { element } from "./dom.js";

const GAP_PIXELS = 6;
const MARGIN_PIXELS = 8;

/** Open a box with `content` beside `button`. Returns the box; `hidePopover()` closes it. */
export function openBeside(button, content, label, role = "dialog") {
  const box = element("div", { class: "popup", popover: "auto", role, "aria-label": label, tabindex: -1 }, content);
  box.addEventListener("toggle", (event) => {
    if (event.newState === "open") return;
    box.remove();
    button.setAttribute("aria-expanded", "false");
  });
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    box.hidePopover();
  });
  document.body.append(box);
  button.setAttribute("aria-expanded", "true");
  box.showPopover();
  place(box, button.getBoundingClientRect());
  box.focus();
  return box;
}

function place(box, rect) {
  const left = Math.min(rect.left, innerWidth - box.offsetWidth - MARGIN_PIXELS);
  const isBelow = rect.bottom + GAP_PIXELS + box.offsetHeight < innerHeight - MARGIN_PIXELS;
  box.style.left = `${Math.max(MARGIN_PIXELS, left)}px`;
  const above = Math.max(MARGIN_PIXELS, rect.top - GAP_PIXELS - box.offsetHeight);
  box.style.top = `${isBelow ? rect.bottom + GAP_PIXELS : above}px`;
}

/** Open a menu; `entries` are {label, icon (an element), act}. */
export function openMenu(button, label, entries) {
  const items = entries.map((entry) => {
    const act = () => {
      box.hidePopover();
      entry.act();
    };
    return element(
      "button",
      {
        type: "button",
        role: "menuitem",
        class: entry.isGrave ? "menu-item grave" : "menu-item",
        tabindex: -1,
        onclick: act,
      },
      entry.icon,
      entry.label,
    );
  });
  const box = openBeside(button, items, label, "menu");
  items[0].focus();
  box.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key === "Tab") box.hidePopover();
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = items.indexOf(document.activeElement) + steps[event.key];
    items.at(next % items.length).focus();
  });
}
