"""Which conversations a stage is given: a mixture of tasks. Torch-free."""

from typing import Literal

from pydantic import Field

from nanochat_core.curation_spec import CurationSpec
from nanochat_core.spec_base import Spec, added_field


class MixtureItem(Spec):
    """One task, or one file of the user's own, of a mixture of conversations."""

    task: str | None = Field(
        None,
        description="name of a registered task: ARC-Easy, ARC-Challenge, CustomJSON, Documents, GSM8K, Identity, MMLU, "
        "SimpleSpelling, SmolTalk, SpellingBee; without the Hub: Arithmetic, LongArithmetic, CountLetters, Facts, "
        "Greetings, Spelling; empty: path names a file",
    )
    path: str | None = Field(
        None,
        min_length=1,
        description="in place of a task: file of conversations as OpenAI, ShareGPT, Alpaca, Dolly or Harmony write "
        "them (.jsonl, .json, .parquet, .txt), or a folder with a train and a test file; empty: task names one",
    )
    rows: int | None = Field(None, ge=1, description="rows in one pass; empty: all that the task has")
    epochs: int = Field(1, ge=1, le=100, description="passes over those rows")
    weight: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="share of the weighted rows, as against the other weights; those rows are gone over as often as "
        "that needs; empty: rows x epochs, whatever the others give",
    )


class ConversationsSpec(Spec):
    """Conversations rendered to token ids and a mask of what is learned."""

    mixture: tuple[MixtureItem, ...] = Field(min_length=1, description="tasks and files, and how much of each")
    weighted_rows: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="rows of all tasks with a weight together; empty: as many as no such task needs more than its "
        "epochs for",
    )
    order: Literal["mixed", "sequence"] = Field(
        "mixed", description="mixed: all rows shuffled; sequence: one task after the other, as the mixture names them"
    )
    validation_rows: int = Field(500, ge=1, description="held-out conversations, spread over the tasks")
    curation: CurationSpec = added_field(CurationSpec(), description="what is left out of the training rows")
    seed: int = Field(42, ge=0, le=2**53, description="random seed")
