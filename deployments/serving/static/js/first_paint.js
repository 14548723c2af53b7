/* What must be known before the first pixel: the chosen colour scheme. A classic script, since modules run after the
   first paint and the page would flash. */
(() => {
  try {
    const theme = JSON.parse(localStorage.getItem("nanochat.settings") ?? "{}").theme;
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // No storage, or not ours: the system's scheme it is.
  }
})();
