"""Questions of an evaluation that stand in the training text: copies are found, other words are not."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.artifacts import StageFolder, sha256_of, write_json
from nanochat_core.data.shards import INDEX_NAME, write_shard
from nanochat_core.errors import SpecError
from nanochat_core.metrics import read_metrics
from tasks_eval.contamination.ngrams import words_of
from tasks_eval.contamination.overlap_index import OverlapIndex, runs_of_task
from tasks_eval.contamination.search import OUTPUT, longest_overlap, search
from tasks_eval.contamination.texts import text_of_example, texts_of_core
from tasks_eval.core.bundle import CoreTask
from tasks_eval.task import make_task
from tests.task_data import mirror_task_data
from tests.tasks_eval.conftest import MINIATURE, write_task_data

VOCABULARY = [
    f"{first}{last}" for first in ("bri", "clo", "dam", "fen", "gor") for last in ("sk", "lt", "ve", "th", "m")
]
STORY = (
    "A farmer who keeps bees on the northern hill sold forty jars of honey on Monday, and half as many on Tuesday; "
    "how many jars of honey did the farmer sell on both days?"
)
PARAPHRASE = (
    "On Monday forty jars of honey were sold by a beekeeper with a farm on the hill in the north. On Tuesday it was "
    "half of that. What is the number of jars sold altogether?"
)


def sentence(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=words))


def gsm8k(*questions: str) -> dict[str, list[dict[str, Any]]]:
    rows = [{"question": question, "answer": f"It is {n}.\n#### {n}"} for n, question in enumerate(questions)]
    return {"test": rows, "train": rows}


def run_stage(
    root: Path, questions: list[str], documents: list[list[str]], **params: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Search shards of documents for questions of GSM8K; return the result and the rows of the file."""
    text, task_data, folder = (root / name / "x" for name in ("download", "task_data", "contamination"))
    for path in (text / "shards", task_data, folder):
        path.mkdir(parents=True)
    names = [f"shards/shard_{number:05d}.parquet" for number in range(len(documents) + 1)]
    for name, shard in zip(names, [*documents, ["held out"]], strict=True):
        write_shard(text / name, shard)
    hashes = {name: sha256_of(text / name) for name in names}
    write_json(text / INDEX_NAME, {"train": names[:-1], "validation": names[-1], "sha256": hashes})
    write_task_data(task_data, MINIATURE | {"gsm8k": gsm8k(*questions)})
    inputs = {"text": "download/x", "task_data": "task_data/x"}
    asked = {"chat_tasks": ["GSM8K"], "core_tasks": []} | params
    request = {"stage": "contamination", "version": 1, "fingerprint": "x", "params": asked, "inputs": inputs}
    write_json(folder / "spec.json", request)
    search(StageFolder(folder))
    return StageFolder(folder).read_result(), pq.read_table(folder / OUTPUT).to_pylist()


def order_of(root: Path, questions: list[str]) -> list[str]:
    """Return the questions as the task orders them."""
    task = make_task("GSM8K", write_task_data(root, {"gsm8k": gsm8k(*questions)}), "test")
    return [task[index]["messages"][0]["content"] for index in range(len(task))]


def test_a_planted_question_is_found_and_a_paraphrase_is_not(tmp_path: Path) -> None:
    short = "Which of the seven northern hills has the most bees?"
    questions = [STORY, sentence(1, 40), short, *(sentence(seed, 40) for seed in range(2, 40))]
    planted = (
        f"{sentence(100, 50)}\n\n“{STORY.upper().replace(',', ' --').replace(' ', chr(10), 7)}”\n{sentence(101, 9)}"
    )
    shards = [
        [sentence(102, 400), PARAPHRASE],
        [sentence(103, 300), planted, f"Q: {short.lower()} A: none"],
        [PARAPHRASE],
    ]
    result, rows = run_stage(tmp_path / "a", questions, shards)
    places = order_of(tmp_path, questions)
    assert [(row["index"], row["part"], row["shard"]) for row in rows] == [
        (index, "question", "shard_00001.parquet") for index in sorted((places.index(STORY), places.index(short)))
    ]
    found = {row["index"]: row for row in rows}
    assert found[places.index(STORY)]["overlap"] == STORY.rstrip("?")
    assert 0.7 < found[places.index(STORY)]["share"] < 1  # the answer is not there
    assert found[places.index(short)]["overlap"] == short
    entry = result["details"]["tasks"]["GSM8K"]
    assert {name: entry[name] for name in ("n", "checked", "contaminated", "share", "in_question")} == {
        "n": 41,
        "checked": 41,
        "contaminated": 2,
        "share": 2 / 41,
        "in_question": 2,
    }
    assert entry["examples"] == rows
    assert result["metrics"]["share/GSM8K"] == 2 / 41 and result["metrics"]["contaminated"] == 2
    assert result["outputs"] == [OUTPUT]


