"""A small made-up folder in the Hub's layout, with the real data sets' names, files and columns, for quick tests."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TEXT_SHARDS = 3  # the last is validation
TEXT_ROWS = 120
ROWS = 24
NOUN_TEXT = "river mountain teacher garden window letter market winter engine planet forest bridge doctor village"
VERB_TEXT = "finds carries watches follows builds paints crosses leaves remembers describes visits repairs"
ADJECTIVE_TEXT = "quiet bright heavy narrow ancient gentle distant wooden silver broken early simple"
NOUNS, VERBS, ADJECTIVES = NOUN_TEXT.split(), VERB_TEXT.split(), ADJECTIVE_TEXT.split()

# label, file, type, shots: one or two of each type of the CORE benchmark
CORE_TASKS = [
    ("copa", "commonsense_reasoning/copa.jsonl", "multiple_choice", 0),
    ("arc_easy", "world_knowledge/arc_easy.jsonl", "multiple_choice", 2),
    ("winograd", "language_understanding/winograd_wsc.jsonl", "schema", 0),
    ("lambada_openai", "language_understanding/lambada_openai.jsonl", "language_modeling", 0),
    ("jeopardy", "world_knowledge/jeopardy_all.jsonl", "language_modeling", 2),
]


def write_miniature(root: Path, seed: int = 0) -> Path:
    """Write the folder `root` and return it. The same seed gives the same content."""
    rng = random.Random(seed)
    datasets = root / "datasets"
    _write_text(datasets / "karpathy" / "fineweb-edu-100b-shuffle", rng)
    _write_chat(datasets, rng)
    _write_core(root / "eval_bundle", rng)
    words = sorted({f"{noun}{suffix}" for noun in [*NOUNS, *ADJECTIVES] for suffix in ("", "s", "ing", "er", "less")})
    (root / "words").mkdir(parents=True)
    (root / "words" / "words_alpha.txt").write_bytes("".join(f"{word}\r\n" for word in words).encode())
    return root


def sentence(rng: random.Random) -> str:
    subject, object_ = (f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}" for _ in range(2))
    return f"{subject.capitalize()} {rng.choice(VERBS)} {object_}."


def _write_text(folder: Path, rng: random.Random) -> None:
    for index in range(TEXT_SHARDS):
        texts = [" ".join(sentence(rng) for _ in range(rng.randint(8, 40))) for _ in range(TEXT_ROWS)]
        _write_rows(folder / f"shard_{index:05d}.parquet", [{"text": text} for text in texts])


def _write_chat(datasets: Path, rng: random.Random) -> None:
    tables: dict[str, Callable[[random.Random, int], dict[str, Any]]] = {
        "HuggingFaceTB/smol-smoltalk/data/train": _smoltalk,
        "HuggingFaceTB/smol-smoltalk/data/test": _smoltalk,
        "openai/gsm8k/main/train": _gsm8k,
        "openai/gsm8k/main/test": _gsm8k,
        "openai/openai_humaneval/openai_humaneval/test": _humaneval,
        "cais/mmlu/auxiliary_train/train": lambda rng, index: {"train": _mmlu(rng, index)},
        **{f"cais/mmlu/all/{split}": _mmlu for split in ("auxiliary_train", "dev", "test", "validation")},
        **{
            f"allenai/ai2_arc/{part}/{split}": _arc
            for part in ("ARC-Easy", "ARC-Challenge")
            for split in ("train", "validation", "test")
        },
    }
    for name, make_row in tables.items():
        _write_rows(datasets / f"{name}-00000-of-00001.parquet", [make_row(rng, index) for index in range(ROWS)])


def _smoltalk(rng: random.Random, index: int) -> dict[str, Any]:
    turns = 2 * rng.randint(1, 2)
    roles = ["user", "assistant"] * turns
    messages = [{"content": sentence(rng), "role": role} for role in roles[:turns]]
    return {"messages": messages, "source": "miniature"}


def _gsm8k(rng: random.Random, index: int) -> dict[str, Any]:
    a, b = rng.randint(2, 30), rng.randint(2, 30)
    question = f"A {rng.choice(NOUNS)} has {a} letters and finds {b} more. How many letters does it have?"
    return {"question": question, "answer": f"It has {a} + {b} = <<{a}+{b}={a + b}>>{a + b} letters.\n#### {a + b}"}


def _mmlu(rng: random.Random, index: int) -> dict[str, Any]:
    choices = rng.sample(NOUNS, 4)
    subject = rng.choice(["abstract_algebra", "world_religions"])
    return {"question": sentence(rng), "subject": subject, "choices": choices, "answer": rng.randrange(4)}


def _arc(rng: random.Random, index: int) -> dict[str, Any]:
    letters = list("ABCD")
    choices = {"text": rng.sample(NOUNS, 4), "label": letters}
    return {"id": f"mini_{index}", "question": sentence(rng), "choices": choices, "answerKey": rng.choice(letters)}


def _humaneval(rng: random.Random, index: int) -> dict[str, Any]:
    name, number = f"add_{index}", rng.randint(1, 9)
    checks = f"    assert candidate(1) == {number + 1}\n    assert candidate(-5) == {number - 5}\n"
    return {
        "task_id": f"HumanEval/{index}",
        "prompt": f'def {name}(x: int) -> int:\n    """ Return x plus {number}.\n    """\n',
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n{checks}",
        "entry_point": name,
    }


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd", row_group_size=64)


def _write_core(folder: Path, rng: random.Random) -> None:
    makers = {"multiple_choice": _choice_item, "schema": _schema_item, "language_modeling": _cloze_item}
    tasks, lines = ["icl_tasks:"], []
    for label, file, kind, shots in CORE_TASKS:
        path = folder / "eval_data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(makers[kind](rng)) + "\n" for _ in range(ROWS)))
        tasks += [
            f"- label: {label}",
            f"  dataset_uri: {file}",
            f"  num_fewshot:\n  - {shots}",
            f"  icl_task_type: {kind}",
        ]
        baseline = {"multiple_choice": 50, "schema": 50, "language_modeling": 0}[kind]
        lines.append(f'{label},world knowledge,{kind.replace("_", " ")},{shots},{ROWS},{baseline},,"made up"')
    (folder / "core.yaml").write_text("\n".join(tasks) + "\n")
    header = "Eval Task,Task Category,Task Type,#shots,#datapoints,Random baseline,Centered Metric?,Description"
    (folder / "eval_meta_data.csv").write_text("\n".join([header, *lines]) + "\n")


def _choice_item(rng: random.Random) -> dict[str, Any]:
    return {"query": sentence(rng), "choices": [sentence(rng), sentence(rng)], "gold": rng.randrange(2)}


def _schema_item(rng: random.Random) -> dict[str, Any]:
    options = [
        f"The {noun} {rng.choice(VERBS)} the {rng.choice(NOUNS)} because the {noun}" for noun in rng.sample(NOUNS, 2)
    ]
    return {"context_options": options, "continuation": f"was {rng.choice(ADJECTIVES)}.", "gold": rng.randrange(2)}


def _cloze_item(rng: random.Random) -> dict[str, Any]:
    return {"context": f"{sentence(rng)} The answer is the", "continuation": rng.choice(NOUNS), "category": "made up"}
