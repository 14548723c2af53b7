"""The gallery: a greedy and a sampled answer to each fixed question, asked in one batch, and kept as they were said."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nanochat_core.artifacts import StageFolder
from nanochat_core.inference.interface import Completion, GenerateRequest, Part
from nanochat_core.specs import GALLERY_PROMPTS, EvaluateSpec
from tasks_eval.gallery import FILE, MAX_NEW_TOKENS, ask_gallery
from tasks_eval.plan import plan_of
from tasks_eval.run import evaluate
from tasks_eval.task_data import TaskData
from tests.fakes import FakeTextModel
from tests.tasks_eval.test_run import write_model, write_request


@dataclass
class Listening(FakeTextModel):
    """A model that says at which temperature it was asked, or always the same parts, and remembers each call."""

    parts: tuple[Part, ...] = ()
    calls: list[list[GenerateRequest]] = field(default_factory=list)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[list[Completion]]:
        self.calls.append(list(requests))
        return [[Completion((), (), self.parts or (self.said(request),), "length")] for request in requests]

    def said(self, request: GenerateRequest) -> Part:
        return {"type": "text", "text": f"at {request.temperature}"}


def test_all_answers_are_asked_for_at_once_each_prompt_greedily_and_sampled() -> None:
    model = Listening()
    gallery = ask_gallery(model, EvaluateSpec(gallery_prompts=("a", "b"), seed=7, top_k=5, tool=None))
    (asked,) = model.calls
    assert [request.conversation for request in asked] == 2 * [
        {"messages": [{"role": "user", "content": prompt}]} for prompt in "ab"
    ]
    assert [(request.temperature, request.seed) for request in asked] == [(0.0, 7), (0.0, 8), (0.8, 7), (0.8, 8)]
    assert {(request.top_k, request.use_tools) for request in asked} == {(5, False)}
    assert gallery["answers"][1] == {
        "prompt": "b",
        "greedy": {"text": "at 0.0", "finish_reason": "length"},
        "sampled": {"text": "at 0.8", "finish_reason": "length"},
    }


@pytest.mark.parametrize(("asked", "context", "tokens"), [(512, 1024, MAX_NEW_TOKENS), (8, 1024, 8), (512, 16, 16)])
def test_answers_are_no_longer_than_the_gallery_the_spec_and_the_model_allow(
    asked: int, context: int, tokens: int
) -> None:
    model = Listening(max_context=context)
    gallery = ask_gallery(model, EvaluateSpec(max_new_tokens=asked))
    assert gallery["max_new_tokens"] == tokens == model.calls[0][0].max_new_tokens
    assert [row["prompt"] for row in gallery["answers"]] == list(GALLERY_PROMPTS)


def test_tool_calls_are_shown_and_half_characters_do_no_harm() -> None:
    said = (("python", "12+7"), ("python_output", "19"), ("text", "19\ud800"))
    model = Listening(parts=tuple({"type": kind, "text": text} for kind, text in said))
    gallery = ask_gallery(model, EvaluateSpec(gallery_prompts=("What is 12 + 7?",)))
    assert gallery["answers"][0]["greedy"]["text"] == "«12+7»‹19›19?"
    json.dumps(gallery, ensure_ascii=False).encode()


def test_every_evaluation_of_a_real_model_leaves_the_same_gallery(tmp_path: Path) -> None:
    write_model(tmp_path)
    asked = {"a": {}, "b": {}, "base": {"measures": ["samples"], "chat_tasks": []}, "none": {"gallery_prompts": []}}
    folders = {}
    for name, changes in asked.items():
        folders[name] = StageFolder(write_request(tmp_path, name, chat_examples=1, **changes).parent)
        evaluate(folders[name])
    kept = {name: (folder.path / FILE).read_bytes() for name, folder in folders.items() if name != "none"}
    assert kept["a"] == kept["b"] == kept["base"]
    answers = json.loads(kept["a"])["answers"]
    assert all(row["greedy"]["text"] and row["greedy"] != row["sampled"] for row in answers)
    assert [FILE in folder.read_result()["outputs"] for folder in folders.values()] == [True, True, True, False]
    assert not (folders["none"].path / FILE).exists()


def test_a_server_that_was_not_asked_to_chat_is_asked_for_no_gallery(data: TaskData) -> None:
    spec = EvaluateSpec(chat_tasks=("Facts",))
    assert not plan_of(spec, ["samples"], data, answers_chats=False).has_gallery
    assert plan_of(spec, ["samples", "chat"], data, answers_chats=False).has_gallery
    assert plan_of(spec, ["samples"], data).has_gallery
