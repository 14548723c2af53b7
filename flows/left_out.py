"""What curation has left out of a mixture of conversations, in words."""

from collections.abc import Mapping


def left_out_in_words(left_out: Mapping[str, Mapping[str, int]]) -> str:
    """Return the rows that were left out of each task, {task: {reason: rows}}, in a line.

    >>> left_out_in_words({"GSM8K": {"duplicate": 2, "perplexity": 1494}, "MMLU": {"held out": 3}})
    'GSM8K 2 duplicate, 1,494 perplexity; MMLU 3 held out'
    """
    tasks = {task: ", ".join(f"{rows:,} {reason}" for reason, rows in own.items()) for task, own in left_out.items()}
    return "; ".join(f"{task} {reasons}" for task, reasons in tasks.items())
