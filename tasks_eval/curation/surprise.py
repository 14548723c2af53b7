"""How much a conversation's answers surprise the base model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nanochat_core.inference.interface import LoglikelihoodRequest, TextModel
from tasks_eval.mixture import Pick, Render

CHUNK = 256  # conversations of like length that are scored at once; also the unit of progress


@dataclass(frozen=True)
class Surprise:
    """How much the answers of conversations surprise a model that has never seen a chat.

    `specials` are the ids that only chats have: the model reads a line end in their place, and they are not scored.
    """

    model: TextModel
    render: Render
    specials: frozenset[int]

    def nats(self, picks: Sequence[Pick], report: Callable[[int], None]) -> np.ndarray:
        """Return the mean loss of each conversation's answers in nats per token (n,), as far as the context goes.

        Infinite where none of it is an answer. `report` hears of each chunk.
        """
        nats, tokens = np.zeros(len(picks)), np.zeros(len(picks))
        order = np.argsort([len(self.render(pick.example())[0]) for pick in picks], kind="stable")
        for chunk in np.array_split(order, range(CHUNK, len(order), CHUNK)):
            owners, requests = [], []
            for number in chunk.tolist():
                own = list(self.requests(*self.render(picks[number].example())))
                owners += [number] * len(own)
                requests += own
            for number, score in zip(owners, self.model.loglikelihood(requests), strict=True):
                nats[number] -= score.logprob_sum
                tokens[number] += score.num_tokens
            report(len(chunk))
        is_scored = tokens > 0
        nats[is_scored] /= tokens[is_scored]
        nats[~is_scored] = np.inf
        return nats

    def requests(self, ids: list[int], mask: list[int]) -> Iterator[LoglikelihoodRequest]:
        """Yield one request for each stretch of learned text."""
        tokens = np.array(ids[: self.model.max_context])
        is_special = np.isin(tokens, list(self.specials))
        is_special[0] = False  # BOS begins every text
        read = np.where(is_special, self.model.encode("\n")[0], tokens).tolist()
        is_scored = ~is_special & (np.array(mask[: len(tokens)]) == 1)
        is_scored[0] = False  # nothing foretells it
        borders = np.flatnonzero(np.diff(is_scored, prepend=False, append=False)).tolist()
        for start, end in zip(borders[::2], borders[1::2], strict=True):
            yield LoglikelihoodRequest(tuple(read[:end]), start)


def worst(picks: Sequence[Pick], nats: np.ndarray, share: float) -> list[Pick]:
    """Return the `share` of each task's picks with the highest loss; of equal ones those that come later."""
    found: list[Pick] = []
    tasks = np.array([pick.task.name for pick in picks])
    for task in sorted(set(tasks.tolist())):
        own = np.flatnonzero(tasks == task)
        by_loss = own[np.argsort(nats[own], kind="stable")]
        found += [picks[place] for place in by_loss[len(own) - int(share * len(own)) :]]
    return found
