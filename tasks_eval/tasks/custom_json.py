"""Conversations of your own: CustomJSON, which the task data stage has copied, and any other file or folder of them.

A file that is not cut in two by its owner is cut here: about a tenth of its different conversations are for testing, by
a hash, so that equal ones never stand on both sides.
"""

from pathlib import Path

from nanochat_core.artifacts import canonical_json
from nanochat_core.chat_format import read_jsonl_conversations
from nanochat_core.data.own.conversation_files import conversation_files
from nanochat_core.data.own.conversation_reader import read_conversation_file
from nanochat_core.data.own.file_splits import WHOLE
from nanochat_core.errors import DataError
from nanochat_core.inference.interface import Conversation
from tasks_eval.splits import split_of
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData


def make(data: TaskData, split: Split) -> Task:
    """The files of the data set `custom`; not graded. Raises DataError that names file and line of what is wrong."""
    is_whole = WHOLE in data.datasets.get("custom", {})
    files = data.files("custom", WHOLE if is_whole else split)
    examples = [example for path in files for example in read_jsonl_conversations(path)]
    return _task("CustomJSON", examples, split, is_whole)


def make_from(place: Path, name: str, split: Split) -> Task:
    """The conversations of a file or folder, of any known format, as a task of that name; raises DataError likewise."""
    files = conversation_files(place)
    examples: list[Conversation] = read_conversation_file(files.get(WHOLE) or files[split]).conversations
    return _task(name, examples, split, WHOLE in files)


def _task(name: str, examples: list[Conversation], split: Split, is_whole: bool) -> Task:
    examples = part_of(examples, split, name) if is_whole else examples
    return Task(name, "generative", split, len(examples), examples.__getitem__)


def part_of(examples: list[Conversation], split: Split, name: str = "CustomJSON") -> list[Conversation]:
    """Return the conversations of one split, in their order; raises DataError where all of them are equal."""
    keys = [canonical_json(example["messages"]) for example in examples]
    distinct = sorted(set(keys))
    testing = {key for key in distinct if split_of(key) == "test"}
    if len(distinct) < 2:
        raise DataError(
            f"{name} has {len(distinct)} different conversation(s): at least 2 are needed, to train on and to test."
        )
    if len(testing) in (0, len(distinct)):  # so few that no hash fell there
        testing = {distinct[0]}
    return [example for key, example in zip(keys, examples, strict=True) if (key in testing) == (split == "test")]
