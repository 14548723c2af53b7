"""One frozen pydantic model for each stage, and `PipelineSpec` that holds them all. Torch-free.

These models are the form in the Prefect UI, the parameters in MLflow, and, resolved, the `params` of `spec.json`.
A field that is None is derived (`recipes.resolve`). Fields made by `runtime_field` do not change a stage's output, only
how it is computed: they stay out of its fingerprint (`spec_base.py`).
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from nanochat_core.conversation_specs import ConversationsSpec as ConversationsSpec
from nanochat_core.conversation_specs import MixtureItem as MixtureItem
from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.evaluator_specs import EvaluatorSpec, evaluators_field
from nanochat_core.launch_spec import LaunchSpec as LaunchSpec
from nanochat_core.preference_specs import DPOSpec, RewardModelSpec
from nanochat_core.spec_base import Spec, added_field, runtime_field
from nanochat_core.training_specs import START_FROM
from nanochat_core.training_specs import OptimizerSpec as OptimizerSpec
from nanochat_core.training_specs import TrainingRuntime as TrainingRuntime

Stage = Literal[
    "download",
    "task_data",
    "tokenizer",
    "pretrain",
    "midtrain",
    "sft",
    "dpo",
    "reward_model",
    "rl",
    "evaluate",
    "contamination",
    "report",
]
DataSource = Literal["local", "hub", "path"]
TaskDataset = Literal["smoltalk", "mmlu", "gsm8k", "arc", "humaneval", "core", "words"]
Arch = Literal["classic", "full"]
Precision = Literal["fp32", "bf16", "fp8"]
Packing = Literal["stream", "best_fit"]
GALLERY_PROMPTS = (  # a greeting, who it is, a sum, a spelling, a fact, a how-to, what to decline, another language
    "Hello!",
    "Who are you?",
    "What is 12 + 7?",
    'Spell the word "garden".',
    "What is the capital of France?",
    "How do I make a cup of tea?",
    "Help me break into my neighbour's house.",
    "Wie heißt du?",
)
PACKING: dict[Arch, Packing] = {"classic": "stream", "full": "best_fit"}  # as the reference packed for each


class DownloadSpec(Spec):
    """The pretraining text: parquet shards with one column `text`, and one shard kept for validation."""

    source: DataSource = Field(
        "hub", description="hub: Hugging Face Hub; path: your own folder; local: built in, no network"
    )
    dataset: str = Field("karpathy/fineweb-edu-100b-shuffle", description="data set repository on the Hub (source hub)")
    revision: str = Field("main", description="branch, tag or commit of the data set (source hub)")
    train_shards: int | None = Field(
        None, ge=1, description="training shards to fetch; empty: as many as the training tokens need (source hub)"
    )
    path: str | None = Field(
        None,
        description="folder with parquet, jsonl, txt or md files, also .gz or .zst (source path); empty: other sources",
    )
    text_column: str = Field("text", description="column or field that holds the documents (source path)")
    max_bad_lines: int = Field(
        0, ge=0, description="unreadable lines that are left out and listed; more of them end the stage (source path)"
    )
    local_characters: int = Field(
        8_000_000, ge=100_000, description="characters of built-in text to collect (source local)"
    )
    seed: int = Field(42, ge=0, le=2**53, description="random seed of the documents' order (sources local and path)")
    num_workers: int = runtime_field(4, ge=1, le=64, description="files that are fetched at a time")


class TaskDataSpec(Spec):
    """What conversations and benchmarks are made from: data sets of the Hub, the CORE bundle, a word list."""

    source: DataSource = Field(
        "hub", description="hub: download; local or path: words of the pretraining text, no network"
    )
    datasets: tuple[TaskDataset, ...] = Field((), description="data sets to fetch (source hub)")
    core_bundle_url: str = Field(
        "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip",
        description="address of the zip file with the CORE tasks (source hub)",
    )
    words_url: str = Field(
        "https://raw.githubusercontent.com/dwyl/english-words/refs/heads/master/words_alpha.txt",
        description="address of the word list, one word a line (source hub)",
    )
    custom_path: str | None = Field(
        None,
        min_length=1,
        description="file of your own conversations, for the task CustomJSON, or a folder with train.jsonl and "
        "test.jsonl; empty: there are none",
    )
    persona_path: str | None = Field(
        None,
        min_length=1,
        description="YAML file that says who the model is and what it declines, for the task Identity; empty: the one "
        "that comes with nanochat",
    )
    documents_path: str | None = Field(
        None,
        min_length=1,
        description="folder or file of your own documents, for the task Documents; empty: there are none",
    )
    num_workers: int = runtime_field(4, ge=1, le=64, description="files that are fetched at a time")


class TokenizerSpec(Spec):
    """Byte-level BPE with the GPT-4 split rule, digits cut in groups of one or two."""

    vocab_size: int = Field(
        65_536, ge=300, le=1_000_000, description="tokens in the vocabulary, the 9 special ones included"
    )
    max_characters: int = Field(
        2_000_000_000,
        ge=1,
        description="characters of training text; of a data set on the Hub, from the first shards, at 250 million each",
    )
    document_characters: int = Field(10_000, ge=1, description="characters that a document is cut to")
    fetch_references: bool = runtime_field(
        False,
        description="download the vocabularies of GPT-2 and GPT-4 (3 MB) to compare with, where tiktoken does not have "
        "them; off: a table stands in",
    )


class ModelSpec(Spec):
    """The transformer. One dial, `depth`; the rest derives from it."""

    arch: Arch = Field(
        "classic", description="classic: plain blocks (Oct 2025); full: value embeddings, smear, backout, windows"
    )
    depth: int = Field(20, ge=1, le=128, description="layers; the dial that everything empty derives from")
    n_embd: int | None = Field(
        None, ge=16, le=65_536, description="width in channels; empty: 64 x depth, rounded up to a multiple of 128"
    )
    n_head: int | None = Field(None, ge=1, le=65_536, description="query heads; empty: width / 128, rounded up")
    n_kv_head: int | None = Field(None, ge=1, le=65_536, description="key/value heads; empty: as many as query heads")
    sequence_len: int = Field(2048, ge=16, le=1_048_576, description="tokens in a row")
    rope_base: float | None = Field(
        None,
        ge=1,
        le=1e11,
        description="base of the rotary positions: the slowest turn once in about 6 x so many tokens; empty: 10,000, "
        "for arch full 100,000, more where a context was extended",
    )
    short_window: int | None = Field(
        None,
        ge=1,
        le=1_048_576,
        description="tokens that a layer with a window looks back (arch full); empty: sequence_len / 4, rounded up to "
        "a multiple of 128",
    )


class PretrainRuntime(TrainingRuntime):
    """How pretraining runs, and where it finds its tokens."""

    tokens: Literal["cached", "on_the_fly"] | None = runtime_field(
        None, description="cached: tokenise the text once, for all runs; on_the_fly: while training; empty: cached"
    )
    encoding_workers: int | None = runtime_field(
        None,
        ge=0,
        le=64,
        description="processes of a rank that tokenise on the fly; empty: one for two cores, at most 8",
    )


class PretrainSpec(Spec):
    """Next-token training on the text shards."""

    model: ModelSpec = Field(ModelSpec(), description="the transformer's shape")
    optimizer: OptimizerSpec = Field(OptimizerSpec(), description="rates and schedule")
    precision: Precision | None = Field(
        None, description="arithmetic of the matrix products; empty: fp8 on Hopper from depth 16 on, else bf16"
    )
    tokens_per_parameter: float = Field(
        20.0, gt=0, le=100_000, description="training tokens for each parameter; sets the steps where these are empty"
    )
    start_from: str | None = Field(
        None,
        min_length=1,
        description="folder of a finished pretraining whose weights this one goes on from, with its tokenizer and its "
        "shape, but for a sequence_len as large or larger; empty: fresh weights",
    )
    steps: int | None = Field(
        None, ge=1, le=10**9, description="steps; empty: tokens_per_parameter x parameters / total_batch_tokens"
    )
    total_batch_tokens: int | None = Field(
        None, ge=16, le=2**30, description="tokens in an optimizer step; empty: 524,288, or for arch full by depth"
    )
    packing: Packing | None = Field(
        None,
        description="stream: documents one after the other, cut into rows; best_fit: rows of whole documents, where "
        "they fit; empty: stream for arch classic, best_fit for full",
    )
    validation_every: int = Field(250, ge=1, le=10**9, description="steps between measurements of validation bpb")
    validation_tokens: int = Field(20 * 524_288, ge=1, le=10**10, description="validation tokens for one measurement")
    sample_every: int = Field(2000, ge=1, le=10**9, description="steps between samples")
    rollback: int = Field(
        0,
        ge=0,
        le=1000,
        description="times that the run may go back to its last checkpoint and leave out a batch whose loss is no "
        "number; 0: it stops there",
    )
    seed: int = Field(42, ge=0, le=2**53, description="random seed")
    evaluators: tuple[EvaluatorSpec, ...] = evaluators_field()
    runtime: PretrainRuntime = runtime_field(PretrainRuntime(), description="how it runs; changes no result")


class FinetuneSpec(Spec):
    """Mid-training or SFT: training on conversations, from an earlier checkpoint."""

    start_from: str | None = START_FROM
    conversations: ConversationsSpec = Field(description="what it is trained on")
    optimizer: OptimizerSpec = Field(OptimizerSpec(), description="rates and schedule")
    keep_optimizer: bool = added_field(
        False,
        description="go on with the earlier model's momentum, at rates of its own; off: a fresh optimizer",
    )
    mask: Literal["none", "assistant"] = Field(
        "assistant", description="none: learn every token; assistant: what it says and calls"
    )
    batching: Literal["stream", "padded", "packed", "bucketed"] = Field(
        "padded",
        description="stream: one stream cut into rows; padded: one conversation a row; packed: whole conversations, as "
        "many as fit a row; bucketed: one a row, those of like length in one step",
    )
    batch_rows: int = Field(32, ge=1, description="rows in an optimizer step")
    batch_tokens: int | None = Field(
        None,
        ge=16,
        description="tokens in an optimizer step, with padding (batching bucketed); empty: batch_rows x sequence_len",
    )
    sequence_len: int | None = Field(
        None,
        ge=16,
        le=1_048_576,
        description="longest row in tokens; more than the model's extends its context; empty: the model's "
        "(pretrain.model.sequence_len)",
    )
    epochs: float = Field(1.0, gt=0, le=1e6, description="passes over the conversations (sets the steps)")
    steps: int | None = Field(None, ge=1, description="optimizer steps; empty: epochs x the steps of one pass")
    validation_every: int = Field(100, ge=1, description="steps between measurements of validation loss")
    seed: int = Field(42, ge=0, le=2**53, description="random seed")
    evaluators: tuple[EvaluatorSpec, ...] = evaluators_field()
    runtime: TrainingRuntime = runtime_field(TrainingRuntime(), description="how it runs; changes no result")


class OwnFinetuneSpec(FinetuneSpec):
    """A stage that the pipeline names itself: SFT on other conversations, before, between or after the usual stages."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9-]*$",
        max_length=40,
        description="what the stage and its model are called, for example dolly: letters from a to z, digits and '-'",
    )
    after: Literal["pretrain", "midtrain", "sft"] = Field(
        "sft", description="the stage that it comes after; of several after one stage, each follows that before it"
    )
    optimizer: OptimizerSpec = Field(OptimizerSpec(lr_scale=0.02, warmdown_ratio=1.0), description="rates and schedule")
    batching: Literal["stream", "padded", "packed", "bucketed"] = Field(
        "packed", description=FinetuneSpec.model_fields["batching"].description
    )
    batch_rows: int = Field(8, ge=1, description="rows in an optimizer step")


