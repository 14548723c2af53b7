"""Recipes: functions that return a `PipelineSpec`, and `resolve`, which derives every field left empty. Torch-free."""

import os
from collections.abc import Callable, Iterator, Sequence

from nanochat_core.conflicts import conflicts, obstacles
from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.evaluator_specs import EvaluatorSpec
from nanochat_core.gpus import default_precision, find_gpu
from nanochat_core.hardware import visible_gpus
from nanochat_core.model.accounting import derive_shape
from nanochat_core.optim import scaling
from nanochat_core.recipes_demo import demo
from nanochat_core.specs import (
    PACKING,
    ContaminationSpec,
    ConversationsSpec,
    DataSource,
    DownloadSpec,
    EvaluateSpec,
    FinetuneSpec,
    LaunchSpec,
    MixtureItem,
    ModelSpec,
    OptimizerSpec,
    PipelineSpec,
    PretrainSpec,
    RLSpec,
    TaskDataset,
    TaskDataSpec,
    TokenizerSpec,
)

FINEWEB = "karpathy/fineweb-edu-100b-shuffle"
CLIMBMIX = "karpathy/climbmix-400b-shuffle"
ALL_TASK_DATA: tuple[TaskDataset, ...] = ("smoltalk", "mmlu", "gsm8k", "arc", "humaneval", "core", "words")
SHORT_VOCAB = 1 << 16  # as in tokenizer/bpe.py: ids below it take two bytes
CORE_WHILE_TRAINING = (EvaluatorSpec(name="core", every=2000, examples=500),)
CHAT_WHILE_TRAINING = (EvaluatorSpec(name="chatcore", every=200, tasks=("MMLU", "ARC-Easy"), examples=1024),)
CHAT_TASKS = ("ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval", "SpellingBee")

PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "classic_d20": {
        "base": {"core": 0.2219, "bpb": 0.81},
        "mid": {
            "ARC-Easy": 0.3561,
            "ARC-Challenge": 0.2875,
            "MMLU": 0.3111,
            "GSM8K": 0.0250,
            "HumanEval": 0.0671,
            "chatcore": 0.0730,
        },
        "sft": {
            "ARC-Easy": 0.3876,
            "ARC-Challenge": 0.2807,
            "MMLU": 0.3151,
            "GSM8K": 0.0455,
            "HumanEval": 0.0854,
            "chatcore": 0.0884,
        },
    },
    "classic_d30": {"sft": {"MMLU": 0.40, "ARC-Easy": 0.70, "GSM8K": 0.20}},
    "speedrun": {"base": {"core": 0.2626, "bpb": 0.718}},
}  # nanochat's README, discussion 1 (Oct 2025) and leaderboard (Mar 2026)


def _items(*pairs: tuple[str, int | None, int]) -> tuple[MixtureItem, ...]:
    return tuple(MixtureItem(task=task, rows=rows, epochs=epochs) for task, rows, epochs in pairs)


def _rl() -> RLSpec:
    return RLSpec(conversations=ConversationsSpec(mixture=_items(("GSM8K", None, 1))))


def _classic(name: str, depth: int, train_shards: int) -> PipelineSpec:
    """The $100 speedrun of October 2025 and its larger tiers."""
    midtrain_mixture = _items(
        ("SmolTalk", None, 1),
        ("MMLU", None, 1),
        ("GSM8K", None, 1),
        ("Identity", 1000, 2),
        ("SimpleSpelling", 200_000, 1),
        ("SpellingBee", 80_000, 1),
    )
    sft_mixture = _items(
        ("ARC-Easy", None, 1),
        ("ARC-Challenge", None, 1),
        ("GSM8K", None, 1),
        ("SmolTalk", 10_000, 1),
        ("Identity", 1000, 1),
        ("SimpleSpelling", 300, 1),
        ("SpellingBee", 300, 1),
    )
    return PipelineSpec(
        recipe=name,
        download=DownloadSpec(dataset=FINEWEB, train_shards=train_shards),
        task_data=TaskDataSpec(datasets=ALL_TASK_DATA),
        tokenizer=TokenizerSpec(vocab_size=65_536),
        pretrain=PretrainSpec(model=ModelSpec(depth=depth), precision="bf16", evaluators=CORE_WHILE_TRAINING),
        midtrain=FinetuneSpec(
            conversations=ConversationsSpec(mixture=midtrain_mixture, validation_rows=10_000),  # several batches
            mask="none",
            batching="stream",
            batch_rows=256,
            evaluators=CHAT_WHILE_TRAINING,
        ),
        sft=FinetuneSpec(
            conversations=ConversationsSpec(mixture=sft_mixture),
            optimizer=OptimizerSpec(lr_scale=0.02, warmdown_ratio=1.0),
            evaluators=CHAT_WHILE_TRAINING,
        ),
        rl=_rl(),
        evaluate=EvaluateSpec(chat_tasks=(*CHAT_TASKS, "Identity")),
        contamination=ContaminationSpec(),
    )


