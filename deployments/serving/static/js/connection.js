/** Finding the server: what it is, waiting while it loads, saying so meanwhile. */

import { byId, element } from "./dom.js";
import { icon } from "./icons.js";

const PAUSE_MILLISECONDS = 2000;

/** Return what the server says of itself, as soon as it says so; until then a banner tells what is the matter. */
export async function waitForServer(api) {
  const banner = byId("banner");
  for (;;) {
    try {
      const info = await api.info();
      banner.hidden = true;
      return info;
    } catch (error) {
      banner.replaceChildren(icon("info"), element("span", {}, `${error.message} Trying again…`));
      banner.hidden = false;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MILLISECONDS));
    }
  }
}

/** Fill the model picker; the choice is kept, as long as the server has that model. */
export async function wireModels(api, settings, info) {
  const picker = byId("model");
  const names = await api.models().catch(() => [info.model_name]);
  picker.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  if (!names.includes(settings.get("model")))
    settings.set("model", names.includes(info.model_name) ? info.model_name : names[0]);
  picker.value = settings.get("model");
  picker.onchange = () => settings.set("model", picker.value);
}