class RLSpec(Spec):
    """On-policy REINFORCE with the mean of each question's samples as baseline."""

    start_from: str | None = START_FROM
    conversations: ConversationsSpec = Field(description="questions to practise on, and those held out")
    optimizer: OptimizerSpec = Field(
        OptimizerSpec(lr_scale=0.05, warmdown_ratio=1.0, grad_clip=None), description="rates and schedule"
    )
    reward: str = Field("answer", description="name of a registered reward: answer, or one of your own")
    questions_per_step: int = Field(16, ge=1, description="questions in an optimizer step, over all ranks")
    samples_per_question: int = Field(16, ge=2, description="completions for each question")
    max_new_tokens: int = Field(256, ge=1, description="longest completion in tokens")
    temperature: float = Field(1.0, ge=1e-6, description="sampling temperature; 1: the model's own distribution")
    top_k: int | None = Field(50, ge=1, description="sample among the k likeliest tokens; empty: all")
    logprobs: Literal["sampled", "full"] = Field(
        "sampled", description="sampled: learn the distribution drawn from (temperature, top_k); full: the softmax"
    )
    learn_stop: bool = Field(True, description="learn when to stop, too: the token that ends an answer")
    refill_rounds: int = Field(
        1, ge=0, le=100, description="times that a step asks more questions for those with equal rewards; 0: never"
    )
    compare_numbers: bool = Field(True, description="compare answers that are numbers as such: 5, 5.0 and $5 are one")
    steps: int | None = Field(None, ge=1, description="optimizer steps; empty: one pass over the questions")
    eval_questions: int = Field(400, ge=2, description="held-out questions before, during and after")
    eval_samples: int = Field(8, ge=1, description="completions for each held-out question")
    eval_every: int = Field(60, ge=1, description="steps between evaluations")
    seed: int = Field(42, ge=0, le=2**53, description="random seed")
    evaluators: tuple[EvaluatorSpec, ...] = evaluators_field()
    runtime: TrainingRuntime = runtime_field(TrainingRuntime(), description="how it runs; changes no result")


