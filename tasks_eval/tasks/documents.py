"""Documents: plain text of your own beside conversations, learned whole. How much of it, the mixture's weights say.

A document is a conversation of one message, of the role `document` (`nanochat_core/chat_format.py`). About a tenth of
them is for testing, by a hash.
"""

import pyarrow.parquet as pq

from nanochat_core.chat_format import document_of
from nanochat_core.inference.interface import Conversation
from tasks_eval.splits import split_of
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData


def make(data: TaskData, split: Split) -> Task:
    """The files of the data set `documents`; not graded."""
    files = data.files("documents", "all")
    texts = [text for path in files for text in pq.read_table(path, columns=["text"])["text"].to_pylist()]
    own = part_of(texts, split)

    def example(index: int) -> Conversation:
        return document_of(own[index])

    return Task("Documents", "generative", split, len(own), example)


def part_of(texts: list[str], split: Split) -> list[str]:
    """Return the documents of one split, in their order; neither split is empty where there are two or more."""
    testing = {text for text in texts if split_of(f"document {text}") == "test"}
    if len(testing) in (0, len(set(texts))):  # so few that no hash fell there
        testing = {min(texts)}
    return [text for text in texts if (text in testing) == (split == "test")]