def classic_d20() -> PipelineSpec:
    """d20, 560,988,160 parameters, 11.2B tokens: about 3 h 51 min and $100 on 8xH100."""
    return _classic("classic_d20", 20, 240)


def classic_d26() -> PipelineSpec:
    """d26: about 12 h and $300 on 8xH100."""
    return _classic("classic_d26", 26, 450)


def classic_d30() -> PipelineSpec:
    """d30: about 24 h on 8xH100."""
    return _classic("classic_d30", 30, 650)


def classic_d32() -> PipelineSpec:
    """d32: about 41.6 h and $1,000 on 8xH100."""
    return _classic("classic_d32", 32, 800)


def _full(name: str, depth: int, *, ratio: float, train_shards: int | None, with_rl: bool) -> PipelineSpec:
    """The block set and scaling rules of March 2026."""
    mixture = _items(("SmolTalk", None, 1), ("MMLU", None, 3), ("GSM8K", None, 4))
    model, vocab_size = ModelSpec(arch="full", depth=depth), 32_768
    return PipelineSpec(
        recipe=name,
        download=DownloadSpec(dataset=CLIMBMIX, train_shards=train_shards),
        task_data=TaskDataSpec(datasets=ALL_TASK_DATA),
        tokenizer=TokenizerSpec(vocab_size=vocab_size),
        pretrain=PretrainSpec(
            model=model,
            optimizer=OptimizerSpec(
                embedding_lr=0.3,
                head_lr=0.008,
                warmup_steps=40,
                warmdown_ratio=0.65,
                final_lr_ratio=0.05,
                momentum_peak=0.97,
                momentum_steps=400,
                momentum_final=0.90,
                grad_clip=None,
            ),
            tokens_per_parameter=ratio,
            validation_tokens=80 * 524_288,
            evaluators=CORE_WHILE_TRAINING,
        ),
        sft=FinetuneSpec(
            conversations=ConversationsSpec(mixture=mixture, validation_rows=2048),
            optimizer=OptimizerSpec(embedding_lr=0.3, head_lr=0.008, lr_scale=0.8, warmdown_ratio=0.5, grad_clip=None),
            keep_optimizer=True,
            batching="packed",
            batch_rows=scaling.batch_tokens(model, vocab_size, ratio) // model.sequence_len,  # as pretraining's
            evaluators=CHAT_WHILE_TRAINING,
        ),
        rl=_rl() if with_rl else None,
        evaluate=EvaluateSpec(chat_tasks=CHAT_TASKS[:5], bpb_tokens=80 * 524_288),
        contamination=ContaminationSpec(),
    )


def speedrun() -> PipelineSpec:
    """d24, all blocks, FP8, 8 tokens per parameter: 5,568 steps, CORE .2626 in 1.65 h on 8xH100."""
    return _full("speedrun", 24, ratio=8, train_shards=170, with_rl=True)


def _sweep(depth: int) -> Callable[[], PipelineSpec]:
    """One model of the compute-optimal miniseries (12 tokens per parameter)."""

    def make() -> PipelineSpec:
        return _full(f"d{depth}", depth, ratio=12, train_shards=None, with_rl=False)

    make.__doc__ = f"d{depth} of the depth sweep, compute-optimal."
    return make


RECIPES: dict[str, Callable[[], PipelineSpec]] = {
    "demo": demo,
    "classic_d20": classic_d20,
    "classic_d26": classic_d26,
    "classic_d30": classic_d30,
    "classic_d32": classic_d32,
    "speedrun": speedrun,
} | {f"d{depth}": _sweep(depth) for depth in range(12, 33, 2)}


def recipe(name: str, *, data: DataSource | None = None, path: str | None = None) -> PipelineSpec:
    """Return the recipe called `name`, with its text from another source where `data` says so.

    Raises SpecError for an unknown recipe, a path without source path, or real recipes on the built-in text.
    """
    if name not in RECIPES:
        raise SpecError(f"Unknown recipe {name!r}{did_you_mean(name, RECIPES)}.")
    if (data == "path") != (path is not None):
        raise SpecError("The source 'path' and a data folder go together: --data path --data-path FOLDER.")
    if name == "demo":
        return demo(data or "local", path)
    spec = RECIPES[name]()
    if data == "local":
        raise SpecError(
            f"The built-in text is too small for {name}; use --data hub or --data path, or the recipe demo."
        )
    if data == "path":
        return spec.model_copy(update={"download": spec.download.model_copy(update={"source": "path", "path": path})})
    return spec


