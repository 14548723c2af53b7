/**
 * The height that can be seen. 100dvh follows a phone's toolbars, but on iOS not its keyboard: there the page is told
 * how much is left, so that the message box stays above it.
 */

const SLACK_PIXELS = 40;

export function watchViewport() {
  const { visualViewport: view } = window;
  if (!view) return;
  const root = document.documentElement;
  const fit = () => {
    const isCovered = window.innerHeight - view.height > SLACK_PIXELS && view.scale === 1;
    if (isCovered) root.style.setProperty("--seen-height", `${view.height}px`);
    else root.style.removeProperty("--seen-height");
    if (isCovered) window.scrollTo(0, 0);
  };
  view.addEventListener("resize", fit);
  view.addEventListener("scroll", fit);
}
