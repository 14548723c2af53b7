"""lm-eval against our server: its log-likelihoods are the engine's own."""

from collections.abc import Iterator
from typing import Any

import pytest
from lm_eval import evaluator
from lm_eval.tasks import TaskManager

from tests.deployments.serving.lm_eval_tasks import CHOICE, GENERATE, QUESTIONS, write_tasks
from tests.fake_engine import FakeEngine, log_probabilities
from tests.live_server import LiveServer, running_server


@pytest.fixture(autouse=True)
def no_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval notes in its results what is installed, which takes longer than these tests."""
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)


@pytest.fixture(scope="module")
def open_server() -> Iterator[LiveServer]:
    with running_server(FakeEngine()) as live:
        yield live


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return TaskManager(include_path=str(folder), include_defaults=False)


def evaluated(live: LiveServer, tasks: TaskManager, model: str, path: str, task: str, **options: Any) -> list[Any]:
    """Return the samples of a task, in their order."""
    arguments = {"model": "fake", "base_url": live.url + path, "max_retries": 1, "timeout": 60}
    results = evaluator.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=[task],
        task_manager=tasks,
        batch_size=options.pop("batch_size", 1),
        bootstrap_iters=0,
        log_samples=True,
        verbosity="ERROR",
        **options,
    )
    assert results is not None
    return sorted(results["samples"][task], key=lambda sample: sample["doc_id"])


def expected(context: str, continuation: str) -> tuple[float, bool]:
    """Return the sum of the engine's log-probabilities, and whether each token is the likeliest."""
    ids, end = list(context.encode()), len(context.encode())
    ids += continuation.encode()
    total, is_greedy = 0.0, True
    for position in range(end, len(ids)):
        logprobs = log_probabilities(ids[:position], FakeEngine().vocab_size)
        total += float(logprobs[ids[position]])
        is_greedy &= int(logprobs.argmax()) == ids[position]
    return total, is_greedy


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_log_likelihoods_are_those_of_the_engine(live_tasks: Any, batch_size: int) -> None:
    live, tasks = live_tasks
    samples = evaluated(live, tasks, "local-completions", "/v1/completions", CHOICE, batch_size=batch_size)
    for sample, question in zip(samples, QUESTIONS, strict=True):
        context = f"Question: {question['question']}\nAnswer:"
        for (found, is_greedy), choice in zip(sample["filtered_resps"], question["choices"], strict=True):
            logprob, should_be_greedy = expected(context, f" {choice}")
            assert float(found) == pytest.approx(logprob, abs=1e-4)
            assert str(is_greedy) == str(should_be_greedy)


@pytest.mark.parametrize(
    ("model", "path", "options"),
    [
        ("local-completions", "/v1/completions", {"batch_size": 3}),
        ("local-chat-completions", "/v1/chat/completions", {"apply_chat_template": True}),
    ],
)
def test_answers_are_read(live_tasks: Any, model: str, path: str, options: dict[str, Any]) -> None:
    live, tasks = live_tasks
    samples = evaluated(live, tasks, model, path, GENERATE, **options)
    assert [sample["filtered_resps"][0] for sample in samples] == ["You said: Is", "You said: Co", "You said: 1+"]


@pytest.fixture(scope="module")
def live_tasks(open_server: LiveServer, tasks: TaskManager) -> tuple[LiveServer, TaskManager]:
    return open_server, tasks
