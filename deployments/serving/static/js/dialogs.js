/** Dialogs that must be answered first: the API key, and whether something may be deleted for good. */

import { keepKey, readKey } from "./api_key.js";
import { element } from "./dom.js";

/** Show a modal dialog; `fill(close)` returns what is in it. Returns when it is closed, with what `close` was given. */
export function openDialog(label, fill, className = "") {
  return new Promise((resolve) => {
    const dialog = element("dialog", { class: `dialog ${className}`, "aria-label": label });
    let answer;
    const close = (value) => {
      answer = value;
      dialog.close();
    };
    dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.stopPropagation());
    dialog.addEventListener("pointerdown", (event) => event.target === dialog && close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    dialog.append(...fill(close));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Ask whether to do something that cannot be undone; true for yes. */
export async function confirmed(question, yes) {
  return Boolean(
    await openDialog(question, (close) => [
      element("p", { class: "dialog-text" }, question),
      element(
        "div",
        { class: "dialog-row" },
        element("button", { type: "button", class: "plain-button", onclick: () => close(false) }, "Cancel"),
        element("button", { type: "button", class: "main-button grave", onclick: () => close(true) }, yes),
      ),
    ]),
  );
}

/** Ask for the API key and keep it; true where one was given. */
export async function askForKey() {
  const isGiven = await openDialog("API key", (close) => {
    const box = element("input", {
      type: "password",
      id: "api-key",
      autocomplete: "off",
      spellcheck: "false",
      required: true,
    });
    const remember = element("input", { type: "checkbox", id: "remember-key" });
    box.value = readKey();
    const onsubmit = (event) => {
      event.preventDefault();
      keepKey(box.value.trim(), { isRemembered: remember.checked });
      close(true);
    };
    return [
      element(
        "form",
        { onsubmit },
        element("h2", {}, "API key"),
        element(
          "p",
          { class: "dialog-text" },
          "This server answers only those who have a key. It is sent to this server and nowhere else.",
        ),
        element("label", { for: "api-key" }, "Key"),
        box,
        element(
          "div",
          { class: "check-row" },
          remember,
          element("label", { for: "remember-key" }, "Remember it in this browser"),
        ),
        element(
          "div",
          { class: "dialog-row" },
          element("button", { type: "button", class: "plain-button", onclick: () => close(false) }, "Cancel"),
          element("button", { type: "submit", class: "main-button" }, "Use key"),
        ),
      ),
    ];
  });
  return Boolean(isGiven);
}
