"""One training stage from start to end: resume, steps, metrics, validation, samples, checkpoints, stop on SIGTERM.

Pretraining, mid-training and SFT differ in their data and in what they validate; the rest is here.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder
from nanochat_core.checkpoint import Checkpoint, CheckpointMeta, Saver
from nanochat_core.distributed import World
from nanochat_core.errors import CheckpointError, NonFiniteLoss, Preempted
from nanochat_core.metrics import MetricsWriter, read_metrics
from nanochat_core.model.accounting import flops_per_token
from nanochat_core.specs import ModelSpec, TrainingRuntime
from nanochat_core.training.evaluators import Evaluations
from nanochat_core.training.loop import LoopSettings, StepInfo, TrainState, training_steps
from nanochat_core.training.micro_batch import rows_at_a_time

METRICS_FILE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class TrainingRun:
    """What a stage decides: its state, its length, and what happens on which schedule."""

    folder: StageFolder
    world: World
    state: TrainState
    settings: LoopSettings
    runtime: TrainingRuntime
    meta: CheckpointMeta  # of step 0; each checkpoint is a copy with its own step
    validate: Callable[[], dict[str, float]]
    validate_every: int
    sample: Callable[[int], None] | None = None
    sample_every: int = 1
    evaluations: Evaluations | None = None
    measure_last: Callable[[], dict[str, float]] = dict  # at the last step, once its checkpoint is there
    rollback: int = 0  # times that a batch whose loss is no number may be left out
    steps: Callable[[TrainState, World, LoopSettings, Callable[[], bool]], Iterator[StepInfo]] = training_steps

    @cached_property
    def saver(self) -> Saver:
        return Saver(self.folder.path / CHECKPOINTS, self.world, keep=self.runtime.keep_checkpoints)


class StopSignal:
    """Turns SIGTERM into a flag that the loop reads after each step."""

    def __init__(self) -> None:
        self.is_set = False
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, *_: object) -> None:
        self.is_set = True

    def __call__(self) -> bool:
        return self.is_set


def log_choices(lines: list[str], world: World) -> None:
    """Say once what was chosen for this device."""
    for line in lines if world.is_main else []:
        print(line, flush=True)


def micro_rows(runtime: TrainingRuntime, meta: CheckpointMeta, rows: int, world: World) -> int:
    """Return how many of the `rows` that a rank has in a step go through its model at a time."""
    if runtime.device_batch_size:
        return min(rows, runtime.device_batch_size)
    return rows_at_a_time(meta.model, meta.vocab_size, meta.precision, rows, world)


def train(run: TrainingRun) -> list[dict[str, float]]:
    """Train to the last step from the newest checkpoint, or from the start; return the metric lines, one a step.

    Raises Preempted, after saving, where a SIGTERM came; and NonFiniteLoss where a loss is no number and the run may
    not leave its batch out.
    """
    stop = StopSignal()
    metrics = run.folder.path / METRICS_FILE
    run.state.before_update = run.saver.hold_updates
    with contextlib.ExitStack() as open_files:
        writer = open_files.enter_context(contextlib.closing(MetricsWriter(metrics))) if run.world.is_main else None
        _begin(run, writer, stop)
        while run.state.step < run.settings.steps:
            try:
                _train_on(run, writer, stop)
            except NonFiniteLoss as error:
                run.saver.finish()
                if len(run.state.skipped_batches) >= run.rollback:
                    raise
                _go_back(run, writer, error)
        save(run)
        run.saver.finish()
        _finish(run, writer, stop)
    return read_metrics(metrics) if run.world.is_main else []


def _begin(run: TrainingRun, writer: MetricsWriter | None, stop: StopSignal) -> None:
    """Continue from the newest checkpoint, or measure where the run starts from."""
    if restore(run):
        print(f"continuing from step {run.state.step} of {run.settings.steps}", flush=True)
        line = writer.carry_over(run.state.step) if writer else {}
        if run.evaluations:
            run.evaluations.resume(run.state.step, line)
    elif run.state.step == 0:
        _validate(run, writer)
    if run.sample and run.state.step == 0:
        run.sample(0)
    if run.rollback and run.state.step == 0:
        save(run)  # to go back to
    if run.state.step < run.settings.steps:
        _evaluate(run, writer, stop)


def _train_on(run: TrainingRun, writer: MetricsWriter | None, stop: StopSignal) -> None:
    """Train to the last step; raises Preempted, after saving, where a SIGTERM came."""
    for info in run.steps(run.state, run.world, run.settings, stop):
        run.saver.poll()
        _after_step(run, writer, info)
        if info.should_stop:
            _stop(run)
        if info.step < run.settings.steps:
            _evaluate(run, writer, stop)


def _stop(run: TrainingRun) -> NoReturn:
    """Save, and raise Preempted."""
    save(run)
    run.saver.finish()
    raise Preempted(f"Stopped at step {run.state.step} of {run.settings.steps} after saving; run again to continue.")


def _finish(run: TrainingRun, writer: MetricsWriter | None, stop: StopSignal) -> None:
    """Measure the finished model; its checkpoint is there, so that a kill costs no step."""
    _evaluate(run, writer, stop)
    if values := run.measure_last():
        _write(run, writer, values)


def _evaluate(run: TrainingRun, writer: MetricsWriter | None, stop: StopSignal) -> None:
    """Measure what is due at this step; raises Preempted, after saving, where a SIGTERM comes meanwhile."""
    if run.evaluations is None:
        return
    step = run.state.step

    def note(text: str) -> None:
        if writer:
            writer.write(step, **_progress(run), evaluating=text)

    for spec in run.evaluations.due(step, run.settings.steps):
        values = run.evaluations.measure(spec, stop=stop, note=note)
        if values is None:
            _stop(run)
        _write(run, writer, values)


def _go_back(run: TrainingRun, writer: MetricsWriter | None, error: NonFiniteLoss) -> None:
    """Return to the last checkpoint; the batch that broke will be left out."""
    skipped = (*run.state.skipped_batches, error.batch)
    run.state.model.zero_grad(set_to_none=True)
    restore(run)
    run.state.skipped_batches = tuple(sorted({*run.state.skipped_batches, *skipped}))
    if writer:
        writer.begin_attempt()
    print(
        f"{error} Going back to step {run.state.step} instead, and leaving batch {error.batch} out "
        f"({len(skipped)} of at most {run.rollback}).",
        flush=True,
    )


def _after_step(run: TrainingRun, writer: MetricsWriter | None, info: StepInfo) -> None:
    """Do what this step's number calls for."""
    is_last = info.step == run.settings.steps
    if writer and (info.step % run.runtime.log_every == 0 or is_last):
        _log(run, writer, info)
    if info.step % run.validate_every == 0 or is_last:
        _validate(run, writer)
    if run.sample and (info.step % run.sample_every == 0 or is_last):
        run.sample(info.step)
    if info.step % run.runtime.checkpoint_every == 0 and not is_last:
        save(run)


