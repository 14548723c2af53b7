"""Pairs of reference answers and the model's own wrong ones: `torchrun -m nanochat_core.stages.sampled_pairs
<folder>/spec.json`.

In: params SampledPairsSpec, `tokenizer`, `conversations` and `model`. Out: train.jsonl and test.jsonl, the folder that
the preferences stage reads. No prompt is in both: the mixture's validation rows are the test.

The questions are asked in pieces, which the ranks share; what came of a piece is kept until all are there. What is in
a piece, and what is answered in it, depends on nothing but the inputs: the files are the same for any number of ranks,
and after a kill (on a CPU where each rank has as many threads: another number of them sums in another order).
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder, run_stage, write_bytes
from nanochat_core.data.own.file_splits import SPLITS
from nanochat_core.distributed import World, joined_world, rank_from_environment
from nanochat_core.errors import DataError
from nanochat_core.inference.tool_use import load_tool
from nanochat_core.metrics import MetricsWriter
from nanochat_core.preference_specs import SampledPairsSpec
from nanochat_core.specs import parse_params
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_prompt
from nanochat_core.training.finetune import rendered
from nanochat_core.training.rollouts import Question, Sampler, engine_for, read_questions, reward_of_stage
from nanochat_core.training.wrong_answers import Outcome, ask

ANSWERS = 1024  # in a piece, about
PIECES = "pieces"
TRAIN, TEST = SPLITS


def sample_pairs(folder: StageFolder) -> None:
    """Have the input model answer the questions, and write pairs and result; goes on where it was stopped."""
    spec = parse_params(SampledPairsSpec, rendered(folder.request.params))
    questions, left_out = questions_of(folder.input("conversations"))
    with joined_world() as world:
        answer_pieces(folder, spec, world, [question for split in SPLITS for question in questions[split]])
        world.barrier()
        if world.is_main:
            write_pairs(folder, spec, {split: len(questions[split]) for split in SPLITS}, left_out)


def questions_of(conversations: Path) -> tuple[dict[str, list[Question]], int]:
    """Return the questions of each split, and how many of those to train on were left out: the test has them, too."""
    test = read_questions(conversations / "validation.parquet")
    train = read_questions(conversations / "train.parquet")
    held_out = {_prompt_of(question) for question in test}
    fresh = [question for question in train if _prompt_of(question) not in held_out]
    return {TRAIN: fresh, TEST: test}, len(train) - len(fresh)


def _prompt_of(question: Question) -> str:
    return json.dumps(question["messages"][:-1], sort_keys=True)


def answer_pieces(folder: StageFolder, spec: SampledPairsSpec, world: World, questions: Sequence[Question]) -> None:
    """Leave what came of each piece of the questions in the folder `pieces`, a line for each question."""
    tokenizer = Tokenizer.load(folder.input("tokenizer"))
    model, _ = checkpoint.load_model(folder.input("model"), tokenizer_hash=tokenizer.hash, device=world.device)
    engine = engine_for(model.eval(), tokenizer, ANSWERS, world, tool=load_tool("calculator"))
    longest = max(len(render_prompt(tokenizer, question)) for question in questions) + spec.max_new_tokens
    engine.prepare(min(longest, engine.max_length))  # once, so that it computes alike whatever piece comes first
    sampler = Sampler(engine, tokenizer, spec, reward_of_stage(spec.reward, folder, world.device))
    pieces = folder.path / PIECES
    pieces.mkdir(exist_ok=True)
    size = max(1, ANSWERS // spec.samples_per_question)
    with _progress(folder, world, len(questions)) as report:
        for number in range(world.rank, -(-len(questions) // size), world.size):
            first = number * size
            own = questions[first : first + size]
            if not (piece := pieces / f"{number:06d}.jsonl").exists():
                engine.scheduler.forget()  # what the piece before has left: another process would not have it
                seeds = [spec.seed * 1_000_003 + first + place for place in range(len(own))]
                lines = [json.dumps(outcome, ensure_ascii=False) + "\n" for outcome in ask(sampler, spec, own, seeds)]
                write_bytes(piece, "".join(lines).encode())
            report(len(own) * world.size)


@contextmanager
def _progress(folder: StageFolder, world: World, total: int) -> Iterator[Callable[[int], None]]:
    """Yield what is told how many more questions all ranks together have asked, about; rank 0 writes it down."""
    if not world.is_main:
        yield lambda count: None
        return
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        metrics.write(step=done, total_steps=total, progress="questions answered")

    with closing(MetricsWriter(folder.path / "metrics.jsonl")) as metrics:
        yield report


def write_pairs(folder: StageFolder, spec: SampledPairsSpec, counts: dict[str, int], left_out: int) -> None:
    """Write the pairs of each split, of so many questions, and the result; then the pieces are not needed any more.

    Raises DataError where there is no pair for a split.
    """
    lines = [
        line
        for piece in sorted((folder.path / PIECES).glob("*.jsonl"))
        for line in piece.read_text(encoding="utf-8").split("\n")[:-1]
    ]
    outcomes: list[Outcome] = [json.loads(line) for line in lines]
    found = {TRAIN: outcomes[: counts[TRAIN]], TEST: outcomes[counts[TRAIN] :]}
    pairs = {split: [pair for outcome in found[split] for pair in outcome["pairs"]] for split in SPLITS}
    for split in SPLITS:
        if not pairs[split]:
            raise DataError(no_pairs(spec, found[split], "test" if split == TEST else "train on"))
        text = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs[split])
        write_bytes(folder.path / f"{split}.jsonl", text.encode())
    folder.write_result(
        metrics={
            "train_pairs": len(pairs[TRAIN]),
            "test_pairs": len(pairs[TEST]),
            "questions": len(outcomes),
            "all_right": sum(outcome["wrong"] == 0 for outcome in outcomes),
            "mean_reward": sum(outcome["reward"] for outcome in outcomes) / len(outcomes),
            "wrong_answers": sum(outcome["wrong"] for outcome in outcomes),
            "unreadable_answers": sum(outcome["unreadable"] for outcome in outcomes),
            "prompts_on_both_sides": left_out,
        },
        outputs=[f"{split}.jsonl" for split in SPLITS],
    )
    shutil.rmtree(folder.path / PIECES)


def no_pairs(spec: SampledPairsSpec, outcomes: Sequence[Outcome], purpose: str) -> str:
    """Return why there is no pair, and what to do."""
    wrong, answers = sum(outcome["wrong"] for outcome in outcomes), len(outcomes) * spec.samples_per_question
    field = "preferences.sampled"
    if not outcomes:
        return (
            f"There is no pair to {purpose}: all questions of the mixture are held out, too. Name a task with more "
            f"questions ({field}.conversations)."
        )
    if wrong:
        return (
            f"There is no pair to {purpose}: {wrong:,} of {answers:,} answers are wrong, but none of these is a whole "
            f"message that ends within {spec.max_new_tokens} tokens. Raise {field}.max_new_tokens."
        )
    return (
        f"There is no pair to {purpose}: all {answers:,} answers to {len(outcomes):,} questions are right. Ask harder "
        f"questions ({field}.conversations), raise {field}.temperature, start from an earlier model (start_from), or "
        "name a file of pairs (preferences.path)."
    )


if __name__ == "__main__":
    run_stage(sample_pairs, is_main=rank_from_environment() == 0)
