/** What the user has set, kept in this browser: only what differs from the server's defaults. */

const KEY = "nanochat.settings";

/**
 * The numbers of sampling: what they may be, and what they do, in the words of the settings' panel and of /help.
 * `off` is the value that switches a number off.
 */
export const SAMPLING = {
  temperature: {
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    fallback: 0.8,
    hint: "0 always takes the likeliest token",
  },
  top_k: {
    label: "Top-k",
    min: 0,
    max: 200,
    step: 1,
    fallback: 50,
    off: 0,
    hint: "Only the k likeliest tokens; 0 is off",
  },
  top_p: {
    label: "Top-p",
    min: 0.05,
    max: 1,
    step: 0.01,
    fallback: 1,
    off: 1,
    hint: "The likeliest tokens that hold this share; 1 is off",
  },
  max_tokens: {
    label: "Max tokens",
    min: 1,
    max: 4096,
    step: 1,
    fallback: 512,
    hint: "An answer is cut after so many",
  },
};
const SEED_LIMIT = 2 ** 31;

const PREFERENCES = {
  theme: "system",
  seed: null,
  system: "",
  showTokens: false,
  useTools: true,
  model: null,
  sidebar: true,
};

export class Settings extends EventTarget {
  constructor() {
    super();
    this.ranges = structuredClone(SAMPLING);
    this.chosen = read();
  }

  /** Take over what the server says of itself (`Api.info`): its defaults and limits replace the built-in ones. */
  learn({ defaults = {}, limits = {}, max_context: maxContext } = {}) {
    for (const [name, range] of Object.entries(this.ranges)) {
      const value = defaults[name];
      if (typeof value === "number") range.fallback = value;
      else if (value === null && "off" in range) range.fallback = range.off;
    }
    if (limits.top_k) this.ranges.top_k.max = limits.top_k;
    this.ranges.max_tokens.max = Math.min(limits.max_tokens ?? Infinity, maxContext ?? Infinity, 2 ** 20);
    this.#tell();
  }

  get(name) {
    if (!(name in this.ranges)) return this.chosen[name] ?? PREFERENCES[name];
    const { min, max, fallback } = this.ranges[name];
    return Math.min(max, Math.max(min, this.chosen[name] ?? fallback));
  }

  /** Set a value; raises RangeError with what is allowed. null goes back to the default. */
  set(name, value) {
    if (value !== null && value !== undefined) this.chosen[name] = this.#checked(name, value);
    else delete this.chosen[name];
    this.#keep();
    this.#tell();
  }

  /** Go back to the server's numbers. */
  resetSampling() {
    for (const name of [...Object.keys(this.ranges), "seed"]) delete this.chosen[name];
    this.#keep();
    this.#tell();
  }

  /** The fields of a request; a seed is drawn where none is set, so that every answer can be made again. */
  sampling() {
    const fields = { seed: this.get("seed") ?? Math.floor(Math.random() * SEED_LIMIT) };
    for (const name of Object.keys(this.ranges)) fields[name] = this.get(name);
    return fields;
  }

  #checked(name, value) {
    const range =
      this.ranges[name] ?? (name === "seed" ? { label: "Seed", min: 0, max: SEED_LIMIT - 1, step: 1 } : null);
    if (!range) return value;
    const number = typeof value === "string" && value.trim() === "" ? Number.NaN : Number(value);
    const isWhole = range.step !== 1 || Number.isInteger(number);
    if (!(number >= range.min && number <= range.max) || !isWhole) {
      const kind = range.step === 1 ? "whole number" : "number";
      throw new RangeError(`${range.label} is a ${kind} from ${range.min} to ${range.max}, not ${value}.`);
    }
    return number;
  }

  #keep() {
    try {
      localStorage.setItem(KEY, JSON.stringify(this.chosen));
    } catch {
      // No storage: the choice holds until the page is closed.
    }
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

function read() {
  try {
    const value = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return value !== null && typeof value === "object" ? value : {};
  } catch {
    return {};
  }
}