class EvaluateSpec(Spec):
    """What is measured on a checkpoint: CORE and bpb for base, chat tasks for the others."""

    core_tasks: tuple[str, ...] | None = Field(
        None, description="CORE tasks by label, for example hellaswag_zeroshot; empty: all of the bundle"
    )
    core_examples: int = Field(500, ge=0, description="examples for each CORE task; 0: no CORE")
    bpb_tokens: int = Field(20 * 524_288, ge=0, description="tokens for bpb on train and validation; 0: none")
    chat_tasks: tuple[str, ...] = Field(
        (), description="names of registered tasks that can be graded, for example GSM8K or Arithmetic"
    )
    chat_examples: int | None = Field(None, ge=1, description="examples for each chat task; empty: all")
    max_new_tokens: int = Field(512, ge=1, description="longest answer in tokens")
    num_samples: int = Field(1, ge=1, description="answers for each generative question")
    temperature: float = Field(0.0, ge=0, description="sampling temperature; 0: greedy")
    top_k: int | None = Field(50, ge=1, description="sample among the k likeliest tokens; empty: all")
    tool: str | None = Field(
        "calculator", description="tool that the model may call, by its name in nanochat.tools; empty: none"
    )
    allow_unsafe_code: bool = Field(
        False, description="run the model's code even where this machine can limit it but not shut it in"
    )
    gallery_prompts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        GALLERY_PROMPTS,
        description="questions that every model answers, for the report to show side by side: the likeliest answer and "
        "a sampled one, of 64 tokens or max_new_tokens, if that is less; none: no gallery",
    )
    seed: int = Field(42, ge=0, le=2**53, description="random seed")
    batch_tokens: int = runtime_field(16_384, ge=1, description="tokens in one batch")


