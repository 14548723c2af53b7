"""What DPO and the reward model share: from a chat model and pairs of answers to a checkpoint and a result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder
from nanochat_core.data.preference_loader import PairLoader, PreferencePairs
from nanochat_core.data.preference_pairs import TRAIN, VALIDATION
from nanochat_core.distributed import World
from nanochat_core.model.context import extended
from nanochat_core.model.gpt import GPT
from nanochat_core.model.precision import prepare_training
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.preference_specs import PairTrainingSpec, PreferencesSpec
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.training.evaluators import Evaluations
from nanochat_core.training.finetune import meta_of_stage
from nanochat_core.training.loop import LoopSettings, TrainState
from nanochat_core.training.pair_steps import Scorer, held_out_facts, pair_steps
from nanochat_core.training.run import TrainingRun, final_outputs, log_choices, micro_rows, series, train

Z95 = 1.96
FILES = {"train": TRAIN, "validation": VALIDATION}

# The stage process needs no file of pairs: they are an input by now. The spec's field still wants one.
_PREPARED = PreferencesSpec(path="prepared").model_dump()


def with_prepared_pairs(params: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's params with a place-holder for the preferences, which are an input by now."""
    return {"preferences": _PREPARED, **params}


@dataclass(frozen=True)
class PairStage:
    """A stage that trains on pairs, with its inputs opened. `meta` is that of its step 0."""

    folder: StageFolder
    spec: PairTrainingSpec
    world: World
    tokenizer: Tokenizer
    model: GPT
    meta: checkpoint.CheckpointMeta
    pairs: Mapping[str, PreferencePairs]
    micro_pairs: int

    @classmethod
    def open(
        cls,
        folder: StageFolder,
        spec: PairTrainingSpec,
        world: World,
        become: Callable[[GPT], GPT] = lambda model: model,
    ) -> "PairStage":
        """Load model and pairs; `become` turns the chat model into the one that is trained."""
        tokenizer = Tokenizer.load(folder.input("tokenizer"))
        model, meta = checkpoint.load_model(
            folder.input("model"),
            tokenizer_hash=tokenizer.hash,
            device=world.device,
            reshape=lambda shape: extended(shape, max(shape.sequence_len, spec.sequence_len or 0)),
        )
        model = become(model)
        if meta.precision == "fp8":  # as in `finetune`: rows are of many lengths
            meta = meta.model_copy(update={"precision": "bf16"})
        log_choices(prepare_training(model, meta.precision), world)
        sequence_len = spec.sequence_len or meta.model.sequence_len
        root = folder.input("preferences")
        pairs = {split: PreferencePairs(root / name, sequence_len=sequence_len) for split, name in FILES.items()}
        digest = folder.request.input_digests.get("preferences", "")
        own_meta = meta_of_stage(folder, meta).model_copy(update={"data_digest": digest})
        as_long = own_meta.model_copy(
            update={"model": own_meta.model.model_copy(update={"sequence_len": sequence_len})}
        )
        rows = micro_rows(spec.runtime, as_long, 2 * -(-spec.batch_pairs // world.size), world)
        return cls(folder, spec, world, tokenizer, model, own_meta, pairs, max(1, rows // 2))

    def train(self, scorers: Mapping[str, Scorer], evaluations: Evaluations | None = None) -> None:
        """Train on the pairs of "train", measure on those of "validation", and write checkpoints and result."""
        spec, world = self.spec, self.world
        loader = PairLoader(self.pairs["train"], batch_pairs=spec.batch_pairs, seed=spec.seed, world=world)
        steps = spec.steps or max(1, round(spec.epochs * loader.steps_per_epoch))

        def validate() -> dict[str, float]:
            return held_out_facts(self.model, self.pairs["validation"], scorers["validation"], world, self.micro_pairs)

        run = TrainingRun(
            folder=self.folder,
            world=world,
            state=TrainState(self.model, MuonAdamW(self.model, world), loader),
            settings=LoopSettings(steps=steps, optimizer=spec.optimizer, micro_rows=self.micro_pairs),
            runtime=spec.runtime,
            meta=self.meta,
            validate=validate,
            validate_every=spec.validation_every,
            evaluations=evaluations,
            steps=pair_steps(scorers["train"], self.micro_pairs),
        )
        lines = train(run)
        if world.is_main:
            self._write_result(run, loader, lines)

    def _write_result(self, run: TrainingRun, loader: PairLoader, lines: list[dict[str, float]]) -> None:
        values = {}
        for name in ("loss", "accuracy", "margin"):
            measured = series(lines, f"val/{name}")
            values |= {f"val_{name}_first": measured[0][1], f"val_{name}_last": measured[-1][1]}
        margin, error = values["val_margin_last"], Z95 * series(lines, "val/margin_error")[-1][1]
        held_out, accuracy = len(self.pairs["validation"].fitting), values["val_accuracy_last"]
        spread = Z95 * (accuracy * (1 - accuracy) / held_out) ** 0.5
        self.folder.write_result(
            metrics=values
            | {
                "val_margin_low": margin - error,
                "val_margin_high": margin + error,
                "val_accuracy_low": max(0.0, accuracy - spread),
                "val_accuracy_high": min(1.0, accuracy + spread),
                "train_loss_last": series(lines, "train/loss")[-1][1],
                "steps": run.settings.steps,
                "tokens": run.state.tokens,
                "epochs": round(run.settings.steps / loader.steps_per_epoch, 3),
                "pairs": len(self.pairs["train"].fitting),
                "held_out_pairs": held_out,
                "too_long_pairs": sum(pairs.left_out for pairs in self.pairs.values()),
            },
            outputs=final_outputs(run.settings.steps),
        )
