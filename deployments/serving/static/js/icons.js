/** The icons: strokes on a grid of 24, drawn for this page. */

import { element } from "./dom.js";

const STROKES = {
  alert: "M12 8v5M12 16.5v.01M10.3 4 2.9 17a2 2 0 0 0 1.7 3h14.8a2 2 0 0 0 1.7-3L13.7 4a2 2 0 0 0-3.4 0Z",
  bars: "M5 20v-6M10 20V9M15 20v-9M20 20V4",
  calculator:
    "M6 3h12a1 1 0 0 1 1 1v16a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1Z" +
    "M8.5 7h7M8.5 12h.01M12 12h.01M15.5 12h.01M8.5 16h.01M12 16h.01M15.5 16h.01",
  check: "m5 12.5 4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6 6 18",
  copy:
    "M9 9h10a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H9a1 1 0 0 1-1-1V10a1 1 0 0 1 1-1Z" +
    "M16 9V4a1 1 0 0 0-1-1H4a1 1 0 0 0-1 1v11a1 1 0 0 0 1 1h4",
  dark: "M20 14.5A8.3 8.3 0 0 1 9.5 4a8.3 8.3 0 1 0 10.5 10.5Z",
  down: "m6 9.5 6 6 6-6",
  download: "M12 4v11m0 0 4.5-4.5M12 15l-4.5-4.5M4 20h16",
  dots: "M5 12h.01M12 12h.01M19 12h.01",
  info: "M12 11v5M12 7.8v.01M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18Z",
  key: "M14.5 9.5 20.5 3.5M17 7l2.5 2.5M11 16.5a4.5 4.5 0 1 1-9 0 4.5 4.5 0 0 1 9 0Zm-1.5-3 5-4",
  left: "m14.5 6-6 6 6 6",
  light:
    "M12 16.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9ZM12 2v2M12 20v2M4.9 4.9l1.4 1.4M17.7 17.7l1.4 1.4" +
    "M2 12h2M20 12h2M4.9 19.1l1.4-1.4M17.7 6.3l1.4-1.4",
  pencil: "M4 20h4L19 9a2.1 2.1 0 0 0-3-3L5 17l-1 3ZM14.5 7.5l3 3",
  pieces: "M3 6h6v5H3zM12 6h9v5h-9zM3 14h9v5H3zM15 14h6v5h-6z",
  plus: "M12 5v14M5 12h14",
  redo: "M20 11a8 8 0 1 0-2.3 6.6M20 4v7h-7",
  right: "m9.5 6 6 6-6 6",
  send: "M12 19V5M5.5 11.5 12 5l6.5 6.5",
  sidebar: "M5 4h14a2 2 0 0 1 2 2v12a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V6a2 2 0 0 1 2-2ZM9.5 4v16",
  sliders: "M4 7h9M17 7h3M4 17h3M11 17h9M15 9a2 2 0 1 0 0-4 2 2 0 0 0 0 4ZM9 19a2 2 0 1 0 0-4 2 2 0 0 0 0 4Z",
  system: "M4 5h16a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V6a1 1 0 0 1 1-1ZM9 21h6M12 17v4",
  trash: "M4 7h16M9.5 7V4h5v3M6.5 7l1 13h9l1-13M10 11v5M14 11v5",
  upload: "M12 15V4m0 0L7.5 8.5M12 4l4.5 4.5M4 20h16",
};
const FILLED = { stop: "M7 5h10a2 2 0 0 1 2 2v10a2 2 0 0 1-2 2H7a2 2 0 0 1-2-2V7a2 2 0 0 1 2-2Z" };
const LOGO = "M7 17V9.5M7 12.5c0-2 1.4-3.2 3.2-3.2 1.9 0 3.2 1.2 3.2 3.2V17M17.5 17h.01";
const SVG = "http://www.w3.org/2000/svg";

/** Return the icon of this name, hidden from screen readers: what it stands on has a label. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  const d = name === "logo" ? LOGO : (STROKES[name] ?? FILLED[name]);
  if (!d) throw new Error(`no icon is called ${name}`);
  path.setAttribute("d", d);
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon icon-${name}${name in FILLED ? " filled" : ""}`);
  svg.append(path);
  return svg;
}

/** Put an icon into every `<span data-icon="name">` below `root`. */
export function drawIcons(root) {
  for (const place of root.querySelectorAll("[data-icon]")) place.replaceWith(icon(place.dataset.icon));
}

/** Return a button that shows an icon only; `label` is what it is called and what a pointer that rests on it reads. */
export function iconButton(name, label, onclick, attributes = {}) {
  return element(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...attributes },
    icon(name),
  );
}
