/** Copying. */

import { element } from "./dom.js";
import { icon } from "./icons.js";

const SHOWN_MILLISECONDS = 1600;

/** Put a text on the clipboard; false where the browser does not let us. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // the clipboard's API exists only on secure origins
  }
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const area = element("textarea", { class: "visually-hidden", readonly: true, "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return isCopied;
}

/** Return a button that copies what `read` returns, and says so. */
export function copyButton(label, read) {
  const button = element(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label },
    icon("copy"),
  );
  let timer = 0;
  button.addEventListener("click", async () => {
    const isCopied = await copyText(read());
    button.replaceChildren(icon(isCopied ? "check" : "alert"));
    button.setAttribute("aria-label", isCopied ? "Copied" : "Could not copy");
    clearTimeout(timer);
    timer = setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.setAttribute("aria-label", label);
    }, SHOWN_MILLISECONDS);
  });
  return button;
}
