"""What is measured while a model trains is the beginning of what is measured when it is done."""

import json
from pathlib import Path

import pytest

from nanochat_core.errors import NanochatError, SpecError
from nanochat_core.evaluator_specs import EvaluatorSpec
from nanochat_core.inference.interface import Conversation, Loglikelihood, LoglikelihoodRequest
from nanochat_core.training.evaluators import load_evaluator
from tasks_eval import plan
from tasks_eval.task_data import TaskData
from tests.fakes import FakeTextModel
from tests.tasks_eval.core.bundle_files import write_bundle


def always_second(request: LoglikelihoodRequest) -> Loglikelihood:
    """Prefer what ends like the second option of the made-up bundle's items; continue all text as it goes on."""
    text = bytes(token for token in request.ids if token < 256).decode()
    is_second = "Village" in text.splitlines()[-1] or "The cat" in text.splitlines()[-1]
    return Loglikelihood(-0.5 if is_second else -9.0, len(request.ids) - request.start, True)


def with_bundle(data: TaskData) -> Path:
    """Add the made-up bundle to the data sets; return their folder."""
    write_bundle(data.folder / "bundle")
    index = json.loads((data.folder / "index.json").read_text())
    index["datasets"]["core"] = {"root": "bundle"}
    (data.folder / "index.json").write_text(json.dumps(index))
    return data.folder


def measured(spec: EvaluatorSpec, folder: Path, model: FakeTextModel, *, ranks: int = 1) -> dict[str, float]:
    """Return the metrics as so many ranks find them together; every example is reported once."""
    evaluator, done, records = load_evaluator(spec, folder), 0, []

    def report(count: int) -> None:
        nonlocal done
        done += count

    for rank in range(ranks):
        records += evaluator.answer(model, lambda count, rank=rank: list(range(rank, count, ranks)), report)
    assert done == evaluator.examples == len(records)
    return evaluator.score(json.loads(json.dumps(records)))


def test_core_is_measured_on_the_first_items_of_each_task_whatever_the_number_of_ranks(data: TaskData) -> None:
    folder, spec = with_bundle(data), EvaluatorSpec(name="core", examples=4)
    found = measured(spec, folder, FakeTextModel(score=always_second))
    assert found["endings/accuracy"] == 1.0 and found["endings/stderr"] == 0.0
    choices = (found["capitals/accuracy"], found["pronouns/accuracy"])
    assert set(choices) <= {0.25, 0.5, 0.75}  # the gold answers alternate before they are shuffled
    assert found["core_partial"] == pytest.approx(((choices[0] - 0.5) / 0.5 + (choices[1] - 0.5) / 0.5 + 1.0) / 3)
    assert found["core_partial_stderr"] > 0 and "core" not in found
    for ranks in (2, 3):
        assert measured(spec, folder, FakeTextModel(score=always_second), ranks=ranks) == found


def test_fewer_than_22_tasks_are_no_core(data: TaskData) -> None:
    folder = with_bundle(data)
    found = measured(EvaluatorSpec(name="core", tasks=("endings",)), folder, FakeTextModel(score=always_second))
    assert found == {"endings/accuracy": 1.0, "endings/stderr": 0.0, "core_partial": 1.0, "core_partial_stderr": 0.0}


def test_chatcore_asks_the_cheap_tasks_where_none_is_named(data: TaskData) -> None:
    def answer(conversation: Conversation) -> str:
        return "2" if "number" in conversation["messages"][-1]["content"] else "A"

    found = measured(EvaluatorSpec(name="chatcore", examples=4), data.folder, FakeTextModel(answer=answer), ranks=2)
    assert found["ARC-Easy/accuracy"] == found["ARC-Challenge/accuracy"] == 1.0 and found["MMLU/accuracy"] == 0.0
    assert found["chatcore"] == pytest.approx((1 + 1 - 1 / 3) / 3)


def test_who_the_model_is_has_a_curve_and_no_part_in_chatcore(data: TaskData) -> None:
    model = FakeTextModel(answer=lambda conversation: "#### 3, says nanochat")
    both, alone = (
        measured(EvaluatorSpec(name="chatcore", tasks=tasks, examples=40), data.folder, model)
        for tasks in (("GSM8K", "Identity"), ("Identity",))
    )
    assert both["chatcore"] == both["GSM8K/accuracy"] != both["Identity/accuracy"]
    assert set(alone) == {"Identity/accuracy", "Identity/stderr"}


def test_chatcore_answers_questions_in_text_too(data: TaskData) -> None:
    spec = EvaluatorSpec(name="chatcore", tasks=("GSM8K", "Arithmetic"), examples=8)
    found = measured(spec, data.folder, FakeTextModel(answer=lambda conversation: "#### 3"))
    assert found["GSM8K/accuracy"] == 1 / 8 and found["Arithmetic/accuracy"] < 1


def test_programs_are_asked_for_only_where_a_sandbox_holds_them(
    data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> str:
        raise NanochatError("This machine has no sandbox")

    monkeypatch.setattr(plan, "require_sandbox", refuse)
    load_evaluator(EvaluatorSpec(name="chatcore"), data.folder)
    with pytest.raises(NanochatError, match="no sandbox"):
        load_evaluator(EvaluatorSpec(name="chatcore", tasks=("HumanEval",)), data.folder)


def test_what_cannot_be_measured_is_refused_before_the_first_step(data: TaskData) -> None:
    for spec, problem in (
        (EvaluatorSpec(name="core"), "core needs the CORE bundle; add 'core' to task_data.datasets"),
        (EvaluatorSpec(name="chatcore", tasks=("MMLUU",)), r"Unknown task 'MMLUU' \(did you mean 'MMLU'\?\)"),
        (EvaluatorSpec(name="chatcore", tasks=("SmolTalk",)), "tasks of chatcore: SmolTalk cannot be graded"),
    ):
        with pytest.raises(SpecError, match=problem):
            load_evaluator(spec, data.folder)
    with pytest.raises(SpecError, match="no task 'capital'"):
        load_evaluator(EvaluatorSpec(name="core", tasks=("capital",)), with_bundle(data))
