"""Promotion with the real evaluation of real models: who counts letters worse is kept out, who does better gets in."""

from collections import Counter
from pathlib import Path

import pytest

from flows.download import download
from flows.promote import promote
from flows.promotion.decision import Thresholds
from flows.registry import find_registered
from nanochat_core.specs import EvaluateSpec
from tasks_eval.task import make_task
from tasks_eval.task_data import TaskData
from tests.flows.chat_model import finish, make_chat_model, shape
from tests.flows.tiny import tiny

QUESTIONS = 150
ASKED = EvaluateSpec(chat_tasks=("CountLetters",), chat_examples=QUESTIONS, max_new_tokens=8)


@pytest.fixture
def inputs(base: Path, prefect_server: str, mlflow_store: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What every model here descends from: real text, real task data, and a pretraining in name."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    outcomes = {outcome.stage: outcome.folder for outcome in download(tiny())}
    made = base / "pretraining"
    made.mkdir()
    (made / "weights").touch()
    text = f"download/{outcomes['download'].name}"
    params = {"model": shape(256).model_dump(mode="json")}
    pretrain = finish(base, made, "pretrain", "f", {"text": text}, params)
    return {"model": f"pretrain/{pretrain.name}"}


def how_often(base: Path) -> Counter[str]:
    """Return how many of the questions each answer is right for."""
    (folder,) = (base / "artifacts" / "task_data").iterdir()
    task = make_task("CountLetters", TaskData.open(folder), "test")
    return Counter(str(task[index]["answer"]) for index in range(QUESTIONS))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worse_model_is_kept_out_and_a_better_one_gets_in(base: Path, inputs: dict[str, str]) -> None:
    ranking = how_often(base).most_common()
    (best, most), (second, some) = ranking[:2]
    assert most - some > 0.2 * QUESTIONS and some > 0.15 * QUESTIONS, ranking  # or the test tells nothing
    nobody = next(digit for digit in "987" if digit not in dict(ranking))
    says = {"champion": second, "worse": nobody, "better": best}
    models = {
        name: make_chat_model(base, letter, digit, made_from=inputs)
        for letter, (name, digit) in zip("abc", says.items(), strict=True)
    }
    place = "models:/nanochat-live@champion"

    assert promote(str(models["champion"]), "nanochat-live", evaluate=ASKED).is_promoted
    refused = promote(str(models["worse"]), "nanochat-live", evaluate=ASKED)
    assert (refused.is_promoted, refused.reason) == (False, "worse: CountLetters, overall")
    difference = refused.rows[0].difference
    assert difference is not None
    assert (difference.n, difference.new) == (QUESTIONS, 0.0)
    assert difference.old == pytest.approx(some / QUESTIONS)
    assert find_registered(place, base) == models["champion"]

    promoted = promote(str(models["better"]), "nanochat-live", evaluate=ASKED)
    assert [row.verdict for row in promoted.rows] == ["better", "better"]
    assert find_registered(place, base) == models["better"]

    strict = Thresholds(min_examples=QUESTIONS + 1)
    shy = promote(str(models["champion"]), "nanochat-live", evaluate=ASKED, thresholds=strict)
    assert shy.reason.startswith("too few examples: CountLetters")