def test_a_piece_of_n_words_is_enough_and_one_word_less_is_not(tmp_path: Path) -> None:
    question = sentence(1, 40)
    words = question.split()
    for length, expected in ((12, 0), (13, 1)):
        piece = " ".join(words[10 : 10 + length])
        _, rows = run_stage(tmp_path / str(length), [question], [[f"{sentence(7, 30)} zz {piece} zz"]])
        assert [row["overlap"] for row in rows] == [piece] * expected


def test_an_answer_counts_and_is_told_from_the_question(tmp_path: Path) -> None:
    question, answer = sentence(1, 20), sentence(2, 20)
    rows = [{"question": question, "answer": f"{answer}\n#### 7"}]
    data = write_task_data(tmp_path, {"gsm8k": {"test": rows}})
    index = OverlapIndex([runs_of_task("GSM8K", [text_of_example(make_task("GSM8K", data, "test")[0])], 13)], 13)
    met = index.search(f"x {answer} x".encode())
    assert len(met) == 8
    index.mark(met, 0)
    assert not index.tasks[0].runs.in_question[index.shards_of(0) == 0].any()
    index.mark(index.search(question.encode()), 1)
    assert index.tasks[0].runs.in_question[index.shards_of(0) == 1].all()


def test_what_many_examples_share_and_rows_of_digits_are_no_sign(tmp_path: Path) -> None:
    template = sentence(1, 20)
    digits = " ".join(str(number % 10) for number in range(30))
    questions = [f"{template} {sentence(seed, 3)}" for seed in range(30)] + [f"Go on: {digits}"]
    text = [template, digits, f"so {template} {sentence(3, 2)}"]  # a word or two beyond a template are no sign either
    assert run_stage(tmp_path / "many", questions, [text])[1] == []
    assert len(run_stage(tmp_path / "few", questions[:5], [[template]])[1]) == 5


def test_equal_short_questions_are_told_by_nothing_but_their_answers(tmp_path: Path) -> None:
    short = "Which of the following statements about the honey is right?"
    assert len(run_stage(tmp_path / "one", [short], [[short]])[1]) == 1
    assert run_stage(tmp_path / "two", [short, short], [[short]])[1] == []


def test_only_as_many_shards_as_asked_for_are_searched_and_the_result_says_which(tmp_path: Path) -> None:
    shards = [[sentence(number, 30)] for number in range(10, 15)]
    shards[1] = [STORY]
    for number, expected in ((2, ["00000", "00004"]), (None, [f"0000{shard}" for shard in range(5)])):
        result, rows = run_stage(tmp_path / str(number), [STORY], shards, shards=number)
        assert result["details"]["shards"] == [f"shard_{name}.parquet" for name in expected]
        assert (result["details"]["shards_there"], len(rows)) == (5, int(number is None))
        searched = [shards[int(name)] for name in expected]
        assert result["metrics"]["characters"] == sum(len(text) for documents in searched for text in documents)


def test_threads_change_nothing_and_progress_is_written(tmp_path: Path) -> None:
    shards = [[sentence(seed, 60) for seed in range(shard * 900, (shard + 1) * 900)] for shard in range(2)]
    questions = [sentence(seed, 40) for seed in (3, 950, 1700, 5000)]
    one, many = (run_stage(tmp_path / str(n), questions, shards, num_workers=n) for n in (1, 4))
    assert one == many and [row["shard"][-13:-8] for row in one[1]].count("00001") == 2 == len(one[1]) - 1
    lines = read_metrics(tmp_path / "4" / "contamination" / "x" / "metrics.jsonl")
    assert lines[-1]["step"] == lines[-1]["total_steps"] == 8


def test_nothing_to_look_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no task to look for.*contamination\.chat_tasks"):
        run_stage(tmp_path, [STORY], [["x"]], chat_tasks=[])


NAMES = st.lists(st.sampled_from(VOCABULARY[:3]), min_size=1, max_size=30)


