/** The panel of settings: the numbers of sampling, the system prompt, what is kept here. */

import { byId, element } from "./dom.js";
import { icon, iconButton } from "./icons.js";

/** A number with a slider and a box, both of one setting. */
function numberField(settings, name) {
  const { label, hint } = settings.ranges[name];
  const id = `setting-${name}`;
  const slider = element("input", { type: "range", "aria-label": label, tabindex: -1 });
  const box = element("input", { type: "number", id, inputmode: "decimal", "aria-describedby": `${id}-hint` });
  const note = element("p", { class: "field-hint", id: `${id}-hint` }, hint);
  const show = () => {
    const { min, max, step } = settings.ranges[name];
    for (const input of [slider, box]) Object.assign(input, { min, max, step });
    slider.value = settings.get(name);
    if (document.activeElement !== box) box.value = settings.get(name);
  };
  const set = (value) => {
    try {
      settings.set(name, value);
      note.textContent = hint;
      box.removeAttribute("aria-invalid");
    } catch (error) {
      note.textContent = error.message;
      box.setAttribute("aria-invalid", "true");
    }
  };
  slider.addEventListener("input", () => set(slider.value));
  box.addEventListener("input", () => set(box.value));
  box.addEventListener("blur", () => {
    set(settings.get(name));
    show();
  });
  settings.addEventListener("change", show);
  show();
  return element(
    "div",
    { class: "field" },
    element("div", { class: "field-head" }, element("label", { for: id }, label), box),
    slider,
    note,
  );
}

function seedField(settings) {
  const box = element("input", {
    type: "number",
    id: "setting-seed",
    min: 0,
    step: 1,
    placeholder: "random",
    inputmode: "numeric",
    "aria-describedby": "setting-seed-hint",
  });
  const note = element(
    "p",
    { class: "field-hint", id: "setting-seed-hint" },
    "Equal seeds give equal answers; empty draws one each time",
  );
  box.addEventListener("change", () => {
    try {
      settings.set("seed", box.value === "" ? null : box.value);
    } catch (error) {
      note.textContent = error.message;
    }
  });
  const show = () => {
    box.value = settings.get("seed") ?? "";
  };
  settings.addEventListener("change", show);
  show();
  return element(
    "div",
    { class: "field" },
    element("div", { class: "field-head" }, element("label", { for: "setting-seed" }, "Seed"), box),
    note,
  );
}

function switchField(settings, name, label, hint) {
  const box = element("input", {
    type: "checkbox",
    role: "switch",
    id: `setting-${name}`,
    class: "switch",
    "aria-describedby": `setting-${name}-hint`,
  });
  box.addEventListener("change", () => settings.set(name, box.checked));
  const show = () => {
    box.checked = settings.get(name);
  };
  settings.addEventListener("change", show);
  show();
  return element(
    "div",
    { class: "field" },
    element("div", { class: "field-head" }, element("label", { for: box.id }, label), box),
    element("p", { class: "field-hint", id: `setting-${name}-hint` }, hint),
  );
}

/** The system prompt: of the chat that is shown, and the one with which new chats begin. */
function systemField(settings, chat) {
  const box = element("textarea", {
    id: "system",
    rows: 4,
    placeholder: "For example: Answer in one sentence.",
    "aria-describedby": "system-hint",
  });
  const keep = element("button", { type: "button", class: "text-button" }, "Use for new chats, too");
  const show = () => {
    if (document.activeElement !== box) box.value = chat.conversation.system;
    keep.hidden = settings.get("system") === box.value;
  };
  box.addEventListener("input", () => {
    chat.setSystem(box.value);
    keep.hidden = settings.get("system") === box.value;
  });
  keep.addEventListener("click", () => {
    settings.set("system", box.value || null);
    box.focus();
  });
  for (const event of ["open", "messages"]) chat.addEventListener(event, show);
  settings.addEventListener("change", show);
  show();
  return element(
    "div",
    { class: "field" },
    element("label", { for: "system" }, "System prompt"),
    box,
    element(
      "div",
      { class: "field-foot" },
      element("p", { class: "field-hint", id: "system-hint" }, "What the model is told before this chat"),
      keep,
    ),
  );
}

/** Fill the panel. `actions`: close(), openKey(), removeAll(). */
export function fillSettings(settings, chat, actions) {
  const reset = element("button", { type: "button", class: "text-button" }, "Reset");
  reset.addEventListener("click", () => settings.resetSampling());
  const wide = { type: "button", class: "plain-button" };
  const key = element("button", { ...wide, id: "open-key", hidden: true }, icon("key"), "API key…");
  key.addEventListener("click", actions.openKey);
  const erase = element("button", { ...wide, class: "plain-button grave" }, icon("trash"), "Delete all chats…");
  erase.addEventListener("click", actions.removeAll);
  const body = [
    systemField(settings, chat),
    heading("Sampling", reset),
    ...Object.keys(settings.ranges).map((name) => numberField(settings, name)),
    seedField(settings),
    heading("Answers"),
    switchField(settings, "showTokens", "Token probabilities", "Ask for the probability of every token, and show it"),
    switchField(settings, "useTools", "Calculator", "Let the model work sums out with its tool"),
    heading("This browser"),
    element("p", { class: "field-hint" }, "Chats, settings and keys are kept here and nowhere else."),
    element("div", { class: "settings-buttons" }, key, erase),
    element("p", { class: "field-hint", id: "version" }),
  ];
  byId("settings").replaceChildren(
    element(
      "div",
      { class: "settings-head" },
      element("h2", {}, "Settings"),
      iconButton("close", "Close the settings", actions.close),
    ),
    element("div", { class: "settings-body" }, body),
  );
}

function heading(text, ...controls) {
  return element("div", { class: "settings-title" }, element("h3", {}, text), controls);
}

/** Show what the server says of itself (`Api.info`). */
export function showServer({ needs_key: needsKey, version }) {
  byId("open-key").hidden = !needsKey;
  byId("version").replaceChildren(`nanochat ${version} · `, element("a", { href: "docs" }, "API"));
}
