"""The models that a pipeline makes, in order: what users call each, which stage makes it, and its titles. Torch-free.

    base -> mid -> sft -> reward model
                       -> dpo -> rl

Stages that a pipeline names itself (`PipelineSpec.finetune`) fit in by rule: each comes after the one it names, those
after the same one in their order, and "dolly" is the model of the stage finetune_dolly. Every training starts from the
model before it; nothing starts from a reward model, which says nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from nanochat_core.preference_specs import DPOSpec, RewardModelSpec
from nanochat_core.specs import FinetuneSpec, PipelineSpec, PretrainSpec, RLSpec, Stage

Training = Literal["pretrain", "finetune", "reward_model", "dpo", "rl"]
TrainingSpec = PretrainSpec | FinetuneSpec | DPOSpec | RewardModelSpec | RLSpec
OWN = "finetune_"  # how the stages begin that a pipeline names itself


@dataclass(frozen=True)
class Model:
    """A model of a pipeline. `training` is the kind of training that makes it: stages of one kind are told, measured
    and drawn alike. `title` is its column in a table, `stage_title` the heading of its training, `what` a few words on
    what it is.
    """

    name: str
    stage: str
    training: Training
    title: str
    stage_title: str
    what: str

    @property
    def part(self) -> str:
        """What `--force` and `nanochat stage` call the stage: the field of the spec, or the name in `finetune`."""
        return self.stage.removeprefix(OWN)

    @property
    def field(self) -> str:
        """How a message begins that is about its training."""
        return self.part if self.part == self.stage else f"finetune.{self.part}"

    @property
    def is_speaking(self) -> bool:
        """Whether it continues text: all but a reward model, which gives an answer a number."""
        return self.training != "reward_model"

    @property
    def is_chat(self) -> bool:
        return self.is_speaking and self.training != "pretrain"


MODELS = (
    Model("base", "pretrain", "pretrain", "Base", "Pretraining", "base model: it continues text"),
    Model("mid", "midtrain", "finetune", "Mid", "Mid-training", "chat model after mid-training"),
    Model("sft", "sft", "finetune", "SFT", "SFT", "chat model after supervised fine-tuning"),
    Model("reward_model", "reward_model", "reward_model", "Reward model", "Reward model", "reward model"),
    Model("dpo", "dpo", "dpo", "DPO", "DPO", "chat model after direct preference optimization"),
    Model("rl", "rl", "rl", "RL", "RL", "chat model after reinforcement learning"),
)
CALLED = {model.name: model for model in MODELS if model.is_speaking}  # by the names that mean a model in every run
RESERVED = frozenset({*CALLED, *get_args(Stage), "finetune", "endpoint"})  # what no stage of one's own may be called
_MADE_BY = {model.stage: model for model in MODELS}


def own_model(name: str) -> Model:
    """Return the model of a stage that a pipeline names itself."""
    return Model(name, f"{OWN}{name}", "finetune", name, name, f"chat model after fine-tuning ({name})")


def made_by(stage: str) -> Model | None:
    """Return the model that a stage makes; None for a stage that makes none.

    >>> [model and model.name for model in map(made_by, ("midtrain", "finetune_dolly", "tokenizer"))]
    ['mid', 'dolly', None]
    """
    return own_model(stage.removeprefix(OWN)) if stage.startswith(OWN) else _MADE_BY.get(stage)


def models_among(stages: Iterable[str]) -> list[Model]:
    """Return the models that these stages make, in the order of the stages."""
    return [model for stage in stages if (model := made_by(stage))]


def part_named(stage: str) -> str:
    """Return what `--force` and `nanochat stage` call the stage of a folder."""
    return stage.removeprefix(OWN)


def models_of(spec: PipelineSpec) -> list[Model]:
    """Return the models that a pipeline makes, in order."""
    found = []
    for model in MODELS:
        if getattr(spec, model.part) is not None:
            found.append(model)
        found += [own_model(own.name) for own in spec.finetune if own.after == model.part]
    return found


def training_of(spec: PipelineSpec, part: str) -> TrainingSpec | None:
    """Return the spec of the training that a part of the pipeline is; None where the pipeline has none."""
    own: dict[str, TrainingSpec] = {finetune.name: finetune for finetune in spec.finetune}
    found: TrainingSpec | None = own.get(part) or getattr(spec, part, None)
    return found


def trainings(spec: PipelineSpec) -> dict[str, TrainingSpec]:
    """Return {how a message on it begins: spec} of every training, in order."""
    found = {model.field: training_of(spec, model.part) for model in models_of(spec)}
    return {field: training for field, training in found.items() if training is not None}


def model_before(spec: PipelineSpec, part: str) -> Model:
    """Return the model that a training starts from, unless it names another one. `part` is not "pretrain"."""
    models = [model for model in models_of(spec) if model.is_speaking or model.part == part]
    place = [model.part for model in models].index(part)
    return models[place - 1]


def base_alone(spec: PipelineSpec) -> PipelineSpec:
    """Return the pipeline without the trainings that may be left out; SFT may not."""
    optional = ("midtrain", "reward_model", "dpo", "rl")
    return spec.model_copy(update={**dict.fromkeys(optional), "finetune": ()})
