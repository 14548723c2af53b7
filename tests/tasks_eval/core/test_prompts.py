"""CORE's prompts; the reference's own are compared in tests/parity."""

from pathlib import Path

from tasks_eval.core.bundle import CoreTask
from tasks_eval.core.prompts import draw_shots, render_prompts

ITEMS = {
    "multiple_choice": [
        {"query": "Sky:", "choices": ["red", "blue"], "gold": 1},
        {"query": "Grass: ", "choices": ["green", "pink"], "gold": 0},
    ],
    "schema": [
        {"context_options": ["The cup", "The table"], "continuation": "fell.", "gold": 1},
        {"context_options": ["She", "He"], "continuation": "sang.", "gold": 0},
    ],
    "language_modeling": [
        {"context": " One and one is ", "continuation": "two "},
        {"context": "Two and two is\n", "continuation": "four"},
    ],
}


def task(kind: str, shots: int, delimiter: str = " ") -> CoreTask:
    return CoreTask("made", kind, Path("x"), shots, delimiter, 0.0)  # type: ignore[arg-type]


def test_multiple_choice_is_one_prompt_a_choice_and_nothing_is_stripped() -> None:
    prompts = render_prompts(task("multiple_choice", 1, "\nAnswer: "), ITEMS["multiple_choice"], 1)
    assert prompts == [f"Sky:\nAnswer: blue\n\nGrass: \nAnswer: {choice}" for choice in ("green", "pink")]


def test_schema_is_one_prompt_an_option() -> None:
    prompts = render_prompts(task("schema", 1), ITEMS["schema"], 1)
    assert prompts == ["The table fell.\n\nShe sang.", "The table fell.\n\nHe sang."]


def test_language_modeling_is_the_prompt_without_and_with_its_continuation() -> None:
    prompts = render_prompts(task("language_modeling", 1), ITEMS["language_modeling"], 1)
    shot = "One and one is two "
    assert prompts == [f"{shot}\n\nTwo and two is", f"{shot}\n\nTwo and two is four"]


def test_shots_are_other_items_and_always_the_same() -> None:
    items = [{"number": number} for number in range(20)]
    for index in range(20):
        shots = draw_shots(items, index, 5)
        assert shots == draw_shots(items, index, 5)
        assert items[index] not in shots and len(shots) == 5
    assert draw_shots(items, 0, 5) != draw_shots(items, 1, 5)
