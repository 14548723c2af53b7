"""SmolTalk: everyday dialogues to learn talking from; data set HuggingFaceTB/smol-smoltalk. Not graded."""

from nanochat_core.inference.interface import Conversation
from tasks_eval.task import Split, Task
from tasks_eval.task_data import TaskData


def make(data: TaskData, split: Split) -> Task:
    rows = data.rows("smoltalk", split)

    def example(index: int) -> Conversation:
        return {"messages": rows[index]["messages"]}

    return Task("SmolTalk", "generative", split, len(rows), example)
