"""Learning a vocabulary: byte-pair encoding by `rustbpe`, by a split rule that its regex engine runs at full speed.

Merges are by highest count, ties by ascending ids of the pair, so that equal texts give equal tokens.
Sennrich et al. 2016, arXiv:1508.07909; bytes instead of characters as in GPT-2.
"""

from collections.abc import Iterable

import rustbpe

from nanochat_core.tokenizer.split_rule import PLAIN_PATTERN, cut_blank_runs

BYTES = 256
SPARE_MERGES = 64  # two merges may spell the same token, which then counts once


def learn_tokens(texts: Iterable[str], count: int) -> list[bytes]:
    """Return the 256 bytes and then the learned tokens in the order of their merges, all different, at most `count`.

    Fewer where the text has no more pairs to merge.
    """
    trainer = rustbpe.Tokenizer()
    pieces = (piece for text in texts for piece in cut_blank_runs(text))
    trainer.train_from_iterator(pieces, count + SPARE_MERGES, pattern=PLAIN_PATTERN)
    by_rank = sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])
    return list(dict.fromkeys(bytes(token) for token, _ in by_rank))[:count]
