"""How attention on a CPU is cut into blocks of queries (`blockwise_attention.py`). Torch-free: plans count with it."""

MOST_KEYS = 1024  # whose probabilities are kept: 4·N·T·S bytes, 64 MiB for 8 heads at T = 2,048

MOST_QUERIES = 128  # of a block: more are more masked scores

Block = tuple[int, int, int]  # its queries are start … stop − 1, its keys first … stop − 1


def blocks_of(length: int, window: int) -> list[Block]:
    """Return (first, start, stop) of each block of queries; the last may be shorter.

    >>> blocks_of(200, 100)
    [(0, 0, 64), (0, 64, 128), (28, 128, 192), (92, 192, 200)]
    """
    size = min(max(64, window // 4), MOST_QUERIES)  # narrower are small products, far below MKL's rate
    return [(max(start - window, 0), start, min(start + size, length)) for start in range(0, length, size)]


def scores_of(length: int, window: int) -> int:
    """Return how many scores of a head's row are computed, and their probabilities kept.

    >>> scores_of(200, 100)
    23648
    """
    return sum((stop - start) * (stop - first) for first, start, stop in blocks_of(length, window))
