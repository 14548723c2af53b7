/** The server's HTTP API, as the page needs it. Addresses are relative, so that a proxy may mount it anywhere. */

import { eventData } from "./event_stream.js";

/** A request that failed: `code` is the server's (or "network"), `waitSeconds` what it asked us to wait, or null. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "network", waitSeconds = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.waitSeconds = waitSeconds;
  }
}

export class Api {
  /** `readKey` returns the API key, or "" for none. */
  constructor(readKey) {
    this.readKey = readKey;
  }

  /** What the page must know of the server: model_name, max_context, defaults, limits, version, needs_key. */
  info() {
    return this.#json("nanochat/info");
  }

  /** The names of the models that can be asked. */
  async models() {
    return (await this.#json("v1/models")).data.map((model) => model.id);
  }

  /** The tokens of a text: [{id, text}]; one that is a part of a character has its bytes for a text, as \xe2\x82. */
  async tokenize(text, signal) {
    const body = { prompt: text, add_special_tokens: false, return_token_strs: true };
    const { tokens, token_strs: texts } = await this.#json("tokenize", body, signal);
    return tokens.map((id, index) => ({ id, text: (texts?.[index] ?? "").replace(/^bytes:(?=\\x)/, "") }));
  }

  /** The text of token ids. */
  async detokenize(ids, signal) {
    return (await this.#json("detokenize", { tokens: ids }, signal)).prompt;
  }

  /** Yield the chunks of a streamed chat completion. Raises ApiError, also for an error in the midst of the stream. */
  async *streamChat(body, signal) {
    const response = await this.#fetch(
      "v1/chat/completions",
      { ...body, stream: true, stream_options: { include_usage: true } },
      signal,
    );
    try {
      for await (const data of eventData(response.body)) {
        if (data === "[DONE]") return;
        const chunk = parsed(data);
        if (chunk.error)
          throw new ApiError(chunk.error.message, {
            status: response.status,
            code: chunk.error.code ?? "server_error",
          });
        yield chunk;
      }
    } catch (error) {
      if (error instanceof ApiError || signal?.aborted) throw error;
      throw new ApiError("The connection broke off in the middle of the answer.");
    }
    throw new ApiError("The answer ended too early: the server closed the connection.");
  }

  async #json(path, body, signal) {
    return (await this.#fetch(path, body, signal)).json();
  }

  async #fetch(path, body, signal) {
    const headers = body ? { "Content-Type": "application/json" } : {};
    const key = this.readKey();
    if (key) headers.Authorization = `Bearer ${key}`;
    const options = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) };
    let response;
    try {
      response = await fetch(new URL(path, document.baseURI), options);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError("The server cannot be reached. Is it running?");
    }
    if (!response.ok) throw await failure(response);
    return response;
  }
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError("The server sent something that is no JSON.", { code: "bad_answer" });
  }
}

/** Return the error that a response says, in OpenAI's form or not. */
async function failure(response) {
  const said = await response.json().catch(() => ({}));
  const message = said.error?.message ?? `The server answered ${response.status} ${response.statusText}.`;
  const wait = Number.parseFloat(response.headers.get("Retry-After"));
  return new ApiError(message, {
    status: response.status,
    code: said.error?.code ?? `http_${response.status}`,
    waitSeconds: Number.isFinite(wait) ? Math.ceil(wait) : null,
  });
}
