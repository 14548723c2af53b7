"""Pretraining: `torchrun -m nanochat_core.stages.pretrain <folder>/spec.json`."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import torch

from nanochat_core import checkpoint, paths
from nanochat_core.artifacts import StageFolder, run_stage
from nanochat_core.checkpoint import CheckpointMeta
from nanochat_core.data.document_order import DocumentOrder
from nanochat_core.data.encoding_worker import EncodingWorkers
from nanochat_core.data.lanes import busiest_rows, lanes_of
from nanochat_core.data.loader import RowShape, TokenLoader
from nanochat_core.data.packing import PackingCounts
from nanochat_core.data.shards import TextShards
from nanochat_core.data.token_shards import ensure_token_shard, token_shard_path
from nanochat_core.data.token_source import CachedTokens, EncodedTokens, TokenSource
from nanochat_core.data.validation_rows import all_tokens, validation_rows
from nanochat_core.distributed import World, joined_world, rank_from_environment
from nanochat_core.errors import SpecError
from nanochat_core.hardware import usable_cores
from nanochat_core.inference.engine import Engine, Prompt
from nanochat_core.model.context import continued
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.model.precision import prepare_training
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.optim.scaling import rate_batch_factor
from nanochat_core.specs import PACKING, ModelSpec, PretrainSpec, parse_params
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.training.bigram import MAX_VOCAB_SIZE, bigram_bits_per_byte
from nanochat_core.training.compile_cache import use_compile_cache
from nanochat_core.training.evaluators import Evaluations
from nanochat_core.training.feed import Feed
from nanochat_core.training.loop import LoopSettings, TrainState
from nanochat_core.training.run import TrainingRun, final_outputs, log_choices, micro_rows, series, train
from nanochat_core.training.validate import held_out_losses, row_batches

MOST_WORKERS = 8  # of a rank; two encode twelve million tokens a second
TURNS_AHEAD = 4  # row groups that each encoding process works ahead: some megabytes of ids
SAMPLES_FILE = "samples.jsonl"
SAMPLE_PROMPTS = (
    "The capital of France is",
    "If yesterday was Friday, then tomorrow will be",
    "Return the number of",
    "The chemical symbol of gold is",
    "A list is",
)


def pretrain(folder: StageFolder) -> None:
    """Train a model on the text shards, fresh or of an earlier pretraining; write its checkpoints and result."""
    spec = parse_params(PretrainSpec, folder.request.params)
    check_spec(spec)
    with joined_world() as world:
        tokenizer = Tokenizer.load(folder.input("tokenizer"))
        shards = TextShards.open(folder.input("text"))
        loader = _loader(folder, spec, world, tokenizer, shards)
        with contextlib.closing(Feed(loader, world.device)) as feed:
            run = _make_run(folder, spec, world, tokenizer, shards, feed)
            lines = train(run)
        packed = _packed(feed.counts, spec, world)
        if world.is_main:
            _write_result(folder, spec, run, lines, tokenizer, shards, packed)


def check_spec(spec: PretrainSpec) -> None:
    """Raise SpecError where a field is still to be derived."""
    fields = {name: getattr(spec, name) for name in ("steps", "total_batch_tokens", "packing", "precision")}
    fields |= {name: getattr(spec.model, name) for name in ("n_embd", "n_head", "n_kv_head")}
    if empty := [name for name, value in fields.items() if value is None]:
        raise SpecError(f"pretrain: {', '.join(empty)} must be given here; `nanochat plan` shows the derived values.")
    if spec.start_from:
        raise SpecError("pretrain: start_from is for flows; here, name that folder as the input `model` in spec.json.")


def _make_run(
    folder: StageFolder, spec: PretrainSpec, world: World, tokenizer: Tokenizer, shards: TextShards, feed: Feed
) -> TrainingRun:
    """Build model, optimizer and loader, at step 0."""
    model = _first_model(folder, spec, world, tokenizer)
    state = TrainState(model, MuonAdamW(model, world), feed)
    meta = _first_meta(folder, spec, model.spec, tokenizer)
    own_rows = busiest_rows(spec.total_batch_tokens // spec.model.sequence_len, world.size)  # the same on all ranks
    at_a_time = micro_rows(spec.runtime, meta, own_rows, world)
    rows = _validation_rows(spec, tokenizer, shards)
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(world.device)

    def validate() -> dict[str, float]:
        batches = row_batches(rows, world, batch_rows=at_a_time)
        positions = model.spec.sequence_len if state.step == spec.steps else 0  # at the end, by position too
        return held_out_losses(model, batches, token_bytes, world, positions=positions)

    return TrainingRun(
        folder=folder,
        world=world,
        state=state,
        settings=LoopSettings(
            steps=spec.steps,
            optimizer=spec.optimizer,
            micro_rows=at_a_time,
            use_compile=_use_compile(folder, spec, world),
            batch_factor=rate_batch_factor(spec.model, spec.total_batch_tokens),
        ),
        runtime=spec.runtime,
        meta=meta,
        validate=validate,
        validate_every=spec.validation_every,
        sample=lambda step: _write_samples(folder, state, world, tokenizer, step),
        sample_every=spec.sample_every,
        evaluations=Evaluations.of(folder, spec.evaluators, model, tokenizer, world),
        rollback=spec.rollback,
    )


def _first_model(folder: StageFolder, spec: PretrainSpec, world: World, tokenizer: Tokenizer) -> GPT:
    """Return fresh weights, or those of the earlier pretraining that is the input `model`, with their context extended.

    Raises SpecError where the spec asks for another shape, CheckpointError where the tokenizer was another one.
    """
    if "model" in folder.request.inputs:
        model, _ = checkpoint.load_model(
            folder.input("model"),
            tokenizer_hash=tokenizer.hash,
            device=world.device,
            reshape=lambda earlier: continued(earlier, spec.model),
        )
    else:
        model = GPT(spec.model, tokenizer.vocab_size)
        init_weights(model, spec.seed)
        model.to(world.device)
    log_choices(prepare_training(model, spec.precision), world)
    return model


def _first_meta(folder: StageFolder, spec: PretrainSpec, model: ModelSpec, tokenizer: Tokenizer) -> CheckpointMeta:
    """Return the meta of step 0."""
    return CheckpointMeta(
        stage="pretrain",
        step=0,
        tokens=0,
        optimizer_steps=0,
        model=model,
        vocab_size=tokenizer.vocab_size,
        precision=spec.precision,
        tokenizer_hash=tokenizer.hash,
        data_digest=folder.request.input_digests.get("text", ""),
    )


def _use_compile(folder: StageFolder, spec: PretrainSpec, world: World) -> bool:
    """Tell whether the step is compiled; if so, what the compiler makes is kept for the next run."""
    wanted = world.device.type == "cuda" if spec.runtime.use_compile is None else spec.runtime.use_compile
    if wanted:
        use_compile_cache(paths.compile_dir(folder.artifacts_root.parent))
    return wanted


def _loader(
    folder: StageFolder, spec: PretrainSpec, world: World, tokenizer: Tokenizer, shards: TextShards
) -> TokenLoader:
    """Return this rank's rows of the training text: of no other."""
    rows_per_step = spec.total_batch_tokens // spec.model.sequence_len
    order = DocumentOrder(shards.train, lanes=lanes_of(rows_per_step, world.size), seed=spec.seed)
    own_lanes = range(world.rank, order.lanes, world.size)
    shape = RowShape.of(
        tokenizer, sequence_len=spec.model.sequence_len, rows_per_step=rows_per_step, packing=spec.packing
    )
    if spec.runtime.tokens == "on_the_fly":
        source = _encoded_tokens(folder, spec, tokenizer, order, own_lanes)
    else:
        source = CachedTokens(_token_shards(folder, world, tokenizer, shards), order)
    return TokenLoader(order, source, own_lanes, shape)


