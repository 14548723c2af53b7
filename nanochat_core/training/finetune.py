"""What mid-training and SFT share: training on conversations, from an earlier model, with its momentum or without."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder
from nanochat_core.data.conversations import ConversationLoader, read_conversations
from nanochat_core.distributed import World, joined_world
from nanochat_core.errors import DataError
from nanochat_core.model.context import extended
from nanochat_core.model.precision import prepare_training
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.specs import ConversationsSpec, FinetuneSpec, MixtureItem, parse_params
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.training.evaluators import Evaluations
from nanochat_core.training.loop import LoopSettings, TrainState, micro_batches
from nanochat_core.training.run import TrainingRun, final_outputs, log_choices, micro_rows, series, train
from nanochat_core.training.validate import held_out_losses

# The stage process needs no mixture: its conversations are rendered already. The spec's field still wants one.
_RENDERED = ConversationsSpec(mixture=(MixtureItem(task="rendered"),)).model_dump()


def rendered(params: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's params with a place-holder for the mixture, whose conversations are an input by now."""
    return {"conversations": _RENDERED, **params}


def meta_of_stage(folder: StageFolder, meta: checkpoint.CheckpointMeta) -> checkpoint.CheckpointMeta:
    """Return the input model's meta as step 0 of the stage that works in `folder`."""
    return meta.model_copy(
        update={
            "stage": folder.request.stage,
            "step": 0,
            "tokens": 0,
            "optimizer_steps": 0,
            "data_digest": folder.request.input_digests.get("conversations", ""),
            "skipped_batches": (),
            "files": {},
        }
    )


def finetune(folder: StageFolder) -> None:
    """Train the input model on the input conversations and write checkpoints and result."""
    spec = parse_params(FinetuneSpec, rendered(folder.request.params))
    with joined_world() as world:
        tokenizer = Tokenizer.load(folder.input("tokenizer"))
        run, loader = _make_run(folder, spec, world, tokenizer)
        lines = train(run)
        if world.is_main:
            _write_result(folder, run, loader, lines)


def _make_run(
    folder: StageFolder, spec: FinetuneSpec, world: World, tokenizer: Tokenizer
) -> tuple[TrainingRun, ConversationLoader]:
    model, meta = checkpoint.load_model(
        folder.input("model"),
        tokenizer_hash=tokenizer.hash,
        device=world.device,
        reshape=lambda shape: extended(shape, max(shape.sequence_len, spec.sequence_len or 0)),
    )
    # These stages are short, and their rows are of many lengths: FP8 would be compiled for each.
    if meta.precision == "fp8":
        meta = meta.model_copy(update={"precision": "bf16"})
    log_choices(prepare_training(model, meta.precision), world)
    sequence_len = spec.sequence_len or meta.model.sequence_len
    loader = _loader(folder, spec, world, sequence_len, tokenizer, "train")
    steps = spec.steps or max(1, round(spec.epochs * loader.steps_per_epoch))
    state = TrainState(model, MuonAdamW(model, world), loader)
    if spec.keep_optimizer:
        state.optimizer.load(*checkpoint.load_optimizer(folder.input("model"), device=world.device))
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(world.device)

    own_meta = meta_of_stage(folder, meta)
    rows = micro_rows(spec.runtime, _as_long_as(own_meta, sequence_len), spec.batch_rows // world.size, world)
    micro_tokens = rows * sequence_len if spec.batching == "bucketed" else None

    def validate() -> dict[str, float]:
        held_out = _loader(folder, spec, world, sequence_len, tokenizer, "validation")
        batches = _held_out_batches(held_out, rows * sequence_len)
        return held_out_losses(model, batches, token_bytes, world)

    run = TrainingRun(
        folder=folder,
        world=world,
        state=state,
        settings=LoopSettings(
            steps=steps, optimizer=spec.optimizer, micro_rows=rows, micro_tokens=micro_tokens, use_compile=False
        ),
        runtime=spec.runtime,
        meta=own_meta,
        validate=validate,
        validate_every=spec.validation_every,
        evaluations=Evaluations.of(folder, spec.evaluators, model, tokenizer, world),
    )
    return run, loader


def _as_long_as(meta: checkpoint.CheckpointMeta, sequence_len: int) -> checkpoint.CheckpointMeta:
    """Return the meta of the same model on rows of another length."""
    return meta.model_copy(update={"model": meta.model.model_copy(update={"sequence_len": sequence_len})})


def _loader(
    folder: StageFolder, spec: FinetuneSpec, world: World, sequence_len: int, tokenizer: Tokenizer, split: str
) -> ConversationLoader:
    """Return this rank's rows of a split; raises DataError where there is nothing to learn in them.

    Held-out conversations are never packed: each is measured as a chat begins, with nothing before it.
    """
    path = folder.input("conversations") / f"{split}.parquet"
    conversations = read_conversations(path, mask=spec.mask, answer_end=tokenizer.special("<|assistant_end|>"))
    is_packed = split == "validation" and spec.batching == "packed"
    loader = ConversationLoader(
        conversations,
        batching="bucketed" if is_packed else spec.batching,
        batch_rows=spec.batch_rows,
        sequence_len=sequence_len,
        seed=spec.seed,
        rank=world.rank,
        world_size=world.size,
        batch_tokens=spec.batch_tokens,
    )
    if loader.cuts()["unlearned_conversations"] == len(conversations):
        raise DataError(
            f"{path} has nothing to learn in rows of {sequence_len} tokens: of none of its {len(conversations)} "
            "conversations does an answer begin there. Raise sequence_len, or look at the data (`nanochat data show`)."
        )
    return loader


def _held_out_batches(loader: ConversationLoader, micro_tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all that `loader` has, in pieces that fit the device."""
    for _ in range(loader.steps_per_epoch):
        idx, targets = loader.batch()
        yield from micro_batches(idx, targets, len(idx), micro_tokens)


def _write_result(
    folder: StageFolder, run: TrainingRun, loader: ConversationLoader, lines: list[dict[str, float]]
) -> None:
    losses = series(lines, "val/loss")
    folder.write_result(
        metrics={
            "val_loss_first": losses[0][1],
            "val_loss_last": losses[-1][1],
            "train_loss_last": series(lines, "train/loss")[-1][1],
            "steps": run.settings.steps,
            "tokens": run.state.tokens,
            "epochs": round(run.settings.steps / loader.steps_per_epoch, 3),
            **loader.cuts(),
            **loader.padding(),
        },
        outputs=final_outputs(run.settings.steps),
    )
