"""What two evaluations say of each other: equal questions only, and every task has to pass."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flows.promotion.decision import Decision, Thresholds, decide
from nanochat_core.errors import ArtifactError
from tasks_eval.records import Record, write_records
from tasks_eval.scores import summarize


def evaluation(folder: Path, **tasks: Sequence[bool | Sequence[bool]]) -> Path:
    """Write the verdicts of an evaluation as its stage does: one bool a question, or several samples of it."""
    (folder / "records").mkdir(parents=True)
    scores = {}
    for task, verdicts in tasks.items():
        records = [
            Record(i, task, prompt="", prompt_sha256=f"{task}{i}", expected="", correct=is_right, answer="", sample=k)
            for i, row in enumerate(verdicts)
            for k, is_right in enumerate([row] if isinstance(row, bool) else row)
        ]
        write_records(folder / "records" / f"{task}.parquet", records)
        scores[task] = summarize(records, baseline=0.0) | {"version": 1, "kind": "generative"}
    (folder / "scores.json").write_text(json.dumps({"tasks": scores}))
    return folder


def change(folder: Path, task: str, **fields: Any) -> None:
    scores = json.loads((folder / "scores.json").read_text())
    scores["tasks"][task] |= fields
    (folder / "scores.json").write_text(json.dumps(scores))


def right(count: int, of: int = 400) -> list[bool]:
    return [i < count for i in range(of)]


def verdicts(decision: Decision) -> dict[str, str]:
    return {row.task: row.verdict for row in decision.rows}


def test_one_task_that_is_worse_keeps_a_challenger_out_whatever_it_gains_elsewhere(tmp_path: Path) -> None:
    champion = evaluation(tmp_path / "old", Facts=right(200), Sums=right(200))
    decision = decide(champion, evaluation(tmp_path / "new", Facts=right(380), Sums=right(170)), Thresholds())
    assert verdicts(decision) == {"Facts": "better", "Sums": "worse", "overall": "better"}
    assert (decision.is_promoted, decision.reason) == (False, "worse: Sums")


def test_what_is_allowed_to_drop_is_measured_by_the_end_of_the_interval(tmp_path: Path) -> None:
    champion = evaluation(tmp_path / "old", Facts=right(200))
    challenger = evaluation(tmp_path / "new", Facts=right(192))  # 2 points less, 0.6 to 3.4 of them surely
    assert decide(champion, challenger, Thresholds(max_drop=3.5)).is_promoted
    refused = decide(champion, challenger, Thresholds(max_drop=3.0))
    assert (refused.is_promoted, refused.reason) == (False, "worse: Facts, overall")
    assert decide(champion, challenger, Thresholds(max_drop=3.0, confidence=0.8)).is_promoted


def test_a_difference_that_too_few_examples_tell_is_unclear(tmp_path: Path) -> None:
    old = [i % 2 == 0 for i in range(100)]
    new = [i % 2 == 0 if i < 80 else i % 2 == 1 for i in range(100)]  # 10 won, 10 lost
    decision = decide(evaluation(tmp_path / "old", Sums=old), evaluation(tmp_path / "new", Sums=new), Thresholds())
    assert (verdicts(decision)["Sums"], decision.is_promoted) == ("unclear", False)


def test_a_task_with_too_few_examples_does_not_count_and_promotes_nobody(tmp_path: Path) -> None:
    same = {"Facts": right(30, of=60)}
    decision = decide(evaluation(tmp_path / "old", **same), evaluation(tmp_path / "new", **same), Thresholds())
    assert (decision.is_promoted, decision.rows[0].note) == (False, "60 of at least 100")
    again = decide(tmp_path / "old", tmp_path / "new", Thresholds(min_examples=60))
    assert again.is_promoted


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"version": 2}, "version 1 against 2"),
        ({"prompt_hash": "other"}, "prompt_hash .* against other"),
        ({"n": 399}, "n 400 against 399"),
        ({"sandbox": "rlimits"}, "sandbox None against rlimits"),
    ],
)
def test_other_questions_are_never_compared(tmp_path: Path, fields: dict[str, Any], note: str) -> None:
    champion = evaluation(tmp_path / "old", Facts=right(200), Sums=right(200))
    challenger = evaluation(tmp_path / "new", Facts=right(400), Sums=right(400))
    change(challenger, "Sums", **fields)
    decision = decide(champion, challenger, Thresholds())
    assert verdicts(decision) == {"Facts": "better", "Sums": "not comparable", "overall": "better"}
    assert decision.rows[1].difference is None
    assert re.fullmatch(note, decision.rows[1].note)
    assert not decision.is_promoted


def test_a_task_of_one_model_alone_is_named_and_nothing_in_common_promotes_nobody(tmp_path: Path) -> None:
    champion = evaluation(tmp_path / "old", Facts=right(200))
    decision = decide(champion, evaluation(tmp_path / "new", Sums=right(400)), Thresholds())
    assert [row.note for row in decision.rows] == [
        "only the champion was asked",
        "only the challenger was asked",
        "no task was asked in the same way of both",
    ]
    assert not decision.is_promoted


def test_samples_of_a_question_are_averaged_before_questions_are_compared(tmp_path: Path) -> None:
    champion = evaluation(tmp_path / "old", Sums=[[True, False]] * 120)
    challenger = evaluation(tmp_path / "new", Sums=[[True, True]] * 120)
    row = decide(champion, challenger, Thresholds()).rows[0]
    assert row.difference is not None
    assert (row.difference.n, row.difference.mean, row.difference.stderr) == (120, 0.5, 0.0)


def test_records_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    champion = evaluation(tmp_path / "old", Facts=right(200))
    challenger = evaluation(tmp_path / "new", Facts=right(200))
    broken = challenger / "records" / "Facts.parquet"
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"new/records/Facts.parquet: .* Evaluate the model again"):
        decide(champion, challenger, Thresholds())