def _encoded_tokens(
    folder: StageFolder, spec: PretrainSpec, tokenizer: Tokenizer, order: DocumentOrder, own_lanes: range
) -> TokenSource:
    workers = spec.runtime.encoding_workers
    if workers is None:
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        workers = min(MOST_WORKERS, max(1, usable_cores() // (2 * ranks_here)))
    encoding = EncodingWorkers(tokenizer, folder.input("tokenizer"), workers)
    return EncodedTokens(encoding, order, own_lanes, ahead=TURNS_AHEAD * workers)


def _token_shards(folder: StageFolder, world: World, tokenizer: Tokenizer, shards: TextShards) -> list[Path]:
    """Return the tokenised training shards; the ranks build what is missing, each its share."""
    cache = paths.tokens_dir(folder.artifacts_root.parent)
    for shard in shards.train[world.rank :: world.size]:
        ensure_token_shard(shard, shards.sha256[shard], tokenizer, cache)
    world.barrier()
    return [token_shard_path(shards.sha256[shard], tokenizer.hash, cache) for shard in shards.train]


def _packed(counts: PackingCounts, spec: PretrainSpec, world: World) -> dict[str, float]:
    """Return what packing did with the documents, over all ranks: how many it divided, how much it lost."""
    sums = world.sum_(torch.tensor(counts.numbers, dtype=world.sum_dtype, device=world.device))
    counts = PackingCounts(*map(int, sums.tolist()))
    tokens_per_row = spec.model.sequence_len + (spec.packing == "best_fit")  # a stream's rows overlap by one
    return {
        "documents_read": counts.documents,
        "empty_documents": counts.empty,
        "long_documents": counts.split,
        "cut_documents": counts.cut,
        "wasted_token_share": round(counts.wasted / counts.read, 6),
        "row_utilisation": round(counts.placed / (counts.rows * tokens_per_row), 6),
    }


def _validation_rows(spec: PretrainSpec, tokenizer: Tokenizer, shards: TextShards) -> torch.Tensor:
    return validation_rows(
        [shards.validation],
        tokenizer,
        sequence_len=spec.model.sequence_len,
        max_tokens=spec.validation_tokens,
        packing=PACKING[spec.model.arch],
    )


def _write_samples(folder: StageFolder, state: TrainState, world: World, tokenizer: Tokenizer, step: int) -> None:
    """Append greedy continuations of the fixed prompts to samples.jsonl (rank 0)."""
    if not world.is_main:
        return
    prompts = [Prompt(ids=[tokenizer.bos, *tokenizer.encode(text)], max_new_tokens=24) for text in SAMPLE_PROMPTS]
    state.model.eval()
    answers = Engine(state.model, tokenizer).generate(prompts)
    state.model.train()
    texts = {prompt: answer[0].raw_text for prompt, answer in zip(SAMPLE_PROMPTS, answers, strict=True)}
    with open(folder.path / SAMPLES_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "samples": texts}, ensure_ascii=False) + "\n")


