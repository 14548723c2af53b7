/** Server-sent events out of a fetch response (EventSource can neither post nor send a key). */

/**
 * Yield the data of each event in a stream of bytes, as strings. Lines may end in LF, CRLF or CR, an event may have
 * several data lines, and comments (pings) are passed over.
 */
export async function* eventData(stream) {
  let rest = "";
  let lines = [];
  for await (const piece of decoded(stream)) {
    rest += piece;
    // A CR at the end may be the first half of a CRLF: it waits for what follows.
    const parts = rest.split(/\r\n|\n|\r(?!$)/);
    rest = parts.pop();
    for (const line of parts) {
      if (line.startsWith("data:")) lines.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && lines.length) {
        yield lines.join("\n");
        lines = [];
      }
    }
  }
}

/** Yield the text of a stream of UTF-8 bytes, whole characters only; the stream is given up when the reader stops. */
async function* decoded(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      yield decoder.decode(part.value, { stream: true });
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
