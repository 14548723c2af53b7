"""How many tokens went in and came out of one HTTP request."""

from typing import Any

from nanochat_core.inference.requests import Update


class Usage:
    """Counts as the updates come."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens, self.completion_tokens, self.cached_tokens = prompt_tokens, 0, 0

    def see(self, update: Update, *, keeps_answer: bool = True) -> None:
        self.completion_tokens += len(update.tokens) if keeps_answer else 0
        self.cached_tokens += update.cached_tokens

    def object(self) -> dict[str, Any]:
        """Return OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": min(self.cached_tokens, self.prompt_tokens)},
        }
