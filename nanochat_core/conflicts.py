"""What cannot work in a pipeline, found before anything starts: each problem as "field: what it is, what is expected".

`conflicts` looks at the values alone, `obstacles` at this machine as well: a recipe for eight GPUs can be planned on a
laptop. What only the data can tell (does the text support the vocabulary?) stays with the stages. Torch-free.
"""

import math
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from nanochat_core.data.lanes import MAX_LANES
from nanochat_core.errors import did_you_mean
from nanochat_core.evaluator_specs import EvaluatorSpec
from nanochat_core.finetune_conflicts import (
    conversations_of,
    forced_stages,
    is_there,
    missing_files,
    mixture_items,
    own_stages,
)
from nanochat_core.model.accounting import SMEAR_CHANNELS
from nanochat_core.model_chain import trainings
from nanochat_core.preference_specs import PairTrainingSpec, RewardModelSpec, SampledPairsSpec
from nanochat_core.specs import (
    ConversationsSpec,
    EvaluateSpec,
    FinetuneSpec,
    LaunchSpec,
    OptimizerSpec,
    PipelineSpec,
    RLSpec,
    TaskDataSpec,
)
from nanochat_core.task_table import (
    CHEAP_TASKS,
    CORE_LABELS,
    OWN_DATASETS,
    TASK_DATASETS,
    UNGRADED,
    UNTRAINABLE,
    WITH_PERSONA,
)

CONTEXT_MARGIN = 4  # as in inference/engine.py: how far beyond sequence_len a model answers
ORDERED_BATCHING = ("stream", "padded")  # those that take conversations one by one
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def conflicts(spec: PipelineSpec) -> list[str]:
    """Return every combination of values of a resolved spec that cannot work on any machine."""
    ranks = None if spec.launch.nproc_per_node is None else spec.launch.nproc_per_node * spec.launch.nnodes
    return [
        *_names(spec),
        *_shape(spec),
        *_text(spec),
        *_batches(spec, ranks),
        *_chat_parts(spec),
        *_preferences(spec),
        *_evaluation(spec.evaluate, spec),
        *_contamination(spec),
        *_evaluators(spec),
        *spec.launch.conflicts(),
        *_arithmetic(spec),
    ]


def obstacles(spec: PipelineSpec, *, gpus: int) -> list[str]:
    """Return why a resolved spec cannot run on this machine, which has so many CUDA devices."""
    launch = spec.launch
    ranks = (gpus if launch.device in (None, "cuda") else 0) or 1
    return [
        *_unknown_tasks(spec),
        *_missing_path(spec),
        *missing_files(spec),
        *_missing_preferences(spec),
        *_devices(launch, gpus),
        *_shard_workers(launch),
        *(_batches(spec, ranks * launch.nnodes) if launch.nproc_per_node is None else []),
    ]


def of_evaluation(spec: PipelineSpec, measures: Collection[str], *, gpus: int, knows_context: bool = True) -> list[str]:
    """Return why one model cannot be asked this, with the spec's task data, model shape, `evaluate` and `launch`.

    `measures`: core, bpb, samples, chat. `knows_context`: the shape is the model's; that of a remote one is unknown.
    """
    part, data = spec.evaluate, spec.task_data
    problems = list(_gallery(part))
    if "core" in measures:
        problems += _core(part, data)
    if "chat" in measures:
        problems += [*_chat_tasks(part, data), *_unknown("evaluate.chat_tasks", part.chat_tasks), *_tool(part)]
        if knows_context:
            problems += _answers("evaluate.max_new_tokens", part.max_new_tokens, spec.pretrain.model.sequence_len)
    return [*problems, *spec.launch.conflicts(), *_devices(spec.launch, gpus)]


def tasks_with_data(data: TaskDataSpec) -> tuple[str, ...]:
    """Return the tasks of ours that can be graded and have their data; without the Hub, all that needs none as well."""
    names = sorted(set(entry_points(group="nanochat.tasks").names) - set(UNGRADED))
    if data.source == "hub":
        return tuple(name for name in names if TASK_DATASETS.get(name) in data.datasets or name in WITH_PERSONA)
    return tuple(name for name in names if TASK_DATASETS.get(name, "words") == "words")


