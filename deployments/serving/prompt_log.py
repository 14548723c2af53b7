"""What is asked and answered, in the log: only where the server's spec wants it (log_prompts)."""

import logging
from collections import defaultdict
from collections.abc import Sequence

from nanochat_core.inference.requests import Request, Update
from nanochat_core.tokenizer.bpe import Tokenizer

logger = logging.getLogger("nanochat.prompts")


class PromptLog:
    """Writes one line for each prompt and one for each answer, line ends in them escaped."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[tuple[int, int], str] = defaultdict(str)

    def asked(self, requests: Sequence[Request]) -> None:
        for request in requests:
            logger.info("asked %r", self._tokenizer.decode(request.ids))

    def see(self, index: int, update: Update) -> None:
        """Collect an answer; write it at its end."""
        self._texts[index, update.sample] += update.text
        if update.finish_reason:
            logger.info("answered %r (%s)", self._texts.pop((index, update.sample)), update.finish_reason)
