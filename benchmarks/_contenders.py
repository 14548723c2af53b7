"""One contender of benchmarks/train.py in a process of its own: it is told what to do line by line, answers in JSON.

    python benchmarks/_contenders.py '{"who": "ours", "mode": "eager", …}'     the fields of `Setup`

`steps N`: the seconds of N steps. `parts N`: where the time of a step goes. `memory N`: the most that N steps take
beyond what the imports took. On CUDA also `profile N`: the N longest kernels of a step; `attention N`: one layer of
attention, N times, with and without a window. The model is made at the first command that needs it.
"""

import contextlib
import gc
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo
import torch._inductor.compile_fx

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks._memory import peak_bytes, reset_peak, resident_bytes
from benchmarks.baselines.plain_gpt import PlainGPT, adamw
from nanochat_core import recipes
from nanochat_core.data.document_order import DocumentOrder
from nanochat_core.data.lanes import lanes_of
from nanochat_core.data.loader import RowShape, TokenLoader
from nanochat_core.data.shards import write_shard
from nanochat_core.distributed import World
from nanochat_core.model.accounting import attention_windows, derive_shape, flops_per_token
from nanochat_core.model.attention import choose_attention, use_attention
from nanochat_core.model.gpt import GPT
from nanochat_core.model.init import init_weights
from nanochat_core.model.precision import prepare_training
from nanochat_core.optim.muon_adamw import MuonAdamW
from nanochat_core.optim.scaling import rate_batch_factor, weight_decay
from nanochat_core.specs import ModelSpec
from nanochat_core.training.feed import Feed
from nanochat_core.training.loop import LoopSettings, TrainState, training_steps

FOREVER = 10**9
DOCUMENTS, LONGEST = 8192, 20_000


@dataclass(frozen=True)
class Setup:
    """What is measured. `rows` go through the model at a time; a step takes `step_tokens`."""

    who: str
    mode: str  # eager, compiled
    precision: str
    depth: int
    sequence_len: int
    rows: int
    step_tokens: int
    vocab_size: int = 32_768
    device: str = "cpu"
    threads: int = 2

    @property
    def spec(self) -> ModelSpec:
        """The shape that the recipes derive from the depth."""
        return derive_shape(ModelSpec(arch="full", depth=self.depth, sequence_len=self.sequence_len))

    @property
    def flops_per_token(self) -> int:
        return flops_per_token(self.spec, self.vocab_size)


class RandomTokens:
    """A source of documents of random ids, their lengths spread as those of web text are: what the loader packs.

    All begin with the same ids, so that they take no memory: that of a real source is mapped, and the system's.
    """

    def __init__(self, order: DocumentOrder, vocab_size: int) -> None:
        rng = np.random.default_rng(0)
        self._lengths = np.clip(rng.lognormal(6.5, 1.0, DOCUMENTS), 16, LONGEST).astype(int)
        self._ids = rng.integers(0, vocab_size - 16, LONGEST, dtype=np.uint16)
        self._order = order

    def documents(self, turn: int, lane: int) -> list[np.ndarray]:
        own = self._order.own(turn, lane)
        return [self._ids[: self._lengths[(turn * 1024 + index) % DOCUMENTS]] for index in own]

    def again(self, turn: int, lanes: Sequence[int]) -> dict[int, list[np.ndarray]]:
        return {lane: self.documents(turn, lane) for lane in lanes}

    def start(self, next_turn: dict[int, int]) -> None: ...

    def close(self) -> None: ...


