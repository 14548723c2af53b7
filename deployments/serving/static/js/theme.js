/** Light, dark, or as the system has it. */

import { icon } from "./icons.js";

const NEXT = { system: "light", light: "dark", dark: "system" };
const LABELS = { system: "Colours: as the system", light: "Colours: light", dark: "Colours: dark" };

/** Let a button go through the three; the settings keep the choice. */
export function wireTheme(button, settings) {
  const show = () => {
    const theme = settings.get("theme");
    const root = document.documentElement;
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    button.replaceChildren(icon(theme));
    button.setAttribute("aria-label", LABELS[theme]);
    button.title = LABELS[theme];
  };
  button.addEventListener("click", () => settings.set("theme", NEXT[settings.get("theme")]));
  settings.addEventListener("change", show);
  show();
}
