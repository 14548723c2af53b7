"""Models whose scores are known beforehand: who always prefers the right answer, who guesses, who says one letter."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nanochat_core.inference.interface import Conversation, Loglikelihood, LoglikelihoodRequest
from tasks_eval.chat import Sampling, score_examples
from tasks_eval.core.bundle import CoreTask, read_bundle
from tasks_eval.core.prompts import Item, render_prompts
from tasks_eval.core.score import core_summary, make_requests, score_items
from tasks_eval.scores import summarize
from tasks_eval.task import Task, make_task
from tasks_eval.task_data import TaskData
from tests.fakes import FakeTextModel
from tests.task_data import mirror_task_data

ITEMS, QUESTIONS = 20, 200
LETTER_TASKS = ("ARC-Easy", "ARC-Challenge", "MMLU", "Facts")
WRITTEN_TASKS = ("GSM8K", "SpellingBee", "Arithmetic")

pytestmark = pytest.mark.hub
Preference = Callable[[CoreTask, Item, int, LoglikelihoodRequest], float]  # of an option, per token


@pytest.fixture(scope="module")
def data(hub_mirror: Path) -> TaskData:
    return mirror_task_data(hub_mirror)


def core_accuracies(root: Path, prefers: Preference) -> dict[str, dict[str, float]]:
    """Return the summary of each CORE task for a model that scores options by `prefers`; greedy where that is 0."""
    summaries = {}
    for task in read_bundle(root):
        items = task.items()
        known: dict[tuple[int, ...], Loglikelihood] = {}
        for index in range(min(ITEMS, len(items))):
            rows = FakeTextModel().encode_batch(render_prompts(task, items, index))
            requests = make_requests(FakeTextModel.bos, task, rows)
            for option, request in enumerate(requests):
                mean, count = prefers(task, items[index], option, request), len(request.ids) - request.start
                known[request.ids] = Loglikelihood(mean * count, count, mean == 0)
        model = FakeTextModel(score=lambda request, known=known: known[request.ids])
        records = score_items(model, task, items, range(min(ITEMS, len(items))))
        summaries[task.label] = summarize(records, baseline=task.baseline)
    return summaries


def gold_of(task: CoreTask, item: Item) -> int:
    return 0 if task.kind == "language_modeling" else item["gold"]


def test_who_always_prefers_the_right_answer_scores_one_on_every_task_of_core(hub_mirror: Path) -> None:
    def prefers(task: CoreTask, item: Item, option: int, request: LoglikelihoodRequest) -> float:
        return 0.0 if option == gold_of(task, item) else -1.0

    summaries = core_accuracies(hub_mirror / "eval_bundle", prefers)
    assert {row["centered"] for row in summaries.values()} == {1.0} and len(summaries) == 22
    assert core_summary(summaries)["core"] == 1.0


@pytest.mark.slow
def test_who_guesses_scores_what_guessing_does(hub_mirror: Path) -> None:
    """All choices of a question have the same chance: within four standard errors of the mean of 1 / choices."""

    def prefers(task: CoreTask, item: Item, option: int, request: LoglikelihoodRequest) -> float:
        number = hashlib.sha256(f"{task.label} {option} {request.ids}".encode()).digest()
        return -1 - int.from_bytes(number[:4], "big") / 2**32

    bundle = hub_mirror / "eval_bundle"
    summaries = core_accuracies(bundle, prefers)
    for task in read_bundle(bundle):
        if task.kind == "language_modeling":
            assert summaries[task.label]["accuracy"] == 0
            continue
        chances = [
            1 / len(item["choices" if task.kind == "multiple_choice" else "context_options"])
            for item in task.items()[:ITEMS]
        ]
        expected = sum(chances) / len(chances)
        error = sum(chance * (1 - chance) for chance in chances) ** 0.5 / len(chances)
        assert abs(summaries[task.label]["accuracy"] - expected) < 4 * error, task.label


def accuracy_of(model: FakeTextModel, task: Task) -> float:
    records = score_examples(model, task, range(min(QUESTIONS, len(task))), Sampling())
    return summarize(records, baseline=task.baseline)["accuracy"]


@pytest.mark.parametrize("name", LETTER_TASKS)
def test_one_letter_scores_the_share_of_that_letter(name: str, data: TaskData) -> None:
    task = make_task(name, data, "test")
    answers = [task[index]["answer"] for index in range(min(QUESTIONS, len(task)))]
    for letter in ("A", "C"):
        share = accuracy_of(FakeTextModel(lambda _, letter=letter: letter), task)
        # Where there is no such letter, all are alike, and the first one is taken.
        others = sum(
            task[index]["answer"] == task[index]["letters"][0]
            for index in range(len(answers))
            if letter not in task[index]["letters"]
        )
        assert share == (answers.count(letter) + others) / len(answers)


@pytest.mark.parametrize("name", [*LETTER_TASKS, *WRITTEN_TASKS])
def test_who_knows_the_answers_is_always_right_and_who_says_nothing_never(name: str, data: TaskData) -> None:
    task = make_task(name, data, "test")
    known = {asked(task[index]): task[index]["messages"][-1]["content"] for index in range(min(QUESTIONS, len(task)))}
    assert accuracy_of(FakeTextModel(lambda conversation: known[asked(conversation)]), task) == 1.0
    if task.kind == "generative":
        assert accuracy_of(FakeTextModel(lambda _: ""), task) == 0.0


def asked(conversation: Conversation) -> str:
    messages: Sequence[dict[str, str]] = conversation["messages"]
    return messages[0]["content"]