@settings(max_examples=40)
@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=5), st.lists(NAMES, min_size=1, max_size=3))
def test_the_index_finds_what_an_obvious_search_finds(
    examples: list[tuple[list[str], list[str]]], documents: list[list[str]]
) -> None:
    length = 5
    texts = [(" ".join(question), " ".join(answer)) for question, answer in examples]
    index = OverlapIndex([runs_of_task("x", texts, length)], length)
    for document in documents:
        index.mark(index.search(" ".join(document).encode()), 0)
    runs = index.tasks[0].runs
    found = set(runs.examples[index.shards_of(0) == 0].tolist())
    in_text = {tuple(text[at : at + length]) for text in documents for at in range(len(text) - length + 1)}
    joined = [[*question, *answer] for question, answer in examples]
    own = [{tuple(text[at : at + length]) for at in range(len(text) - length + 1)} for text in joined]
    assert found == {number for number, pieces in enumerate(own) if pieces & in_text}


def test_the_longest_overlap_is_cut_out_of_the_text_as_it_stands() -> None:
    text = ("One, two -- three! Four five six", "seven eight")
    runs = words_of(" ".join(text).encode()).runs(3).tolist()
    assert longest_overlap(text, {runs[1], runs[2], runs[5]}, 3) == "two -- three! Four five"
    assert longest_overlap(text, {runs[4], runs[5]}, 3) == "five six seven eight"


def test_of_a_multiple_choice_the_question_and_the_right_choice_are_looked_for(tmp_path: Path) -> None:
    data = write_task_data(tmp_path, MINIATURE)
    assert text_of_example(make_task("MMLU", data, "test")[0])[0].startswith("What is ")
    for name in ("ARC-Easy", "MMLU"):
        question, answer = text_of_example(make_task(name, data, "test")[0])
        assert "Multiple Choice" not in question and "Respond" not in question and "=" not in answer
    question, answer = text_of_example(make_task("HumanEval", data, "test")[0])
    assert question.startswith("import math") and answer.strip().startswith("return x + ")


@pytest.mark.parametrize(
    ("kind", "item", "expected"),
    [
        ("multiple_choice", {"query": "Q", "choices": ["no", "yes"], "gold": 1}, ("Q", "yes")),
        ("schema", {"context_options": ["a", "b"], "continuation": "c", "gold": 0}, ("a", "c")),
        ("language_modeling", {"context": "c", "continuation": "d"}, ("c", "d")),
    ],
)
def test_of_core_the_right_answer_is_looked_for(kind: Any, item: dict[str, Any], expected: tuple[str, str]) -> None:
    task = CoreTask("x", kind, Path("x.jsonl"), 0, " ", 0.0)
    assert list(texts_of_core(task, [item])) == [expected]


@pytest.mark.hub
@pytest.mark.slow
def test_real_questions_planted_in_real_text_are_found(tmp_path: Path, hub_mirror: Path) -> None:
    """Of ARC, MMLU, GSM8K, HumanEval and CORE, every planted example that is long enough, and few others."""
    data = mirror_task_data(hub_mirror)
    tasks = {
        name: make_task(name, data, "test") for name in ("ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval")
    }
    planted = {name: range(0, len(task), 40) for name, task in tasks.items()}
    texts = ["\n".join(text_of_example(tasks[name][n])) for name, numbers in planted.items() for n in numbers]
    text, folder = tmp_path / "download" / "x", tmp_path / "contamination" / "x"
    for path in (text / "shards", tmp_path / "task_data" / "x", folder):
        path.mkdir(parents=True)
    source = hub_mirror / "datasets/karpathy/fineweb-edu-100b-shuffle/shard_00003.parquet"
    documents = pq.read_table(source)["text"].to_pylist()
    names = ["shards/0.parquet", "shards/1.parquet"]
    write_shard(text / names[0], documents + texts)
    write_shard(text / names[1], ["held out"])
    write_json(
        text / INDEX_NAME, {"train": names[:1], "validation": names[1], "sha256": dict(zip(names, "ab", strict=True))}
    )
    write_json(tmp_path / "task_data/x/index.json", {"datasets": data.datasets})
    request = {
        "stage": "contamination",
        "version": 1,
        "fingerprint": "x",
        "params": {"chat_tasks": list(tasks), "core_tasks": ["arc_easy", "squad", "boolq"]},
        "inputs": {"text": "download/x", "task_data": "task_data/x"},
    }
    write_json(folder / "spec.json", request)
    search(StageFolder(folder))
    rows = pq.read_table(folder / OUTPUT).to_pylist()
    summary = json.loads((folder / "result.json").read_text())["details"]["tasks"]
    for name, task in tasks.items():
        found = {row["index"] for row in rows if row["task"] == name}
        assert len(found & set(planted[name])) >= 0.9 * len(planted[name]) * summary[name]["checked"] / len(task), name
        assert len(found - set(planted[name])) <= 0.01 * len(task), name
    assert set(summary) == {*tasks, "arc_easy", "squad", "boolq"}
    assert summary["arc_easy"]["contaminated"] > 0  # the same questions as those of ARC-Easy
