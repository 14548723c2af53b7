"""Conversations that say what another one says."""

import hashlib
import json
import unicodedata
from collections.abc import Sequence

from nanochat_core.chat_format import normalize, parts_of, text_of_document
from nanochat_core.inference.interface import Conversation
from tasks_eval.mixture import Pick


def duplicates(picks: Sequence[Pick], held_out: Sequence[Pick]) -> tuple[list[Pick], list[Pick]]:
    """Return which of distinct picks say what is held out, and which of the others what another one says."""
    own = {pick: beginnings(pick.example()) for pick in picks}
    held = [beginnings(pick.example()) for pick in held_out]
    whole, parts = {found[-1] for found in held}, {digest for found in held for digest in found}
    leaked = [pick for pick in picks if own[pick][-1] in parts or not whole.isdisjoint(own[pick])]
    for pick in leaked:
        del own[pick]
    said = {digest for found in own.values() for digest in found[:-1]}
    repeated = []
    for pick in picks:
        if found := own.get(pick):
            if found[-1] in said:
                repeated.append(pick)
            said.add(found[-1])
    return leaked, repeated


def beginnings(conversation: Conversation) -> list[bytes]:
    """Return a digest of the conversation up to each of its answers; the last one is of the whole conversation."""
    is_document = text_of_document(conversation) is not None
    messages = conversation["messages"] if is_document else normalize(conversation["messages"])
    running, digests = hashlib.sha256(), []
    for message in messages:
        said = [(part["type"], plain(part["text"])) for part in parts_of(message["content"])]
        running.update(json.dumps([message["role"], said]).encode())
        if message["role"] == "assistant" or message is messages[-1]:
            digests.append(running.digest()[:16])
    return digests


def plain(text: str) -> str:
    """Return a text without what makes no difference to a reader.

    >>> plain("What  is\\nTWO and two?")
    'what is two and two?'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
