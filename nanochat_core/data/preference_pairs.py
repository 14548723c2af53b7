"""The preferences stage: pairs of answers as token ids, ready to be learned from. Torch-free.

`python -m nanochat_core.data.preference_pairs FOLDER/spec.json`. In: params PreferencesSpec, input `tokenizer`, and
`pairs` where they were sampled (stages/sampled_pairs.py). Out: train.parquet and validation.parquet with the columns
`prompt`, `chosen`, `rejected` (JSON, to be looked at) and `chosen_ids`, `chosen_mask`, `rejected_ids`, `rejected_mask`:
prompt and answer, the mask 1 on what the answer says.

A prompt is in one of the files only. Pairs of two equal answers teach nothing and are left out.
"""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.artifacts import StageFolder, run_stage
from nanochat_core.chat_format import as_json
from nanochat_core.data.own.preference_files import (
    SIDES,
    WHOLE,
    Pair,
    preference_files,
    read_preferences,
    state_of_preferences,
)
from nanochat_core.errors import DataError
from nanochat_core.preference_specs import PreferencesSpec
from nanochat_core.specs import parse_params
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_conversation, render_prompt

TRAIN, VALIDATION = "train.parquet", "validation.parquet"
HELD_OUT_SHARE = 0.1  # of all pairs, at most


def work(folder: StageFolder) -> None:
    """Read, check and split the pairs, and write them with their ids."""
    params = dict(folder.request.params)
    state = params.pop("pairs", None)  # of the user's files, when the fingerprint was made
    spec = parse_params(PreferencesSpec, params)
    tokenizer = Tokenizer.load(folder.input("tokenizer"))
    place = folder.input("pairs") if spec.path is None else Path(spec.path).expanduser()
    found = {split: read_preferences(path) for split, path in preference_files(place).items()}
    if state is not None and state_of_preferences(place) != state:
        raise DataError(f"{place} has changed since this run began. Run it again, which reads the file as it is.")
    different = {split: [pair for pair in pairs if pair.chosen != pair.rejected] for split, pairs in found.items()}
    train, validation = split_pairs(different, spec)
    for name, pairs in ((TRAIN, train), (VALIDATION, validation)):
        if not pairs:
            raise DataError(f"{place} leaves no pair for {name}: give it more pairs, with different answers.")
        write_pairs(folder.path / name, tokenizer, pairs)
    count, usable = (sum(map(len, splits.values())) for splits in (found, different))
    folder.write_result(
        metrics={
            "train_rows": len(train),
            "validation_rows": len(validation),
            "equal_answers": count - usable,
            "prompts_on_both_sides": usable - len(train) - len(validation),
        },
        outputs=[TRAIN, VALIDATION],
    )


def split_pairs(pairs: dict[str, list[Pair]], spec: PreferencesSpec) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to train on and those held out; no prompt is on both sides.

    Of one file, prompts are drawn until `validation_rows` pairs, or a tenth of all, are held out; of a folder, training
    pairs whose prompt is in the test file are left out. Raises DataError where all pairs of a file have one prompt.
    """
    if WHOLE not in pairs:
        held_out = {pair.prompt_key for pair in pairs["test"]}
        return [pair for pair in pairs["train"] if pair.prompt_key not in held_out], pairs["test"]
    counts = Counter(pair.prompt_key for pair in pairs[WHOLE])
    if len(counts) < 2:
        raise DataError(
            f"{spec.path} has {len(pairs[WHOLE])} pairs with different answers, to {len(counts)} prompts: expected two "
            "prompts or more, of which one is held out."
        )
    wanted = max(1, min(spec.validation_rows, int(HELD_OUT_SHARE * len(pairs[WHOLE]))))
    drawn = random.Random(spec.seed).sample(sorted(counts), len(counts) - 1)
    held_out, rows = set(), 0
    for key in drawn:
        if rows >= wanted:
            break
        held_out.add(key)
        rows += counts[key]
    sides: tuple[list[Pair], list[Pair]] = [], []
    for pair in pairs[WHOLE]:
        sides[pair.prompt_key in held_out].append(pair)
    return sides


def render_pair(tokenizer: Tokenizer, pair: Pair) -> dict[str, list[int]]:
    """Return ids and mask of both answers behind their prompt, by the names of their columns.

    The mask is 1 on the last answer's text, its tool calls and its <|assistant_end|>, 0 on earlier answers.
    """
    length = len(render_prompt(tokenizer, {"messages": pair.prompt}))
    row = {}
    for side in SIDES:
        ids, mask = render_conversation(tokenizer, pair.conversation(side))
        row |= {f"{side}_ids": ids, f"{side}_mask": [0] * length + mask[length:]}
    return row


def write_pairs(path: Path, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> None:
    """Write the pairs as a parquet file."""
    rows = [render_pair(tokenizer, pair) for pair in pairs]
    texts = {name: [as_json(getattr(pair, name)) for pair in pairs] for name in ("prompt", *SIDES)}
    planes = {
        f"{side}_{kind}": pa.array([row[f"{side}_{kind}"] for row in rows], pa.list_(dtype))
        for side in SIDES
        for kind, dtype in (("ids", pa.int32()), ("mask", pa.int8()))
    }
    pq.write_table(pa.table(texts | planes), path, compression="zstd")


if __name__ == "__main__":
    run_stage(work)
