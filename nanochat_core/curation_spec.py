"""What of a mixture of conversations is left out before anything is trained on it. Torch-free."""

from pydantic import Field

from nanochat_core.spec_base import Spec


class CurationSpec(Spec):
    """Which conversations are left out of the training rows; the held-out ones stay as they are."""

    drop_duplicates: bool = Field(
        False,
        description="leave out what says the same as another conversation, or as its beginning, but for upper case and "
        "white space; what is held out counts too",
    )
    match_lengths: tuple[str, ...] = Field(
        (),
        description="names of registered tasks, for example those of evaluate.chat_tasks: conversations are left out "
        "until lengths in tokens are spread as over the questions and answers of these, or half is left; none: never",
    )
    drop_worst_perplexity: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="share of each task's conversations that is left out: those whose answers surprise the base model "
        "most; 0: none",
    )