def derive(spec: PipelineSpec, gpus: Sequence[str] | None = None) -> PipelineSpec:
    """Return the spec with every derivable field filled in, whether it fits together or not.

    `gpus` are the names of those that will train; None: this machine's.
    """
    pretrain = spec.pretrain
    names = gpus_that_train(spec.launch) if gpus is None else gpus
    model = derive_shape(pretrain.model)
    vocab_size, ratio = spec.tokenizer.vocab_size, pretrain.tokens_per_parameter
    total = pretrain.total_batch_tokens or scaling.batch_tokens(model, vocab_size, ratio)
    steps = pretrain.steps or max(1, scaling.horizon_tokens(model, vocab_size, ratio) // total)
    optimizer = pretrain.optimizer
    if optimizer.weight_decay is None:
        decay = scaling.weight_decay(model, vocab_size, ratio, total)
        optimizer = optimizer.model_copy(update={"weight_decay": decay})
    pretrain = pretrain.model_copy(
        update={
            "model": model,
            "total_batch_tokens": total,
            "steps": steps,
            "packing": pretrain.packing or PACKING[model.arch],
            "optimizer": optimizer,
            "precision": pretrain.precision or default_precision(names, model.depth),
        }
    )
    download = spec.download
    if download.source == "hub" and download.train_shards is None:
        download = download.model_copy(update={"train_shards": scaling.train_shards(steps * total)})
    return spec.model_copy(update={"pretrain": pretrain, "download": download})


def gpus_that_train(launch: LaunchSpec) -> tuple[str, ...]:
    """Return the names of this machine's GPUs; none where another device is asked for."""
    return visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")) if launch.device in (None, "cuda") else ()


def resolve(spec: PipelineSpec, gpus: Sequence[str] | None = None) -> PipelineSpec:
    """Return the derived spec. Raises SpecError that lists every combination of values that cannot work."""
    resolved = derive(spec, gpus)
    if problems := conflicts(resolved):
        raise SpecError.listing(problems)
    return resolved


def runnable(spec: PipelineSpec) -> PipelineSpec:
    """Return the derived spec. Raises SpecError that lists every reason why it cannot run on this machine."""
    resolved = derive(spec)
    gpus = visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    problems = [*conflicts(resolved), *obstacles(resolved, gpus=len(gpus)), *_fp8_obstacles(resolved, gpus)]
    if spec.recipe not in RECIPES:
        problems.insert(0, f"recipe: unknown recipe {spec.recipe!r}{did_you_mean(spec.recipe, RECIPES)}")
    if problems:
        raise SpecError.listing(problems)
    return resolved


def _fp8_obstacles(spec: PipelineSpec, gpus: Sequence[str]) -> Iterator[str]:
    """Say which GPUs have no FP8; those that the table does not know are asked when training begins."""
    without = sorted({name for name in gpus if (gpu := find_gpu(name)) and not gpu.trains_in_fp8})
    if spec.pretrain.precision == "fp8" and (without or not gpus):
        yield (
            f"pretrain.precision: 'fp8' needs GPUs that compute in it, here is {', '.join(without) or 'none'}; "
            "leave it empty for what is best here"
        )


def tokenizer_text(spec: PipelineSpec) -> DownloadSpec:
    """Return what the tokenizer of a derived spec learns from: of the Hub's shards no more than its characters need."""
    shards = spec.download.train_shards
    if spec.download.source != "hub" or shards is None:
        return spec.download
    enough = scaling.shards_of(spec.tokenizer.max_characters)
    return spec.download.model_copy(update={"train_shards": min(shards, enough)})


def token_file_bytes(spec: PipelineSpec) -> int | None:
    """Return about what the tokenised text of a derived spec takes on disk; None where the text's size is not known."""
    if spec.pretrain.runtime.tokens == "on_the_fly":
        return 0
    characters: dict[str, int | None] = {
        "hub": (spec.download.train_shards or 0) * scaling.SHARD_CHARACTERS,
        "local": spec.download.local_characters,
    }
    known = characters.get(spec.download.source)
    bytes_per_token = 2 if spec.tokenizer.vocab_size <= SHORT_VOCAB else 4
    return None if known is None else int(known / scaling.CHARACTERS_PER_TOKEN) * bytes_per_token
