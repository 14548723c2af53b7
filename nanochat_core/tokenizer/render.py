"""Conversations to token ids and the mask of what the assistant learns. Torch-free.

    <|bos|> <|user_start|> question <|user_end|> <|assistant_start|> answer <|assistant_end|> <|user_start|> …

Within an answer, a python part stands between <|python_start|> and <|python_end|> and is learned, delimiters included;
a python_output part stands between <|output_start|> and <|output_end|> and is not, because the engine writes it.
A plain document is <|bos|> and its text, which is learned.
"""

from nanochat_core.chat_format import PART_DELIMITERS, normalize, parts_of, text_of_document
from nanochat_core.inference.interface import Conversation
from nanochat_core.tokenizer.bpe import Tokenizer


def render_conversation(tokenizer: Tokenizer, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Return (ids, mask), equally long. mask is 1 on the assistant's text, its tool calls and <|assistant_end|>.

    Raises DataError where the conversation has another shape than `chat_format` says.
    """
    ids, mask = [tokenizer.bos], [0]

    def append(new_ids: list[int], is_learned: bool) -> None:
        ids.extend(new_ids)
        mask.extend([int(is_learned)] * len(new_ids))

    for message in normalize(conversation["messages"]):
        if message["role"] == "user":
            append(_user_turn(tokenizer, message["content"]), False)
            continue
        append([tokenizer.special("<|assistant_start|>")], False)
        for part in parts_of(message["content"]):
            append(_part(tokenizer, part), part["type"] != "python_output")
        append([tokenizer.special("<|assistant_end|>")], True)
    return ids, mask


def render_row(tokenizer: Tokenizer, row: Conversation) -> tuple[list[int], list[int]]:
    """Return (ids, mask) of a row of a mixture: a conversation, or a plain document, all of which is learned."""
    text = text_of_document(row)
    if text is None:
        return render_conversation(tokenizer, row)
    ids = tokenizer.encode(text)
    return [tokenizer.bos, *ids], [0] + [1] * len(ids)


def render_prompt(tokenizer: Tokenizer, conversation: Conversation) -> list[int]:
    """Return the ids after which the assistant speaks: up to and with <|assistant_start|>.

    A last message of the assistant (a reference answer) is left out. Raises DataError for a malformed conversation.
    """
    messages = conversation["messages"]
    if messages and messages[-1].get("role") == "assistant":
        messages = messages[:-1]
    ids, _ = render_conversation(tokenizer, {"messages": messages})
    return [*ids, tokenizer.special("<|assistant_start|>")]


def _user_turn(tokenizer: Tokenizer, text: str) -> list[int]:
    return [tokenizer.special("<|user_start|>"), *tokenizer.encode(text), tokenizer.special("<|user_end|>")]


def _part(tokenizer: Tokenizer, part: dict[str, str]) -> list[int]:
    ids = tokenizer.encode(part["text"])
    if part["type"] == "text":
        return ids
    start, end = PART_DELIMITERS[part["type"]]
    return [tokenizer.special(start), *ids, tokenizer.special(end)]
