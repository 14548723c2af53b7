"""README.md of an export: what the model is, how to use it, how it scored, and where it came from."""

from typing import TYPE_CHECKING

from nanochat_core.checkpoint import CheckpointMeta
from nanochat_core.conversion.provenance import Provenance, Score
from nanochat_core.model.accounting import derive_shape, parameter_counts
from nanochat_core.model_chain import made_by

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

DATA_SETS = {  # of the tasks that are on the Hub
    "ARC-Easy": "allenai/ai2_arc",
    "ARC-Challenge": "allenai/ai2_arc",
    "MMLU": "cais/mmlu",
    "GSM8K": "openai/gsm8k",
    "HumanEval": "openai/openai_humaneval",
    "SmolTalk": "HuggingFaceTB/smol-smoltalk",
}
USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{name}"
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
model = AutoModelForCausalLM.from_pretrained(folder{trust})
{ask}
```"""
ASK_CHAT = """inputs = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Hello!"}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
answer = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
ASK_BASE = """inputs = tokenizer("The capital of France is", return_tensors="pt")  # begins with <|bos|>
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0], skip_special_tokens=True))"""
OWN_CODE = """The blocks are not among those that transformers knows, so `modeling_nanochat_full.py` comes along, and
`trust_remote_code=True` runs it: read it first. """


def model_card(name: str, meta: CheckpointMeta, found: Provenance) -> str:
    """Return the text of README.md, its YAML head included. `name` is what the folder is called."""
    from huggingface_hub import ModelCardData  # reads its environment then (exporting.py sets it)

    is_chat = meta.stage != "pretrain"
    data = ModelCardData(
        model_name=name,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["nanochat", f"nanochat-{meta.model.arch}", *(["conversational"] if is_chat else [])],
        datasets=[found.text] if found.text and "/" in found.text else None,
        eval_results=[_eval_result(score) for score in found.scores] or None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        _what_it_is(meta, found),
        "## Use",
        USE.format(
            name=name,
            trust=", trust_remote_code=True" if meta.model.arch == "full" else "",
            ask=ASK_CHAT if is_chat else ASK_BASE,
        ),
        (OWN_CODE if meta.model.arch == "full" else "") + _tokens_note(is_chat),
        "## Scores",
        _scores(found),
        "## Where it comes from",
        _origin(meta, found),
        "## Limits",
        "A small model: it says false things with confidence, and nothing has been done to make it harmless. Licences "
        "of the training data apply; the weights' own licence is for their owner to state here.",
    ]
    return "\n\n".join(parts) + "\n"


def _what_it_is(meta: CheckpointMeta, found: Provenance) -> str:
    shape = derive_shape(meta.model)
    parameters = parameter_counts(shape, meta.vocab_size)["total"]
    rows = [
        ("parameters", f"{parameters:,}"),
        ("layers, width", f"{shape.depth}, {shape.n_embd}"),
        ("query heads, key/value heads", f"{shape.n_head}, {shape.n_kv_head}"),
        ("vocabulary", f"{meta.vocab_size:,}"),
        ("context", f"{shape.sequence_len:,} tokens"),
        ("blocks", f"`{shape.arch}`"),
    ]
    made = made_by(meta.stage)
    text = f"This is a {made.what if made else meta.stage}, trained with nanochat"
    return "\n".join(
        [f"{text}{f' on {found.text}' if found.text else ''}.", "", "| | |", "|---|---|"]
        + [f"| {label} | {value} |" for label, value in rows]
    )


def _tokens_note(is_chat: bool) -> str:
    note = "A text begins with `<|bos|>`, which the tokenizer adds and the chat template writes by itself. "
    if is_chat:
        note += (
            "An answer ends with `<|assistant_end|>`. Text that spells a special token stays text. The model writes "
            "sums for its calculator between `<|python_start|>` and `<|python_end|>`; `generate` does not compute "
            "them, nanochat's own server does."
        )
    return note.strip()


def _eval_result(score: Score) -> "EvalResult":
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type="text-generation",
        dataset_type=DATA_SETS.get(score.task, f"nanochat/{score.task}"),
        dataset_name=score.task,
        metric_type=score.metric,
        metric_value=round(score.value, 6),
        metric_args={"stderr": score.stderr, "examples": score.examples} if score.examples else None,
    )


def _scores(found: Provenance) -> str:
    rows = [
        f"| {score.task} | {score.metric} | {score.value:.4f}{f' ± {score.stderr:.4f}' if score.stderr else ''} "
        f"| {f'{score.examples:,}' if score.examples else ''} |"
        for score in found.scores
    ]
    rows += [
        f"| training | {name} | {_number(value)} | |" for name, value in found.metrics.items() if value is not None
    ]
    if not rows:
        return "None are recorded."
    return "\n".join(["| measured on | metric | value | examples |", "|---|---|---|---|", *rows])


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _origin(meta: CheckpointMeta, found: Provenance) -> str:
    lines = [f"- stage `{meta.stage}`, step {meta.step:,}, computed in {meta.precision}"]
    if found.artifact:
        lines += [
            f"- artifact `{found.artifact}`, content `{found.digest}`, made by code {found.git_commit or 'unknown'}"
        ]
        lines += [f"- from {stage}: `{name}`" for stage, name in found.inputs.items()]
    lines += ["- `export_manifest.json` has the hash of every file, and what was checked"]
    return "\n".join(lines)
