"""The prompts of CORE: examples first, joined by blank lines, then the item.

multiple choice   query + delimiter + choice, one prompt a choice, nothing stripped
schema            context option + delimiter + continuation, one prompt an option
language modeling stripped context + delimiter + continuation, and the same without it, stripped as a whole
"""

import random
from collections.abc import Sequence
from typing import Any

from tasks_eval.core.bundle import CoreTask

Item = dict[str, Any]
SHOTS_SEED = 1234
SEPARATOR = "\n\n"


def draw_shots(items: Sequence[Item], index: int, shots: int) -> list[Item]:
    """Return the examples of item `index`: drawn by seed 1234 + index from all other items of the task.

    They are drawn from all items even where only a few are evaluated, so an item's prompt is always the same.
    """
    others = [other for other in range(len(items)) if other != index]
    return [items[other] for other in random.Random(SHOTS_SEED + index).sample(others, min(shots, len(others)))]


def render_prompts(task: CoreTask, items: Sequence[Item], index: int) -> list[str]:
    """Return the prompts of one item: one a choice or option; for language modeling [without, with] continuation."""
    item, shots = items[index], draw_shots(items, index, task.shots)
    before = "".join(_render_shot(task, shot) + SEPARATOR for shot in shots)
    if task.kind == "multiple_choice":
        return [f"{before}{item['query']}{task.delimiter}{choice}" for choice in item["choices"]]
    if task.kind == "schema":
        ending = f"{task.delimiter}{item['continuation']}"
        return [f"{before}{option}{ending}" for option in item["context_options"]]
    question = f"{before}{item['context'].strip()}{task.delimiter}"
    return [question.strip(), f"{question}{item['continuation']}"]


def _render_shot(task: CoreTask, shot: Item) -> str:
    """Return an example with its right answer."""
    if task.kind == "multiple_choice":
        return f"{shot['query']}{task.delimiter}{shot['choices'][shot['gold']]}"
    if task.kind == "schema":
        return f"{shot['context_options'][shot['gold']]}{task.delimiter}{shot['continuation']}"
    return f"{shot['context'].strip()}{task.delimiter}{shot['continuation']}"
