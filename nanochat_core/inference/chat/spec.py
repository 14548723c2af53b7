"""What a chat in the terminal is told: whom to talk to, how the answers are made, and what to ask. Torch-free.

`nanochat chat` writes one, `python -m nanochat_core.inference.chat.cli SPEC` reads it.
"""

from typing import Any, Literal

from pydantic import Field, ValidationError

from nanochat_core.errors import SpecError, did_you_mean
from nanochat_core.spec_base import Spec
from nanochat_core.specs import explain


class AnswerSettings(Spec):
    """How answers are made; what slash commands change."""

    system: str = Field("", max_length=100_000, description="instructions that go before the first message")
    temperature: float = Field(0.0, ge=0, le=2, description="0: always the likeliest token")
    top_k: int | None = Field(None, ge=1, description="sample among the likeliest k tokens; empty: among all")
    top_p: float = Field(1.0, gt=0, le=1, description="sample among the likeliest that have this share of probability")
    min_p: float = Field(0.0, ge=0, le=1, description="leave out what is less likely than this share of the likeliest")
    max_tokens: int = Field(512, ge=1, description="longest answer in tokens")
    seed: int | None = Field(None, ge=0, lt=2**63, description="equal seeds give equal answers; empty: any")

    def changed(self, **values: Any) -> "AnswerSettings":
        """Return the settings with other values; raises SpecError that lists what is wrong with them."""
        return parse_settings(self.model_dump() | values)


class ChatSpec(Spec):
    """One chat. Either folders, or a URL."""

    model_folder: str | None = Field(None, description="folder with the model's checkpoints")
    tokenizer_folder: str | None = Field(None, description="folder with its tokenizer.json")
    precision: Literal["auto", "fp32", "bf16", "int8", "int4"] = Field("auto", description="of the model's weights")
    url: str | None = Field(None, description="address of a server with OpenAI's API, instead of a model here")
    model_name: str | None = Field(None, description="the model's name there; empty: the first that it lists")
    api_key_file: str | None = Field(None, description="file with its API key; empty: $NANOCHAT_API_KEY, if any")
    prompt: str | None = Field(None, description="ask this and end; -: what comes on stdin; empty: a conversation")
    as_json: bool = Field(False, description="print the one answer as JSON")
    settings: AnswerSettings = Field(AnswerSettings(), description="how answers are made")


def parse_settings(values: dict[str, Any]) -> AnswerSettings:
    """Return settings of these values; raises SpecError that lists unknown names and bad values."""
    unknown = [name for name in values if name not in AnswerSettings.model_fields]
    if unknown:
        known = AnswerSettings.model_fields
        raise SpecError.listing([f"unknown setting {name}{did_you_mean(name, known)}" for name in unknown])
    try:
        return AnswerSettings.model_validate(values)
    except ValidationError as error:
        raise SpecError.listing(explain(error)) from None


def parse_chat(values: dict[str, Any]) -> ChatSpec:
    """Return the chat in `values`; raises SpecError that lists all that is wrong."""
    settings = parse_settings(values.get("settings", {}))
    try:
        spec = ChatSpec.model_validate(values | {"settings": settings})
    except ValidationError as error:
        raise SpecError.listing(explain(error)) from None
    if not spec.url and not (spec.model_folder and spec.tokenizer_folder):
        raise SpecError("Neither a url nor model_folder and tokenizer_folder: there is nobody to talk with.")
    return spec
