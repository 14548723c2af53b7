"""A run from start to end: what it does about a batch that breaks it, and about checkpoints of other runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanochat_core import checkpoint
from nanochat_core.artifacts import StageFolder, StageRequest
from nanochat_core.checkpoint import CheckpointMeta, Saver
from nanochat_core.distributed import World
from nanochat_core.errors import CheckpointError, NonFiniteLoss
from nanochat_core.metrics import read_metrics
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.model.loss import loss_sum
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.specs import ModelSpec, OptimizerSpec, TrainingRuntime
from nanochat_core.training.loop import LoopSettings, StepInfo, TrainState, scheduled_rates, train_step
from nanochat_core.training.run import CHECKPOINTS, TrainingRun, restore, save, train

WORLD = World(0, 1, torch.device("cpu"))
MODEL = ModelSpec(depth=1, n_embd=16, n_head=1, n_kv_head=1, sequence_len=16)
VOCAB_SIZE, STEPS = 20, 12


@dataclass
class Numbered:
    """Batches that differ, each known by its number; `taken` remembers those that were trained on."""

    number: int = 0
    taken: list[int] = field(default_factory=list)

    def batch(self) -> tuple[Tensor, Tensor]:
        self.number += 1
        rows = torch.randint(0, VOCAB_SIZE, (2, 9), generator=torch.Generator().manual_seed(self.number))
        return rows[:, :-1], rows[:, 1:]

    def origins(self) -> dict[str, list[int]]:
        return {"numbered": [self.number]}

    def state(self) -> dict[str, Tensor]:
        return {"number": torch.tensor([self.number])}

    def load(self, state: dict[str, Tensor]) -> None:
        self.number = int(state["number"])


def steps_with_broken(broken: set[int]) -> Callable[..., Iterator[StepInfo]]:
    """Return a generator of steps in which the loss of the batches in `broken` is nan."""

    def steps(
        state: TrainState, world: World, settings: LoopSettings, stop_requested: Callable[[], bool]
    ) -> Iterator[StepInfo]:
        def loss_function(model: GPT, idx: Tensor, targets: Tensor) -> Tensor:
            return loss_sum(model, idx, targets) * (float("nan") if state.loader.number in broken else 1.0)

        while state.step < settings.steps:
            rates, multiplier = scheduled_rates(state, settings)
            loss, norm, tokens, _ = train_step(
                state, world, rates, micro_rows=2, grad_clip=1.0, loss_function=loss_function
            )
            state.loader.taken.append(state.loader.number)
            yield StepInfo(state.step, loss, norm, multiplier, 1.0, tokens, False)

    return steps


def make_run(path: Path, *, broken: set[int] | None = None, rollback: int = 0, model: ModelSpec = MODEL) -> TrainingRun:
    path.mkdir(parents=True, exist_ok=True)
    request = StageRequest(stage="pretrain", version=1, fingerprint="x", params={}, inputs={})
    (path / "spec.json").write_text(request.model_dump_json())
    gpt = GPT(model, VOCAB_SIZE)
    init_weights(gpt, 0)
    return TrainingRun(
        folder=StageFolder(path),
        world=WORLD,
        state=TrainState(gpt, MuonAdamW(gpt), Numbered()),
        settings=LoopSettings(steps=STEPS, optimizer=OptimizerSpec(), micro_rows=2),
        runtime=TrainingRuntime(log_every=1, checkpoint_every=4),
        meta=CheckpointMeta(
            stage="pretrain",
            step=0,
            tokens=0,
            optimizer_steps=0,
            model=model,
            vocab_size=VOCAB_SIZE,
            precision="fp32",
            tokenizer_hash="t",
            data_digest="d",
        ),
        validate=lambda: {"val/bpb": 1.0},
        validate_every=4,
        steps=steps_with_broken(broken or set()),
        rollback=rollback,
    )


def weights(run: TrainingRun) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in run.state.model.state_dict().items()}


def test_a_broken_batch_ends_a_run_that_may_not_leave_it_out_and_keeps_its_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"loss of step 6 is nan.* Batch 6 .* numbered \(6\)"):
        train(make_run(tmp_path, broken={6}))
    assert checkpoint.latest(tmp_path / CHECKPOINTS).name == "step_00000004"


def test_a_broken_batch_is_left_out_of_a_run_that_may_go_back(tmp_path: Path) -> None:
    run, clean = make_run(tmp_path / "a", broken={6, 10}, rollback=2), make_run(tmp_path / "b")
    train(run)
    assert run.state.loader.taken == [1, 2, 3, 4, 5, 5, 7, 8, 9, 11, 12, 13, 14]
    assert run.state.skipped_batches == (6, 10) and run.state.step == STEPS
    assert run.state.loader.number == STEPS + 2
    lines = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(STEPS + 1))
    assert lines[5]["attempt"] == 2 and lines[STEPS]["attempt"] == 3
    clean.state.skipped_batches = (6, 10)  # as if it had been known from the start
    train(clean)
    assert clean.state.loader.taken == [1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 14]
    assert all(torch.equal(tensor, weights(clean)[name]) for name, tensor in weights(run).items())


def test_a_run_that_goes_back_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path, broken={2}, rollback=1)
    train(run)
    assert run.state.loader.taken[:4] == [1, 1, 3, 4]


def test_one_broken_batch_too_many_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match="Batch 7 of the run"):
        train(make_run(tmp_path, broken={6, 7}, rollback=1))


def test_a_run_that_was_killed_after_it_went_back_still_leaves_the_batch_out(tmp_path: Path) -> None:
    whole, killed = (make_run(tmp_path / name, broken={6}, rollback=1) for name in "ab")
    train(whole)
    shorter = replace(killed, settings=replace(killed.settings, steps=9))
    train(shorter)  # saves at step 9
    again = make_run(tmp_path / "b", broken={6}, rollback=1)
    assert restore(again) and again.state.skipped_batches == (6,)
    train(again)
    assert again.state.loader.taken == [11, 12, 13]


def test_checkpoints_written_in_the_background_are_those_written_at_once(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("at once", "background")]
    folder = runs[1].folder.path / CHECKPOINTS
    runs[1].__dict__["saver"] = Saver(folder, WORLD, keep=2, in_background=True)
    found = []
    for run in runs:
        train(run)
        paths = checkpoint.all_checkpoints(run.folder.path / CHECKPOINTS)
        found.append({f"{path.name}/{file.name}": file.read_bytes() for path in paths for file in path.iterdir()})
    assert found[0] == found[1] and len(found[0]) == 8


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"depth": 2}, "model.depth 1 instead of 2"),
        ({"arch": "full"}, "model.arch 'classic' instead of 'full'"),
        ({"n_embd": 32}, "model.n_embd 16 instead of 32"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_what_differs(
    tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    run = make_run(tmp_path)
    save(run)
    run.saver.finish()
    with pytest.raises(CheckpointError, match=f"belongs to another run \\({problem}"):
        restore(make_run(tmp_path, model=MODEL.model_copy(update=changes)))


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    save(run)
    other = replace(make_run(tmp_path), meta=run.meta.model_copy(update={"vocab_size": 21}))
    with pytest.raises(CheckpointError, match="vocab_size 20 instead of 21"):
        restore(other)


def test_a_checkpoint_without_a_part_of_the_state_is_refused_by_its_name(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.state.optimizer.pieces = dict  # type: ignore[method-assign]
    save(run)
    with pytest.raises(CheckpointError, match=r"holds no .*(/m@0|momentum), which this run needs"):
        restore(make_run(tmp_path))
