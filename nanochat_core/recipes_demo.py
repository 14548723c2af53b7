"""The demo recipe: every stage, real and small, in minutes on two CPU cores, by default without a network."""

from nanochat_core.evaluator_specs import EvaluatorSpec
from nanochat_core.specs import (
    ConversationsSpec,
    DataSource,
    DownloadSpec,
    EvaluateSpec,
    FinetuneSpec,
    MixtureItem,
    ModelSpec,
    OptimizerSpec,
    PipelineSpec,
    PretrainRuntime,
    PretrainSpec,
    RLSpec,
    TaskDataset,
    TaskDataSpec,
    TokenizerSpec,
    TrainingRuntime,
)

RUNTIME = TrainingRuntime(use_compile=False, log_every=10, checkpoint_every=200, stall_minutes=10)
HUB_TASK_DATA: tuple[TaskDataset, ...] = ("smoltalk", "mmlu", "gsm8k", "arc", "humaneval", "core", "words")


def _conversations(validation_rows: int, *, identity_epochs: int = 1, **rows: int) -> ConversationsSpec:
    names = {task.replace("_", "-"): count for task, count in rows.items()}
    epochs = {"Identity": identity_epochs}
    mixture = tuple(MixtureItem(task=task, rows=count, epochs=epochs.get(task, 1)) for task, count in names.items())
    return ConversationsSpec(mixture=mixture, validation_rows=validation_rows)


def demo(data: DataSource = "local", path: str | None = None) -> PipelineSpec:
    """A 1.3M-parameter chat model that does sums with a calculator and spells."""
    is_hub = data == "hub"
    return PipelineSpec(
        recipe="demo",
        download=DownloadSpec(source=data, path=path, train_shards=4 if is_hub else None),
        task_data=TaskDataSpec(source=data, datasets=HUB_TASK_DATA if is_hub else ()),
        tokenizer=TokenizerSpec(vocab_size=2048, max_characters=20_000_000),
        pretrain=PretrainSpec(
            model=ModelSpec(depth=4, n_embd=128, n_head=4, sequence_len=256 if is_hub else 128),
            precision="fp32",
            total_batch_tokens=2048,
            steps=500,
            validation_every=100,
            validation_tokens=65_536,
            sample_every=250,
            evaluators=(EvaluatorSpec(name="core", every=250, examples=4),) if is_hub else (),
            runtime=PretrainRuntime(**dict(RUNTIME)),
        ),
        midtrain=_hub_midtrain() if is_hub else _local_midtrain(),
        sft=_hub_sft() if is_hub else _local_sft(),
        rl=_hub_rl() if is_hub else _local_rl(),
        evaluate=_hub_evaluate() if is_hub else _local_evaluate(),
    )


def _local_midtrain() -> FinetuneSpec:
    return FinetuneSpec(
        conversations=_conversations(
            200,
            identity_epochs=4,
            Arithmetic=5000,
            Spelling=16_000,
            CountLetters=2000,
            Facts=1000,
            Greetings=50,
            Identity=1000,
        ),
        batching="stream",
        batch_rows=16,
        steps=320,
        validation_every=160,
        evaluators=(_local_chatcore(every=160),),
        runtime=RUNTIME,
    )


def _local_chatcore(every: int) -> EvaluatorSpec:
    tasks = ("Arithmetic", "Spelling", "Facts")
    return EvaluatorSpec(name="chatcore", every=every, tasks=tasks, examples=64, max_new_tokens=64)


def _hub_chatcore(every: int) -> EvaluatorSpec:
    return EvaluatorSpec(name="chatcore", every=every, examples=32)


def _local_sft() -> FinetuneSpec:
    return FinetuneSpec(
        conversations=_conversations(
            200, Arithmetic=1000, Spelling=4000, CountLetters=500, Facts=500, Greetings=20, Identity=1000
        ),
        optimizer=OptimizerSpec(lr_scale=0.3, warmdown_ratio=0.8),
        batch_rows=32,
        steps=120,
        validation_every=60,
        evaluators=(_local_chatcore(every=60),),
        runtime=RUNTIME,
    )


def _local_rl() -> RLSpec:
    """Practise what SFT hardly showed: three large operands; short sums stay in, so that they are not forgotten."""
    return RLSpec(
        conversations=_conversations(384, LongArithmetic=3000, Arithmetic=1000),
        optimizer=OptimizerSpec(lr_scale=0.2, warmdown_ratio=1.0, grad_clip=None),
        questions_per_step=32,
        samples_per_question=8,
        max_new_tokens=48,
        steps=20,
        eval_questions=384,
        eval_samples=4,
        eval_every=20,
        runtime=RUNTIME.model_copy(update={"log_every": 1, "checkpoint_every": 10}),
    )


def _local_evaluate() -> EvaluateSpec:
    return EvaluateSpec(
        core_examples=0,
        bpb_tokens=65_536,
        chat_tasks=("Arithmetic", "LongArithmetic", "Spelling", "CountLetters", "Facts", "Identity"),
        chat_examples=500,
        max_new_tokens=64,
    )


def _hub_midtrain() -> FinetuneSpec:
    return FinetuneSpec(
        conversations=_conversations(
            200,
            SmolTalk=1500,
            MMLU=600,
            GSM8K=600,
            SimpleSpelling=1000,
            SpellingBee=300,
            Arithmetic=5000,
            Spelling=16_000,
            Identity=500,
        ),
        batching="stream",
        batch_rows=8,
        steps=540,
        validation_every=180,
        evaluators=(_hub_chatcore(every=270),),
        runtime=RUNTIME,
    )


def _hub_sft() -> FinetuneSpec:
    return FinetuneSpec(
        conversations=_conversations(
            200,
            ARC_Easy=400,
            ARC_Challenge=400,
            GSM8K=400,
            SmolTalk=600,
            SimpleSpelling=300,
            SpellingBee=200,
            Arithmetic=1500,
            Spelling=3000,
            Identity=200,
        ),
        optimizer=OptimizerSpec(lr_scale=0.5, warmdown_ratio=0.8),
        batching="packed",
        batch_rows=16,
        steps=120,
        validation_every=60,
        evaluators=(_hub_chatcore(every=60),),
        runtime=RUNTIME,
    )


def _hub_rl() -> RLSpec:
    """Practise sums and spelling; of real word problems a few, which a model this small never solves."""
    local = _local_rl()
    return local.model_copy(
        update={
            "conversations": _conversations(384, LongArithmetic=3000, Arithmetic=1000, Spelling=2000, GSM8K=100),
            "optimizer": local.optimizer.model_copy(update={"lr_scale": 0.6}),
        }
    )


def _hub_evaluate() -> EvaluateSpec:
    return EvaluateSpec(
        core_examples=8,
        bpb_tokens=65_536,
        chat_tasks=(
            "ARC-Easy",
            "ARC-Challenge",
            "MMLU",
            "GSM8K",
            "HumanEval",
            "SpellingBee",
            "Arithmetic",
            "Spelling",
            "Identity",
        ),
        chat_examples=32,
        max_new_tokens=64,
    )