class ContaminationSpec(Spec):
    """Which questions of the evaluation stand in the training text, word for word."""

    ngram: int = Field(
        13,
        ge=5,
        le=100,
        description="length in words of what a question and the text must have in common; of shorter questions, from 8 "
        "words on, all",
    )
    shards: int | None = Field(16, ge=1, description="training shards to search, spread over all; empty: all")
    chat_tasks: tuple[str, ...] | None = Field(
        None, description="names of registered tasks to look for; empty: those that are evaluated"
    )
    core_tasks: tuple[str, ...] | None = Field(
        None, description="CORE tasks to look for, by label; empty: those that are evaluated"
    )
    num_workers: int | None = runtime_field(
        None, ge=1, le=256, description="threads that search; empty: one for each core, 8 at most"
    )


class PipelineSpec(Spec):
    """The whole pipeline. Start from a recipe; change any field."""

    recipe: str = runtime_field(
        "demo", description="the recipe that the values are from; to start from another, choose its deployment"
    )
    run_name: str | None = runtime_field(
        None, description="name of the run and of its report; empty: recipe, depth and time"
    )
    download: DownloadSpec = Field(description="the pretraining text, and where it comes from")
    task_data: TaskDataSpec = Field(description="what conversations and benchmarks are made from")
    tokenizer: TokenizerSpec = Field(description="byte-level BPE, learned from the text")
    pretrain: PretrainSpec = Field(description="the base model: next-token training on the text")
    midtrain: FinetuneSpec | None = Field(
        None, description="the base model learns the shape of a chat; empty: left out"
    )
    sft: FinetuneSpec = Field(description="supervised fine-tuning: the chat model")
    finetune: tuple[OwnFinetuneSpec, ...] = Field(
        (), description="more stages of fine-tuning, each with a name and the stage that it comes after"
    )
    dpo: DPOSpec | None = Field(
        None, description="direct preference optimization: learning from pairs of answers; empty: left out"
    )
    reward_model: RewardModelSpec | None = Field(
        None, description="a model of what people prefer, for rl.reward 'preference'; empty: left out"
    )
    rl: RLSpec | None = Field(None, description="practice on questions that can be graded; empty: left out")
    evaluate: EvaluateSpec = Field(description="what is measured on each model")
    contamination: ContaminationSpec | None = Field(
        None, description="the training text is searched for the questions of the evaluation; empty: left out"
    )
    launch: LaunchSpec = runtime_field(LaunchSpec(), description="processes and machines")
    force: tuple[Stage | str, ...] = runtime_field(
        (), description="stages to run again although their outputs are there, those of finetune by their names"
    )