def _log(run: TrainingRun, writer: MetricsWriter, info: StepInfo) -> None:
    writer.write(
        info.step,
        **_progress(run),
        **{
            "train/loss": info.loss,
            "train/grad_norm": info.grad_norm,
            "train/lr_multiplier": info.lr_multiplier,
            "train/tokens_per_second": round(info.batch_tokens / info.seconds, 1),
            **info.extra,
        },
    )


def _validate(run: TrainingRun, writer: MetricsWriter | None) -> None:
    run.state.model.eval()
    values = run.validate()
    run.state.model.train()
    _write(run, writer, values)


def _write(run: TrainingRun, writer: MetricsWriter | None, values: dict[str, float]) -> None:
    """Write down what was measured at this step, and print it."""
    if writer:
        writer.write(run.state.step, **_progress(run), **values)
        facts = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if name.count("/") < 2)  # no tasks
        print(f"step {run.state.step} of {run.settings.steps}: {facts}", flush=True)


def _progress(run: TrainingRun) -> dict[str, float]:
    """Return what every line has: how far the run is, in tokens and FLOPs, and how many steps it will have."""
    flops = flops_per_token(run.state.model.spec, run.state.model.vocab_size)
    return {
        "total_steps": run.settings.steps,
        "tokens": run.state.tokens,
        "flops": float(flops * run.state.tokens),
    }


def save(run: TrainingRun) -> None:
    """Write the checkpoint of the present state, or begin to (every rank takes part)."""
    state = run.state
    now = {"step": state.step, "tokens": state.tokens, "optimizer_steps": state.optimizer.step_count}
    run.saver.save(
        Checkpoint(
            meta=run.meta.model_copy(update=now | {"skipped_batches": state.skipped_batches}),
            model=state.model.state_dict(),
            optimizer=state.optimizer.pieces(),
            loader=state.loader.state() | _random_state(run.world),
        )
    )


def restore(run: TrainingRun) -> bool:
    """Continue from the newest checkpoint of this folder; False where there is none."""
    path = checkpoint.latest(run.folder.path / CHECKPOINTS)
    if path is None:
        return False
    found = checkpoint.load(path, tokenizer_hash=run.meta.tokenizer_hash, device=run.world.device)
    _check_origin(path, found.meta, run.meta)
    weights = dict(found.model)
    checkpoint.check_shapes(path, run.state.model, weights)
    run.state.model.load_state_dict(weights)
    try:
        run.state.optimizer.load(found.optimizer, found.meta.optimizer_steps)
        run.state.loader.load(dict(found.loader))
    except KeyError as error:
        raise CheckpointError(
            f"{path} holds no {error.args[0]}, which this run needs. Delete {path.parent} and run the stage again."
        ) from error
    run.state.step, run.state.tokens = found.meta.step, found.meta.tokens
    run.state.skipped_batches = found.meta.skipped_batches
    if (random_state := found.loader.get(f"random.rank{run.world.rank}")) is not None:
        torch.set_rng_state(random_state)
    return True


def _check_origin(path: Path, found: CheckpointMeta, own: CheckpointMeta) -> None:
    """Raise CheckpointError where the checkpoint was made by another stage, for another model, or from other data."""
    pairs = {
        name: (getattr(found, name), getattr(own, name)) for name in ("stage", "vocab_size", "precision", "data_digest")
    } | {f"model.{name}": (getattr(found.model, name), getattr(own.model, name)) for name in ModelSpec.model_fields}
    if differing := [
        f"{name} {theirs!r} instead of {ours!r}" for name, (theirs, ours) in pairs.items() if theirs != ours
    ]:
        raise CheckpointError(
            f"{path} belongs to another run ({'; '.join(differing)}). Delete {path.parent}, or use another folder."
        )


def _random_state(world: World) -> dict[str, Tensor]:
    return {f"random.rank{world.rank}": torch.get_rng_state()}


def final_outputs(steps: int) -> list[str]:
    """Return the declared outputs of a training stage: weights and meta of the last checkpoint."""
    last = f"{CHECKPOINTS}/{checkpoint.folder_name(steps)}"
    return [f"{last}/{checkpoint.MODEL_FILE}", f"{last}/{checkpoint.META_FILE}"]


def series(lines: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    """Return the (step, value) pairs of one metric."""
    return [(line["step"], line[name]) for line in lines if name in line]
