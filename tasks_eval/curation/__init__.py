"""Which conversations of a mixture are left out before anything is trained on it, by `ConversationsSpec.curation`.

In this order, each by what the one before has left:

- duplicates: what says the same, message by message, as an earlier conversation, or is the beginning of another; what
  says what is held out, or begins like it, goes too. Case, Unicode's compatibility forms and white space do not count.
- perplexity: of each task the share whose answers have the highest loss in nats per token under the base model.
- lengths: conversations of lengths that are rarer among the questions and answers of the tasks named.

A mixture that gives a conversation several times (epochs, weights) gives it as often afterwards, or never. Held-out
rows are not curated: they are the same with and without.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks_eval.curation.duplicates import duplicates
from tasks_eval.curation.lengths import length_distance, target_shares, unlike
from tasks_eval.curation.surprise import Surprise, worst
from tasks_eval.mixture import Pick, Render
from tasks_eval.task import Task


@dataclass
class Curation:
    """What is left of the rows of a mixture. `reasons`: of each conversation left out, why."""

    rows: Sequence[Pick]
    reasons: dict[Pick, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> list[Pick]:
        """The rows that are left, in their order."""
        return [pick for pick in self.rows if pick not in self.reasons]

    @property
    def distinct(self) -> list[Pick]:
        """The conversations that are left, each once."""
        return list(dict.fromkeys(self.kept))

    def leave_out(self, picks: Collection[Pick], reason: str) -> None:
        self.reasons |= dict.fromkeys(picks, reason)

    def drop_duplicates(self, held_out: Sequence[Pick]) -> None:
        leaked, repeated = duplicates(self.distinct, held_out)
        self.leave_out(leaked, "held out")
        self.leave_out(repeated, "duplicate")

    def drop_worst(self, surprise: Surprise, share: float, report: Callable[[int], None]) -> None:
        picks = self.distinct
        self.leave_out(worst(picks, surprise.nats(picks, report), share), "perplexity")

    def match_lengths(self, tasks: Sequence[Task], render: Render, seed: int) -> None:
        """Leave out rows of lengths that the examples of `tasks` seldom have; the details say how far apart."""
        target, rows = target_shares(tasks, render), self.kept
        lengths = {pick: len(render(pick.example())[0]) for pick in self.distinct}
        self.leave_out(unlike(rows, [lengths[pick] for pick in rows], target, seed), "length")
        for name, picks in (("before", rows), ("after", self.kept)):
            distance = length_distance([lengths[pick] for pick in picks], target)
            self.details[f"length_distance_{name}"] = round(distance, 4)

    def result(self) -> dict[str, Any]:
        """Return the details with the rows left out: {"left_out_rows", "left_out": {task: {reason: rows}}}."""
        pairs = Counter((pick.task.name, self.reasons[pick]) for pick in self.rows if pick in self.reasons)
        left_out: dict[str, dict[str, int]] = {}
        for (task, reason), rows in sorted(pairs.items()):
            left_out.setdefault(task, {})[reason] = rows
        return {"left_out_rows": pairs.total(), "left_out": left_out} | self.details