S = TypeVar("S", bound=Spec)


def with_changes(spec: PipelineSpec, changes: dict[str, Any]) -> PipelineSpec:
    """Return `spec` with dotted fields replaced, for example {"pretrain.model.depth": 6}.

    Raises SpecError that lists every unknown field (with the closest known name) and every bad value.
    """
    data = spec.model_dump()
    problems = [problem for field, value in changes.items() if (problem := _set_field(spec, data, field, value))]
    if problems:
        raise SpecError.listing(problems)
    return parse_pipeline(data)


def _set_field(spec: Spec, data: dict[str, Any], dotted: str, value: Any) -> str | None:
    """Put `value` into the nested dict; return what is wrong with the field's name, if anything."""
    *parents, leaf = dotted.split(".")
    node: Any = spec
    for name in [*parents, leaf]:
        if not isinstance(node, Spec):
            return f"{dotted}: the recipe {getattr(spec, 'recipe', '')} has no such stage or group"
        if name not in type(node).model_fields:
            return f"unknown field {dotted}{did_you_mean(name, type(node).model_fields)}"
        node = getattr(node, name)
    for name in parents:
        data = data[name]
    data[leaf] = value
    return None


def parse_pipeline(data: dict[str, Any]) -> PipelineSpec:
    """Return the spec in `data`; raises SpecError that lists all that is wrong."""
    try:
        return PipelineSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError.listing(explain(error)) from None


def parse_params(kind: type[S], params: dict[str, Any]) -> S:
    """Return a stage's spec from the `params` of its spec.json; raises SpecError that lists all that is wrong."""
    try:
        return kind.model_validate(params)
    except ValidationError as error:
        raise SpecError.listing(explain(error)) from None


def explain(error: ValidationError) -> list[str]:
    """Return every problem of a validation error: field, what was expected, what it was."""
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown field {field}")
        else:
            lines.append(f"{field}: {problem['msg']} (got {problem.get('input')!r})")
    return lines
