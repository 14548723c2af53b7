"""The demo, cut down until its numbers mean nothing and only the plumbing is left."""

from nanochat_core.recipes import recipe
from nanochat_core.specs import PipelineSpec, with_changes

CHANGES = {
    "download.local_characters": 200_000,
    "tokenizer.vocab_size": 400,
    "pretrain.model.depth": 1,
    "pretrain.model.n_embd": 32,
    "pretrain.model.n_head": 2,
    "pretrain.total_batch_tokens": 512,
    "pretrain.steps": 4,
    "pretrain.validation_every": 4,
    "pretrain.validation_tokens": 1024,
    "pretrain.sample_every": 4,
    "midtrain.steps": 2,
    "midtrain.batch_rows": 2,
    "sft.steps": 2,
    "sft.batch_rows": 2,
    "rl.steps": 1,
    "rl.questions_per_step": 2,
    "rl.samples_per_question": 2,
    "rl.max_new_tokens": 4,
    "rl.eval_questions": 4,
    "rl.eval_samples": 1,
    "evaluate.bpb_tokens": 1024,
    "evaluate.chat_examples": 2,
    "evaluate.max_new_tokens": 4,
}
EVALUATORS = {
    f"{stage}.evaluators": [
        {"name": "chatcore", "every": 2, "tasks": ["Arithmetic", "Facts"], "examples": 2, "max_new_tokens": 4}
    ]
    for stage in ("midtrain", "sft")
}
ROWS = {
    f"{stage}.conversations": {
        "mixture": [{"task": "Arithmetic", "rows": 40}, {"task": "Spelling", "rows": 40}],
        "validation_rows": 8,
    }
    for stage in ("midtrain", "sft", "rl")
}


def tiny() -> PipelineSpec:
    """Return a pipeline of every stage that takes seconds."""
    return with_changes(recipe("demo"), CHANGES | EVALUATORS | ROWS)
