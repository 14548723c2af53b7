"""Learning from preferences, as a part of the pipeline's spec: DPO and the reward model. Torch-free."""

from pydantic import Field

from nanochat_core.conversation_specs import ConversationsSpec
from nanochat_core.evaluator_specs import EvaluatorSpec, evaluators_field
from nanochat_core.spec_base import Spec, runtime_field
from nanochat_core.training_specs import START_FROM, OptimizerSpec, TrainingRuntime


class SampledPairsSpec(Spec):
    """Pairs of a question's reference answer and what the model itself answered wrongly."""

    conversations: ConversationsSpec = Field(
        description="questions that can be graded, with their answers; pairs of its validation rows are held out"
    )
    samples_per_question: int = Field(8, ge=1, description="answers that the model gives to each question")
    pairs_per_question: int = Field(
        1, ge=1, description="different wrong answers to a question that become pairs, at most"
    )
    temperature: float = Field(1.0, ge=1e-6, description="sampling temperature; 1: the model's own distribution")
    top_k: int | None = Field(50, ge=1, description="sample among the k likeliest tokens; empty: all")
    max_new_tokens: int = Field(
        256, ge=1, description="longest answer in tokens; answers that do not end by then are left out"
    )
    reward: str = Field(
        "answer",
        description="name of a registered reward: an answer is wrong that gets less than the reference answer",
    )
    compare_numbers: bool = Field(True, description="compare answers that are numbers as such: 5, 5.0 and $5 are one")
    seed: int = Field(42, ge=0, le=2**53, description="random seed of the answers")


class PreferencesSpec(Spec):
    """Pairs of answers to one prompt, of which one is preferred: by people (path), or since it is right (sampled)."""

    path: str | None = Field(
        None,
        min_length=1,
        description="JSONL or parquet file of pairs (prompt, chosen, rejected), or a folder with a train and a test "
        "file of these kinds; empty: they are sampled",
    )
    sampled: SampledPairsSpec | None = Field(
        None,
        description="make the pairs of questions, their answers and the wrong answers of the model that training "
        "starts from; empty: they are read from path",
    )
    validation_rows: int = Field(
        500,
        ge=1,
        description="pairs of one file that are held out, whole prompts at a time, a tenth of all at most; a folder's "
        "test file is held out as it is",
    )
    seed: int = Field(42, ge=0, le=2**53, description="random seed of which pairs of one file are held out")


class PairTrainingSpec(Spec):
    """What is alike in DPO and the reward model: both train on pairs of answers."""

    start_from: str | None = START_FROM
    preferences: PreferencesSpec = Field(description="what it is trained on")
    optimizer: OptimizerSpec = Field(description="rates and schedule")
    batch_pairs: int = Field(32, ge=1, description="pairs in an optimizer step, at most")
    sequence_len: int | None = Field(
        None,
        ge=16,
        le=1_048_576,
        description="longest prompt and answer in tokens; pairs with a longer one are left out; empty: the model's "
        "(pretrain.model.sequence_len)",
    )
    epochs: float = Field(1.0, gt=0, le=1e6, description="passes over the pairs (sets the steps)")
    steps: int | None = Field(None, ge=1, description="optimizer steps; empty: epochs x the steps of one pass")
    validation_every: int = Field(50, ge=1, description="steps between measurements on the held-out pairs")
    seed: int = Field(42, ge=0, le=2**53, description="random seed")
    runtime: TrainingRuntime = runtime_field(TrainingRuntime(), description="how it runs; changes no result")


class DPOSpec(PairTrainingSpec):
    """Direct preference optimization: the chat model learns to tell the chosen answer from the rejected one."""

    optimizer: OptimizerSpec = Field(
        OptimizerSpec(lr_scale=0.005, warmdown_ratio=1.0), description="rates and schedule"
    )
    beta: float = Field(
        0.1,
        gt=0,
        le=100,
        description="how dear it is to leave the reference: nats of reward for each nat by which an answer becomes "
        "likelier than under the model that training started from",
    )
    evaluators: tuple[EvaluatorSpec, ...] = evaluators_field()


class RewardModelSpec(PairTrainingSpec):
    """A model that gives an answer a number, the higher the more people would prefer it."""

    optimizer: OptimizerSpec = Field(OptimizerSpec(lr_scale=0.02, warmdown_ratio=1.0), description="rates and schedule")
