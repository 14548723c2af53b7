"""Tasks made of given conversations, for tests of curation."""

from collections.abc import Sequence

from nanochat_core.inference.interface import Conversation
from tasks_eval.mixture import Pick
from tasks_eval.task import Task


def chat(*contents: str) -> Conversation:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[turn % 2], "content": content} for turn, content in enumerate(contents)]}


def picks_of(conversations: Sequence[Conversation], name: str = "Made") -> list[Pick]:
    """Return one pick of each conversation."""
    task = Task(name, "generative", "train", len(conversations), lambda index: conversations[index])
    return [Pick(task, index) for index in range(len(conversations))]
