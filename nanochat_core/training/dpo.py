"""Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290).

The model that is trained is its own reward model: an answer's score is β · (log π(answer) − log π_ref(answer)), where
π_ref is the model that training started from. What is learned is `pair_steps.bradley_terry`.

The reference never changes, so its log-probabilities are computed once, before the first step, and kept in the stage's
folder; a run that goes on reads them. The gradient takes one pass through the transformer and two through its head: the
first says what the scores are, the second multiplies each row's loss by its slope, and no logits are kept.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from nanochat_core.artifacts import canonical_json
from nanochat_core.checkpoint.tensor_file import StoredTensors, write_tensors
from nanochat_core.data.preference_loader import PairBatch
from nanochat_core.metrics import MetricsWriter
from nanochat_core.model.gpt import GPT
from nanochat_core.model.loss import head_loss, nll_after
from nanochat_core.training.pair_steps import Scored, all_scores
from nanochat_core.training.pair_training import PairStage
from nanochat_core.training.run import METRICS_FILE

NOTE_SECONDS = 5.0


class LogProbabilities:
    """Scores an answer by factor · log π(answer | prompt), in nats, less what `reference` says for its pair."""

    def __init__(self, factor: float = 1.0, reference: Tensor | None = None) -> None:
        """`reference` (2, pairs of the file) are the reference's log-probabilities of chosen and rejected answers."""
        self._factor, self._reference = factor, reference

    def __call__(self, model: GPT, batch: PairBatch) -> Scored:
        hidden = model.hidden(batch.idx)  # (2n, T, C)
        with torch.no_grad():
            nll = nll_after(model, hidden.detach(), batch.targets)
            logprobs = -nll.sum(dim=1, dtype=torch.float32 if nll.device.type == "mps" else torch.float64)
            if self._reference is not None:
                logprobs = logprobs - self._reference[:, batch.numbers].flatten()

        def weighted(slopes: Tensor) -> Tensor:
            factors = (-self._factor * slopes).float()
            return head_loss(hidden, model.lm_head.weight, batch.targets, model.vocab_size, factors)

        return Scored(self._factor * logprobs, weighted)


def reference_scorers(stage: PairStage, beta: float) -> dict[str, LogProbabilities]:
    """Return the scorer of each split, with the present model as reference, or as it was when the stage began."""
    path = _reference_file(stage)
    found = _stored(stage, path)
    if found is None:
        with _noted(stage) as note:
            found = {
                split: all_scores(stage.model, pairs, LogProbabilities(), stage.world, stage.micro_pairs, note)
                for split, pairs in stage.pairs.items()
            }
        if stage.world.is_main:
            temporary = path.with_name(f".{path.name}.tmp")
            write_tensors(temporary, found)
            os.replace(temporary, path)
    return {split: LogProbabilities(beta, reference) for split, reference in found.items()}


def _reference_file(stage: PairStage) -> Path:
    """Return where the reference's log-probabilities are: the name says of which model, pairs and arithmetic."""
    model = stage.meta.model.model_dump(mode="json")
    facts = [stage.folder.request.input_digests, stage.meta.precision, model, stage.spec.sequence_len]
    digest = hashlib.sha256(canonical_json(facts).encode()).hexdigest()
    return stage.folder.path / f"reference-{digest[:16]}.safetensors"


def _stored(stage: PairStage, path: Path) -> dict[str, Tensor] | None:
    """Return what is in the file, on every rank; None where rank 0 finds nothing whole there."""
    world, found = stage.world, {}
    if world.is_main:
        with contextlib.suppress(OSError, SafetensorError):
            found = dict(StoredTensors(iter([path]), world.device))
    shapes = {split: (2, len(pairs)) for split, pairs in stage.pairs.items()}
    is_whole = {split: tuple(tensor.shape) for split, tensor in found.items()} == shapes
    if not int(world.sum_(torch.tensor(int(is_whole), device=world.device))):
        return None
    empty = {split: torch.zeros(shape, dtype=world.sum_dtype, device=world.device) for split, shape in shapes.items()}
    return {split: world.sum_(tensor) for split, tensor in (empty | found).items()}


@contextlib.contextmanager
def _noted(stage: PairStage) -> Iterator[Callable[[int], None]]:
    """Say in the metrics every few seconds how far the reference is, so that nobody takes the stage for stalled."""
    if not stage.world.is_main:
        yield lambda done: None
        return
    noted_at = time.monotonic()
    with contextlib.closing(MetricsWriter(stage.folder.path / METRICS_FILE)) as writer:

        def note(done: int) -> None:
            nonlocal noted_at
            if time.monotonic() - noted_at >= NOTE_SECONDS:
                noted_at = time.monotonic()
                writer.write(0, evaluating=f"reference: {done * stage.world.size:,} pairs")

        yield note
