"""CustomJSON: conversations of your own, one JSON object {"messages": [...]} (or a bare list of messages) a line.

A file that is not cut in two by its owner is cut here: about a tenth of its different conversations are for testing, by
a hash, so that equal ones never stand on both sides.
"""

from nanochat_core.artifacts import canonical_json
from nanochat_core.chat_format import read_jsonl_conversations
from nanochat_core.errors import DataError
from nanochat_core.inference.interface import Conversation
from tasks_eval.splits import split_of
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData


def make(data: TaskData, split: Split) -> Task:
    """The files of the data set `custom`; not graded. Raises DataError that names file and line of what is wrong."""
    is_whole = "all" in data.datasets.get("custom", {})
    files = data.files("custom", "all" if is_whole else split)
    examples = [example for path in files for example in read_jsonl_conversations(path)]
    examples = part_of(examples, split) if is_whole else examples
    return Task("CustomJSON", "generative", split, len(examples), examples.__getitem__)


def part_of(examples: list[Conversation], split: Split) -> list[Conversation]:
    """Return the conversations of one split, in their order; raises DataError where all of them are equal."""
    keys = [canonical_json(example["messages"]) for example in examples]
    distinct = sorted(set(keys))
    testing = {key for key in distinct if split_of(key) == "test"}
    if len(distinct) < 2:
        raise DataError(
            f"CustomJSON has {len(distinct)} different conversation(s): at least 2 are needed, to train on and to test."
        )
    if len(testing) in (0, len(distinct)):  # so few that no hash fell there
        testing = {distinct[0]}
    return [example for key, example in zip(keys, examples, strict=True) if (key in testing) == (split == "test")]
