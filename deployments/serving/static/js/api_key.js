/** The API key: for this tab, or for this browser where the user says so. Never part of a conversation or an export. */

const KEY = "nanochat.api-key";

/** Return the key, or "". */
export function readKey() {
  try {
    return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? inMemory;
  } catch {
    return inMemory;
  }
}

/** Keep a key for this tab, or for longer; "" forgets it. */
export function keepKey(key, { isRemembered }) {
  inMemory = key;
  try {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
    if (key) (isRemembered ? localStorage : sessionStorage).setItem(KEY, key);
  } catch {
    // No storage: it holds until the page is closed.
  }
}

let inMemory = "";
