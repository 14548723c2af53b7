"""Which tokens are scored, and who wins."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.errors import SpecError
from nanochat_core.inference.interface import Loglikelihood, LoglikelihoodRequest
from tasks_eval.core.bundle import LABELS, CoreTask, read_bundle
from tasks_eval.core.score import choose_tasks, common_prefix_length, core_summary, make_requests, score_items
from tests.fakes import BYTES, FakeTextModel
from tests.tasks_eval.core.bundle_files import write_bundle

IDS = st.lists(st.integers(0, 3), max_size=6)


def task(kind: str) -> CoreTask:
    return CoreTask("made", kind, Path("x"), 0, " ", 0.0)  # type: ignore[arg-type]


def requests_for(kind: str, prompts: list[str]) -> list[LoglikelihoodRequest]:
    return make_requests(BYTES, task(kind), FakeTextModel().encode_batch(prompts))


def scored(requests: list[LoglikelihoodRequest]) -> list[str]:
    return [bytes(request.ids[request.start :]).decode() for request in requests]


@given(IDS, IDS, IDS)
def test_the_common_prefix_is_the_longest(prefix: list[int], one: list[int], two: list[int]) -> None:
    rows = [prefix + one, prefix + two]
    length = common_prefix_length(rows)
    assert length >= len(prefix)
    assert rows[0][:length] == rows[1][:length]
    assert length == min(map(len, rows)) or rows[0][length] != rows[1][length]


def test_multiple_choice_scores_what_follows_the_common_prefix() -> None:
    requests = requests_for("multiple_choice", ["Sky: blue", "Sky: black"])
    assert scored(requests) == ["ue", "ack"]
    assert all(request.ids[0] == BYTES for request in requests)


def test_schema_scores_the_common_suffix() -> None:
    assert scored(requests_for("schema", ["The cup fell", "Tables fell"])) == [" fell", " fell"]


def test_language_modeling_scores_the_continuation() -> None:
    assert scored(requests_for("language_modeling", ["One is", "One is one"])) == [" one"]


@pytest.mark.parametrize("kind", ["multiple_choice", "schema"])
def test_at_least_one_token_is_scored_and_bos_never(kind: str) -> None:
    for prompts in (["a", "ab"], ["a", "a"], ["ab", "b"]):
        for request in requests_for(kind, prompts):
            assert 1 <= request.start < len(request.ids)


def test_the_lowest_mean_loss_wins_not_the_lowest_sum(tmp_path: Path) -> None:
    # "Village" has more tokens at a lower loss each: it wins by the mean, "Town" would by the sum.
    def score(request: LoglikelihoodRequest) -> Loglikelihood:
        count = len(request.ids) - request.start
        loss = 1.5 if b"Village" in bytes(request.ids[1:]).rpartition(b"Answer")[2] else 2.0
        return Loglikelihood(-loss * count, count, False)

    capitals = read_bundle(write_bundle(tmp_path / "bundle"))[0]
    items = capitals.items()
    records = score_items(FakeTextModel(score=score), capitals, items, range(6))
    assert [record.answer for record in records] == ["1"] * 6
    assert [record.correct for record in records] == [item["gold"] == 1 for item in items]
    assert [record.options for record in records] == [tuple(item["choices"]) for item in items]
    assert [record.logprobs for record in records] == [
        tuple(-loss * count for loss, count in zip((2.0, 1.5), record.num_tokens, strict=True)) for record in records
    ]


def test_language_modeling_is_right_where_the_model_is_greedy(tmp_path: Path) -> None:
    endings = read_bundle(write_bundle(tmp_path / "bundle"))[2]
    for is_greedy in (True, False):
        model = FakeTextModel(score=lambda request, verdict=is_greedy: Loglikelihood(-1.0, 2, verdict))
        records = score_items(model, endings, endings.items(), [3, 1])
        assert [(record.index, record.correct) for record in records] == [(3, is_greedy), (1, is_greedy)]
        assert [record.answer for record in records] == [(record.expected if is_greedy else None) for record in records]


def test_a_record_shows_the_question_and_its_options_as_people_read_them(tmp_path: Path) -> None:
    capitals, pronouns, endings = read_bundle(write_bundle(tmp_path / "bundle"))
    shown = {}
    for made in (capitals, pronouns, endings):
        record = score_items(FakeTextModel(), made, made.items(), [0])[0]
        shown[made.label] = record.prompt.rpartition("\n\n")[2], record.options
    item, ending = capitals.items()[0], endings.items()[0]
    assert shown["capitals"] == (f"{item['query']}\nAnswer: ", tuple(item["choices"]))
    assert shown["pronouns"] == ("[…] ran away.", tuple(pronouns.items()[0]["context_options"]))
    assert shown["endings"] == (f"{ending['context'].strip()} ", (ending["continuation"],))


def test_core_is_named_core_only_where_all_22_tasks_ran() -> None:
    row = {"centered": 0.5, "stderr": 0.02, "baseline": 0.0}
    whole = core_summary(dict.fromkeys(LABELS, row))
    assert whole["core"] == 0.5 and whole["missing"] == [] and whole["stderr"] == pytest.approx(0.02 / 22**0.5)
    for labels in (LABELS[1:], [*LABELS[1:], "another"]):
        partial = core_summary(dict.fromkeys(labels, row))
        assert "core" not in partial and partial["core_partial"] == 0.5
        assert partial["missing"] == [LABELS[0]] and partial["tasks"] == list(labels)


def test_an_unknown_label_is_refused_with_the_closest_one(tmp_path: Path) -> None:
    tasks = read_bundle(write_bundle(tmp_path / "bundle"))
    assert [task.label for task in choose_tasks(tasks, None)] == ["capitals", "pronouns", "endings"]
    assert [task.label for task in choose_tasks(tasks, ["endings", "endings"])] == ["endings"]
    with pytest.raises(SpecError, match=r"no task 'capital' \(did you mean 'capitals'"):
        choose_tasks(tasks, ["capital"])