class Ours:
    """The project's model, optimizer, loader and loop, as a pretraining stage puts them together."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        device, spec = torch.device(setup.device), setup.spec
        self.model = GPT(spec, setup.vocab_size)
        init_weights(self.model, 0)
        self.model.to(device)
        prepare_training(self.model, setup.precision)
        self.loader = Feed(_loader(setup, folder), device)
        self.optimizer = MuonAdamW(self.model)
        pretrain = recipes.speedrun().pretrain
        decay = weight_decay(spec, setup.vocab_size, pretrain.tokens_per_parameter, setup.step_tokens)
        settings = LoopSettings(
            steps=FOREVER,
            optimizer=pretrain.optimizer.model_copy(update={"weight_decay": decay}),
            micro_rows=setup.rows,
            use_compile=setup.mode == "compiled",
            batch_factor=rate_batch_factor(spec, setup.step_tokens),
        )
        state = TrainState(self.model, self.optimizer, self.loader)
        self._steps = training_steps(state, World(0, 1, device), settings, lambda: False)

    def step(self) -> float:
        """Do one step and return its loss."""
        return next(self._steps).loss


def _loader(setup: Setup, folder: Path) -> TokenLoader:
    write_shard(folder / "shard_00000.parquet", ["a"] * DOCUMENTS)
    rows = setup.step_tokens // setup.sequence_len
    order = DocumentOrder([folder / "shard_00000.parquet"], lanes=lanes_of(rows, 1), seed=0)
    shape = RowShape(setup.sequence_len, rows, "best_fit", setup.vocab_size - 9, np.dtype(np.uint16))
    return TokenLoader(order, RandomTokens(order, setup.vocab_size), range(order.lanes), shape)


class Plain:
    """The baseline, on batches that are there already: its loader costs nothing."""

    loader = None

    def __init__(self, setup: Setup, folder: Path) -> None:
        torch.manual_seed(0)
        device = torch.device(setup.device)
        self._setup = setup
        self.model = PlainGPT(setup.depth, setup.spec.n_embd, setup.vocab_size, setup.sequence_len).to(device)
        self.optimizer = adamw(self.model)
        self._forward = torch.compile(self.model) if setup.mode == "compiled" else self.model
        rows = setup.step_tokens // setup.sequence_len
        drawn = [torch.randint(0, setup.vocab_size, (rows, setup.sequence_len + 1), device=device) for _ in range(4)]
        self._batches = itertools.cycle(drawn)

    def step(self) -> float:
        batch, rows = next(self._batches), self._setup.rows
        pieces = batch.split(rows)
        total = torch.zeros((), device=batch.device)
        for piece in pieces:
            with torch.autocast(self._setup.device, torch.bfloat16, enabled=self._setup.precision != "fp32"):
                loss = self._forward(piece[:, :-1], piece[:, 1:]) / len(pieces)
            loss.backward()
            total += loss.detach()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total.item()


CONTENDERS: dict[str, Callable[[Setup, Path], Ours | Plain]] = {"ours": Ours, "plain": Plain}


class Server:
    """Answers the commands."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self._setup, self._folder = setup, folder
        self._is_cuda = setup.device.startswith("cuda")
        gc.collect()
        self._after_imports = resident_bytes()

    @cached_property
    def _contender(self) -> Ours | Plain:
        return CONTENDERS[self._setup.who](self._setup, self._folder)

    def _synchronize(self) -> None:
        if self._is_cuda:
            torch.cuda.synchronize()

    def steps(self, count: int) -> dict[str, Any]:
        """Return the seconds of each step, and the last loss."""
        seconds, loss = [], math.nan
        for _ in range(count):
            started = time.perf_counter()
            loss = self._contender.step()
            self._synchronize()
            seconds.append(time.perf_counter() - started)
        return {"seconds": seconds, "loss": loss, "flops_per_token": self._setup.flops_per_token}

    def parts(self, count: int) -> dict[str, Any]:
        """Return the median seconds of forward, backward, optimizer, loader and the rest, over some steps."""
        found = [self._timeline() for _ in range(count)]
        return {name: sorted(parts[name] for parts in found)[count // 2] for name in found[0]}

    def _timeline(self) -> dict[str, float]:
        """Return the parts of one step: what lies before a backward pass, and is not the loader, is forward."""
        contender, events = self._contender, []
        places = [(torch.Tensor, "backward"), (contender.optimizer, "step")]
        places += [(contender.loader, "batch")] if contender.loader else []
        with contextlib.ExitStack() as stack:
            for owner, name in places:
                stack.enter_context(self._timed(owner, name, events))
            self._synchronize()
            started = time.perf_counter()
            contender.step()
            self._synchronize()
            total = time.perf_counter() - started
        parts = {"forward": 0.0, "backward": 0.0, "optimizer": 0.0, "loader": 0.0}
        last = started
        for name, start, end in events:
            part = {"backward": "backward", "step": "optimizer", "batch": "loader"}[name]
            parts[part] += end - start
            parts["forward"] += start - last if name == "backward" else 0.0
            last = end
        return parts | {"other": total - sum(parts.values()), "total": total}

    @contextlib.contextmanager
    def _timed(self, owner: Any, name: str, events: list[tuple[str, float, float]]) -> Iterator[None]:
        """Let calls of a method note when they began and ended, on the device too."""
        original = getattr(owner, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            self._synchronize()
            start = time.perf_counter()
            result = original(*arguments, **keywords)
            self._synchronize()
            events.append((name, start, time.perf_counter()))
            return result

        setattr(owner, name, call)
        try:
            yield
        finally:
            if isinstance(owner, type):
                setattr(owner, name, original)
            else:
                delattr(owner, name)

    def _reset_peak(self) -> None:
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats()
        reset_peak()

    def memory(self, count: int) -> dict[str, Any]:
        """Return bytes beyond the imports: the peak from the start on, and that of later steps alone."""
        found = {}
        for name in ("peak", "later_peak"):
            self._reset_peak()
            self.steps(count)
            found[name] = torch.cuda.max_memory_allocated() if self._is_cuda else peak_bytes() - self._after_imports
        return found | {"imports": self._after_imports}

    def profile(self, count: int) -> dict[str, Any]:
        """Return the kernels of one step that take longest, with their milliseconds and calls."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            self.steps(1)
        kernels = sorted(profiler.key_averages(), key=lambda kernel: -kernel.self_device_time_total)
        return {
            "kernels": [
                {"name": kernel.key[:120], "ms": kernel.self_device_time_total / 1e3, "calls": kernel.count}
                for kernel in kernels[:count]
            ]
        }

    def attention(self, count: int) -> dict[str, Any]:
        """Return the milliseconds of one layer's attention, forward and backward, by back-end and window."""
        spec, device = self._setup.spec, torch.device(self._setup.device)
        head_size = spec.n_embd // spec.n_head
        shape = (self._setup.rows, spec.n_head, spec.sequence_len, head_size)
        q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
        chosen, found = choose_attention(device, q.dtype, head_size), {}
        for backend in {chosen.name: chosen, "flex": use_attention("flex")}.values():
            for window in (min(attention_windows(spec)), None):
                backend.prepare(spec.sequence_len, [window], device)
                name = f"{backend.name}, window of {window}" if window else f"{backend.name}, all keys"
                found[name] = self._milliseconds(lambda: backend.attend(q, k, v, window).sum().backward(), count)  # noqa: B023
        return {"attention_ms": found, "attention_chosen": f"{chosen.name} ({chosen.reason})"}

    def _milliseconds(self, work: Callable[[], object], count: int) -> float:
        """Return how long `work` takes, without its first three times."""
        for step in range(count + 3):
            if step == 3:
                self._synchronize()
                started = time.perf_counter()
            work()
        self._synchronize()
        return (time.perf_counter() - started) / count * 1e3


def main() -> None:
    setup = Setup(**json.loads(sys.argv[1]))
    torch.set_num_threads(setup.threads)
    torch.set_flush_denormal(True)
    torch.backends.cuda.matmul.allow_tf32 = True
    with tempfile.TemporaryDirectory(prefix="nanochat-train-") as folder:
        server = Server(setup, Path(folder))
        answers, sys.stdout = sys.stdout, sys.stderr  # nothing else shall stand among the answers
        for line in sys.stdin:
            command, count = line.split()
            print(json.dumps(getattr(server, command)(int(count))), file=answers, flush=True)


if __name__ == "__main__":
    main()