def _last_samples(path: Path) -> dict[str, str]:
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["samples"]


def _by_position(lines: list[dict[str, float]]) -> dict[str, float]:
    """Return the bpb of the finished model by position in a row: the bucket's first -> bits per byte.

    >>> _by_position([{"step": 8, "val/bpb": 1.4, "val/bpb_at_0": 1.5, "val/bpb_at_256": 1.3}])
    {'0': 1.5, '256': 1.3}
    """
    name = "val/bpb_at_"
    return {key.removeprefix(name): value for line in lines for key, value in line.items() if key.startswith(name)}


def _write_result(
    folder: StageFolder,
    spec: PretrainSpec,
    run: TrainingRun,
    lines: list[dict[str, float]],
    tokenizer: Tokenizer,
    shards: TextShards,
    packed: dict[str, float],
) -> None:
    """Write result.json; the bigram table is fitted to the same training text."""
    bpb = series(lines, "val/bpb")
    bigram = None
    if tokenizer.vocab_size <= MAX_VOCAB_SIZE:
        bigram = bigram_bits_per_byte(
            all_tokens(shards.train, tokenizer), _validation_rows(spec, tokenizer, shards), tokenizer.token_bytes()
        )
    folder.write_result(
        metrics={
            "val_bpb_first": bpb[0][1],
            "val_bpb_last": bpb[-1][1],
            "val_bpb_best": min(value for _, value in bpb),
            "bigram_bpb": bigram,
            "train_loss_last": series(lines, "train/loss")[-1][1],
            "steps": spec.steps,
            "skipped_batches": len(run.state.skipped_batches),
            "tokens": run.state.tokens,
            "parameters": sum(parameter.numel() for parameter in run.state.model.parameters()),
            "flops": lines[-1]["flops"],
            **packed,
            "tokens_per_second": float(np.median([value for _, value in series(lines, "train/tokens_per_second")])),
        },
        outputs=final_outputs(spec.steps),
        details={"samples": _last_samples(folder.path / SAMPLES_FILE), "bpb_by_position": _by_position(lines)},
    )


if __name__ == "__main__":
    run_stage(pretrain, is_main=rank_from_environment() == 0)