def _names(spec: PipelineSpec) -> Iterator[str]:
    if spec.run_name is not None and (spec.run_name == "latest" or not RUN_NAME.fullmatch(spec.run_name)):
        yield (
            f"run_name: {spec.run_name!r} cannot name a folder; use letters, digits, '.', '_' and '-', "
            "and a name other than 'latest'"
        )
    yield from own_stages(spec)
    yield from forced_stages(spec)


def _shape(spec: PipelineSpec) -> Iterator[str]:
    model = spec.pretrain.model
    if model.arch == "full" and model.n_embd < SMEAR_CHANNELS:
        yield (
            f"pretrain.model.n_embd: width {model.n_embd}; arch 'full' reads {SMEAR_CHANNELS} channels of each token, "
            "expected as many or more"
        )
    if model.n_embd % model.n_head:
        yield f"pretrain.model.n_head: width {model.n_embd} is not divisible by {model.n_head} heads"
    elif (model.n_embd // model.n_head) % 2:
        yield f"pretrain.model.n_head: the head size {model.n_embd // model.n_head} must be even"
    if model.short_window and model.arch == "classic":
        yield "pretrain.model.short_window: every layer of arch 'classic' sees the whole row; leave this empty"
    if model.n_head % model.n_kv_head:
        yield f"pretrain.model.n_kv_head: {model.n_head} heads cannot share {model.n_kv_head} key/value heads"


def _text(spec: PipelineSpec) -> Iterator[str]:
    download, tokenizer, sequence_len = spec.download, spec.tokenizer, spec.pretrain.model.sequence_len
    if download.source == "path" and not download.path:
        yield "download.path: the source 'path' needs a folder"
    if download.source != "path" and download.path:
        yield f"download.path: the source is {download.source!r}; set download.source to 'path', or leave this empty"
    characters = min(
        tokenizer.max_characters, download.local_characters if download.source == "local" else tokenizer.max_characters
    )
    if tokenizer.vocab_size > characters:
        yield (
            f"tokenizer.vocab_size: {tokenizer.vocab_size:,} tokens cannot be learned from {characters:,} characters; "
            "ask for fewer, or for more text"
        )
    for name, tokens in (
        ("pretrain.validation_tokens", spec.pretrain.validation_tokens),
        ("evaluate.bpb_tokens", spec.evaluate.bpb_tokens or sequence_len),
    ):
        if tokens < sequence_len:
            yield f"{name}: {tokens} tokens are less than one row; expected {sequence_len} (sequence_len) or more"


def _batches(spec: PipelineSpec, ranks: int | None) -> Iterator[str]:
    """Each step must come out in whole rows, and some for each rank (where the number of ranks is known)."""
    sequence_len, total = spec.pretrain.model.sequence_len, spec.pretrain.total_batch_tokens
    if total % sequence_len:
        if ranks is None or spec.launch.nproc_per_node is not None:  # once is enough
            yield f"pretrain.total_batch_tokens: {total} is no multiple of sequence_len {sequence_len}"
    elif ranks and (lanes := math.gcd(total // sequence_len, MAX_LANES)) < ranks:
        yield (
            f"pretrain.total_batch_tokens: its {total // sequence_len} rows of {sequence_len} tokens go to {lanes} "
            f"lanes, fewer than {ranks} ranks; choose fewer ranks (launch.nproc_per_node), or more rows, best a "
            f"multiple of {MAX_LANES}"
        )
    shared = {f"{name}.batch_rows": part.batch_rows for name, part in _finetunings(spec).items()}
    shared |= {"rl.questions_per_step": spec.rl.questions_per_step} if spec.rl else {}
    for name, rows in shared.items():
        if ranks and rows % ranks:
            yield f"{name}: {rows} cannot be shared evenly by {ranks} ranks; choose a multiple of {ranks}"


def _chat_parts(spec: PipelineSpec) -> Iterator[str]:
    for name, part in trainings(spec).items():
        yield from _schedule(name, part.optimizer, part.steps)
    for name, conversations in conversations_of(spec).items():
        yield from _mixture(name, conversations, spec.task_data)
    model_len = spec.pretrain.model.sequence_len
    for name, finetune in _finetunings(spec).items():
        yield from _finetune(name, finetune, model_len)
        model_len = max(model_len, finetune.sequence_len or 0)  # from here on
    if spec.rl is not None:
        yield from _rl(spec.rl, model_len)


def _finetunings(spec: PipelineSpec) -> dict[str, FinetuneSpec]:
    return {name: part for name, part in trainings(spec).items() if isinstance(part, FinetuneSpec)}


def _schedule(name: str, optimizer: OptimizerSpec, steps: int | None) -> Iterator[str]:
    falling = round(optimizer.warmdown_ratio * steps) if steps else 0
    if steps and optimizer.warmup_steps + falling > steps:
        yield (
            f"{name}.optimizer.warmup_steps: the rate rises for {optimizer.warmup_steps} steps and falls for {falling} "
            f"(warmdown_ratio); the stage has {steps}"
        )


def _mixture(name: str, conversations: ConversationsSpec, data: TaskDataSpec) -> Iterator[str]:
    yield from mixture_items(name, conversations)
    tasks = [item.task for item in conversations.mixture if item.task]
    for task in sorted(set(tasks) & set(UNTRAINABLE)):
        yield f"{name}.mixture: {task} has no training split; take it out"
    if conversations.weighted_rows and not any(item.weight for item in conversations.mixture):
        yield f"{name}.weighted_rows: no task of the mixture has a weight; give it one, or leave this empty"
    yield from _missing_data(f"{name}.mixture", tasks, data)
    yield from _missing_data(f"{name}.curation.match_lengths", conversations.curation.match_lengths, data)


def _missing_data(name: str, tasks: Iterable[str], data: TaskDataSpec) -> Iterator[str]:
    """Say which tasks have no data: without the Hub there is a word list and nothing else."""
    own = [name for name, (field, _) in OWN_DATASETS.items() if getattr(data, field)]
    there = (*(data.datasets if data.source == "hub" else ("words",)), *own)
    for task in dict.fromkeys(tasks):
        needed = TASK_DATASETS.get(task)
        if needed and needed not in there:
            remedy = (
                f"add {needed!r} to task_data.datasets" if data.source == "hub" else "set task_data.source to 'hub'"
            )
            if needed in OWN_DATASETS:
                remedy = "set task_data.{} to your {}".format(*OWN_DATASETS[needed])
            yield f"{name}: {task} needs the data set {needed!r}; {remedy}, or take the task out"


def _finetune(name: str, part: FinetuneSpec, model_len: int) -> Iterator[str]:
    conversations, longest = part.conversations, CONTEXT_MARGIN * model_len
    if part.sequence_len and part.sequence_len > longest:
        yield (
            f"{name}.sequence_len: {part.sequence_len} tokens; the model is trained on {model_len} and answers up to "
            f"{longest} ({CONTEXT_MARGIN} x as many): expected no more"
        )
    if part.batch_tokens and part.batching != "bucketed":
        yield f"{name}.batch_tokens: the batching is {part.batching!r}; set it to 'bucketed', or leave this empty"
    elif part.batch_tokens and part.batch_tokens < (row := part.sequence_len or model_len):
        yield f"{name}.batch_tokens: {part.batch_tokens} are less than one row; expected {row} (sequence_len) or more"
    if conversations.order == "sequence" and part.batching not in ORDERED_BATCHING:
        yield (
            f"{name}.conversations.order: batching {part.batching!r} puts conversations side by side by their length; "
            f"for a sequence use {' or '.join(ORDERED_BATCHING)}"
        )
    if part.batching == "padded":
        rows = _most_rows(conversations)
        if rows < part.batch_rows:
            yield f"{name}.batch_rows: the mixture has {rows} rows, less than one step of {part.batch_rows}"
        if conversations.validation_rows < part.batch_rows:
            yield (
                f"{name}.conversations.validation_rows: {conversations.validation_rows} rows are less than one batch; "
                f"expected {part.batch_rows} ({name}.batch_rows) or more"
            )


def _most_rows(conversations: ConversationsSpec) -> int:
    """Return how many rows a mixture has at most, as far as it says so itself."""
    fixed = sum((item.rows or 10**12) * item.epochs for item in conversations.mixture if not item.weight)
    return fixed + (conversations.weighted_rows or 10**12) * any(item.weight for item in conversations.mixture)


def _rl(part: RLSpec, model_len: int) -> Iterator[str]:
    held_out = part.conversations.validation_rows
    if part.eval_questions > held_out:
        yield (
            f"rl.eval_questions: {part.eval_questions} questions; only {held_out} are held out "
            "(rl.conversations.validation_rows)"
        )
    yield from _sampling("rl", part, model_len)


def _sampling(name: str, part: RLSpec | SampledPairsSpec, model_len: int) -> Iterator[str]:
    items = part.conversations.mixture
    if ungraded := {str(item.path or item.task) for item in items if item.path or item.task in UNGRADED}:
        yield f"{name}.conversations.mixture: {', '.join(sorted(ungraded))} cannot be graded; take it out"
    yield from _answers(f"{name}.max_new_tokens", part.max_new_tokens, model_len)


def _preferences(spec: PipelineSpec) -> Iterator[str]:
    finetunes = _finetunings(spec).values()
    model_len = max(spec.pretrain.model.sequence_len, *(part.sequence_len or 0 for part in finetunes))
    for name, part in _pair_parts(spec):
        if (part.sequence_len or 0) > (longest := CONTEXT_MARGIN * model_len):
            yield f"{name}.sequence_len: {part.sequence_len} tokens; the model answers in {longest} at most"
        path, sampled = part.preferences.path, part.preferences.sampled
        if (path is None) == (sampled is None):
            found = "neither path nor sampled is" if sampled is None else "path and sampled are both"
            yield f"{name}.preferences: {found} given; name a file of pairs (path), or have them made (sampled)"
        if sampled is not None:
            yield from _sampled_pairs(f"{name}.preferences.sampled", sampled, model_len)
    if spec.rl is not None and spec.rl.reward == "preference" and spec.reward_model is None:
        yield "rl.reward: 'preference' is what a reward model says; fill reward_model in, or choose another reward"


def _sampled_pairs(name: str, part: SampledPairsSpec, model_len: int) -> Iterator[str]:
    yield from _sampling(name, part, model_len)
    if part.pairs_per_question > part.samples_per_question:
        yield (
            f"{name}.pairs_per_question: {part.pairs_per_question} pairs of {part.samples_per_question} answers; "
            "expected no more (samples_per_question)"
        )
    if part.reward == "preference":
        yield f"{name}.reward: a reward model learns from pairs, it cannot make them; use answer, or one of your own"


def _pair_parts(spec: PipelineSpec) -> list[tuple[str, PairTrainingSpec]]:
    parts: dict[str, PairTrainingSpec | None] = {"dpo": spec.dpo, "reward_model": spec.reward_model}
    return [(name, part) for name, part in parts.items() if part is not None]


def _answers(name: str, tokens: int, model_len: int) -> Iterator[str]:
    if tokens >= CONTEXT_MARGIN * model_len:
        yield (
            f"{name}: {tokens} tokens leave no room for a question; the model holds {CONTEXT_MARGIN * model_len} "
            f"({CONTEXT_MARGIN} x the sequence_len that it is trained on)"
        )


def _evaluators(spec: PipelineSpec) -> Iterator[str]:
    """Say what the evaluators of the training stages cannot measure; what users registered is for themselves to say."""
    for field, evaluators in _evaluators_of(spec).items():
        names = [evaluator.name for evaluator in evaluators]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield f"{field}: {', '.join(twice)} is there more than once; their curves have one name"
        for evaluator in evaluators:
            if evaluator.name == "core":
                yield from _core_bundle(field, evaluator.tasks or (), spec.task_data)
            if evaluator.name == "chatcore":
                tasks = evaluator.tasks or CHEAP_TASKS
                if ungraded := sorted(set(tasks) & set(UNGRADED)):
                    yield f"{field}: chatcore cannot grade {', '.join(ungraded)}; take it out"
                yield from _missing_data(f"{field}: chatcore", tasks, spec.task_data)
                yield from _answers(
                    f"{field}: max_new_tokens", evaluator.max_new_tokens, spec.pretrain.model.sequence_len
                )


def _evaluators_of(spec: PipelineSpec) -> dict[str, tuple[EvaluatorSpec, ...]]:
    """Return {field: evaluators} of each training stage of the pipeline."""
    parts = trainings(spec).items()
    return {f"{name}.evaluators": part.evaluators for name, part in parts if not isinstance(part, RewardModelSpec)}


def _evaluation(part: EvaluateSpec, spec: PipelineSpec) -> Iterator[str]:
    yield from _gallery(part)
    yield from _chat_tasks(part, spec.task_data)
    yield from _answers("evaluate.max_new_tokens", part.max_new_tokens, spec.pretrain.model.sequence_len)
    yield from _core(part, spec.task_data)


def _chat_tasks(part: EvaluateSpec, data: TaskDataSpec) -> Iterator[str]:
    tasks = part.chat_tasks
    if not tasks:
        yield "evaluate.chat_tasks: there is none; name at least one task"
    if twice := sorted({task for task in tasks if tasks.count(task) > 1}):
        yield f"evaluate.chat_tasks: {', '.join(twice)} is there more than once"
    if ungraded := sorted(set(tasks) & set(UNGRADED)):
        yield f"evaluate.chat_tasks: {', '.join(ungraded)} cannot be graded; take it out"
    yield from _missing_data("evaluate.chat_tasks", tasks, data)
    if part.num_samples > 1 and not part.temperature:
        yield f"evaluate.num_samples: {part.num_samples} answers at temperature 0 are all the same; raise temperature"


def _gallery(part: EvaluateSpec) -> Iterator[str]:
    prompts = part.gallery_prompts
    if twice := sorted({prompt for prompt in prompts if prompts.count(prompt) > 1}):
        yield f"evaluate.gallery_prompts: {', '.join(map(repr, twice))} is there more than once; ask it once"


def _tool(part: EvaluateSpec) -> Iterator[str]:
    known = entry_points(group="nanochat.tools").names
    if part.tool is not None and part.tool not in known:
        yield f"evaluate.tool: unknown tool {part.tool!r}{did_you_mean(part.tool, known)}"


def _core(part: EvaluateSpec, data: TaskDataSpec) -> Iterator[str]:
    if not part.core_tasks:
        return
    if not part.core_examples:
        yield "evaluate.core_tasks: core_examples is 0, so none of them is measured; raise it, or leave this empty"
    yield from _core_bundle("evaluate.core_tasks", part.core_tasks, data)


def _core_bundle(field: str, tasks: Iterable[str], data: TaskDataSpec) -> Iterator[str]:
    """Say what is missing for these CORE tasks (none named: for all)."""
    if data.source != "hub" or "core" not in data.datasets:
        yield f"{field}: the CORE bundle is not fetched; add 'core' to task_data.datasets (source hub)"
    if data.core_bundle_url == TaskDataSpec.model_fields["core_bundle_url"].default:
        labels = CORE_LABELS.split()
        for label in tasks:
            if label not in labels:
                yield f"{field}: the CORE bundle has no task {label!r}{did_you_mean(label, labels)}"


def _contamination(spec: PipelineSpec) -> Iterator[str]:
    part = spec.contamination
    if part is None:
        return
    yield from _missing_data("contamination.chat_tasks", part.chat_tasks or (), spec.task_data)
    if part.core_tasks:
        yield from _core_bundle("contamination.core_tasks", part.core_tasks, spec.task_data)


def _arithmetic(spec: PipelineSpec) -> Iterator[str]:
    if spec.pretrain.precision == "fp8" and spec.launch.device in ("cpu", "mps"):
        yield f"pretrain.precision: 'fp8' needs a CUDA device, launch.device is {spec.launch.device!r}; use 'bf16'"


def _unknown_tasks(spec: PipelineSpec) -> Iterator[str]:
    """Say which names no installed package has registered (their code is not loaded)."""
    named = {"evaluate.chat_tasks": list(spec.evaluate.chat_tasks)}
    for name, conversations in conversations_of(spec).items():
        named[f"{name}.mixture"] = [item.task for item in conversations.mixture if item.task]
        named[f"{name}.curation.match_lengths"] = list(conversations.curation.match_lengths)
    if spec.contamination is not None:
        named["contamination.chat_tasks"] = list(spec.contamination.chat_tasks or ())
    for field, tasks in named.items():
        yield from _unknown(field, tasks)
    yield from _tool(spec.evaluate)
    for field, evaluators in _evaluators_of(spec).items():
        known = entry_points(group="nanochat.evaluators").names
        for evaluator in evaluators:
            if evaluator.name not in known:
                yield f"{field}: unknown evaluator {evaluator.name!r}{did_you_mean(evaluator.name, known)}"
            if evaluator.name == "chatcore":
                yield from _unknown(f"{field}: chatcore", evaluator.tasks or ())
    rewards = entry_points(group="nanochat.rewards").names
    graded: dict[str, RLSpec | SampledPairsSpec | None] = {"rl": spec.rl}
    graded |= {f"{name}.preferences.sampled": part.preferences.sampled for name, part in _pair_parts(spec)}
    for name, part in graded.items():
        if part is not None and part.reward not in rewards:
            yield f"{name}.reward: unknown reward {part.reward!r}{did_you_mean(part.reward, rewards)}"


def _unknown(field: str, tasks: Iterable[str]) -> Iterator[str]:
    known = entry_points(group="nanochat.tasks").names
    for task in dict.fromkeys(tasks):
        if task not in known:
            yield f"{field}: unknown task {task!r}{did_you_mean(task, known)}"


def _missing_path(spec: PipelineSpec) -> Iterator[str]:
    path = spec.download.path
    if spec.download.source == "path" and path and not (is_there(path) and Path(path).expanduser().is_dir()):
        yield f"download.path: there is no folder {path!r} on this machine"
    for field, _ in OWN_DATASETS.values():
        if (own := getattr(spec.task_data, field)) and not is_there(own):
            yield f"task_data.{field}: there is no {own!r} on this machine"


def _missing_preferences(spec: PipelineSpec) -> Iterator[str]:
    for name, part in _pair_parts(spec):
        if (path := part.preferences.path) is not None and not is_there(path):
            yield f"{name}.preferences.path: there is no {path!r} on this machine"


def _shard_workers(launch: LaunchSpec) -> Iterator[str]:
    if launch.shard_tasks == "dask" and find_spec("prefect_dask") is None:
        yield "launch.shard_tasks: 'dask' needs an extra; pip install 'nanochat[dask]', or use 'threads'"


def _devices(launch: LaunchSpec, gpus: int) -> Iterator[str]:
    if launch.device == "cuda" and not gpus:
        yield "launch.device: no CUDA device is visible on this machine; leave it empty for the best that is there"
    if launch.device == "mps" and sys.platform != "darwin":
        yield "launch.device: 'mps' is there on a Mac only; leave it empty for the best that is there"
    if gpus and launch.device in (None, "cuda") and (launch.nproc_per_node or 1) > gpus:
        yield f"launch.nproc_per_node: {launch.nproc_per_node} ranks need a GPU each, this machine has {gpus}"
