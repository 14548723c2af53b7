"""The engine: batched prefill, batched decoding with tools, and scoring. Rows keep their own positions and seeds.

B rows, T tokens, C width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nanochat_core.inference.interface import Completion
from nanochat_core.inference.kv_cache import KVCache
from nanochat_core.inference.sampling import sample, uniform_numbers
from nanochat_core.inference.tool_use import Row, Tool
from nanochat_core.model.gpt import GPT
from nanochat_core.tokenizer.bpe import Tokenizer

CONTEXT_MARGIN = 4  # rotary positions reach beyond the trained length; generation may go on to this multiple of it


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue, `num_samples` times."""

    ids: Sequence[int]
    num_samples: int = 1
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0
    use_tools: bool = True


class Engine:
    """A model, its tokenizer, and a bound on the tokens of a batch."""

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, *, batch_tokens: int = 16_384, tool: Tool | None = None
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._batch_tokens, self._tool = batch_tokens, tool
        self.max_length = CONTEXT_MARGIN * model.spec.sequence_len

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt]) -> list[list[Completion]]:
        """Return `num_samples` completions for each prompt, in order. Prompts too long are cut from the left."""
        answers: list[list[Completion]] = [[] for _ in prompts]
        for batch in self._batches(prompts):
            rows = self._generate_batch([prompts[index] for index in batch])
            for index in batch:
                answers[index] = [next(rows).completion() for _ in range(prompts[index].num_samples)]
        return answers

    def _batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Yield indices of prompts that decode together: alike in length and top-k, bounded in tokens."""
        order = sorted(range(len(prompts)), key=lambda index: (prompts[index].top_k or 0, len(prompts[index].ids)))
        batch: list[int] = []
        rows = 0
        for index in order:
            prompt = prompts[index]
            rows += prompt.num_samples
            is_full = rows * (len(prompt.ids) + prompt.max_new_tokens) > self._batch_tokens
            if batch and (is_full or prompt.top_k != prompts[batch[0]].top_k):
                yield batch
                batch, rows = [], prompt.num_samples
            batch.append(index)
        if batch:
            yield batch

    def _generate_batch(self, prompts: list[Prompt]) -> Iterator[Row]:
        """Decode all samples of the prompts side by side; return their rows in order."""
        ids = [list(prompt.ids)[-max(1, self.max_length - prompt.max_new_tokens) :] for prompt in prompts]
        longest_answer = max(prompt.max_new_tokens for prompt in prompts)
        cache = self._cache(len(ids), max(map(len, ids)) + longest_answer)
        logits = self._prefill(ids, cache)
        repeats = torch.tensor([prompt.num_samples for prompt in prompts], device=self.model.device)
        source = torch.arange(len(ids), device=self.model.device).repeat_interleave(repeats)
        cache.select(source)
        rows = [self._row(prompt) for prompt in prompts for _ in range(prompt.num_samples)]
        uniform = np.stack(
            [
                uniform_numbers(prompt.seed, number, longest_answer)
                for prompt in prompts
                for number in range(prompt.num_samples)
            ]
        )
        temperature = torch.tensor([prompt.temperature for prompt in prompts], device=self.model.device)[source]
        self._decode(rows, logits[source], cache, torch.from_numpy(uniform).to(logits), temperature, prompts[0].top_k)
        return iter(rows)

    def _row(self, prompt: Prompt) -> Row:
        tool = self._tool if prompt.use_tools else None
        return Row(self.tokenizer, max_new_tokens=prompt.max_new_tokens, tool=tool)

    def _cache(self, rows: int, capacity: int) -> KVCache:
        return KVCache(self.model.spec, rows, capacity, device=self.model.device, dtype=self.model.compute_dtype)

    def _prefill(self, ids: list[list[int]], cache: KVCache) -> Tensor:
        """Run the prompts through the model into the cache; return the logits (B, V) after each one's last token."""
        idx, lengths = padded(ids, self.model.device)
        hidden = self.model.hidden(idx, cache)
        cache.advance(lengths)
        last = hidden[torch.arange(len(ids), device=idx.device), lengths - 1]
        return self.model.logits(last)

    def _decode(
        self, rows: list[Row], logits: Tensor, cache: KVCache, uniform: Tensor, temperature: Tensor, top_k: int | None
    ) -> None:
        """Decode until every row is done; rows that are done leave the batch once they are half of it."""
        active = list(range(len(rows)))
        step = 0
        while True:
            chosen = sample(logits, uniform[:, step], temperature, top_k).tolist()
            tokens = [rows[index].take(token) for index, token in zip(active, chosen, strict=True)]
            step += 1
            kept = [place for place, index in enumerate(active) if not rows[index].is_done]
            if not kept:
                return
            if len(kept) <= len(active) // 2:
                select = torch.tensor(kept, device=logits.device)
                cache.select(select)
                uniform, temperature = uniform[select], temperature[select]
                active, tokens = [active[place] for place in kept], [tokens[place] for place in kept]
            hidden = self.model.hidden(torch.tensor(tokens, device=logits.device)[:, None], cache)
            cache.advance(1)
            logits = self.model.logits(hidden[:, -1])

    @torch.inference_mode()
    def next_token_logits(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, Tensor]]:
        """Yield (index, logits (V,)) of the token after each prompt, in any order."""
        for batch in self._length_batches([len(ids) for ids in prompts]):
            ids = [list(prompts[index])[-self.max_length :] for index in batch]
            idx, lengths = padded(ids, self.model.device)
            hidden = self.model.hidden(idx)
            last = self.model.logits(hidden[torch.arange(len(ids), device=idx.device), lengths - 1])
            yield from zip(batch, last, strict=True)

    @torch.inference_mode()
    def score(self, requests: Sequence[tuple[Sequence[int], int]]) -> Iterator[tuple[int, Tensor, bool]]:
        """Yield (index, log-probabilities of ids[start:], whether each was the arg-max) for each (ids, start)."""
        for batch in self._length_batches([len(ids) for ids, _ in requests]):
            idx, _ = padded([requests[index][0] for index in batch], self.model.device)
            hidden = self.model.hidden(idx)
            for place, index in enumerate(batch):
                ids, start = requests[index]
                targets = idx[place, start : len(ids)]
                logits = self.model.logits(hidden[place, start - 1 : len(ids) - 1])
                logprobs = torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]
                yield index, logprobs, bool((logits.argmax(dim=-1) == targets).all())

    def _length_batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Yield indices, longest first, so that each batch, padded, stays within the bound on tokens."""
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        while order:
            size = max(1, self._batch_tokens // max(1, lengths[order[0]]))
            yield order[:size]
            order = order[size:]


def padded(ids: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the rows filled up with zeros behind (B, T), int64, and their lengths (B,)."""
    lengths = [len(row) for row in ids]
    idx = torch.zeros(len(ids), max(lengths), dtype=torch.int64)
    for place, row in enumerate(ids):
        idx[place, : len(row)] = torch.tensor(row)
    return idx.to(device), torch.tensor(lengths, device=device)
