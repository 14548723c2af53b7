"""Text from token ids as they come: an id may end inside a character, a piece of text never does. Torch-free."""

import codecs
from collections.abc import Sequence

from nanochat_core.tokenizer.bpe import Tokenizer


class StreamDecoder:
    """Decodes one sequence of ids. What `feed` and `finish` return, joined, is `tokenizer.decode` of all the ids.

    What is no UTF-8 becomes U+FFFD; bytes that may begin a character, three at most, wait.

    With "é" as two tokens, of a byte each: feed([first]) == "", feed([second]) == "é".
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Sequence[int]) -> str:
        """Return the text that these ids complete, special tokens as their names; "" while a character is unfinished.

        Raises KeyError for an id that is no token.
        """
        return self._decoder.decode(self._tokenizer.decode_bytes(ids))

    def finish(self) -> str:
        """Return what was held back, as U+FFFD; the decoder then begins anew."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
