/** Short words at the edge of the page, some with a way back. */

import { byId, element } from "./dom.js";

const SHOWN_MILLISECONDS = 6000;

/** Say something; `undo`, if given, is what the button beside it does. It stays while pointed at or focused. */
export function toast(text, undo) {
  const note = element("div", { class: "toast" }, element("span", {}, text));
  const leave = () => note.remove();
  let timer = 0;
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(leave, SHOWN_MILLISECONDS);
  };
  if (undo) {
    const act = () => {
      leave();
      undo();
    };
    note.append(element("button", { type: "button", class: "text-button", onclick: act }, "Undo"));
  }
  for (const event of ["pointerenter", "focusin"]) note.addEventListener(event, () => clearTimeout(timer));
  for (const event of ["pointerleave", "focusout"]) note.addEventListener(event, wait);
  byId("toasts").append(note);
  wait();
}
