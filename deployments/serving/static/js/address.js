/** The page's address names the conversation that is shown, so that Back, a bookmark and a reload find it again. */

const PATTERN = /^#chat-([0-9a-f]+)$/;

/** Let address and chat follow each other; returns when what the address names is shown. */
export async function wireAddress(chat) {
  const write = () => {
    const { id, head } = chat.conversation;
    const hash = head === null ? "" : `#chat-${id}`;
    if (location.hash !== hash) history.pushState(null, "", hash || location.pathname + location.search);
  };
  const read = async () => {
    const id = PATTERN.exec(location.hash)?.[1];
    if (id === chat.conversation.id) return;
    if (!id || !(await chat.open(id))) chat.startNew();
  };
  addEventListener("popstate", read);
  await read();
  for (const event of ["open", "messages"]) chat.addEventListener(event, write);
}
